"""What gradient steps on a person's own days are worth, on virtual people that settings may be chosen on.

    python benchmarks/adapter.py --model runs/model --people 12 --seeds 1,2,3

People are the cohort `tune`, jittered from the nine training patients; nobody of the 21 unseen patients is read.
Sixteen days of the therapy of `treatment/forecast`; adapted on so many days before day 12 and scored on days 12 to 16,
beside the model as it was. `guarded` is what a user gets; `unguarded` is every update, whatever the guard said.
`--logged` lists factors on the insulin that the log says was given: 1 is an ordinary person, 0.5 one whose log says
half, to whom a logged unit does twice as much. Prints differences of pooled root mean square errors with 95 % intervals
that resample people, and writes JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from foreworld.domains.treatment.calibrate import load_forecaster
from foreworld.domains.treatment.collect import cohort
from foreworld.domains.treatment.forecast_arms import forecast_at
from foreworld.domains.treatment.forecasting import (
    DAY,
    ForecastConfig,
    ForecastScores,
    Record,
    record_therapy,
    scored_moments,
    scores_of,
)
from foreworld.domains.treatment.schema import SCHEMA
from foreworld.evidence.protocol import cpu_seconds, machine
from foreworld.forecast.adapter import AdaptConfig, Adapted, adapt
from foreworld.forecast.forecaster import Forecaster
from foreworld.forecast.recent import last_of
from foreworld.learning.adapt import fit_adapter, past_of
from foreworld.model.belief import History
from foreworld.model.low_rank import Adapter

RESULT = Path(__file__).parent / "results" / "adapter.json"
THERAPY = ForecastConfig(days=16, fit_days=11)
HORIZONS = {"60": (12,), "120": (24,), "all": ()}  # steps ahead; all of the grid
WAYS = ("before", "guarded", "unguarded")


def record_of(people: int, seed: int, spread: float, records: float, logged: float) -> Record:
    record = record_therapy(cohort("tune", people, seed, spread, records), THERAPY, seed)
    values = {**record.history.values, "insulin": record.history.values["insulin"] * logged}
    return replace(record, history=replace(record.history, values=values))


def score(forecaster: Forecaster, record: Record) -> ForecastScores:
    grid = forecaster.model.config.grid
    at = scored_moments(record, grid, THERAPY)
    return scores_of(record, at, forecast_at(forecaster, record.history, at, grid), grid)


def unguarded(forecaster: Forecaster, history: History, config: AdaptConfig) -> Forecaster:
    """Every update, fitted as `adapt` fits it."""
    model, parts = forecaster.model, []
    earlier = history.until(SCHEMA, history.times.shape[1] - config.held_out)
    for row in range(len(history)):
        past = past_of(model, earlier.select(torch.tensor([row])), config.warmup, config.stride)
        parts.append(fit_adapter(model, past, config))
    return Forecaster(Adapted(model, Adapter.stack(parts)), forecaster.calibration)


def rows_of(scores: dict[str, list[ForecastScores]]) -> dict[str, dict[str, dict[str, float]]]:
    """By way and metric, the value and (of errors) the difference to before with its interval."""
    points, draw = scores["before"][0].points, np.random.default_rng(0)
    squared = {way: np.concatenate([one.squared for one in scores[way]]) for way in WAYS}
    picks = draw.integers(len(squared["before"]), size=(4000, len(squared["before"])))
    found: dict[str, dict[str, dict[str, float]]] = {}
    for way in WAYS:
        found[way] = {"coverage_90": {"value": float(np.concatenate([s.covered for s in scores[way]]).mean())}}
        for name, steps in HORIZONS.items():
            columns = [points.index(step) for step in steps] or slice(None)
            own, was = (squared[one][:, columns].mean(1) for one in (way, "before"))
            apart = np.sqrt(own[picks].mean(1)) - np.sqrt(was[picks].mean(1))
            low, high = np.quantile(apart, [0.025, 0.975])
            found[way][f"rmse_{name}"] = {
                "value": float(np.sqrt(own.mean())),
                "change": float(np.sqrt(own.mean()) - np.sqrt(was.mean())),
                "low": float(low),
                "high": float(high),
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("runs/model"))
    parser.add_argument("--people", type=int, default=12)
    parser.add_argument("--seeds", default="1,2,3", help="0 chose the settings")
    parser.add_argument("--days", default="3,10")
    parser.add_argument("--logged", default="1,0.5,2")
    parser.add_argument("--spread", type=float, default=0.25)
    parser.add_argument("--records", type=float, default=0.15)
    parser.add_argument("--json", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    forecaster, config, began = load_forecaster(options.model), AdaptConfig(), cpu_seconds()
    seeds, cases = [int(seed) for seed in options.seeds.split(",")], []
    for logged in map(float, options.logged.split(",")):
        records = [record_of(options.people, seed, options.spread, options.records, logged) for seed in seeds]
        before = [score(forecaster, record) for record in records]
        for days in map(int, options.days.split(",")):
            scores: dict[str, list[ForecastScores]] = {"before": before, "guarded": [], "unguarded": []}
            accepted, spent = 0, 0.0
            for record in records:
                known = last_of(SCHEMA, record.history.until(SCHEMA, THERAPY.fit_days * DAY + 1), days * DAY + 72)
                started = time.process_time()
                adaptation = adapt(forecaster, known, config)
                spent += time.process_time() - started
                accepted += sum(verdict.accepted for verdict in adaptation.verdicts)
                scores["guarded"].append(score(adaptation.forecaster, record))
                scores["unguarded"].append(score(unguarded(forecaster, known, config), record))
            n, rows = sum(len(one.subjects) for one in before), rows_of(scores)
            cases.append(
                {"logged": logged, "days": days, "n": n, "accepted": accepted, "cpu_seconds_a_person": spent / n,
                 "metrics": rows}
            )  # fmt: skip
            print(f"logged x {logged:g}, {days} days, n={n}, accepted {accepted}, {spent / n:.1f} CPU s a person")
            for way, metrics in rows.items():
                errors = "  ".join(
                    f"{name} {m['value']:.2f} ({m['change']:+.2f} [{m['low']:+.2f}, {m['high']:+.2f}])"
                    for name, m in metrics.items()
                    if "change" in m
                )
                print(f"  {way:10s} {errors}  coverage {100 * metrics['coverage_90']['value']:.1f}", flush=True)
    result = {
        "format": 1,
        "benchmark": "adapter",
        "command": f"python benchmarks/adapter.py --model {options.model} --people {options.people} "
        f"--seeds {options.seeds} --days {options.days} --logged {options.logged} --spread {options.spread:g} "
        f"--records {options.records:g}",
        "machine": machine(),
        "cpu_seconds": round(cpu_seconds() - began, 1),
        "config": config.model_dump(mode="json"),
        "interval": "95 %, resampling people",
        "cases": cases,
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{result['machine']}; {result['cpu_seconds']} CPU s; {options.json}")


if __name__ == "__main__":
    main()
