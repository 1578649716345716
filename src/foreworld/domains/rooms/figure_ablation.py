"""The ablation's figure: success beside what a probe reads, a bar an arm."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from foreworld.errors import InputError, MissingExtraError
from foreworld.evidence.report import Picture
from foreworld.evidence.rows import Evidence, Row

BARS = {  # colours of Okabe and Ito
    "success": ("success", "#0072b2"),
    "probe_perceptron": ("place read by a probe, R2", "#e69f00"),
}


def pictures(evidence: Evidence) -> Sequence[Picture]:
    """The figure for a page of evidence.

    Raises:
        InputError: The evidence has no success of any arm.
        MissingExtraError: Matplotlib is not installed.
    """
    return [
        Picture(
            draw(evidence),
            "Success and R2 of the agent's place by arm, as bars beside one another.",
            "Blue, share of scenes solved, with its 95 % interval; orange, how well a small perceptron reads the "
            "agent's place from the latent on scenes not learned from (R2, the mean of x and y; below 0 drawn as 0). "
            "All arms of a task trained for the same CPU time. A probe that reads well is no promise of success.",
        )
    ]


def draw(evidence: Evidence) -> bytes:
    """A PNG; raises as `pictures`."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "report") from error
    rows = {(row.arm, row.metric): row for row in evidence.rows if row.metric in BARS}
    arms = [arm for arm in dict.fromkeys(row.arm for row in evidence.rows) if (arm, "success") in rows]
    if not arms:
        raise InputError(f"{evidence.protocol} has no arm whose success is known; give evidence of the ablation")
    figure = Figure(figsize=(2.5 + 0.75 * len(arms), 4.2), dpi=150, layout="constrained")
    axes = figure.subplots()
    for shift, (metric, (label, colour)) in zip((-0.2, 0.2), BARS.items(), strict=True):
        found = [rows.get((arm, metric)) for arm in arms]
        heights = [0.0 if row is None else max(0.0, row.value) for row in found]
        errors = [[_reach(row, -1) for row in found], [_reach(row, 1) for row in found]]
        options: dict[str, Any] = {"yerr": errors, "capsize": 2} if metric == "success" else {}
        axes.bar([n + shift for n in range(len(arms))], heights, 0.38, color=colour, label=label, **options)
    axes.set(ylabel="share, and R2", ylim=(0, 1.05), title=f"{evidence.protocol}, seeds {_listed(evidence.seeds)}")
    axes.set_xticks(range(len(arms)), [arm.replace("_", "\n") for arm in arms], fontsize=8)
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def _reach(row: Row | None, side: int) -> float:
    """How far the interval goes from the value, downwards or upwards."""
    if row is None or row.low is None or row.high is None:
        return 0.0
    return max(0.0, row.value - row.low if side < 0 else row.high - row.value)


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))
