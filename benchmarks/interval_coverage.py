"""How often the intervals of evidence hold the truth: of shares to which everybody adds, and of shares that few carry.

    PYTHONPATH=src python benchmarks/interval_coverage.py [--quick]

Subjects are drawn from a population whose mean is known, and `cluster_bootstrap` gives its interval for each draw.
Prints for each population how often the interval held the mean and how often it lay wholly above or below it, with n
and the 95 % interval of the coverage, and writes JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from foreworld.evidence.protocol import machine
from foreworld.evidence.statistics import cluster_bootstrap, wilson

RESULT = Path(__file__).parent / "results" / "interval_coverage.json"
SUBJECTS = (21, 30)  # the unseen patients of a track, and all of them
Draw = Callable[[np.random.Generator, int], np.ndarray]


def mostly_zero(zeros: float, a: float, b: float) -> Draw:
    """Exactly 0 for a share of the subjects, a beta distribution for the others."""
    return lambda generator, n: np.where(generator.random(n) < zeros, 0.0, generator.beta(a, b, n))


# By population: how subjects are drawn, and its mean.
POPULATIONS: dict[str, tuple[Draw, float]] = {
    "everybody adds, mean 94 %": (lambda generator, n: generator.beta(30.0, 2.0, n), 30.0 / 32.0),
    "everybody adds, mean 5 %": (lambda generator, n: generator.beta(2.0, 40.0, n), 2.0 / 42.0),
    "half are 0, mean 2.4 %": (mostly_zero(0.5, 1.0, 20.0), 0.5 / 21.0),
    "80 % are 0, mean 1 %": (mostly_zero(0.8, 1.0, 20.0), 0.2 / 21.0),
    "90 % are 0, mean 0.5 %": (mostly_zero(0.9, 0.5, 10.0), 0.1 / 21.0),
    "one of 30 carries all": (lambda generator, n: (generator.integers(0, 30, n) == 0).astype(float), 1.0 / 30.0),
}


def coverage(draw: Draw, mean: float, subjects: int, draws: int) -> dict[str, float]:
    """How often the interval of so many subjects holds the population's mean."""
    generator, names = np.random.default_rng([7, subjects]), range(subjects)
    found = [cluster_bootstrap(draw(generator, subjects), names) for _ in range(draws)]
    above, below = sum(one.low > mean for one in found), sum(one.high < mean for one in found)
    share, low, high = wilson(draws - above - below, draws)
    return {
        "covered": share, "low": low, "high": high, "n": draws,
        "lower_end_too_high": above / draws, "upper_end_too_low": below / draws,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few draws; nothing is written")
    quick = parser.parse_args().quick
    started = time.process_time()
    results = {
        name: {str(n): coverage(draw, mean, n, 50 if quick else 1000) for n in SUBJECTS}
        for name, (draw, mean) in POPULATIONS.items()
    }
    content = {
        "format": 1, "benchmark": "interval_coverage", "machine": machine(),
        "cpu_seconds": time.process_time() - started, "results": results,
    }  # fmt: skip
    if not quick:
        RESULT.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(f"95 % intervals, share of draws; {content['machine']}")
    for name, by_size in results.items():
        for subjects, row in by_size.items():
            print(
                f"{name}, {subjects} subjects: covered {100 * row['covered']:.1f} % ({100 * row['low']:.1f} to "
                f"{100 * row['high']:.1f}, n = {row['n']}); lower end too high "
                f"{100 * row['lower_end_too_high']:.1f} %, upper end too low {100 * row['upper_end_too_low']:.1f} %"
            )


if __name__ == "__main__":
    main()
