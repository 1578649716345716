import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreworld.episodes import Channel, EpisodeStore, Schema, import_csv
from foreworld.errors import InputError, SchemaError

SCHEMA = Schema(
    name="t1d",
    step=5,
    channels=(
        Channel(name="cgm", role="observation", unit="mg/dL", low=20, high=600),
        Channel(name="alarm", role="observation", dtype="int32", categories=("none", "low")),
        Channel(name="pose", role="observation", dtype="float64", shape=(2,)),
        Channel(name="meal", role="exogenous", unit="g", low=0),
        Channel(name="insulin", role="action", unit="U", low=0, high=25),
        Channel(name="weight", role="static", unit="kg", low=1),
    ),
)
GOOD = """subject,time [min],weight [kg],cgm [mg/dL],alarm,pose.0,pose.1,meal [g],insulin [U]
a,0,71,112,none,1,2,0,0.5
a,5,,,low,,3,20,0.4
a,11.5,,118,,5,6,0,

b,100,80,200,0,0,0,0,1
b,105,80,210,1,0,0,0,2
"""


@pytest.fixture
def table(tmp_path):
    def write(text):
        (tmp_path / "ward.csv").write_text(text, encoding="utf-8")
        return tmp_path / "ward.csv"

    return write


def test_imports_one_episode_a_subject_with_gaps_and_irregular_times(table, tmp_path):
    store = import_csv(table("\ufeff" + GOOD), SCHEMA, tmp_path / "store")
    assert store.subjects == ("a", "b") and store.lengths.tolist() == [2, 1]
    a, b = store
    np.testing.assert_array_equal(a.times, [0, 5, 11.5])
    np.testing.assert_array_equal(a.values["cgm"], np.float32([112, np.nan, 118]))
    np.testing.assert_array_equal(a.values["insulin"], np.float32([0.5, 0.4]))
    np.testing.assert_array_equal(a.values["meal"], [0, 20, 0])
    np.testing.assert_array_equal(a.values["pose"], [[1, 2], [np.nan, 3], [5, 6]])
    np.testing.assert_array_equal(a.mask("pose"), [True, False, True])
    np.testing.assert_array_equal(a.mask("alarm"), [True, True, False])
    np.testing.assert_array_equal(a.values["alarm"][:2], [0, 1])
    assert a.values["weight"] == 71 and b.values["weight"] == 80
    np.testing.assert_array_equal(b.values["insulin"], [1])


def test_counts_iso_times_from_the_first_row(table, tmp_path):
    text = GOOD.replace("time [min]", "time")
    for number, stamp in (
        ("a,0,", "a,2024-03-01T23:58:00,"),
        ("a,5,", "a,2024-03-02T00:03,"),
        ("a,11.5,", "a,2024-03-02 00:10,"),
    ):
        text = text.replace(number, stamp)
    store = import_csv(table(text), SCHEMA, tmp_path / "store")
    np.testing.assert_array_equal(store.episode(0).times, [0, 5, 12])
    assert store.info(0) == {"source": "ward.csv", "start": "2024-03-01T23:58:00"}


WRONG = {
    "unit": ("cgm [mg/dL]", "cgm [mmol/L]", InputError, r"line 1: channel cgm is in \[mmol/L\], expected \[mg/dL\]"),
    "time unit": ("[min]", "[h]", InputError, r"time is in \[h\], expected \[min\]"),
    "bound": (
        "a,0,71,112",
        "a,0,71,6.2",
        InputError,
        "line 2, channel cgm: value 6.2 mg/dL is below its least 20 mg/dL",
    ),
    "upper bound": ("20,0.4", "20,26", InputError, "line 3, channel insulin: value 26 U is above its greatest 25 U"),
    "time": ("a,11.5", "a,4", InputError, "line 4: time of subject a goes from 5 to 4 min"),
    "double": ("a,11.5", "a,5", InputError, "line 4: time of subject a goes from 5 to 5 min"),
    "stamp": ("a,5,", "a,soon,", InputError, "line 2: time '0' is neither|line 3: time 'soon' is neither"),
    "nan time": ("a,5,", "a,nan,", InputError, "line 3: time of subject a goes from 0 to nan"),
    "action": ("20,0.4", "20,", InputError, "line 3, channel insulin: the value is empty, but action.*write 0 U"),
    "exogenous": ("20,0.4", ",0.4", InputError, "line 3, channel meal: the value is empty, but exogenous"),
    "column": (",meal [g]", ",food [g]", SchemaError, "channel meal has no column 'meal'"),
    "vector": ("pose.1", "pose.2", SchemaError, "channel pose has no column 'pose.1'"),
    "no time": ("time [min]", "when", SchemaError, "no column 'time'"),
    "extra": ("insulin [U]\n", "insulin [U],food\n", SchemaError, "column 'food' is no channel"),
    "twice": ("pose.1", "pose.0", InputError, "column 'pose.0' is there twice"),
    "category": ("none", "none at all", InputError, "line 2, channel alarm: 'none at all' is not one of none, low"),
    "text": ("118", "?", InputError, "line 4, channel cgm: '\\?' is not a number in 'mg/dL'"),
    "infinite": ("118", "inf", InputError, "line 4, channel cgm: inf is infinite"),
    "fraction": ("low,,3", "0.5,,3", InputError, "alarm in .*line 3: value 0.5 does not fit dtype int32"),
    "ragged": ("a,5,,,", "a,5,,", InputError, "line 3: 8 cells, but the header has 9"),
    "single": ("b,100,80,200,0,0,0,0,1\n", "", InputError, "subject b has one row"),
    "static": ("b,105,80", "b,105,81", InputError, "line 7, channel weight: static value 81.0 kg of subject b differs"),
    "order": ("b,105", "a,105", InputError, "line 6: subject b has one row|line 7: subject 'a' comes again"),
    "subject": ("a,0,", ",0,", InputError, "line 2: subject '' is empty"),
    "header": ("cgm [mg/dL]", "cgm [mg/dL", InputError, "line 1: column 4 has the name"),
}


@pytest.mark.parametrize("case", WRONG)
def test_names_file_line_channel_value_bound_and_unit_and_keeps_nothing(table, tmp_path, case):
    old, new, error, message = WRONG[case]
    file = table(GOOD.replace(old, new, 1))
    with pytest.raises(error, match=message) as caught:
        import_csv(file, SCHEMA, tmp_path / "store")
    assert "ward.csv" in str(caught.value)
    assert not (tmp_path / "store").exists()


def test_a_failed_import_leaves_an_existing_store_as_it_was(table, tmp_path):
    store = import_csv(table(GOOD), SCHEMA, tmp_path / "store")
    with pytest.raises(InputError, match="210"):
        import_csv(table(GOOD.replace("210", "2100")), SCHEMA, store.path)
    assert len(EpisodeStore.open(store.path)) == 2
    assert len(import_csv(table(GOOD), SCHEMA, store.path)) == 4


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "is empty"), (GOOD.split("\n")[0].encode(), "no rows"), (b"subject,\xff\n", "UTF-8")]
)
def test_says_what_is_wrong_with_a_file_that_is_no_table(tmp_path, content, message):
    (tmp_path / "ward.csv").write_bytes(content)
    with pytest.raises(InputError, match=message):
        import_csv(tmp_path / "ward.csv", SCHEMA, tmp_path / "store")
    with pytest.raises(InputError, match="no CSV file"):
        import_csv(tmp_path / "absent.csv", SCHEMA, tmp_path / "store")
    assert not (tmp_path / "store").exists()


SMALL = Schema(
    name="small",
    step=1,
    channels=(
        Channel(name="x", role="observation", dtype="float64", unit="mmol/L", low=-50, high=50),
        Channel(name="u", role="action", dtype="float64"),
    ),
)


@settings(max_examples=25)
@given(
    rows=st.lists(st.tuples(st.none() | st.floats(-50, 50), st.floats(-1e6, 1e6)), min_size=2, max_size=30),
    steps=st.lists(st.floats(0.01, 100), min_size=30, max_size=30),
)
def test_gives_back_every_number_that_was_written(rows, steps):
    with tempfile.TemporaryDirectory() as folder:
        times = np.cumsum(steps[: len(rows)])
        lines = [
            f"p,{t!r},{'' if x is None else repr(x)},{u!r}" for t, (x, u) in zip(times.tolist(), rows, strict=True)
        ]
        file = Path(folder) / "table.csv"
        file.write_text("subject,time,x,u\n" + "\n".join(lines))
        (episode,) = import_csv(file, SMALL, Path(folder) / "store")
        np.testing.assert_array_equal(episode.times, times)
        np.testing.assert_array_equal(episode.values["x"], [np.nan if x is None else x for x, _ in rows])
        np.testing.assert_array_equal(episode.values["u"], [u for _, u in rows][:-1])
