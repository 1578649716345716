"""What every subject gave in every seed, and the rows of evidence made from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from foreworld.errors import InputError
from foreworld.evidence.rows import NAMES, Names, Row
from foreworld.evidence.statistics import (
    REPEATS,
    Interval,
    cluster_bootstrap,
    newcombe,
    paired_bootstrap,
    ratio_bootstrap,
    wilson,
)

How = Literal["mean", "rms", "max", "wilson", "bounded"]


@dataclass
class _Pool:
    """The samples of one arm and metric, in the order in which they came."""

    unit: str
    how: How
    seeds: list[int] = field(default_factory=list)
    subjects: list[str] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    groups: list[frozenset[str]] = field(default_factory=list)

    def of(self, group: str) -> list[int]:
        return [at for at, found in enumerate(self.groups) if group in found]


class Samples:
    """Collects samples and pools them: intervals resample subjects, each with all its seeds.

        samples = Samples(seeds=(0, 1))
        samples.add("bb", "time_in_range", 0, patients.names, shares, groups, unit="share")
        rows = samples.rows()

    Subjects that are drawn anew in every seed (episodes) need labels of their own in every seed.
    """

    def __init__(self, seeds: Sequence[int], names: Names = NAMES) -> None:
        self.seeds = tuple(seeds)
        self.names = names
        self._pools: dict[tuple[str, str], _Pool] = {}

    def add(
        self,
        arm: str,
        metric: str,
        seed: int,
        subjects: Sequence[str],
        values: npt.ArrayLike,
        groups: Sequence[Sequence[str]] | None = None,
        *,
        unit: str = "share",
        weights: npt.ArrayLike | None = None,
        how: How = "mean",
    ) -> None:
        """Add one value a subject.

        Args:
            arm: who acted or forecast.
            metric: what was measured.
            seed: one of the seeds.
            subjects: `[n]` labels.
            values: `[n]`.
            groups: `[n]` the groups of each subject; all are in `all` besides.
            unit: of the pooled value.
            weights: `[n]`, such as the number of errors that a mean is over.
            how: `mean`; `rms`, the root of the mean of the *squared* errors given; `max` over seeds of the seed's mean,
                which has no interval; `wilson`, a share of subjects that are each there once, which succeed (1) or
                do not (0): where nobody fails, resampling them would give an interval without width; or `bounded`, a
                mean of subjects that are each there once with values within 0 to 1, with the interval of `wilson`,
                which is too wide for it where they are independent, as no such values vary more than those that are 0
                or 1. Neither takes weights.

        Raises:
            InputError: an unknown seed, arm, group or metric, a value that is not finite, shapes that disagree, a
                subject given twice, or another unit or way of pooling than before.
        """
        given = np.asarray(values, dtype=np.float64)
        share = np.ones_like(given) if weights is None else np.asarray(weights, dtype=np.float64)
        own = [()] * len(subjects) if groups is None else groups
        if not (given.ndim == 1 and given.shape == share.shape and len(given) == len(subjects) == len(own) > 0):
            raise InputError(
                f"{metric}: {len(subjects)} subjects, values {given.shape} and {len(own)} groups must agree"
            )
        if not np.all(np.isfinite(given)):
            raise InputError(
                f"{metric} of {arm}, subject {subjects[int(np.argmin(np.isfinite(given)))]}, is not finite"
            )
        if seed not in self.seeds:
            raise InputError(f"seed {seed} is not among {self.seeds}")
        belongs = [frozenset({"all", *of}) for of in own]
        for group in frozenset().union(*belongs):
            self.names.check(arm, group, metric)
        pool = self._pools.setdefault((arm, metric), _Pool(unit, how))
        if (pool.unit, pool.how) != (unit, how):
            raise InputError(f"{metric} of {arm} was given as {pool.how} in {pool.unit}, now as {how} in {unit}")
        known = {(s, name) for s, name in zip(pool.seeds, pool.subjects, strict=True)}
        for subject in subjects:
            if (seed, subject) in known:
                raise InputError(f"{metric} of {arm} has subject {subject} in seed {seed} twice")
            known.add((seed, subject))
        pool.seeds += [seed] * len(given)
        pool.subjects += subjects
        pool.values += given.tolist()
        pool.weights += share.tolist()
        pool.groups += belongs

    def parts(self) -> list[dict[str, Any]]:
        """All samples as plain JSON values, for `extend`."""
        return [
            {
                "arm": arm,
                "metric": metric,
                "unit": pool.unit,
                "how": pool.how,
                "seeds": list(pool.seeds),
                "subjects": list(pool.subjects),
                "values": list(pool.values),
                "weights": list(pool.weights),
                "groups": [sorted(groups) for groups in pool.groups],
            }
            for (arm, metric), pool in self._pools.items()
        ]

    def extend(self, parts: Sequence[Mapping[str, Any]]) -> None:
        """Add what `parts` gave; raises as `add`."""
        for part in parts:
            for seed in dict.fromkeys(part["seeds"]):
                chosen = [at for at, found in enumerate(part["seeds"]) if found == seed]
                subjects, values, weights, groups = (
                    [part[name][at] for at in chosen] for name in ("subjects", "values", "weights", "groups")
                )
                self.add(
                    part["arm"],
                    part["metric"],
                    seed,
                    subjects,
                    values,
                    groups,
                    unit=part["unit"],
                    weights=weights,
                    how=part["how"],
                )

    def rows(self, *, repeats: int = REPEATS, seed: int = 0) -> list[Row]:
        """One row per arm, group and metric.

        Args:
            repeats: number of resamples.
            seed: of the resampling.

        Raises:
            InputError: a group has no sample in one of the seeds.
        """
        result = []
        for (arm, metric), pool in self._pools.items():
            for group in sorted(frozenset().union(*pool.groups), key=lambda name: (name != "all", name)):
                result.append(self._row(arm, metric, group, pool, repeats, seed))
        return result

    def _row(self, arm: str, metric: str, group: str, pool: _Pool, repeats: int, seed: int) -> Row:
        chosen = pool.of(group)
        values, weights = np.array(pool.values)[chosen], np.array(pool.weights)[chosen]
        seeds = np.array(pool.seeds)[chosen]
        subjects = [pool.subjects[at] for at in chosen]
        missing = set(self.seeds) - set(seeds.tolist())
        if missing:
            raise InputError(f"{metric} of {arm} in group {group} has no sample in seed {min(missing)}")
        change = np.sqrt if pool.how == "rms" else np.asarray
        by_seed = tuple(
            float(change(np.average(values[seeds == one], weights=weights[seeds == one]))) for one in self.seeds
        )
        n = len(set(subjects))
        if pool.how == "max":
            found = Interval(max(by_seed), np.nan, np.nan)
        else:
            found = cluster_bootstrap(values, subjects, weights=weights, transform=change, repeats=repeats, seed=seed)
        if pool.how in ("wilson", "bounded"):
            if n != len(values) or (pool.how == "wilson" and not np.isin(values, (0.0, 1.0)).all()):
                raise InputError(f"{metric} of {arm} is to be a share of subjects who are there once, each 0 or 1")
            if (weights != 1.0).any():
                raise InputError(f"{metric} of {arm} is a share of subjects, who count alike; leave weights out")
            if not ((values >= 0.0) & (values <= 1.0)).all():
                raise InputError(f"{metric} of {arm} is to lie within 0 to 1")
            found = wilson(float(values.sum()), n)
        sure = pool.how != "max" and n > 1
        return Row(
            arm=arm,
            group=group,
            metric=metric,
            value=found.value,
            low=found.low if sure else None,
            high=found.high if sure else None,
            n=n,
            unit=pool.unit,
            by_seed=by_seed,
        )

    def difference(
        self, arm: str, baseline: str, metric: str, group: str = "all", *, repeats: int = REPEATS, seed: int = 0
    ) -> Interval:
        """The mean (or root mean square) of `arm` minus that of `baseline`, paired by subject and seed.

        Returns:
            It with its 95 % interval, resampling subjects; Newcombe's for `wilson`.

        Raises:
            InputError: an arm has no such samples, the two have not the same subjects and seeds, or they are neither
                means, `wilson` nor root mean squares of equally weighted samples.
        """
        first, second = self._pairs(arm, baseline, metric, group, how=("mean", "rms", "wilson"))
        keys = sorted(first)
        if self._pools[arm, metric].how == "wilson":
            return newcombe([first[key] for key in keys], [second[key] for key in keys])
        return paired_bootstrap(
            [first[key] for key in keys],
            [second[key] for key in keys],
            [subject for _, subject in keys],
            transform=np.sqrt if self._pools[arm, metric].how == "rms" else None,
            repeats=repeats,
            seed=seed,
        )

    def share_of_gap(
        self, arm: str, baseline: str, ceiling: str, metric: str, group: str = "all", *, repeats: int = REPEATS
    ) -> Interval:
        """How much of the way from `baseline` to `ceiling` the arm goes: 0 at the one, 1 at the other.

        The ratio of the two mean differences, paired by subject and seed; raises as `difference`.
        """
        own, base = self._pairs(arm, baseline, metric, group)
        best, _ = self._pairs(ceiling, baseline, metric, group)
        keys = sorted(own)
        return ratio_bootstrap(
            [own[key] - base[key] for key in keys],
            [best[key] - base[key] for key in keys],
            [subject for _, subject in keys],
            repeats=repeats,
        )

    def differences_by_seed(self, arm: str, baseline: str, metric: str, group: str = "all") -> tuple[float, ...]:
        """`difference` in each seed alone; raises as it does."""
        sides = self._pairs(arm, baseline, metric, group, how=("mean", "rms", "wilson"))
        change = np.sqrt if self._pools[arm, metric].how == "rms" else np.asarray

        def of(side: dict[tuple[int, str], float], seed: int) -> float:
            return float(change(np.mean([value for key, value in side.items() if key[0] == seed])))

        return tuple(of(sides[0], seed) - of(sides[1], seed) for seed in self.seeds)

    def subjects(self, arm: str, group: str = "all") -> tuple[str, ...]:
        """The subjects of an arm in a group, each once."""
        pools = [pool for (of, _), pool in self._pools.items() if of == arm]
        return tuple(sorted({pool.subjects[at] for pool in pools for at in pool.of(group)}))

    def values(self, arm: str, metric: str, group: str = "all") -> dict[tuple[int, str], float]:
        """By seed and subject, the values of a metric in the order in which they came; empty where there are none."""
        pool = self._pools.get((arm, metric))
        return {} if pool is None else {(pool.seeds[at], pool.subjects[at]): pool.values[at] for at in pool.of(group)}

    def by_subject(self, arm: str, metric: str, group: str = "all") -> npt.NDArray[np.float64]:
        """[seeds, subjects] the values of a metric, subjects in order of their names; empty where there are none.

        Raises:
            InputError: A subject of one seed is missing in another.
        """
        found = self.values(arm, metric, group)
        names = sorted({subject for _, subject in found})
        if len(found) != len(names) * len(self.seeds):
            raise InputError(f"{metric} of {arm} in group {group} has not the same subjects in every seed")
        return np.array([[found[seed, name] for name in names] for seed in self.seeds]).reshape(len(self.seeds), -1)

    def _pairs(
        self, arm: str, baseline: str, metric: str, group: str, how: Sequence[How] = ("mean",)
    ) -> tuple[dict[tuple[int, str], float], dict[tuple[int, str], float]]:
        """By seed and subject, the values of both sides."""
        sides = []
        for one in (arm, baseline):
            pool = self._pools.get((one, metric))
            if pool is None:
                raise InputError(f"{one} has no samples of {metric}; add them first")
            if pool.how not in how or len(set(pool.weights)) > 1:
                raise InputError(
                    f"{metric} of {one} is no {' or '.join(how)} of equally weighted samples; it cannot be paired"
                )
            sides.append(self.values(one, metric, group))
        first, second = sides
        if not first or first.keys() != second.keys():
            raise InputError(f"{arm} and {baseline} have not the same subjects and seeds for {metric} in {group}")
        return first, second
