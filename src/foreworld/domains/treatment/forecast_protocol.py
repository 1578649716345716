"""`treatment/forecast` and `treatment/counterfactual` as protocols that give rows of evidence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from foreworld.domains.treatment.arx import LinearConfig, fit_linear
from foreworld.domains.treatment.calibrate import load_forecaster
from foreworld.domains.treatment.closed_loop import groups_of, subjects_of
from foreworld.domains.treatment.counterfactual import (
    Branches,
    ConstantEffect,
    CounterfactualConfig,
    EffectArm,
    ForecasterEffect,
    PatientEffect,
    branch_out,
    compare,
    shuffled,
)
from foreworld.domains.treatment.direct_network import NetworkConfig, train_network
from foreworld.domains.treatment.forecast_arms import AutoRegression, ForecasterArm, PatientARX, Persistence
from foreworld.domains.treatment.forecasting import Arm, ForecastConfig, ForecastScores, record_therapy, score
from foreworld.domains.treatment.prepare import FULL
from foreworld.domains.treatment.prepared import GROUPS, Prepared, prepare_all, recipe_of
from foreworld.domains.treatment.schema import SCHEMA, STEP_MINUTES
from foreworld.domains.treatment.settings import MODEL
from foreworld.domains.treatment.tables import TRAINING, load_patients
from foreworld.episodes import EpisodeStore
from foreworld.evidence.protocol import Protocol, Request
from foreworld.evidence.rows import NAMES, Names, Row
from foreworld.evidence.samples import Samples
from foreworld.evidence.statistics import Interval
from foreworld.forecast.forecaster import Forecaster
from foreworld.model.belief import History

FORECAST_ARMS = ("foreworld", "arx", "arx_signed", "arx_population", "ar", "persistence", "network")
EFFECT_ARMS = ("foreworld", "foreworld_shuffled", "arx", "arx_signed", "arx_population", "constant")
COVERAGE = tuple(f"coverage_90_{point * STEP_MINUTES}" for point in MODEL.grid.points)
AHEAD = (30, 60, 120)
ABOVE = tuple(f"rmse_{minutes}_above_{arm}" for minutes in AHEAD for arm in FORECAST_ARMS if arm != "foreworld")
FORECAST_METRICS = (*(f"rmse_{minutes}" for minutes in AHEAD), "coverage_90", *COVERAGE, "train_cpu_seconds", *ABOVE)
MINUTES = CounterfactualConfig().minutes
EFFECT_METRICS = tuple(f"{what}_{m}" for what in ("sign", "slope", "effect_rmse") for m in MINUTES)


def protocols() -> tuple[Protocol, ...]:
    """The two protocols."""
    return (
        Protocol(
            name="treatment/forecast",
            version=1,
            description=(
                "Forecast of CGM with known future insulin and announced carbohydrate: stock meals, basal-bolus with "
                "30 % carb error and random basal; the last five of 15 days."
            ),
            settings={"forecast": ForecastConfig().model_dump(mode="json"), "recipe": FULL.model_dump(mode="json")},
            arms=FORECAST_ARMS,
            metrics=FORECAST_METRICS,
            run=_forecast,
            groups=GROUPS,
        ),
        Protocol(
            name="treatment/counterfactual",
            version=1,
            description="What 0, 0.5 and 2 times the insulin would have changed, against branches of the simulator.",
            settings={
                "counterfactual": CounterfactualConfig().model_dump(mode="json"),
                "recipe": FULL.model_dump(mode="json"),
            },
            arms=EFFECT_ARMS,
            metrics=EFFECT_METRICS,
            run=_counterfactual,
        ),
    )


def histories_of(data: object) -> list[History]:
    """The fitting episodes of a store, one history each."""
    store = EpisodeStore.open(str(data))
    return [History.from_episodes(SCHEMA, [store.episode(i)]) for i in store.episodes_of("default/fit")]


def _forecast(request: Request) -> Sequence[Row]:
    arms = request.arms or FORECAST_ARMS
    config = ForecastConfig(days=5, fit_days=3) if request.quick else ForecastConfig()
    recipe, parts = recipe_of(request), prepare_all(request)
    names = NAMES | Names(frozenset(FORECAST_ARMS), frozenset(GROUPS), frozenset(FORECAST_METRICS))
    samples = Samples(request.seeds, names)
    patients = load_patients(subjects_of(request.subjects if request.subjects else 3 if request.quick else None))
    for seed in request.seeds:
        made = parts[seed]
        record = record_therapy(patients, config, seed)
        linear = LinearConfig(grid=MODEL.grid, seed=seed)
        signed = linear.model_copy(update={"signed": True})
        makers: dict[str, Callable[[], Arm]] = {
            "foreworld": lambda made=made: ForecasterArm(load_forecaster(made.model)),  # type: ignore[misc]
            "arx": lambda linear=linear: PatientARX(linear),  # type: ignore[misc]
            "arx_signed": lambda signed=signed: PatientARX(signed),  # type: ignore[misc]
            "arx_population": lambda made=made, linear=linear: ForecasterArm(  # type: ignore[misc]
                Forecaster(fit_linear(SCHEMA, histories_of(made.data), linear))
            ),
            "ar": AutoRegression,
            "persistence": Persistence,
            "network": lambda made=made, seed=seed: train_network(  # type: ignore[misc]
                histories_of(made.data),
                NetworkConfig(grid=MODEL.grid, seed=seed, steps=recipe.steps),
            ),
        }
        scored = score(record, {arm: makers[arm]() for arm in arms}, MODEL.grid, config)
        for arm, found in scored.items():
            _add_forecast(samples, arm, seed, found)
        if "foreworld" in arms and np.isfinite(made.cpu_seconds):
            subjects = scored["foreworld"].subjects
            cost = np.full(len(subjects), made.cpu_seconds)
            samples.add(
                "foreworld", "train_cpu_seconds", seed, subjects, cost, groups_of(subjects), unit="s", how="max"
            )
    return [*samples.rows(), *_differences(samples, arms)]


def _differences(samples: Samples, arms: Sequence[str]) -> list[Row]:
    """How far foreworld's root mean square error lies above every other arm's, paired by patient and seed."""
    rows = []
    for group in ("all", "unseen"):
        for arm, minutes in ((arm, minutes) for arm in arms for minutes in AHEAD):
            if arm == "foreworld" or "foreworld" not in arms or not samples.subjects("foreworld", group):
                continue
            found = samples.difference("foreworld", arm, f"rmse_{minutes}", group)
            by_seed = samples.differences_by_seed("foreworld", arm, f"rmse_{minutes}", group)
            rows.append(
                Row(
                    arm="foreworld",
                    group=group,
                    metric=f"rmse_{minutes}_above_{arm}",
                    value=found.value,
                    low=found.low,
                    high=found.high,
                    n=len(samples.subjects("foreworld", group)),
                    unit="mg/dL",
                    by_seed=by_seed,
                )
            )
    return rows


def _add_forecast(samples: Samples, arm: str, seed: int, found: ForecastScores) -> None:
    groups = groups_of(found.subjects)
    for minutes in AHEAD:
        samples.add(arm, f"rmse_{minutes}", seed, found.subjects, found.at(minutes), groups, unit="mg/dL", how="rms")
    samples.add(arm, "coverage_90", seed, found.subjects, found.covered.mean(1), groups)
    if arm == "foreworld":
        for column, metric in enumerate(COVERAGE):
            samples.add(arm, metric, seed, found.subjects, found.covered[:, column], groups)


def _counterfactual(request: Request) -> Sequence[Row]:
    arms = request.arms or EFFECT_ARMS
    therapy = ForecastConfig(days=5, fit_days=3) if request.quick else CounterfactualConfig().therapy
    config = CounterfactualConfig(therapy=therapy, states=4) if request.quick else CounterfactualConfig()
    parts = prepare_all(request)
    wanted = subjects_of(request.subjects if request.subjects else 3 if request.quick else 21)
    pooled: dict[tuple[str, int], list[tuple[int, Branches, np.ndarray]]] = {}
    for seed in request.seeds:
        made = parts[seed]
        branches = branch_out(record_therapy(load_patients(wanted), config.therapy, seed), MODEL.grid, config, seed)
        makers = _effects(made, config, seed)
        for arm in arms:
            source = "foreworld" if arm == "foreworld_shuffled" else arm
            insulin = shuffled(branches, seed) if arm == "foreworld_shuffled" else branches.insulin
            predicted = makers[source]().effect(branches, insulin)
            for minutes in config.minutes:
                pooled.setdefault((arm, minutes), []).append((seed, branches, predicted))
    rows: list[Row] = []
    for (arm, minutes), found_parts in pooled.items():
        by_seed = [compare(branches, predicted, minutes) for _, branches, predicted in found_parts]
        total = by_seed[0]
        for part in by_seed[1:]:
            total = total + part
        kinds: Mapping[str, tuple[str, str]] = {
            "sign": ("sign", "share"),
            "slope": ("slope", "mg/dL per mg/dL"),
            "effect_rmse": ("rmse", "mg/dL"),
        }
        for metric, (method, unit) in kinds.items():
            found: Interval = getattr(total, method)()
            rows.append(
                Row(
                    arm=arm,
                    group="all",
                    metric=f"{metric}_{minutes}",
                    value=found.value,
                    low=found.low,
                    high=found.high,
                    n=len(set(total.subjects)),
                    unit=unit,
                    by_seed=tuple(float(getattr(part, method)().value) for part in by_seed),
                )
            )
    return rows


def _effects(made: Prepared, config: CounterfactualConfig, seed: int) -> dict[str, Callable[[], EffectArm]]:
    linear = LinearConfig(grid=MODEL.grid, seed=seed)

    def constant() -> EffectArm:
        record = record_therapy(load_patients(TRAINING), config.therapy, seed + 500)
        return ConstantEffect(branch_out(record, MODEL.grid, config, seed + 500))

    return {
        "foreworld": lambda: ForecasterEffect(load_forecaster(made.model)),
        "arx": lambda: PatientEffect(PatientARX(linear)),
        "arx_signed": lambda: PatientEffect(PatientARX(linear.model_copy(update={"signed": True}))),
        "arx_population": lambda: ForecasterEffect(Forecaster(fit_linear(SCHEMA, histories_of(made.data), linear))),
        "constant": constant,
    }
