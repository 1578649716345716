"""The picture of a closed-loop track."""

from foreworld.domains.treatment.figure_track import pictures, track_figure
from foreworld.evidence.rows import NAMES, Evidence, Names, Row

ABOVE = frozenset({"time_in_range_above_pid"})


def evidence(group="unseen"):
    def row(arm, metric, value, unit="share"):
        low, high = value - 0.01, value + 0.01
        return Row(
            arm=arm, group=group, metric=metric, value=value, low=low, high=high, n=21, unit=unit, by_seed=(value,)
        )

    rows = [
        row("pid", "time_in_range", 0.8),
        row("filter", "time_in_range", 0.97),
        row("foreworld", "time_in_range", 0.95),
    ]
    rows += [row("pid", "time_below_70", 0.02), row("foreworld", "time_in_range_above_pid", 15.0, "points")]
    return Evidence(
        protocol="treatment/t1d-announced", version=2, hash="x", seeds=(8,), machine="m", cpu_seconds=1.0,
        rows=tuple(rows), names=NAMES | Names(frozenset({"pid", "filter"}), frozenset({"unseen"}), ABOVE),
    )  # fmt: skip


def test_arms_stand_in_order_of_their_time_in_range_with_their_intervals():
    inside, low, above = track_figure(evidence(), "unseen").axes
    assert [label.get_text() for label in inside.get_yticklabels()] == ["pid", "foreworld", "filter"]
    assert [line.get_xdata()[0] for line in inside.lines] == [80.0, 95.0, 97.0]
    assert len(inside.collections) == 3
    assert [line.get_xdata()[0] for line in low.lines] == [2.0]
    assert [list(line.get_xdata()) for line in above.lines] == [[15.0], [0.0, 0.0]]


def test_the_picture_says_who_and_how_many_and_what_it_is_not():
    for group in ("unseen", "all"):
        (picture,) = pictures(evidence(group))
        assert picture.content[:4] == b"\x89PNG"
        assert f"Group {group}, n = 21, seeds 8" in picture.caption and "not a medical device" in picture.caption
