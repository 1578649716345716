"""The figures and the report of the treatment domain, on synthetic days."""

import dataclasses
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from foreworld.domains.treatment.figures import (
    CLOSEST,
    REFUSED,
    DayExample,
    DayForecast,
    HorizonErrors,
    agp_figure,
    calibration_figure,
    day_figure,
    glucose_profile,
    patients_figure,
    png_bytes,
    range_shares,
    time_in_range_by_patient,
)
from foreworld.domains.treatment.metrics import summarise
from foreworld.domains.treatment.pages import ReportData, write_report
from foreworld.errors import InputError, MissingExtraError

STEPS = 288
PATIENTS = ("adult#004", "child#005 <script>$\\bad{$ 漢", "adolescent#006")


def glucose(patients=3, days=2, seed=0, step=5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    t = np.arange(days * 1440 // step) * step / 1440.0
    wave = 60.0 * np.sin(2 * np.pi * (3 * t[None] + rng.uniform(size=(patients, 1))))
    return np.clip(130.0 + wave + rng.normal(0, 25, (patients, t.size)), 15.0, 400.0)


def day(**change) -> DayExample:
    rng = np.random.default_rng(1)
    bg = glucose(1, 2)[0, : STEPS + 1]
    cgm = bg + rng.normal(0, 8, STEPS + 1)
    cgm[90:110] = np.nan
    announced = np.zeros(STEPS + 1)
    announced[[84, 88, 150, 286]] = 45.0, 10.0, 70.0, 20.0
    insulin = np.full(STEPS, 0.08)
    insulin[[84, 88, 150]], insulin[200:230] = (5.0, 1.0, 7.5), 0.0
    points = np.array([1, 3, 6, 12, 24, 36])
    forecasts = []
    for at in range(0, STEPS, 30):
        mean = np.linspace(bg[at], 120.0, points.size)
        width = 5.0 + points
        forecasts.append(DayForecast(at, points, mean, mean - width, mean + width))
    guardrails = {name: np.zeros(STEPS, dtype=np.int64) for name in ("predicted_low", "max_iob", "stale_cgm")}
    guardrails["predicted_low"][195:230], guardrails["max_iob"][150:160] = REFUSED, CLOSEST
    acted = ["planner"] * 90 + ["fallback"] * 20 + ["recovery"] * 5 + ["someone new"] * 5 + ["planner"] * 168
    base = DayExample(PATIENTS[1], 5.0, 0.0, cgm, bg, insulin, 0.96, announced, forecasts, guardrails, acted)
    return dataclasses.replace(base, **change)


def errors() -> HorizonErrors:
    minutes = np.array([5.0, 30.0, 60.0, 120.0, 240.0])
    coverage = np.array([0.9, 0.91, np.nan, 0.885, 0.9])
    arx = np.array([np.nan, 14.0, 19.0, 24.0, np.nan])
    rmse = {"foreworld": minutes**0.5, "arx": arx, "persistence": np.full(5, np.nan)}
    return HorizonErrors(minutes, coverage, rmse, coverage - 0.02, coverage + 0.02)


def data(**change) -> ReportData:
    traces = {"foreworld": glucose(seed=1), "bb_error": glucose(seed=2), "my <arm>": glucose(seed=3)}
    rows = [
        {"arm": arm, "group": "unseen", "metric": metric, "value": v, "low": v / 2, "high": v, "n": 3, "unit": unit}
        for arm in traces
        for metric, v, unit in (("time_in_range", 0.9, "share"), ("rmse_60", 13.0, "mg/dL"), ("new", 3.0, "U"))
    ]
    base = ReportData(
        title="Run <1>", traces=traces, patients=PATIENTS, rows=rows, day=day(), errors=errors(),
        facts={"seeds": (0, 1), "versions": {"foreworld": "0.1.0"}}, commands=["foreworld demo > out"],
        limits=["A limit of this run."], step_minutes=5.0,
    )  # fmt: skip
    return dataclasses.replace(base, **change)


def small(**change) -> ReportData:
    return data(**{"traces": {"foreworld": glucose(days=1)}, "errors": None, "rows": ()} | change)


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.tags, self.headings, self.text = [], [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.text += text
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(text)


def test_report_is_one_well_formed_page_with_its_figures_beside_it(tmp_path):
    path = write_report(tmp_path / "run", data())
    assert path == tmp_path / "run" / "report.html"
    names = sorted(file.name for file in path.parent.iterdir())
    assert names == ["agp.png", "calibration.png", "day.png", "patients.png", "report.html"]
    for name in names[:-1]:
        content = (path.parent / name).read_bytes()
        assert content.startswith(b"\x89PNG") and len(content) > 20_000
        width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))
        assert width >= 1300 and height >= 330
    text = path.read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert not reader.open
    assert reader.headings == [
        "Run <1>", "Result", "What this is not", "One day of one patient", "Patient by patient",
        "How good the forecast is", "How it was made",
    ]  # fmt: skip
    tags = [tag for tag, _ in reader.tags]
    assert tags.count("img") == 4 and "script" not in tags
    for _, attrs in reader.tags:
        for key in ("src", "href"):
            assert attrs.get(key, "#").startswith(("data:image/png;base64,", "#"))
    assert "Research software, not a medical device" in reader.text
    assert "No person was treated" in reader.text and "A limit of this run." in reader.text
    assert "foreworld demo > out" in reader.text
    assert "foreworld 90.0\N{NO-BREAK SPACE}% (95\N{NO-BREAK SPACE}% interval 45.0 to 90.0)" in reader.text


def test_report_without_day_forecast_and_rows_leaves_these_out(tmp_path):
    few = data(day=None, errors=None, rows=(), facts={}, commands=(), limits=())
    path = write_report(tmp_path, few)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["agp.png", "patients.png", "report.html"]
    text = path.read_text(encoding="utf-8")
    assert "One day of one patient" not in text and "How good the forecast is" not in text
    inside = 100.0 * summarise(few.traces["foreworld"])["time_in_range"].mean()
    assert f"foreworld {inside:.1f}\N{NO-BREAK SPACE}%" in text


def test_the_same_data_give_the_same_report(tmp_path):
    one, two = (write_report(tmp_path / name, small(day=day())).read_bytes() for name in "ab")
    assert one == two


def test_profile_bands_are_ordered_and_pool_patients_and_days():
    bg = glucose(patients=4, days=3)
    profile = glucose_profile(bg, 5.0)
    assert profile.bands.shape == (5, 96) and np.all(np.diff(profile.bands, axis=0) >= 0.0)
    first = bg.reshape(4, 3, 96, 3)[:, :, 10].ravel()
    np.testing.assert_allclose(profile.bands[:, 10], np.percentile(first, [5, 25, 50, 75, 95]))
    assert profile.minutes[10] == 157.5


def test_profile_leaves_gaps_where_nothing_was_measured():
    bg = glucose()
    bg[:, :3] = bg[:, STEPS : STEPS + 3] = np.nan
    bands = glucose_profile(bg, 5.0).bands
    assert np.isnan(bands[:, 0]).all() and np.isfinite(bands[:, 1:]).all()


def test_shares_sum_to_one_and_agree_with_the_metrics():
    bg = glucose(patients=5)
    shares, scores = range_shares(bg), summarise(bg)
    assert shares.shape == (5,) and np.all(shares >= 0.0)
    assert shares.sum() == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_allclose(shares[2], scores["time_in_range"].mean())
    np.testing.assert_allclose(shares[:2].sum(), scores["time_below_70"].mean())
    np.testing.assert_allclose(shares[0], scores["time_below_54"].mean())
    np.testing.assert_allclose(shares[4], scores["time_above_250"].mean())


def test_shares_at_the_bounds_and_with_gaps():
    bg = np.array([[53.9, 54.0, 69.9, 70.0, 180.0, 180.1, 250.0, 250.1, np.nan, np.nan], [np.nan] * 10])
    np.testing.assert_allclose(range_shares(bg), np.array([1, 2, 2, 2, 1]) / 8)


def test_time_in_range_pools_the_seeds_of_a_patient():
    bg = np.array([[100.0, 200.0], [100.0, 100.0], [np.nan, np.nan]])
    shares = time_in_range_by_patient(bg, ["a", "a", "b"])
    assert shares["a"] == 0.75 and np.isnan(shares["b"])


@pytest.mark.parametrize("arms", [1, 2, 3, 5])
def test_profiles_of_any_number_of_arms_are_drawn(arms):
    traces = {f"arm {index}": glucose(seed=index) for index in range(arms)}
    traces["arm 0"][:, :100] = np.nan
    assert len(png_bytes(agp_figure(traces, 5.0))) > 20_000


def test_patients_are_sorted_by_the_first_arm_and_those_without_a_value_are_last():
    shares = {"foreworld": {"a": 0.5, "b": 0.9, "c": float("nan")}, "pid": {"a": 0.6, "b": 0.7}}
    axes = patients_figure(shares).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["b", "a", "c"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the best at the top


def test_many_patients_are_drawn_without_names():
    shares = {"foreworld": {str(index): index / 200 for index in range(200)}}
    axes = patients_figure(shares).axes[0]
    assert not axes.get_yticklabels() and axes.get_ylabel() == "200 patients"


def test_day_splits_insulin_at_the_profile_basal():
    figure = day_figure(day())
    above = next(axes for axes in figure.axes if "above basal" in axes.get_ylabel())
    heights = np.array([patch.get_height() for patch in above.patches])
    np.testing.assert_allclose(heights[[84, 150, 210]], [4.92, 7.42, 0.0], atol=1e-9)
    assert sorted(text.get_text() for text in above.texts) == ["4.9", "7.4"]
    basal = next(axes for axes in figure.axes if axes.get_ylabel().startswith("basal"))
    rates = basal.patches[0].get_data().values
    np.testing.assert_allclose(rates[[0, 84, 210]], [0.96, 0.96, 0.0])  # 0.08 U each 5 min


def test_day_names_who_acted_and_the_guardrails_that_were_active():
    figure = day_figure(day())
    assert [label.get_text() for label in figure.axes[-1].get_yticklabels()] == [
        "who acted", "predicted low", "max iob",
    ]  # fmt: skip
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown == ["planner", "recovery", "fallback", "someone new", "nearest to its bound", "refused the plan"]


@pytest.mark.parametrize(
    "change",
    [
        {"forecasts": (), "guardrails": {}, "acted": ()},
        {"bg": np.full(1441, np.nan)},
        {"cgm": np.full(STEPS + 1, np.nan), "insulin": np.zeros(STEPS)},
    ],
)
def test_day_with_little_known_is_drawn_all_the_same(change, tmp_path):
    write_report(tmp_path, small(day=day(**change)))
    assert (tmp_path / "day.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"cgm": np.ones(3)}, "cgm has 3 values"),
        ({"acted": ("planner",)}, "acted has 1"),
        ({"guardrails": {"g": np.zeros(2, dtype=np.int64)}}, "guardrail g has 2"),
        ({"forecasts": [DayForecast(STEPS, np.ones(1, dtype=np.int64), *np.ones((3, 1)))]}, "decision 288"),
    ],
)
def test_day_names_what_does_not_fit(change, word):
    with pytest.raises(InputError, match=word):
        day(**change)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: range_shares(np.full((2, 3), np.nan)), "not all NaN"),
        (lambda: range_shares(np.ones(3)), r"\[patients, samples\]"),
        (lambda: glucose_profile(np.ones((1, 3)), 60.0), "60.0 min"),
        (lambda: agp_figure({}), "no arm"),
        (lambda: patients_figure({"a": {}}), "no patient"),
        (lambda: time_in_range_by_patient(np.ones((2, 3)), ["a"]), "1 patient labels for 2"),
        (lambda: HorizonErrors(np.ones(2), np.ones(3)), "coverage of shape"),
        (lambda: HorizonErrors(np.ones(2), np.ones(2), coverage_low=np.ones(2)), "both ends"),
    ],
)
def test_wrong_arrays_are_named(call, word):
    with pytest.raises(InputError, match=word):
        call()


def test_nothing_is_written_when_the_data_do_not_fit(tmp_path):
    with pytest.raises(InputError):
        write_report(tmp_path / "run", data(patients=("only one",)))
    with pytest.raises(InputError, match="two evidence rows"):
        write_report(tmp_path / "run", data(rows=[*data().rows, data().rows[0]]))
    with pytest.raises(InputError, match="at least one arm"):
        write_report(tmp_path / "run", data(traces={}))
    assert not (tmp_path / "run").exists()


def test_calibration_shows_the_corridor_and_leaves_out_what_was_not_measured():
    axes = calibration_figure(errors()).axes
    assert axes[0].get_legend().get_texts()[0].get_text() == "88–92 % corridor"
    assert len(axes[1].get_legend().get_texts()) == 2
    assert len(calibration_figure(dataclasses.replace(errors(), rmse={})).axes) == 1


def test_a_users_own_settings_neither_change_a_figure_nor_are_changed():
    import matplotlib

    plain = png_bytes(calibration_figure(errors()))
    with matplotlib.rc_context({"font.size": 30.0, "lines.linestyle": "--", "ytick.direction": "in"}):
        assert png_bytes(calibration_figure(errors())) == plain
        assert matplotlib.rcParams["font.size"] == 30.0


def test_without_matplotlib_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"foreworld\[report\]"):
        agp_figure({"foreworld": glucose()}, 5.0)
