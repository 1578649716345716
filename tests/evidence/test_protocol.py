"""The one shape of evidence: what it refuses, that it comes back as it was, and how samples become rows."""

import json
import platform

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from foreworld.errors import FormatError, InputError
from foreworld.evidence.protocol import NAMES, Evidence, Names, Protocol, Request, Row, Samples, machine
from foreworld.evidence.statistics import cluster_bootstrap


def row(**changes):
    content = {
        "arm": "foreworld", "group": "all", "metric": "success", "value": 0.985, "low": 0.97, "high": 0.99, "n": 1200,
        "unit": "share", "by_seed": [0.98, 0.99, 0.985],
    }  # fmt: skip
    return content | changes


def evidence(*rows, **changes):
    content = {
        "format": 1, "protocol": "rooms/cross-room", "version": 1, "hash": "ab12cd34", "seeds": [0, 1, 2],
        "machine": "a machine", "cpu_seconds": 3.5, "rows": list(rows) or [row()],
    }  # fmt: skip
    return content | changes


def test_the_json_is_the_shape_of_the_architecture_page_and_comes_back(tmp_path):
    given_content = evidence(row(), row(arm="random", low=None, high=None))
    found = Evidence.from_json(json.dumps(given_content))
    assert json.loads(found.to_json()) == given_content
    assert Evidence.from_json(found.to_json()) == found
    found.save(tmp_path / "evidence.json")
    assert Evidence.load(tmp_path / "evidence.json") == found


def test_a_table_that_is_too_wide_goes_on_below_with_the_arms_again():
    names = [f"rmse_{m}" for m in (30, 60, 120)]
    rows = [row(metric=name, unit="mg/dL", value=20.0, low=19.0, high=21.0) for name in names]
    whole = Evidence.from_json(json.dumps(evidence(*rows)))
    wide, narrow = whole.table(), whole.table(width=70)
    assert len(wide.split("\n")) == 3 and "\n\n" not in wide
    blocks = narrow.split("\n\n")
    assert len(blocks) > 1 and all(block.split("\n")[1].startswith("foreworld") for block in blocks)
    assert all(len(line) <= 70 for block in blocks for line in block.split("\n")[:2])
    assert [name for block in blocks for name in names if name in block] == names


@given(
    values=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=4),
    n=st.integers(1, 10**6),
    seconds=st.floats(0.0, 1e9),
)
def test_every_float_comes_back_bit_for_bit(values, n, seconds):
    seeds = tuple(range(len(values)))
    made = Evidence(
        protocol="rooms/maze", version=2, hash="x", seeds=seeds, machine="m", cpu_seconds=seconds,
        rows=(Row(arm="random", group="all", metric="success", value=values[0], n=n, unit="share", by_seed=values),),
    )  # fmt: skip
    assert Evidence.from_json(made.to_json()) == made


def test_a_newer_format_is_refused_as_such(tmp_path):
    path = tmp_path / "new.json"
    path.write_text(json.dumps(evidence(format=2, surprise=1)))
    with pytest.raises(FormatError, match="newer"):
        Evidence.load(path)


@pytest.mark.parametrize(
    "content",
    [
        evidence(row(), row()),  # twice the same arm, group and metric
        evidence(row(by_seed=[0.5])),
        evidence(row(arm="nobody")),
        evidence(row(metric="luck")),
        evidence(row(group="martians")),
        evidence(row(low=None)),
        evidence(row(low=0.995)),
        evidence(row(value=98.5)),
        evidence(row(n=0)),
        evidence(row(extra=1)),
        evidence(seeds=[0, 0, 1]),
        evidence(seeds=[], rows=[]),
        evidence(protocol="cross-room"),
        evidence(cpu_seconds=-1.0),
        evidence(format=0),
        evidence(format="1"),
        {},
    ],
)
def test_what_is_not_evidence_is_refused(content):
    with pytest.raises(FormatError):
        Evidence.from_dict(content)


@pytest.mark.parametrize("text", ["", "[1]", '{"format": 1', json.dumps(evidence(row(value=float("nan"))))])
def test_damaged_text_is_refused(text):
    with pytest.raises(FormatError):
        Evidence.from_json(text)


def test_a_domain_adds_names_of_its_own():
    content = evidence(row(metric="steps_to_goal", group="sabotage_frozen", unit="steps", value=3.0, low=2.0, high=4.0))
    more = NAMES | Names(groups=frozenset({"sabotage_frozen"}), metrics=frozenset({"steps_to_goal"}))
    assert Evidence.from_dict(content, more).rows[0].value == 3.0
    with pytest.raises(FormatError, match="extend `Names`"):
        Evidence.from_dict(content)
    with pytest.raises(InputError, match="no name"):
        Names(arms=frozenset({"<script>"}))


def test_rows_are_found_and_immutable():
    found = Evidence.from_dict(evidence())
    assert found.row("foreworld", "success").n == 1200
    with pytest.raises(InputError, match="foreworld/all/success"):
        found.row("bb", "success")
    with pytest.raises(ValidationError):
        found.rows[0].value = 1.0


def test_the_table_has_arms_as_rows_and_metrics_as_columns():
    rows = [
        row(),
        row(metric="rmse_30", unit="mg/dL", value=13.0, low=12.5, high=13.5),
        row(arm="random", value=0.25, low=0.2, high=0.3),
        row(group="unseen", value=0.5, low=0.4, high=0.6),
    ]
    lines = Evidence.from_dict(evidence(*rows)).table().splitlines()
    assert lines[0].split("  ")[0] == "rooms/cross-room v1, all"
    assert lines[0].index("success [%]") < lines[0].index("rmse_30 [mg/dL]")
    assert lines[1].startswith("foreworld") and "98.5 [97.0, 99.0]" in lines[1] and "13.00 [12.50, 13.50]" in lines[1]
    assert lines[2].startswith("random") and lines[2].endswith("-") and "25.0 [20.0, 30.0]" in lines[2]
    assert "50.0" not in "\n".join(lines)
    assert "seeds 0, 1, 2" in lines[-1]


def test_a_table_with_a_rare_share_says_that_its_upper_end_is_no_limit():
    rare = row(metric="time_below_54", value=0.001, low=0.0, high=0.002)
    common = [
        row(),
        row(metric="failures", value=0.0, low=None, high=None),
        row(metric="mse", unit="u", value=0.01, low=0.0),
    ]
    assert "no limit" in Evidence.from_dict(evidence(rare, *common)).table()
    assert "no limit" not in Evidence.from_dict(evidence(*common)).table()
    assert "no limit" not in Evidence.from_dict(evidence(rare, *common)).table(metrics=["success"])


def test_compare_needs_the_same_protocol():
    ours, theirs = Evidence.from_dict(evidence()), Evidence.from_dict(evidence(row(value=0.98)))
    assert "+0.50" in ours.compare(theirs)
    with pytest.raises(InputError, match="same settings"):
        ours.compare(Evidence.from_dict(evidence(hash="other")))


def test_machine_names_versions_but_no_host():
    text = machine()
    assert "torch" in text and "Python" in text
    assert platform.node() not in text


def experiment(**changes):
    def run(request):
        samples = Samples(request.seeds)
        for seed in request.seeds:
            samples.add("random", "success", seed, ["a", "b"], [0.0, 1.0])
        return samples.rows(repeats=50)

    settings = {"rooms": 2, "steps": [1, 2]}
    fields = {
        "name": "rooms/two-room", "version": 1, "description": "x", "settings": settings, "arms": ("random",),
        "metrics": ("success",), "run": run,
    }  # fmt: skip
    return Protocol(**(fields | changes))


def test_a_protocol_runs_and_wraps_its_rows():
    found = experiment().evaluate(Request(seeds=(4, 5)))
    assert found.seeds == (4, 5) and found.hash == experiment().hash and found.cpu_seconds >= 0.0
    assert found.row("random", "success").value == 0.5
    for bad, words in (
        (Request(arms=("bb",)), "arm 'bb' is not among"),
        (Request(arms=()), "arms .*at least one"),
        (Request(arms=("random", "random")), "each once"),
        (Request(seeds=()), "seeds .*at least one"),
        (Request(seeds=(1, 1)), "each once"),
        (Request(seeds=(0, -1)), "none below 0"),
        (Request(subjects=0), "at least 1"),
    ):
        with pytest.raises(InputError, match=words):
            experiment().evaluate(bad)


def test_the_hash_follows_the_settings_and_nothing_else():
    same = experiment(settings={"steps": [1, 2], "rooms": 2}, description="y", run=len)
    assert same.hash == experiment().hash
    for changes in ({"settings": {"rooms": 3}}, {"version": 2}, {"metrics": ("success", "mse")}):
        assert experiment(**changes).hash != experiment().hash


def filled():
    samples = Samples((0, 1))
    names, groups = ["p", "q", "r"], [("unseen",), (), ("unseen",)]
    for arm, shift in (("bb", 0.0), ("foreworld", 0.1)):
        samples.add(arm, "time_in_range", 0, names, np.array([0.5, 0.6, 0.7]) + shift, groups)
        samples.add(arm, "time_in_range", 1, names, np.array([0.4, 0.5, 0.6]) + shift, groups)
    return samples


def test_samples_become_one_row_per_arm_group_and_metric():
    rows = {found.key: found for found in filled().rows()}
    assert set(rows) == {(arm, group, "time_in_range") for arm in ("bb", "foreworld") for group in ("all", "unseen")}
    found = rows["bb", "all", "time_in_range"]
    assert (found.value, found.n, found.by_seed) == (pytest.approx(0.55), 3, pytest.approx((0.6, 0.5)))
    # Subjects are resampled, with both their seeds.
    expected = cluster_bootstrap([0.5, 0.6, 0.7, 0.4, 0.5, 0.6], list("pqrpqr"))
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert rows["bb", "unseen", "time_in_range"].n == 2


def test_differences_are_paired():
    found = filled().difference("foreworld", "bb", "time_in_range")
    assert found == pytest.approx((0.1, 0.1, 0.1))
    with pytest.raises(InputError, match="add them"):
        filled().difference("foreworld", "pid", "time_in_range")
    lopsided = filled()
    lopsided.add("pid", "time_in_range", 0, ["p"], [0.5])
    with pytest.raises(InputError, match="same subjects"):
        lopsided.difference("foreworld", "pid", "time_in_range")


def test_root_mean_squares_and_maxima_pool_as_they_should():
    samples = Samples((0, 1))
    for seed, (errors, seconds) in enumerate((([9.0, 16.0], 30.0), ([25.0, 36.0], 20.0))):
        samples.add("arx", "rmse_30", seed, ["a", "b"], errors, unit="mg/dL", how="rms", weights=[1.0, 3.0])
        samples.add("arx", "train_cpu_seconds", seed, ["run"], [seconds], unit="s", how="max")
    rows = {found.metric: found for found in samples.rows()}
    assert rows["rmse_30"].value == pytest.approx(np.sqrt((9.0 + 48.0 + 25.0 + 108.0) / 8.0))
    assert rows["rmse_30"].by_seed == pytest.approx((np.sqrt(57.0 / 4.0), np.sqrt(133.0 / 4.0)))
    assert (rows["train_cpu_seconds"].value, rows["train_cpu_seconds"].low) == (30.0, None)


def test_root_mean_squares_differ_by_their_roots_and_never_mix_with_means():
    samples = Samples((0, 1))
    for seed, scale in ((0, 1.0), (1, 4.0)):
        for arm, errors in (("arx", [9.0, 25.0]), ("bb", [4.0, 16.0])):
            samples.add(arm, "rmse_30", seed, ["a", "b"], [scale * e for e in errors], unit="mg/dL", how="rms")
    found = samples.difference("arx", "bb", "rmse_30")
    assert found.value == pytest.approx(np.sqrt(2.5 * 17.0) - np.sqrt(2.5 * 10.0))
    assert found.low <= found.value < found.high
    one = np.sqrt(17.0) - np.sqrt(10.0)
    assert samples.differences_by_seed("arx", "bb", "rmse_30") == pytest.approx((one, 2.0 * one))
    with pytest.raises(InputError, match="no mean of equally weighted"):
        samples.share_of_gap("arx", "bb", "bb", "rmse_30")


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 7},
        {"values": [np.nan, 0.5]},
        {"values": [0.5]},
        {"subjects": ["a", "a"]},
        {"groups": [("martians",), ()]},
        {"metric": "luck"},
        {"arm": "nobody"},
    ],
)
def test_samples_refuse_what_they_cannot_pool(changes):
    fields = {"arm": "bb", "metric": "success", "seed": 0, "subjects": ["a", "b"], "values": [0.0, 1.0]}
    with pytest.raises(InputError):
        Samples((0, 1)).add(**(fields | changes))


def test_a_seed_without_samples_or_another_unit_is_an_error():
    samples = Samples((0, 1))
    samples.add("bb", "success", 0, ["a"], [1.0])
    with pytest.raises(InputError, match="seed 1"):
        samples.rows()
    with pytest.raises(InputError, match="twice"):
        samples.add("bb", "success", 0, ["a"], [1.0])
    with pytest.raises(InputError, match="steps"):
        samples.add("bb", "success", 1, ["a"], [1.0], unit="steps")


def test_a_mean_of_values_within_0_and_1_has_an_interval_although_all_are_alike():
    samples = Samples((0,))
    samples.add("foreworld", "success", 0, [f"s{n}" for n in range(50)], np.ones(50), how="bounded")
    samples.add("nothing", "success", 0, [f"s{n}" for n in range(50)], np.linspace(0.0, 1.0, 50), how="bounded")
    sure, spread = samples.rows()
    assert sure.value == sure.high == 1.0 and sure.low == pytest.approx(0.9287, abs=1e-4)
    resampled = cluster_bootstrap(np.linspace(0.0, 1.0, 50), [f"s{n}" for n in range(50)])
    assert spread.value == pytest.approx(0.5) and spread.low < resampled.low and spread.high > resampled.high
    beyond = Samples((0,))
    beyond.add("foreworld", "success", 0, ["a", "b"], [0.5, 1.5], how="bounded")
    with pytest.raises(InputError, match="within 0 to 1"):
        beyond.rows()


def test_a_difference_of_shares_has_a_width_where_all_subjects_differ_alike():
    samples = Samples((0,))
    for arm, value in (("foreworld", 1.0), ("nothing", 0.0)):
        samples.add(arm, "success", 0, [f"s{n}" for n in range(10)], [value] * 10, how="wilson")
    assert samples.difference("foreworld", "nothing", "success") == pytest.approx((1.0, 0.6075, 1.0), abs=5e-5)


@pytest.mark.parametrize("how", ["wilson", "bounded"])
def test_a_share_of_subjects_takes_no_weights(how):
    samples = Samples((0,))
    samples.add("foreworld", "success", 0, ["a", "b"], [0.0, 1.0], how=how, weights=[1.0, 3.0])
    with pytest.raises(InputError, match="leave weights out"):
        samples.rows()
