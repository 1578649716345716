"""Attack the independent checker with a million adversarial insulin proposals, and count what gets through.

    nohup nice python benchmarks/checker_attack.py --n 1000000 > attack.log &      # about ten CPU minutes; resumes

The attacks (`tests/agent/attacks.py`) are random proposals, proposals a hair on either side of each bound, and those
that a search found: along the gradient of the reference's margin in the whole state, along the checker's own margins,
by bisection between accepted and refused states on the answer alone, by taking the greatest accepted dose again and
again, and along the gradient of a world model's objective beyond the limits.

Every proposal is judged by the checker and by a reference that was written separately. A breach is a proposal that the
checker accepts and the reference refuses; a proposal is valid if the reference accepts it. The checker never changes an
action; would it, that counted as a rejection. Proposals within 1e-9 (relative) of a bound's tolerance are neither. The
JSON is written as it goes, and the same command goes on where it was interrupted.
"""

import argparse
import copy
import json
import platform
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from scipy.stats import beta

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests" / "agent"), str(ROOT)]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from attacks import ATTACKS, from_model, measured_from  # noqa: E402
from reference_checker import allows  # noqa: E402

from foreworld.agent.check import Checker  # noqa: E402
from foreworld.domains.treatment.calibrate import load_forecaster  # noqa: E402
from foreworld.domains.treatment.rules import insulin_rules  # noqa: E402
from foreworld.episodes.files import write_json  # noqa: E402

EDGE = 1e-9
SHARES = {"random": 25, "boundary": 25, "gradient": 15, "secant": 10, "decision": 10, "greedy": 5, "model": 10}
KINDS = tuple(SHARES)
EVERY = 5000  # proposals between two looks at the file
COUNTS = ("searches", "n", "invalid", "breaches", "valid", "valid_accepted", "edge")
SAMPLED = 50  # every so many checks one is timed


def exact_interval(hits, trials, level=0.95):
    """Clopper-Pearson interval of a share."""
    if trials == 0:
        return 0.0, 1.0
    tail = (1 - level) / 2
    low = 0.0 if hits == 0 else float(beta.ppf(tail, hits, trials - hits + 1))
    high = 1.0 if hits == trials else float(beta.ppf(1 - tail, hits + 1, trials - hits))
    return low, high


class Attacker:
    """Makes the proposals of every kind; search `i` of a kind is the same for the same seed."""

    def __init__(self, checker, seed, model):
        self.checker, self.seed, self.model = checker, seed, model
        self._learned = None

    def search(self, kind, i):
        """The proposals of one search."""
        rng = np.random.default_rng([self.seed, KINDS.index(kind), i])
        if kind != "model":
            return ATTACKS[kind](self.checker, rng)
        return from_model(self._forecaster(), self.checker, self._learned[1], rng)

    def _forecaster(self):
        if self._learned is None:
            from tests.agent.tiny import make_forecaster, make_past

            torch.set_num_threads(1)
            if self.model is not None:
                forecaster = load_forecaster(self.model)
            else:
                with tempfile.TemporaryDirectory() as folder:
                    forecaster = make_forecaster(Path(folder))
            self._learned = forecaster, make_past()
        return self._learned[0]


def judge(checker, proposals, count, refused_by, timed):
    """Judge proposals; adds to the counts, and returns the breaches."""
    breaches = []
    for state, action in proposals:
        measured, given = measured_from(state), copy.deepcopy(action)
        start = time.perf_counter()
        verdict = checker.check(measured, action)
        if count["n"] % SAMPLED == 0:
            timed.append(round(1e3 * (time.perf_counter() - start), 4))
        accepted = verdict.accepted and repr(action) == repr(given)
        lenient, broken = allows(state, given, 1e-6 + EDGE, EDGE)
        # What the wider bounds refuse the narrower ones refuse, too.
        strict = lenient and allows(state, given, 1e-6 - EDGE, -EDGE)[0]
        count["n"] += 1
        count["invalid"] += not lenient
        count["valid"] += strict
        count["valid_accepted"] += accepted and strict
        count["edge"] += lenient and not strict
        refused_by.update(reason.rule for reason in verdict.reasons)
        if accepted and not lenient:
            count["breaches"] += 1
            breaches.append({"action": repr(given), "rules": sorted(broken)})
    return breaches


def begin(path, wanted):
    """What an interrupted run of the same attack has written, or nothing."""
    found = json.loads(path.read_text()) if path.is_file() else {}
    if {key: found.get(key) for key in wanted} == wanted:
        return found
    kinds = {kind: dict.fromkeys(COUNTS, 0) for kind in KINDS}
    return {**wanted, "cpu_seconds": 0.0, "kinds": kinds, "refused_by": {}, "ms": [], "breaches": []}


def attack(result, attacker, asked, save):
    """Go on with an attack until every kind has what was asked of it; `save` is called now and then."""
    refused_by, timed = Counter(result["refused_by"]), result["ms"]
    spent, began, last = result["cpu_seconds"], time.process_time(), 0
    for kind in KINDS:
        count = result["kinds"][kind]
        while count["n"] < asked[kind]:
            searching = attacker.search(kind, count["searches"])
            found = judge(attacker.checker, searching, count, refused_by, timed)
            result["breaches"] += [{"kind": kind, "search": count["searches"], **one} for one in found]
            count["searches"] += 1
            done = sum(one["n"] for one in result["kinds"].values())
            if done - last >= EVERY or count["n"] >= asked[kind]:
                last = done
                result["refused_by"] = dict(sorted(refused_by.items()))
                result["cpu_seconds"] = round(spent + time.process_time() - began, 1)
                save(result)
    return result


def summary(result):
    """The result with its shares and their intervals."""
    total = {key: sum(count[key] for count in result["kinds"].values()) for key in COUNTS}
    breach = exact_interval(total["breaches"], total["invalid"])
    valid = exact_interval(total["valid_accepted"], total["valid"])
    ms = np.array(result["ms"] or [0.0])
    return {
        **{key: value for key, value in result.items() if key != "ms"},
        "n": total["n"],
        "edge_excluded": total["edge"],
        "invalid": total["invalid"],
        "breaches_accepted": total["breaches"],
        "breach_share": {"value": total["breaches"] / max(total["invalid"], 1), "low": breach[0], "high": breach[1]},
        "valid": total["valid"],
        "valid_accepted": total["valid_accepted"],
        "valid_share": {"value": total["valid_accepted"] / max(total["valid"], 1), "low": valid[0], "high": valid[1]},
        "interval": "Clopper-Pearson, 95 %; proposals of one search are not independent",
        "ms_per_check": {"median": float(np.median(ms)), "p99": float(np.quantile(ms, 0.99)), "n": len(ms)},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1_000_000, help="number of proposals")
    parser.add_argument("--seed", type=int, default=1_000_000, help="of all proposals (tests use small ones)")
    parser.add_argument(
        "--model", type=Path, help="a trained model for the attack along its gradient; a small one if none"
    )
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "checker_attack.json")
    options = parser.parse_args()
    checker = Checker(insulin_rules())
    asked = {kind: options.n * share // sum(SHARES.values()) for kind, share in SHARES.items()}
    wanted = {
        "format": 2,
        "benchmark": "checker_attack",
        "command": f"python benchmarks/checker_attack.py --n {options.n} --seed {options.seed}"
        + (" --model MODEL" if options.model else ""),
        "machine": f"{platform.machine()}, Python {platform.python_version()}, NumPy {np.__version__}, one core",
        "rules_digest": checker.digest,
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    draft = options.json.with_suffix(".partial.json")

    def save(result):
        write_json(draft, result)
        done = sum(count["n"] for count in result["kinds"].values())
        breaches = sum(count["breaches"] for count in result["kinds"].values())
        print(f"{done} of {options.n} proposals, {breaches} breaches, {result['cpu_seconds']:.0f} CPU s", flush=True)

    result = summary(attack(begin(draft, wanted), Attacker(checker, options.seed, options.model), asked, save))
    options.json.write_text(json.dumps(result, indent=2) + "\n")
    draft.unlink(missing_ok=True)
    for rule, times in sorted(result["refused_by"].items(), key=lambda item: -item[1]):
        print(f"  refused by {rule:26s} {times}")
    for kind, count in result["kinds"].items():
        print(
            f"  {kind:9s} {count['n']:7d} in {count['searches']:6d} searches: {count['breaches']} of "
            f"{count['invalid']} invalid accepted, {count['valid_accepted']} of {count['valid']} valid accepted, "
            f"{count['edge']} on the edge"
        )
    low, high = result["valid_share"]["low"], result["valid_share"]["high"]
    print(f"{result['machine']}; {result['cpu_seconds']} CPU s; rules {checker.digest[:12]}; {options.json}")
    print(f"check: {result['ms_per_check']['median']:.3f} ms median, {result['ms_per_check']['p99']:.3f} ms p99")
    print(f"valid accepted: {result['valid_accepted']} of {result['valid']} (95 % CI {low:.6f} to {high:.6f})")
    breaches, invalid = result["breaches_accepted"], result["invalid"]
    print(
        f"breaches accepted: 0 of {invalid} (95 % CI 0 to {result['breach_share']['high']:.2e})"
        if not breaches
        else f"BREACHES ACCEPTED: {breaches} of {invalid}"
    )
    sys.exit(breaches > 0 or result["valid_accepted"] < 0.999 * result["valid"])


if __name__ == "__main__":
    main()
