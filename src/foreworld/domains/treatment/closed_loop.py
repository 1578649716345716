"""The closed-loop protocols: every arm on the same patients, meals, carb errors and sensor noise."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from foreworld.agent.agent import ACTORS, Actor
from foreworld.domains.treatment.arx import LinearConfig, fit_linear
from foreworld.domains.treatment.calibrate import CalibrateConfig, calibrate_planning, load_forecaster
from foreworld.domains.treatment.ceilings.oracle import make_oracle
from foreworld.domains.treatment.ceilings.particle_filter import FilterConfig
from foreworld.domains.treatment.ceilings.scenarios import make_filter
from foreworld.domains.treatment.ceilings.task import ceiling_agent
from foreworld.domains.treatment.controllers import BasalBolus, BasalBolusCap, BasalOnly
from foreworld.domains.treatment.dosing import Controller
from foreworld.domains.treatment.fallback import Fallback
from foreworld.domains.treatment.loop import Loop, insulin_agent, planner_share, run_agent
from foreworld.domains.treatment.metrics import UNITS, summarise
from foreworld.domains.treatment.oref0 import Oref0
from foreworld.domains.treatment.physiology import FAILURE_GLUCOSE
from foreworld.domains.treatment.pid import PID, tune_pid
from foreworld.domains.treatment.policies.made import POLICY_ARMS, load_controller
from foreworld.domains.treatment.scenario import Scenario
from foreworld.domains.treatment.schema import SCHEMA, STEP_MINUTES
from foreworld.domains.treatment.settings import MODEL
from foreworld.domains.treatment.simulator import Simulator
from foreworld.domains.treatment.tables import UNSEEN, Patients, concatenate, load_patients
from foreworld.domains.treatment.task import PROFILES
from foreworld.domains.treatment.tracks import AGES, LoopConfig
from foreworld.episodes import EpisodeStore
from foreworld.evidence.samples import Samples
from foreworld.forecast.forecaster import Calibration, Forecaster
from foreworld.model.belief import History

STEPS_A_DAY = 1440 // STEP_MINUTES


@dataclass(frozen=True)
class Job:
    """One arm in one seed; small enough to send to another process.

    Attributes:
        arm: Which.
        seed: Of the environment.
        subjects: Names of table patients.
        config: The protocol.
        model: Checkpoint folder of the arm `foreworld`.
        data: Store that the arms `arx` and `arx_signed` are fitted on.
        keep_forecasts: Keep the forecast of every so many steps; 0 keeps none.
        calibrate: How those two are calibrated; the defaults if None. The world model was, when it was made.
        policy: Folder of the policy of the arms `clone` and `offline_rl`.
    """

    arm: str
    seed: int
    subjects: tuple[str, ...]
    config: LoopConfig
    model: Path | None = None
    data: Path | None = None
    keep_forecasts: int = 0
    calibrate: CalibrateConfig | None = None
    policy: Path | None = None


@dataclass(frozen=True)
class Run:
    """What one arm did in one seed.

    Attributes:
        bg: [B, N] true glucose at every step after burn-in, mg/dL.
        insulin: [B, N] U a step after burn-in.
        cpu_ms: CPU milliseconds a decision and subject, encoding included.
        cpu_seconds: CPU seconds in all, other processes' included.
        planned: [B] share of decisions by the planner itself, or None.
        sound: [B, N] whether the sensor was in order at each step after burn-in.
        loop: The whole loop of a planning arm, or None.
    """

    bg: np.ndarray
    insulin: np.ndarray
    cpu_ms: float
    cpu_seconds: float
    planned: np.ndarray | None = None
    sound: np.ndarray | None = None
    loop: Loop | None = None


CEILING_ARMS = ("filter", "oracle")
PLANNING_ARMS = ("foreworld", "unguarded", "arx", "arx_signed", *CEILING_ARMS)


def run_job(job: Job, progress: Callable[[int, int], None] | None = None) -> Run:
    """Run one arm in one seed, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    began = time.process_time()
    try:
        simulator = simulator_of(job)
        if job.arm in PLANNING_ARMS:
            run = _run_planning(job, simulator, progress)
        else:
            run = _run_controller(_controller(job, simulator.patients), simulator, job.config.burn_in)
        sound = sensor_sound(simulator)[:, job.config.burn_in * STEPS_A_DAY :]
        return replace(run, cpu_seconds=run.cpu_seconds + time.process_time() - began, sound=sound)
    finally:
        torch.set_num_threads(threads)


def simulator_of(job: Job) -> Simulator:
    """The patients of a job in their days: every patient as often as there are episodes, one block an episode."""
    config, patients = job.config, load_patients(job.subjects)
    seeds = [job.seed] * len(patients)
    if config.episodes > 1:
        seeds = [1000 * job.seed + episode for episode in range(config.episodes) for _ in range(len(patients))]
        patients = concatenate([patients] * config.episodes)
    days = config.scenario.model_copy(update={"days": config.days + config.burn_in})
    scenario = Scenario.draw(patients, days, seed=seeds)
    if job.arm == "bb":
        # Exact: the same meals, announced without error.
        scenario = replace(scenario, announced=scenario.grams)
    return Simulator(patients, scenario, config.simulator)


def sensor_sound(simulator: Simulator) -> np.ndarray:
    """[B, N] whether nothing is wrong with the sensor at each decision, noise apart."""
    faults = simulator.scenario.faults
    wrong = faults.dropout | faults.stuck | (faults.gain != 1.0) | (faults.dip != 0.0)
    sound: np.ndarray = ~wrong[simulator.rows, : simulator.steps]
    return sound


def _controller(job: Job, patients: Patients) -> Controller:
    if job.arm in POLICY_ARMS:
        assert job.policy is not None
        return load_controller(job.arm, job.policy)
    makers: dict[str, Callable[[], Controller]] = {
        "nothing": BasalOnly,
        "bb": BasalBolus,
        "bb_error": BasalBolus,
        "bb_cap": BasalBolusCap,
        "fallback": Fallback,
        "pid": lambda: PID(tune_pid(patients, scenario=job.config.scenario, simulator=job.config.simulator)),
        "oref0": lambda: Oref0(smb=False, simulator=job.config.simulator),
        "oref0_smb": lambda: Oref0(smb=True, simulator=job.config.simulator),
    }
    return makers[job.arm]()


def _run_controller(controller: Controller, simulator: Simulator, burn_in: int) -> Run:
    controller.reset(simulator.patients)
    seen = simulator.reset()
    glucose, doses, spent = [], [], 0.0
    for _ in range(simulator.steps):
        glucose.append(simulator.bg.copy())
        started = time.process_time()
        dose = controller.act(seen)
        spent += time.process_time() - started
        doses.append(dose)
        seen = simulator.step(dose)
    # What another process spent, `process_time` does not see.
    elsewhere = controller.cpu_seconds if isinstance(controller, Oref0) else 0.0
    first = burn_in * STEPS_A_DAY
    bg, insulin = np.stack(glucose, axis=1), np.stack(doses, axis=1)
    return Run(bg[:, first:], insulin[:, first:], 1000.0 * (spent + elsewhere) / insulin.size, elsewhere)


def _run_planning(job: Job, simulator: Simulator, progress: Callable[[int, int], None] | None) -> Run:
    profile = PROFILES[job.config.profile]
    if job.arm in CEILING_ARMS:
        # Who knows the equations needs no caution: a profile against what one cannot know would lower the ceiling.
        agent = ceiling_agent(_ceiling(job, simulator), seed=job.seed)
    else:
        agent = insulin_agent(_forecaster(job), profile=profile, seed=job.seed, guarded=job.arm != "unguarded")
    loop = run_agent(agent, simulator, keep_forecasts=job.keep_forecasts, progress=progress)
    first = job.config.burn_in * STEPS_A_DAY
    cost = 1000.0 * loop.cpu_seconds / loop.actors.size
    return Run(loop.bg[:, first:], loop.insulin[:, first:], cost, 0.0, planner_share(loop, first), loop=loop)


def _ceiling(job: Job, simulator: Simulator) -> Forecaster:
    """Those that may read the simulator's equations, and the oracle its state besides."""
    if job.arm == "oracle":
        return make_oracle(simulator)
    units = job.config.simulator.meal_units
    return make_filter(simulator.patients, simulator.scenario.config, FilterConfig(seed=job.seed), meal_units=units)


def _forecaster(job: Job) -> Forecaster:
    if job.arm in ("foreworld", "unguarded"):
        assert job.model is not None
        return load_forecaster(job.model)
    assert job.data is not None
    return linear_forecaster(job.data, job.seed, job.calibrate, signed=job.arm == "arx_signed")


def linear_forecaster(
    data: Path, seed: int, config: CalibrateConfig | None = None, *, signed: bool = False
) -> Forecaster:
    """The population ARX of a store, calibrated for the same planner in the same way as the world model."""
    store = EpisodeStore.open(data)
    fitting = [History.from_episodes(SCHEMA, [store.episode(i)]) for i in store.episodes_of("default/fit")]
    model = fit_linear(SCHEMA, fitting, LinearConfig(grid=MODEL.grid, signed=signed))
    return Forecaster(model, calibrate_planning(model, Calibration(), config, seed=seed))


def subjects_of(count: int | None, groups: Sequence[str] = AGES) -> tuple[str, ...]:
    """Names of the patients: the unseen ones first, of each age group in turn; all of the groups if `count` is None."""
    everyone = [name for name in load_patients().names if name.split("#")[0] in groups]
    rest = [name for name in everyone if name not in UNSEEN]
    parts = [[name for name in UNSEEN if name.startswith(group)] for group in groups]
    unseen = [name for trio in zip(*parts, strict=True) for name in trio]
    return tuple((unseen + rest)[:count])


def groups_of(names: Sequence[str]) -> list[tuple[str, ...]]:
    """The groups of each patient: age group, and `unseen` for those that nothing was trained on."""
    return [(name.split("#")[0], *(("unseen",) if name in UNSEEN else ())) for name in names]


def add_samples(samples: Samples, job: Job, run: Run) -> None:
    """Put what a run gave into the samples."""
    groups = groups_of(job.subjects)

    def add(metric: str, values: np.ndarray, unit: str) -> None:
        # Episodes of one patient are no independent units: they count as their mean.
        each = values.reshape(-1, len(job.subjects)).mean(0)
        samples.add(job.arm, metric, job.seed, job.subjects, each, groups, unit=unit)

    for metric, values in summarise(run.bg, run.insulin, STEP_MINUTES).items():
        add(metric, values, UNITS[metric])
    add("cpu_ms_per_decision", np.full(len(job.subjects), run.cpu_ms), "ms")
    if run.planned is None or run.loop is None or run.sound is None:
        return
    add("refusals", 1.0 - run.planned, "share")
    first, days = job.config.burn_in * STEPS_A_DAY, run.bg.shape[1] / STEPS_A_DAY
    refused = run.loop.actors[:, first:] != ACTORS.index(Actor.planner)
    add("refusals_per_day", refused.sum(1) / days, "1/day")
    # Nobody can plan for a patient who has failed: what follows is no refusal of a sound decision.
    sound = run.sound & (run.bg > FAILURE_GLUCOSE)
    add("refusals_unfaulted", (refused & sound).sum(1) / np.maximum(sound.sum(1), 1), "share")
    if run.loop.intervened is not None:
        add("interventions_per_day", run.loop.intervened[:, first:].sum(1) / days, "1/day")
