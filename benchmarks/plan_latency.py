"""How long one decision takes, encoding included; the bars are 50 ms for one patient and 300 ms for 150 at once.

    python benchmarks/plan_latency.py

`Agent.decide` from observation to checked dose, on one thread, with a full memory of 26 hours, for the world model of
`domains/treatment/settings.py`. The weights are random: what a decision costs does not depend on them. Novelty and
trajectory scores are in force. Also how long `import foreworld` takes with torch loaded, in a fresh process (bar: 2 s).
Prints figures last, with n and the machine; writes results/plan_latency.json.
"""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from foreworld.agent.agent import ACTORS, Agent
from foreworld.agent.calibrate import fit_bands, fit_novelty, moments_of
from foreworld.domains.treatment.collect import CollectConfig, cohort, record_therapy, statics_of
from foreworld.domains.treatment.fallback import Fallback
from foreworld.domains.treatment.loop import insulin_agent
from foreworld.domains.treatment.scenario import Scenario, ScenarioConfig
from foreworld.domains.treatment.schema import SCHEMA
from foreworld.domains.treatment.settings import MODEL
from foreworld.domains.treatment.simulator import Simulator
from foreworld.domains.treatment.task import guardrails
from foreworld.episodes import fit_statistics
from foreworld.evidence.protocol import machine
from foreworld.forecast.forecaster import Calibration, Forecaster
from foreworld.model.belief import History
from foreworld.model.world_model import WorldModel
from foreworld.planning.guardrail import StateGuardrail
from foreworld.planning.planners.base import Planner
from foreworld.planning.planners.cem import CEMConfig, CEMPlanner

RESULT = Path(__file__).parent / "results" / "plan_latency.json"
BARS = {1: 50.0, 150: 300.0}  # ms, wall time, the default planner
IMPORT_BAR = 2.0  # s
PAST = 320  # moments in memory before the first measured decision
WARM_UP, DECISIONS, IMPORTS = 5, 60, 5


def forecaster() -> Forecaster:
    """Random weights, calibrated in the sense that every part of a calibration is there."""
    people = cohort("tune", 24, seed=0)
    logged = record_therapy(people, CollectConfig(subjects=24, days=3), seed=0, days=3)
    torch.manual_seed(0)
    model = WorldModel(SCHEMA.with_statistics(fit_statistics(SCHEMA, logged)), MODEL).eval()
    moments = moments_of(model, History.from_episodes(SCHEMA, logged), each=48, first=12, seed=0)
    rails = [rail for rail in guardrails() if isinstance(rail, StateGuardrail)]
    calibration = Calibration(
        bands=fit_bands(moments, 0.9),
        novelty=fit_novelty(moments.context, moments.spread, 0.05),
        trajectory={rail.name: {f"{rail.risk:g}": 1.0} for rail in rails},
    )
    return Forecaster(model, calibration)


def with_a_past(agent: Agent, simulator: Simulator) -> None:
    """Fill the agent's memory with `PAST` moments of the fallback's therapy."""
    patients, therapy, seen = simulator.patients, Fallback(), simulator.reset()
    therapy.reset(patients)
    agent.start(patients.names, statics_of(patients))
    memory = agent.memory
    assert memory is not None
    for _ in range(PAST):
        memory.see(float(seen.minute), {"cgm": seen.cgm, "carbs": seen.announced})
        dose = therapy.act(seen)
        memory.act(dose[:, None])
        seen = simulator.step(dose)


def measure(forecaster: Forecaster, planner: Planner | None, count: int) -> dict[str, float | int]:
    """Milliseconds a decision: median and 95th percentile of CPU and wall time."""
    patients = cohort("tune", count, seed=1)
    simulator = Simulator(patients, Scenario.draw(patients, ScenarioConfig(days=2), seed=0))
    agent = insulin_agent(forecaster, planner=planner)
    with_a_past(agent, simulator)
    cpu, wall, planned = [], [], []
    for number in range(WARM_UP + DECISIONS):
        seen = simulator.observation()
        values = {"cgm": seen.cgm, "carbs": seen.announced}
        began, started = time.process_time(), time.perf_counter()
        step = agent.decide(float(seen.minute), values)
        spent, passed = time.process_time() - began, time.perf_counter() - started
        simulator.step(step.actions[:, 0])
        if number >= WARM_UP:
            cpu.append(1000.0 * spent)
            wall.append(1000.0 * passed)
            planned.append(float((step.actors == ACTORS.index(ACTORS[0])).mean()))
    return {
        "cpu_ms": statistics.median(cpu),
        "cpu_ms_95th": float(np.percentile(cpu, 95)),
        "wall_ms": statistics.median(wall),
        "wall_ms_95th": float(np.percentile(wall, 95)),
        "planned_share": statistics.fmean(planned),
        "n": len(cpu),
    }


def import_seconds() -> list[float]:
    """Wall seconds of `import foreworld` and torch with it, interpreter start not counted, each in a fresh process."""
    code = "import time; t = time.perf_counter(); import foreworld, torch; print(time.perf_counter() - t)"
    run = [sys.executable, "-c", code]
    subprocess.run(run, check=True, capture_output=True)  # fills the caches of the file system
    return [float(subprocess.run(run, check=True, capture_output=True, text=True).stdout) for _ in range(IMPORTS)]


def main() -> None:
    torch.set_num_threads(1)
    subject = forecaster()
    planners = {"default": None, "64x3": CEMPlanner(CEMConfig.icem(samples=64, iterations=3))}
    rows = {
        f"{name}, {count} patient{'s' if count > 1 else ''}": {"patients": count, **measure(subject, planner, count)}
        for name, planner in planners.items()
        for count in BARS
    }
    imports = import_seconds()
    report = {
        "format": 1,
        "unit": "ms a decision of all patients, encoding included",
        "required": {**{f"default, {count}": bar for count, bar in BARS.items()}, "import_s": IMPORT_BAR},
        "weights": "random",
        "machine": machine(),
        "rows": rows,
        "import_s": {"median": statistics.median(imports), "greatest": max(imports), "n": len(imports)},
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(report, indent=2) + "\n")
    print(f"{machine()}; random weights, one thread, {PAST} moments in memory, after {WARM_UP} decisions of warm-up")
    met = all(rows[f"default, {c} patient{'s' if c > 1 else ''}"]["wall_ms"] < bar for c, bar in BARS.items())
    met = met and statistics.median(imports) < IMPORT_BAR
    print(f"{'meets' if met else 'MISSES'} the bars of 50 ms for one patient, 300 ms for 150, 2 s for the import")
    for name, row in rows.items():
        print(
            f"{name}: CPU {row['cpu_ms']:.1f} ms (95th percentile {row['cpu_ms_95th']:.1f}), "
            f"wall {row['wall_ms']:.1f} ms ({row['wall_ms_95th']:.1f}), n={row['n']} decisions"
        )
    print(f"import foreworld with torch: {statistics.median(imports):.2f} s, greatest {max(imports):.2f}, n={IMPORTS}")


if __name__ == "__main__":
    main()
