"""The laws fitted to what an arm scored, with intervals from resampling patients, as rows of evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from foreworld.domains.treatment.dosing import FloatArray
from foreworld.domains.treatment.error_growth.fit import (
    Recoverable,
    fit_compounding,
    fit_first_errors,
    fit_floor,
    fit_recoverable,
    fit_sequences,
    interval_weights,
    misfit,
)
from foreworld.domains.treatment.error_growth.growth import Growth
from foreworld.evidence.rows import Row

UNITS = {
    "e": "1/step",
    "a": "1/step",
    "b": "1/step",
    "pi": "share",
    "e_floor": "1/step",
    "aic_compounding": "AIC",
    "aic_recoverable": "AIC",
    "aic_floor": "AIC",
    "aic_gain": "AIC per forecast",
    "aic_gain_floor": "AIC per forecast",
    "misfit_compounding": "share",
    "misfit_recoverable": "share",
    "misfit_floor": "share",
    "e_first": "1/step",
    "a_sequence": "1/step",
    "b_sequence": "1/step",
    "recovered": "share",
}
"""The figures of `laws` with their units."""
# An AIC grows with the number of forecasts; the interval of the gain for each says how sure the choice is.
_NO_INTERVAL = ("aic_compounding", "aic_recoverable", "aic_floor")


def laws(scored: Sequence[Growth], points: Sequence[int], chosen: FloatArray | None = None) -> dict[str, float]:
    """All laws, fitted to all forecasts of these seeds; a point of the grid counts as much as its interval is long.

    Args:
        scored: One arm in one or more seeds.
        points: H steps ahead.
        chosen: How often each subject counts, in the order of the subjects of all seeds one after the other; once each
            if None.

    Returns:
        By the names of `UNITS`: parameters, AIC and misfit of each; `aic_gain`, by how much compounding's AIC is worse
        than the chain's, a forecast, and `aic_gain_floor` the same of compounding with the floor of chance;
        `e_first`, compounding's e had it seen first errors alone; `a_sequence` and `b_sequence`, the chain
        fitted to sequences; `recovered`, the share of forecasts that went wrong and were correct at a later point.
    """
    weight = np.ones(sum(len(one.subjects) for one in scored)) if chosen is None else chosen

    def pooled(name: str) -> FloatArray:
        values = np.concatenate([getattr(one, name) for one in scored])
        total: FloatArray = np.tensordot(weight, values, axes=1)
        return total

    steps, gaps = np.asarray(points, dtype=np.float64), np.diff([0, *points])
    each = interval_weights(points)
    correct, count, so_far, moves = (pooled(name) for name in ("correct", "count", "so_far", "moves"))
    chance = np.minimum(pooled("by_chance") / np.maximum(count, 1.0), 1.0)
    compounding, chain = fit_compounding(steps, correct, count, each), fit_recoverable(steps, correct, count, each)
    floor = fit_floor(steps, correct, count, chance, each)
    # So few readings are missing that those who are judged here are those who were judged before.
    before = np.concatenate([count[:1], so_far[:-1]])
    first = fit_first_errors(gaps, np.minimum(so_far, before), np.maximum(before - so_far, 0.0), each)
    sequence: Recoverable = fit_sequences(gaps, moves, each)
    erred = float(pooled("erred"))
    return {
        "e": compounding.e,
        "a": chain.a,
        "b": chain.b,
        "pi": chain.pi,
        "e_floor": floor.e,
        "aic_compounding": compounding.aic,
        "aic_recoverable": chain.aic,
        "aic_floor": floor.aic,
        "aic_gain": (compounding.aic - chain.aic) / float(count.max()),
        "aic_gain_floor": (floor.aic - chain.aic) / float(count.max()),
        "misfit_compounding": misfit(compounding, steps, correct, count, each),
        "misfit_recoverable": misfit(chain, steps, correct, count, each),
        "misfit_floor": misfit(floor, steps, correct, count, each),
        "e_first": first.e,
        "a_sequence": sequence.a,
        "b_sequence": sequence.b,
        "recovered": float(pooled("recovered")) / erred if erred else 0.0,
    }


def law_rows(arm: str, scored: Mapping[int, Growth], points: Sequence[int], repeats: int, seed: int = 0) -> list[Row]:
    """A row for each figure of `laws`: pooled over seeds, its 95 % interval resampling patients with all their seeds.

    Args:
        arm: Who forecast.
        scored: By seed.
        points: H steps ahead.
        repeats: Resamples.
        seed: Of the resampling.
    """
    everyone = [name for one in scored.values() for name in one.subjects]
    names = sorted(set(everyone))
    owner = np.array([names.index(name) for name in everyone])
    whole = laws(list(scored.values()), points)
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(len(names), np.full(len(names), 1.0 / len(names)), size=repeats)
    again = [laws(list(scored.values()), points, counts[owner].astype(np.float64)) for counts in drawn]
    by_seed = [laws([one], points) for one in scored.values()]
    rows = []
    for metric, unit in UNITS.items():
        low = high = None
        if metric not in _NO_INTERVAL and len(names) > 1:
            found = np.quantile([each[metric] for each in again], [0.025, 0.975])
            low, high = float(found[0]), float(found[1])
        rows.append(
            Row(
                arm=arm,
                group="all",
                metric=metric,
                value=whole[metric],
                low=low,
                high=high,
                n=len(names),
                unit=unit,
                by_seed=tuple(each[metric] for each in by_seed),
            )
        )
    return rows
