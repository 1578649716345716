"""Attack the independent checker with raw adversarial insulin proposals, and count what gets through.

    python benchmarks/checker_attack.py --n 100000

Every proposal (random, a hair on either side of each bound, NaN, infinite, negative, huge, no number at all; after
histories that are calm, near a limit, broken or empty) is judged by the checker and by a reference that was written
separately. A breach is a proposal that the checker accepts and the reference refuses; a proposal is valid if the
reference accepts it. The checker never changes an action; would it, that counted as a rejection. Proposals within
1e-9 (relative) of a bound's tolerance are neither.
"""

import argparse
import copy
import json
import platform
import sys
import time
from collections import Counter
from pathlib import Path

from scipy.stats import beta

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests" / "agent")]

import numpy as np  # noqa: E402
from proposals import proposal  # noqa: E402
from reference_checker import allows  # noqa: E402

from foreworld.agent.check import Checker, Measured  # noqa: E402
from foreworld.domains.treatment.rules import insulin_rules  # noqa: E402

EDGE = 1e-9


def exact_interval(hits, trials, level=0.95):
    """Clopper-Pearson interval of a share."""
    if trials == 0:
        return 0.0, 1.0
    tail = (1 - level) / 2
    low = 0.0 if hits == 0 else float(beta.ppf(tail, hits, trials - hits + 1))
    high = 1.0 if hits == trials else float(beta.ppf(1 - tail, hits + 1, trials - hits))
    return low, high


def measured_from(state):
    return Measured(
        times=np.array(state["times"]),
        observations={"cgm": np.array(state["cgm"])},
        actions={"insulin": np.array(state["insulin"])},
        exogenous={"carbs": np.array(state["carbs"])},
        statics={name: state[name] for name in ("weight", "basal", "cr", "cf")},
    )


def attack(first, n):
    """Judge proposals first..first+n-1; returns the counts and the seconds per check."""
    checker = Checker(insulin_rules())
    count = Counter()
    refused_by = Counter()
    seconds = np.zeros(n)
    for at in range(n):
        state, action = proposal(first + at)
        measured, given = measured_from(state), copy.deepcopy(action)
        start = time.perf_counter()
        verdict = checker.check(measured, action)
        seconds[at] = time.perf_counter() - start
        accepted = verdict.accepted and repr(action) == repr(given)
        lenient, _ = allows(state, given, 1e-6 + EDGE, EDGE)
        strict, _ = allows(state, given, 1e-6 - EDGE, -EDGE)
        count["invalid"] += not lenient
        count["breaches"] += accepted and not lenient
        count["valid"] += strict
        count["valid_accepted"] += accepted and strict
        count["edge"] += lenient and not strict
        refused_by.update(reason.rule for reason in verdict.reasons)
    return checker, count, refused_by, seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=100_000, help="number of proposals")
    parser.add_argument("--seed", type=int, default=1_000_000, help="seed of the first proposal (tests use 0..4999)")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "checker_attack.json")
    options = parser.parse_args()
    start = time.process_time()
    checker, count, refused_by, seconds = attack(options.seed, options.n)
    breach = exact_interval(count["breaches"], count["invalid"])
    valid = exact_interval(count["valid_accepted"], count["valid"])
    machine = f"{platform.machine()}, Python {platform.python_version()}, NumPy {np.__version__}, one core"
    result = {
        "format": 1,
        "benchmark": "checker_attack",
        "command": f"python benchmarks/checker_attack.py --n {options.n} --seed {options.seed}",
        "machine": machine,
        "cpu_seconds": round(time.process_time() - start, 1),
        "rules_digest": checker.digest,
        "n": options.n,
        "edge_excluded": count["edge"],
        "invalid": count["invalid"],
        "breaches_accepted": count["breaches"],
        "breach_share": {"value": count["breaches"] / max(count["invalid"], 1), "low": breach[0], "high": breach[1]},
        "valid": count["valid"],
        "valid_accepted": count["valid_accepted"],
        "valid_share": {"value": count["valid_accepted"] / max(count["valid"], 1), "low": valid[0], "high": valid[1]},
        "interval": "Clopper-Pearson, 95 %",
        "ms_per_check": {"median": float(np.median(seconds) * 1e3), "p99": float(np.quantile(seconds, 0.99) * 1e3)},
        "refused_by": dict(sorted(refused_by.items())),
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=2) + "\n")
    for rule, times in refused_by.most_common():
        print(f"  refused by {rule:26s} {times}")
    print(f"{machine}; {result['cpu_seconds']} CPU s; rules {checker.digest[:12]}; {options.json}")
    print(f"check: {result['ms_per_check']['median']:.3f} ms median, {result['ms_per_check']['p99']:.3f} ms p99")
    print(f"valid accepted: {count['valid_accepted']} of {count['valid']} (95 % CI {valid[0]:.5f} to {valid[1]:.5f})")
    print(
        f"breaches accepted: {count['breaches']} of {count['invalid']} (95 % CI 0 to {breach[1]:.2e})"
        if count["breaches"] == 0
        else f"BREACHES ACCEPTED: {count['breaches']} of {count['invalid']}"
    )
    sys.exit(count["breaches"] > 0 or count["valid_accepted"] < 0.999 * count["valid"])


if __name__ == "__main__":
    main()
