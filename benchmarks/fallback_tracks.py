"""What the fallback alone does on every track, on virtual people that settings may be chosen on.

    python benchmarks/fallback_tracks.py --people 30 --days 14 --seeds 0,1,2

People are the cohort `tune`, jittered from the nine training patients; nobody of the 21 unseen patients is read. The
bar is time below 54 mg/dL of at most 0.5 % on every track. `--set predict_low=85` tries another setting of
`FallbackConfig`, `--spread` people who are more or less unusual. Some doses are shown to the independent checker: a
standard of care that it refuses is none. Prints one line a track, means over people with 95 % intervals that resample
them, and writes JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from foreworld.agent.check import Checker, Measured
from foreworld.domains.treatment.collect import cohort
from foreworld.domains.treatment.dosing import Controller
from foreworld.domains.treatment.fallback import Fallback, FallbackConfig
from foreworld.domains.treatment.metrics import summarise
from foreworld.domains.treatment.rules import insulin_rules
from foreworld.domains.treatment.scenario import Scenario
from foreworld.domains.treatment.schema import STEP_MINUTES
from foreworld.domains.treatment.simulator import Simulator, Trajectory
from foreworld.domains.treatment.tables import Patients, concatenate
from foreworld.domains.treatment.tracks import TRACKS, Track
from foreworld.evidence.protocol import cpu_seconds, machine
from foreworld.evidence.statistics import cluster_bootstrap

RESULT = Path(__file__).parent / "results" / "fallback_tracks.json"
METRICS = ("time_in_range", "time_below_70", "time_below_54", "time_above_180", "time_above_250", "failures")
BAR = 0.005
DAY = 1440 // STEP_MINUTES


@dataclass
class Found:
    """One track: by metric one value for each person and seed, and what the checker said of some of the doses."""

    names: list[str] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)
    judged: int = 0
    refused: int = 0


def run_track(
    track: Track, people: int, days: int, seed: int, spread: float, records: float, controller: Controller
) -> tuple[Patients, Trajectory, int]:
    """People of the cohort `tune` in the days of a track, and how many scored or unscored episodes each has."""
    config = track.config
    patients = cohort("tune", people, seed, spread, records, config.groups)
    # Episodes of a day each, as many as days were asked for, where the track is made of episodes.
    episodes = days if config.episodes > 1 else 1
    seeds = [1000 * seed + episode for episode in range(episodes) for _ in range(people)]
    length = config.days if config.episodes > 1 else days + config.burn_in
    everyone = concatenate([patients] * episodes)
    scenario = Scenario.draw(
        everyone, config.scenario.model_copy(update={"days": length}), seed=seeds if episodes > 1 else seed
    )
    simulator = Simulator(everyone, scenario, config.simulator)
    controller.reset(everyone)
    simulator.reset()
    return patients, simulator.run(controller.act), episodes


def score(found: Found, track: Track, patients: Patients, run: Trajectory, episodes: int, seed: int) -> None:
    """Add the means of every person; episodes of one person are no independent units."""
    first = track.config.burn_in * DAY
    done = summarise(run.bg[:, first:-1], run.insulin[:, first:], STEP_MINUTES)
    found.names += [f"{seed}/{name}" for name in patients.names]
    for metric in METRICS:
        found.values.setdefault(metric, []).extend(done[metric].reshape(episodes, -1).mean(0).tolist())


def show_checker(found: Found, patients: Patients, run: Trajectory, count: int, seed: int) -> None:
    """Ask the independent checker about doses at random moments."""
    checker, draw = Checker(insulin_rules()), np.random.default_rng([seed, 54])
    for _ in range(count):
        row, t = int(draw.integers(len(run.cgm))), int(draw.integers(run.insulin.shape[1]))
        who = row % len(patients)
        statics = {name: float(getattr(patients, name)[who]) for name in ("weight", "basal", "cr", "cf")}
        measured = Measured(
            STEP_MINUTES * np.arange(t + 1.0),
            {"cgm": run.cgm[row, : t + 1]},
            {"insulin": run.insulin[row, :t]},
            {"carbs": run.announced[row, : t + 1]},
            statics,
        )
        found.judged += 1
        found.refused += not checker.check(measured, {"insulin": float(run.insulin[row, t])}).accepted


def settings(text: list[str]) -> FallbackConfig:
    """`name=value` pairs as a configuration."""
    return FallbackConfig(**{name: float(value) for name, _, value in (pair.partition("=") for pair in text)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=30)
    parser.add_argument("--days", type=int, default=14)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--spread", type=float, default=0.25, help="jitter of the physiology, as in `collect.cohort`")
    parser.add_argument("--records", type=float, default=0.15, help="jitter of what the records say")
    parser.add_argument("--tracks", default=",".join(track.name for track in TRACKS))
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE")
    parser.add_argument("--judge", type=int, default=2000, help="doses a track and seed that the checker judges")
    parser.add_argument("--json", type=Path, default=RESULT)
    options = parser.parse_args()
    config, seeds = settings(options.set), [int(seed) for seed in options.seeds.split(",")]
    began, tracks = cpu_seconds(), {}
    for track in (track for track in TRACKS if track.name in options.tracks.split(",")):
        found, started = Found(), time.process_time()
        for seed in seeds:
            made = run_track(
                track, options.people, options.days, seed, options.spread, options.records, Fallback(config)
            )
            score(found, track, *made, seed)
            show_checker(found, made[0], made[1], options.judge, seed)
        rows = {}
        for metric, values in found.values.items():
            interval = cluster_bootstrap(np.array(values), found.names)
            rows[metric] = {"value": interval.value, "low": interval.low, "high": interval.high}
        low = np.array(found.values["time_below_54"])
        rows["time_below_54_worst_person"] = {"value": float(low.max())}
        tracks[track.name] = {
            "n": len(found.names), "metrics": rows, "judged": found.judged, "refused": found.refused,
            "meets_bar": rows["time_below_54"]["value"] <= BAR,
        }  # fmt: skip
        words = "  ".join(
            f"{metric} {100 * rows[metric]['value']:.2f} [{100 * rows[metric]['low']:.2f}, "
            f"{100 * rows[metric]['high']:.2f}]"
            for metric in METRICS[:4]
        )
        print(
            f"{track.name:24s} n={len(found.names)}  {words}  failures {100 * rows['failures']['value']:.2f}  "
            f"worst < 54 {100 * low.max():.1f}  refused {found.refused}/{found.judged}  "
            f"{time.process_time() - started:.0f} s",
            flush=True,
        )
    result = {
        "format": 1,
        "benchmark": "fallback_tracks",
        "command": f"python benchmarks/fallback_tracks.py --people {options.people} --days {options.days} "
        f"--seeds {options.seeds} --spread {options.spread:g} --records {options.records:g}"
        + (f" --set {' '.join(options.set)}" if options.set else ""),
        "machine": machine(),
        "cpu_seconds": round(cpu_seconds() - began, 1),
        "config": config.model_dump(),
        "bar": {"time_below_54": BAR},
        "interval": "95 %, resampling people",
        "tracks": tracks,
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=2) + "\n")
    failed = [name for name, row in tracks.items() if not row["meets_bar"]]
    print(f"{result['machine']}; {result['cpu_seconds']} CPU s; {options.json}")
    print(f"time below 54 above {100 * BAR:g} % on: {', '.join(failed)}" if failed else "every track meets the bar")


if __name__ == "__main__":
    main()
