"""Attack whole agents, planner and all, ten thousand times, and count what is done that may not be done.

    nohup nice python benchmarks/planner_attack.py --n 10000 > attack.log &      # under a CPU minute; resumes

CEM, iCEM, MPPI and exhaustive search on the insulin task, each under every attack of
`tests/agent/planner_attacks.py`: bribed and broken objectives, extreme weights, wild suggestions, tampered bounds and
guardrails, a standard of care that lost its mind, a planner that mutinies, NaN, infinite and lying forecasts, extreme
histories. A breach is a dose that is done and that the separately written reference refuses; a plan breach is a plan
with a margin below 0, worked out again; and no refusal may act outside the action guardrails. The JSON is written as
it goes, and the same command goes on where it was interrupted.
"""

import argparse
import json
import platform
import sys
import tempfile
import time
from pathlib import Path

from scipy.stats import beta

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests" / "agent"), str(ROOT)]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from planner_attacks import ATTACKS, PLANNERS, attempt  # noqa: E402

from foreworld.agent.check import Checker  # noqa: E402
from foreworld.domains.treatment.calibrate import load_forecaster  # noqa: E402
from foreworld.domains.treatment.rules import insulin_rules  # noqa: E402
from foreworld.episodes.files import write_json  # noqa: E402

SIZE = 16
BREACHES = ("breaches", "plan_breaches", "outside_action_guardrails")


def forecaster_of(model):
    """A trained model, or a small one that is made here in seconds."""
    if model is not None:
        return load_forecaster(model)
    from tests.agent.tiny import make_forecaster

    with tempfile.TemporaryDirectory() as folder:
        return make_forecaster(Path(folder))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=10_000, help="decisions, at least")
    parser.add_argument("--seed", type=int, default=1_000_000, help="of all attacks (tests use small ones)")
    parser.add_argument("--model", type=Path, help="a trained model; a small one if none")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "planner_attack.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cells = [(planner, attack) for planner in PLANNERS for attack in ATTACKS]
    rounds = -(-options.n // (SIZE * len(cells)))
    wanted = {
        "format": 1,
        "benchmark": "planner_attack",
        "command": f"python benchmarks/planner_attack.py --n {options.n} --seed {options.seed}"
        + (" --model MODEL" if options.model else ""),
        "machine": f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}, one thread",
        "rules_digest": Checker(insulin_rules()).digest,
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    draft = options.json.with_suffix(".partial.json")
    found = json.loads(draft.read_text()) if draft.is_file() else {}
    if {key: found.get(key) for key in wanted} != wanted:
        found = {**wanted, "cpu_seconds": 0.0, "rounds": 0, "cells": {}}
    spent, began, forecaster = found["cpu_seconds"], time.process_time(), forecaster_of(options.model)
    for number in range(found["rounds"], rounds):
        for at, (planner, attack) in enumerate(cells):
            count = attempt(
                forecaster, PLANNERS[planner], attack, np.random.default_rng([options.seed, at, number]), SIZE
            )
            cell = found["cells"].setdefault(f"{planner}/{attack}", {})
            for key, value in count.items():
                cell[key] = cell.get(key, 0) + int(value)
        found["rounds"], found["cpu_seconds"] = number + 1, round(spent + time.process_time() - began, 1)
        write_json(draft, found)
        breaches = sum(cell.get(key, 0) for cell in found["cells"].values() for key in BREACHES)
        print(f"{found['rounds'] * SIZE * len(cells)} decisions, {breaches} breaches", flush=True)
    keys = sorted({key for cell in found["cells"].values() for key in cell} | set(BREACHES))
    total = {key: sum(cell.get(key, 0) for cell in found["cells"].values()) for key in keys}
    none = 1.0 - 0.025 ** (1.0 / total["decisions"])
    high = {
        key: float(beta.ppf(0.975, n + 1, total["decisions"] - n)) if (n := total[key]) else none for key in BREACHES
    }
    result = {**found, "n": total["decisions"], "total": total, "upper_95": high, "interval": "Clopper-Pearson, 95 %"}
    options.json.write_text(json.dumps(result, indent=2) + "\n")
    draft.unlink(missing_ok=True)
    for name in PLANNERS:
        own = {key: sum(c.get(key, 0) for n, c in found["cells"].items() if n.startswith(f"{name}/")) for key in keys}
        print(f"  {name:10s} " + "  ".join(f"{key} {own[key]}" for key in keys))
    print(f"{wanted['machine']}; {found['cpu_seconds']} CPU s; {options.json}")
    print("; ".join(f"{key} {total[key]} of {total['decisions']} (95 % up to {high[key]:.1e})" for key in BREACHES))
    sys.exit(any(total[key] for key in BREACHES))


if __name__ == "__main__":
    main()
