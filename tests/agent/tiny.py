"""A small trained model of the insulin domain, and subjects with a past, for tests of the agent."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foreworld.agent.calibrate import fit_bands, fit_novelty, moments_of
from foreworld.domains.treatment.collect import CollectConfig, cohort, collect, statics_of
from foreworld.domains.treatment.fallback import Fallback
from foreworld.domains.treatment.scenario import Scenario, ScenarioConfig
from foreworld.domains.treatment.schema import SCHEMA
from foreworld.domains.treatment.simulator import Simulator
from foreworld.domains.treatment.task import guardrails
from foreworld.forecast.forecaster import Calibration, Forecaster
from foreworld.learning.fit import FitConfig
from foreworld.learning.train import TrainConfig, train
from foreworld.model.belief import History
from foreworld.model.dynamics import HorizonGrid
from foreworld.model.world_model import WorldModelConfig
from foreworld.planning.guardrail import StateGuardrail

CONFIG = WorldModelConfig(
    grid=HorizonGrid.geometric(fine=12, last=48),
    width=24,
    hidden=16,
    latent=4,
    members=3,
    scales=(4.0, 16.0, 32.0),
)
RAILS = [rail for rail in guardrails() if isinstance(rail, StateGuardrail)]


def trajectory(bound: float) -> dict[str, dict[str, float]]:
    """The same bound on the trajectory score of every guardrail."""
    return {rail.name: {f"{rail.risk:g}": bound} for rail in RAILS}


def make_forecaster(folder: Path) -> Forecaster:
    """Train for 40 steps on 14 people, and calibrate on the same ones: nobody here asks how good it is."""
    store = collect(folder / "data", CollectConfig(subjects=14, days=2), seed=0)
    config = TrainConfig(model=CONFIG, fit=FitConfig(steps=40, warmup=10, threads=1), window=240, windows=8)
    model = train(folder / "data", folder / "model", config, progress="none")
    seen = moments_of(model, History.from_episodes(SCHEMA, list(store)), each=40, first=12, seed=0)
    calibration = Calibration(
        bands=fit_bands(seen, 0.9),
        novelty=fit_novelty(seen.context, seen.spread, 0.02),
        trajectory=trajectory(0.3),
        subjects=14,
    )
    return Forecaster(model, calibration)


@dataclass(frozen=True)
class Past:
    """What 7 people measured and did on the standard of care; none of them was learned from."""

    names: tuple[str, ...]
    statics: dict[str, np.ndarray]
    cgm: np.ndarray
    carbs: np.ndarray
    insulin: np.ndarray

    def values(self, t, rows):
        return {"cgm": self.cgm[rows, t], "carbs": self.carbs[rows, t]}

    def begin(self, agent, rows, moments):
        """Start an agent and tell it the first moments."""
        agent.start([self.names[row] for row in rows], {name: value[rows] for name, value in self.statics.items()})
        for t in range(moments):
            agent.memory.see(5.0 * t, self.values(t, rows))
            agent.memory.act(self.insulin[rows, t][:, None])
        return agent

    def without(self, row, first, last):
        """The same with one subject's sensor silent for a while."""
        cgm = self.cgm.copy()
        cgm[row, first:last] = np.nan
        return Past(self.names, self.statics, cgm, self.carbs, self.insulin)


def make_past() -> Past:
    patients = cohort("tune", 7, seed=5)
    simulator = Simulator(patients, Scenario.draw(patients, ScenarioConfig(days=1), seed=1))
    therapy = Fallback()
    therapy.reset(patients)
    run = simulator.run(therapy.act, steps=170)
    return Past(patients.names, statics_of(patients), run.cgm, run.announced, run.insulin)
