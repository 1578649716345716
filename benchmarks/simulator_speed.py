"""How many patient-days a second the simulator computes on one core; the bar is 300.

    python benchmarks/simulator_speed.py

Three figures: the equations alone at one and at two substeps, and the whole closed loop (30 patients, decisions every
five minutes, a basal-bolus controller, sensor noise). Prints the machine and n; writes results/simulator_speed.json.
"""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from foreworld.domains.treatment.physiology import advance, initial_state
from foreworld.domains.treatment.scenario import Scenario, ScenarioConfig
from foreworld.domains.treatment.simulator import Observation, Simulator
from foreworld.domains.treatment.tables import load_patients

RESULT = Path(__file__).parent / "results" / "simulator_speed.json"
REQUIRED = 300.0
REPEATS = 10
DAYS = 14


def processor() -> str:
    """The processor's name, from the kernel where Python does not know it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def measure(work: Callable[[], None], patient_days: int) -> dict[str, float | int]:
    """Patient-days per second of CPU time: median of the repeats and the 95 % interval of the median (bootstrap)."""
    work()  # compiles
    rates = []
    for _ in range(REPEATS):
        start = time.process_time()
        work()
        rates.append(patient_days / (time.process_time() - start))
    draws = np.random.default_rng(0).choice(rates, size=(2000, REPEATS))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return {"value": statistics.median(rates), "low": float(low), "high": float(high), "n": REPEATS}


def main() -> None:
    patients = load_patients()
    scenario = Scenario.draw(patients, ScenarioConfig(days=DAYS), seed=0)
    insulin = np.repeat(patients.basal[:, None] / 60.0, scenario.meals.shape[1], axis=1)
    patient_days = len(patients) * DAYS

    def equations(substeps: int) -> None:
        advance(initial_state(patients), patients.params, scenario.meals, insulin, substeps=substeps)

    def policy(seen: Observation) -> np.ndarray:
        correction = np.where((seen.announced > 0.0) & (seen.cgm > 150.0), (seen.cgm - 140.0) / patients.cf, 0.0)
        return patients.basal / 12.0 + seen.announced / patients.cr + correction

    rows = {
        "equations, 1 substep": measure(lambda: equations(1), patient_days),
        "equations, 2 substeps": measure(lambda: equations(2), patient_days),
        "closed loop, 1 substep": measure(lambda: _discard(Simulator(patients, scenario).run(policy)), patient_days),
    }
    machine = f"{processor()}, {os.cpu_count()} cores seen, 1 used; Python {platform.python_version()}"
    report = {"format": 1, "unit": "patient-days per CPU second", "required": REQUIRED, "machine": machine}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({**report, "patients": len(patients), "days": DAYS, "rows": rows}, indent=2) + "\n")
    for name, row in rows.items():
        print(f"{name}: {row['value']:.0f} [{row['low']:.0f}, {row['high']:.0f}] patient-days/s, n={row['n']} runs")
    verdict = "meets" if rows["closed loop, 1 substep"]["value"] >= REQUIRED else "MISSES"
    print(f"{machine}; {len(patients)} patients x {DAYS} days a run; {verdict} the bar of {REQUIRED:.0f}")
    print(f"closed loop: {rows['closed loop, 1 substep']['value']:.0f} patient-days/s on one core")


def _discard(_: object) -> None:
    """A measured run's result is not kept."""


if __name__ == "__main__":
    main()
