"""The treatment domain's headline figures: every protocol on two seeds, one JSON each.

    python benchmarks/treatment.py [--seeds 0,1] [--only t1d-announced,forecast]

Models are trained once for each seed and reused (`runs/models`). A protocol whose result is already there, with the
same hash and seeds, is not run again; remove its file to repeat it. Finished runs of a track are in `runs/kept`.
Expect an hour on two cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from foreworld.domains.treatment.protocols import PROTOCOLS
from foreworld.evidence.kept import Kept
from foreworld.evidence.protocol import Evidence, Request

RESULTS = Path(__file__).parent / "results"
HEADLINES = {
    "t1d-announced": ("time_in_range", "time_below_70", "time_below_54", "failures", "refusals"),
    "guardrails": ("short_predicted_low_20", "short_predicted_very_low_5", "violations", "violations_from_60min"),
    "forecast": ("rmse_30", "rmse_60", "rmse_120", "coverage_90"),
    "counterfactual": ("sign_60", "slope_60", "effect_rmse_60", "slope_120", "slope_240", "effect_rmse_240"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--only", default=",".join(HEADLINES))
    options = parser.parse_args()
    seeds = tuple(int(seed) for seed in options.seeds.split(","))
    shown = []
    for name in options.only.split(","):
        protocol, path = PROTOCOLS[f"treatment/{name}"], RESULTS / f"treatment-{name}.json"
        if path.exists():
            evidence = Evidence.load(path, protocol.names)
        if not path.exists() or (evidence.hash, evidence.seeds) != (protocol.hash, seeds):
            print(f"== {protocol.name}, seeds {options.seeds}", flush=True)
            kept = Kept("runs/kept") if protocol.keeps else None
            evidence = protocol.evaluate(Request(seeds=seeds, kept=kept))
            evidence.save(path)
        group = "unseen" if any(row.group == "unseen" for row in evidence.rows) else "all"
        shown.append(evidence.table(group, HEADLINES[name]))
    print("\n\n".join(shown))


if __name__ == "__main__":
    main()
