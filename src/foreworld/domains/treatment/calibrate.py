"""Calibrating the insulin domain's forecaster on virtual people of its own cohort, in rounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from foreworld.agent.agent import ACTORS, Actor, Agent, Step
from foreworld.agent.calibrate import Moments, Visits, by_stage, fit_bands, fit_novelty, fit_trajectory, moments_of
from foreworld.agent.monitor import LOOKS, fit_monitor
from foreworld.domains.treatment.collect import ANNOUNCING, HABITS, CollectConfig, cohort, record_therapy
from foreworld.domains.treatment.loop import insulin_agent, run_agent
from foreworld.domains.treatment.scenario import Scenario, ScenarioConfig
from foreworld.domains.treatment.schema import SCHEMA
from foreworld.domains.treatment.simulator import Simulator
from foreworld.domains.treatment.tables import Patients
from foreworld.domains.treatment.task import PROFILES, InsulinTask
from foreworld.errors import InputError
from foreworld.forecast.forecaster import Calibration, Forecaster, Imagined, Stage
from foreworld.forecast.novelty import disagreement
from foreworld.learning.train import card_of
from foreworld.model.belief import History
from foreworld.model.checkpoint import load, read_extra, save
from foreworld.model.interface import Imaginer
from foreworld.model.world_model import WorldModel
from foreworld.planning.guardrail import StateGuardrail, digest

# Bands and guardrails speak about ordinary people on ordinary therapy: those that the model is trained on are drawn
# wider and treated more wildly, so that it has seen more than it will be asked about, and would give bands too wide.
ORDINARY = CollectConfig(
    spread=0.12,
    records=0.0,
    habits=tuple(habit.model_copy(update={"extra": 0.0}) for habit in ANNOUNCING),
    pause=0.0,
    missed=0.0,
    dose_error=0.0,
)
# Guardrails average over people like those who are planned for. A band must hold for the unusual ones, too, whose
# records fit them less well: too wide for the nine parents is about right for people who are not among them.
UNUSUAL = ORDINARY.model_copy(update={"spread": 0.25, "records": 0.15})
MOMENTS = 24  # of each person's log that are forecast from


class CalibrateConfig(BaseModel):
    """How a forecaster is calibrated.

    Attributes:
        subjects: Virtual people who are planned for.
        logged_subjects: Virtual people whose logged therapy gives the bands. The fewer they are the wider is a band
            that holds for one person more (`conformal.subject_quantile`), and to watch is cheaper than to plan.
        days: Days of logged therapy for bands and novelty.
        loop_days: Days in closed loop for the guardrails' trajectory scores.
        rounds: Calibrate, plan, calibrate again.
        every: Steps between two branched decisions.
        stages: Moments of history from which a subject counts as known for longer, ascending.
        coverage: Of the display bands.
        false_alarm: Of novelty.
        monitor_false_alarm: Of surprise. Once raised an alarm lasts, so less than the refusals that it may cost.
        logged: Who gives the bands, and on what therapy.
        looped: Who is planned for in the closed loop.
        profile: Preference profile that is planned by: a score is that of the plans which it chooses.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    subjects: int = Field(default=80, ge=8)
    logged_subjects: int = Field(default=240, ge=10)
    days: int = Field(default=6, ge=2)
    loop_days: float = Field(default=4.0, gt=0)
    rounds: int = Field(default=2, ge=1)
    every: int = Field(default=5, ge=1)
    stages: tuple[int, ...] = (288, 576)
    coverage: float = Field(default=0.9, gt=0, lt=1)
    false_alarm: float = Field(default=0.01, gt=0, lt=1)
    monitor_false_alarm: float = Field(default=0.003, gt=0, lt=1)
    logged: CollectConfig = UNUSUAL
    looped: CollectConfig = ORDINARY
    profile: str = "standard"

    def silent(self) -> CalibrateConfig:
        """The same for people who announce nothing: a model errs otherwise about meals that it must guess."""
        habits = tuple(habit for habit in HABITS if not habit.announced)
        scenario = self.looped.scenario.model_copy(update={"announced": False})
        return self.model_copy(
            update={
                "logged": self.logged.model_copy(update={"habits": habits}),
                "looped": self.looped.model_copy(update={"habits": habits, "scenario": scenario}),
                "profile": "unannounced",
            }
        )


def visits(
    agent: Agent, patients: Patients, config: ScenarioConfig, *, steps: int, every: int, seed: int, first: int = 36
) -> Visits:
    """Run an agent in closed loop and carry out some of its plans open-loop in branches of the simulator.

    Args:
        agent: Plans; its forecaster's calibration is in force.
        patients: Of a calibration cohort, or those reported on.
        config: Scenario.
        steps: Decisions.
        every: Steps between two branched decisions.
        seed: Of the scenario.
        first: First branched decision.

    Raises:
        InputError: The planner never planned, so that there is nothing to carry out.
    """
    rails = [g for g in agent.task.guardrails if isinstance(g, StateGuardrail)]
    reach = max(g.horizon for g in rails)
    days = int(np.ceil((steps + reach) / 288))
    simulator = Simulator(patients, Scenario.draw(patients, config.model_copy(update={"days": days}), seed=seed))
    grid = agent.forecaster.model.config.grid
    interval = grid.expand().numpy()
    columns: dict[str, list[np.ndarray]] = {
        f"{g.name}/{k}": [] for g in rails for k in ("least", "scale", "true", "whole", "margin")
    }
    contexts, spreads, subjects, known, surprise, jump = [], [], [], [], [], []

    def watch(t: int, real: Simulator, step: Step) -> None:
        assert agent.monitor is not None
        jump.append(agent.monitor.jump[real.alive])
        if t < first or t % every:
            return
        surprise.append(agent.monitor.surprise[real.alive])
        planned = np.flatnonzero((step.actors == ACTORS.index(Actor.planner)) & real.alive)
        if not len(planned):
            return
        chosen = step.decisions.chosen
        plan = step.decisions.problem.space.expand(chosen.blocks)[:, 0, :, 0].double().numpy()
        branch = real.clone()
        truth = np.zeros((len(patients), reach))
        for k in range(reach):
            branch.step(np.maximum(plan[:, interval[k]], 0.0))
            truth[:, k] = branch.bg
        rows = torch.from_numpy(planned)
        for guardrail in rails:
            least, scale = guardrail.predicted(chosen.forecast)
            sign = 1.0 if guardrail.sense == "at_least" else -1.0
            away = sign * (truth[:, : guardrail.horizon] - guardrail.bound)
            margin = chosen.margins[guardrail.name][:, 0]
            for key, value in (("least", least[:, 0]), ("scale", scale[:, 0]), ("margin", margin)):
                columns[f"{guardrail.name}/{key}"].append(value[rows].double().numpy())
            columns[f"{guardrail.name}/true"].append(away[:, guardrail.start - 1 :].min(1)[planned])
            columns[f"{guardrail.name}/whole"].append(away.min(1)[planned])
        imagined = step.decisions.problem.imagined
        contexts.append(imagined.prepared.context[rows])
        spreads.append(_spread(agent.forecaster, imagined, step.decisions.problem.space.expand(chosen.blocks))[rows])
        subjects.append(planned)
        known.append(imagined.belief.count[rows].numpy())

    run_agent(agent, simulator, steps=steps, watch=watch)
    if not subjects:
        raise InputError(
            f"the planner gave no plan in {steps} decisions of {len(patients)} subjects, so its guardrails cannot be "
            "calibrated; train the model for longer, or give more days"
        )
    joined = {key: np.concatenate(parts) for key, parts in columns.items()}

    def of(kind: str) -> dict[str, np.ndarray]:
        return {g.name: joined[f"{g.name}/{kind}"] for g in rails}

    return Visits(
        of("least"),
        of("scale"),
        of("true"),
        of("whole"),
        of("margin"),
        torch.cat(contexts),
        torch.cat(spreads),
        np.concatenate(subjects),
        np.concatenate(known),
        np.concatenate(surprise),
        np.concatenate(jump),
    )


@torch.no_grad()
def _spread(forecaster: Forecaster, imagined: Imagined, actions: torch.Tensor) -> torch.Tensor:
    """[B, H] disagreement of the members about one plan each [B, 1, H, A]."""
    model = forecaster.model
    latents = model.respond(imagined.prepared, model.normalise_actions(imagined.belief, actions))[:, :, 0]
    return disagreement(model.read(latents)["cgm"], model.read_scale(latents)["cgm"].mean(0))


def calibration_cohort(who: CollectConfig, count: int, seed: int) -> Patients:
    """The people that a calibration is made on."""
    return cohort("calibrate", count, seed, who.spread, who.records, who.groups)


def calibrate(
    model: WorldModel,
    config: CalibrateConfig | None = None,
    *,
    seed: int = 0,
    report: Callable[[str], None] = lambda line: None,
) -> Calibration:
    """Bands, novelty and trajectory bounds, in rounds on what the planner visits.

    Args:
        model: Trained; nobody of the calibration cohort was among its subjects.
        config: How much.
        seed: Of cohort and scenarios.
        report: Takes one line a round.
    """
    config = config or CalibrateConfig()
    patients = calibration_cohort(config.logged, config.logged_subjects, seed)
    logged = record_therapy(patients, config.logged, seed + 1000, config.days)
    seen = moments_of(model, History.from_episodes(SCHEMA, logged), each=MOMENTS, first=12, seed=seed)
    # Those who did not live through their therapy are not in the log: count subjects as the cohort does.
    places = torch.tensor([patients.names.index(episode.subject) for episode in logged])
    seen = replace(seen, subject=places[seen.subject])
    first, *later = by_stage(lambda part: fit_bands(part, config.coverage), seen, config.stages)
    stages = tuple(Stage(after=start, bands=bands) for start, bands in zip(config.stages, later, strict=True))
    calibration = Calibration(coverage=config.coverage, bands=first, later=stages, subjects=config.logged_subjects)
    done = calibrate_planning(model, calibration, config, seed=seed, seen=seen, report=report)
    return done.model_copy(update={"notes": {**done.notes, **notes_of(config)}})


def notes_of(config: CalibrateConfig) -> dict[str, object]:
    """What a calibration was made by: its settings, the guardrails inside which it planned, and how it was watched."""
    looks = [list(look) for look in LOOKS]
    return {"config": config.model_dump(mode="json"), "guardrails": digest(InsulinTask().guardrails), "looks": looks}


def calibrate_planning(
    model: Imaginer,
    calibration: Calibration,
    config: CalibrateConfig | None = None,
    *,
    seed: int = 0,
    seen: Moments | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Calibration:
    """The rounds: plan, carry out what was planned in branches of the simulator, take the scores, plan again.

    Args:
        model: Plans with the calibration of the round before.
        calibration: To start from.
        config: How much.
        seed: Of cohort and scenarios.
        seen: Moments of logged therapy of the same cohort, which together with the visited ones set the thresholds of
            novelty; None leaves
            novelty out (a linear model has no ensemble to disagree).
        report: Takes one line a round.
    """
    config = config or CalibrateConfig()
    patients = calibration_cohort(config.looped, config.subjects, seed)
    rounds = []
    for number in range(config.rounds):
        agent = insulin_agent(Forecaster(model, calibration), profile=PROFILES[config.profile], seed=seed)
        rails = [g for g in agent.task.guardrails if isinstance(g, StateGuardrail)]
        steps = int(config.loop_days * 288)
        visited = visits(
            agent, patients, config.looped.scenario, steps=steps, every=config.every, seed=seed + 2000 + number
        )
        note = {g.name: float(visited.exceeded(calibration, g).mean()) for g in rails}
        rounds.append({"plans": len(visited), "exceeded_before": note})
        told = ", ".join(f"{name} {share:.1%}" for name, share in note.items())
        report(f"round {number + 1}: {len(visited)} plans carried out; fell short of the margin before: {told}")
        first, *later = by_stage(lambda part, rails=rails: fit_trajectory(part, rails), visited, config.stages)  # type: ignore[misc]
        stages = calibration.later or tuple(Stage(after=start) for start in config.stages)
        update: dict[str, object] = {
            "trajectory": first,
            "later": tuple(
                stage.model_copy(update={"trajectory": bounds}) for stage, bounds in zip(stages, later, strict=True)
            ),
            "notes": {"rounds": rounds, "seed": seed},
        }
        update["monitor"] = fit_monitor(visited.surprise, visited.jump, config.monitor_false_alarm)
        if seen is not None:
            update["novelty"] = fit_novelty(
                torch.cat([seen.context, visited.context]),
                torch.cat([seen.spread, visited.spread]),
                config.false_alarm,
                torch.cat([seen.subject, torch.from_numpy(visited.subject)]),
            )
        calibration = calibration.model_copy(update=update)
    return calibration


def save_calibration(folder: str | Path, calibration: Calibration) -> None:
    """Write a calibration into a checkpoint folder, beside the weights."""
    extra = read_extra(folder)
    parts = [card_of(extra["training"])] if "training" in extra else []
    rounds = len(calibration.notes.get("rounds", ()))
    parts.append(f"Calibrated on {calibration.subjects} other virtual people, its guardrails in {rounds} rounds.")
    extra |= {"calibration": calibration.model_dump(mode="json")}
    save(load(folder), folder, card=" ".join(parts), extra=extra)


def load_forecaster(folder: str | Path) -> Forecaster:
    """The model of a checkpoint folder with its calibration, if it has one."""
    model, extra = load(folder, None), read_extra(folder)
    content = extra.get("calibration")
    return Forecaster(model, Calibration.model_validate(content) if content else None)
