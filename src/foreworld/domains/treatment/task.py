"""The insulin task: what is wanted, what must hold, and what may be done."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from foreworld.domains.treatment.covered_dose import covered_dose
from foreworld.domains.treatment.dose_limit import dose_limit, greatest_basal
from foreworld.domains.treatment.dosing import History as Past
from foreworld.domains.treatment.fallback import Fallback
from foreworld.domains.treatment.limits import InsulinLimits
from foreworld.domains.treatment.remembered import remembered
from foreworld.domains.treatment.schema import STEP_MINUTES
from foreworld.domains.treatment.tables import Patients
from foreworld.forecast.forecaster import Forecast, Imagined
from foreworld.model.belief import History
from foreworld.model.dynamics import HorizonGrid
from foreworld.planning.guardrail import Guardrail, StateGuardrail
from foreworld.planning.objective import Objective, time_weights
from foreworld.planning.profile import Profile
from foreworld.planning.space import ActionSpace

PROFILES = {
    profile.name: profile
    for profile in (
        Profile(name="standard", description="Time in 70-180 mg/dL, lows weighed above highs."),
        Profile(name="hypo-averse", weights={"low": 3.0}, description="Lows weighed three times as much."),
        Profile(
            name="unannounced",
            weights={"low": 6.0},
            description="For people who announce nothing: lows weighed six times as much, as the insulin for a meal "
            "that was guessed cannot be taken back.",
        ),
        Profile(name="tight", weights={"high": 2.0}, description="Highs weighed twice as much."),
    )
}

# Where costs begin, mg/dL: highs are steered towards the middle of the range, lows away from its edge.
HIGH_FROM, LOW_FROM = 115.0, 110.0
HIGH_WIDTH, LOW_WIDTH = 50.0, 18.0


class GlucoseObjective(Objective):
    """Quadratic costs of predicted glucose above and below a zone, over the whole horizon.

    Terms: `high`, `low` (dimensionless), and `insulin`, a small cost of large doses that decides between plans
    which the forecast cannot tell apart.
    """

    names = ("high", "low", "insulin")

    def terms(self, forecast: Forecast, actions: Tensor, imagined: Imagined) -> dict[str, Tensor]:
        """By term, [E, B, S] or [B, S]."""
        glucose = forecast.samples["cgm"]
        weights = time_weights(forecast.points)
        high = torch.clamp((glucose - HIGH_FROM) / HIGH_WIDTH, min=0.0) ** 2
        low = torch.clamp((LOW_FROM - glucose) / LOW_WIDTH, min=0.0) ** 2
        return {
            "high": high @ weights,
            "low": low @ weights,
            "insulin": 0.02 * (actions[..., 0].square() @ weights),
        }


@dataclass(frozen=True, kw_only=True)
class DoseLimit(Guardrail):
    """The dose of the coming step is at most what measured data, the profile and insulin on board allow.

    The numbers are those of the independent checker's insulin pack, worked out here for a whole batch.
    """

    limits: InsulinLimits = field(default_factory=InsulinLimits)

    def margin(self, forecast: Forecast, actions: Tensor, history: History) -> Tensor:
        """[B, S] units of insulin left below the limit."""
        limit = torch.from_numpy(dose_limit(history, self.limits)).to(actions.dtype)
        return limit[:, None] * (1 + 1e-6) - actions[:, :, 0, 0]


@dataclass(frozen=True, kw_only=True)
class CoveredDose(Guardrail):
    """Insulin beyond what glucose, its trend and announced carbohydrate call for may not be given.

    Worked out from measured data, announced carbohydrate and the profile alone: no forecast of a meal to come counts.
    It is no promise that glucose stays above the bound: an announced count may be short or long, the profile may be
    wrong, and where there is no line through recent readings it bounds nothing.

    Attributes:
        limits: Numbers of the insulin pack.
        bound: mg/dL.
        carbs_minutes: Announced carbohydrate is gone after so long, evenly (oref0 and Loop assume 3 to 4 hours).
        count_error: An announced count may be this many times too small.
    """

    limits: InsulinLimits = field(default_factory=InsulinLimits)
    bound: float = 70.0
    carbs_minutes: float = 180.0
    count_error: float = 1.2

    def covered(self, history: History) -> np.ndarray:
        """[B] U: see `covered_dose`."""
        return covered_dose(history, self.limits, self.bound, self.carbs_minutes, self.count_error)

    def margin(self, forecast: Forecast, actions: Tensor, history: History) -> Tensor:
        """[B, S] units of insulin left that are covered."""
        covered = torch.from_numpy(self.covered(history)).to(actions.dtype)
        return covered[:, None] * (1 + 1e-6) - actions[:, :, 0, 0]


def guardrails(limits: InsulinLimits | None = None) -> tuple[Guardrail, ...]:
    """The guardrails of the insulin task."""
    return (
        StateGuardrail(
            name="predicted_low",
            quantity="cgm",
            bound=70.0,
            unit="mg/dL",
            sense="at_least",
            risk=0.2,
            start=12,
            horizon=24,
            severity=4,
            source="International consensus on time in range: level 1 hypoglycaemia (Battelino et al. 2019)",
        ),
        StateGuardrail(
            name="predicted_very_low",
            quantity="cgm",
            bound=54.0,
            unit="mg/dL",
            sense="at_least",
            risk=0.05,
            start=12,
            horizon=36,
            severity=5,
            source="International consensus on time in range: level 2 hypoglycaemia (Battelino et al. 2019)",
        ),
        *dose_rails(limits or InsulinLimits()),
    )


def dose_rails(limits: InsulinLimits) -> tuple[DoseLimit, CoveredDose]:
    """The guardrails of what may be done now."""
    return dose_rail(limits), CoveredDose(
        name="covered_dose",
        unit="U",
        severity=5,
        source="After the eventual glucose of the OpenAPS reference design, oref0 0.7.1",
        limits=limits,
    )


def dose_rail(limits: InsulinLimits) -> DoseLimit:
    """The guardrail of what the checker lets pass now."""
    return DoseLimit(
        name="dose_limit",
        unit="U",
        severity=5,
        source="OpenAPS reference design, oref0 0.7.1; hard cap of the treatment protocols",
        limits=limits,
    )


def action_space(
    grid: HorizonGrid, history: History, limits: InsulinLimits, covered: CoveredDose | None = None
) -> ActionSpace:
    """Blocks of insulin: now, to 1 h, to 3 h, and to the end; bounds from the limits of this moment.

    Args:
        grid: Of the model.
        history: Of B subjects.
        limits: Numbers of the insulin pack.
        covered: Bounds the first block, too; or None.
    """
    points = torch.tensor(grid.points)
    ends = [1, *(int((points <= minutes // STEP_MINUTES).sum()) for minutes in (60, 180)), len(grid)]
    blocks = tuple(sorted(set(ends)))
    basal = history.values["basal"].float()
    later = torch.from_numpy(greatest_basal(basal.numpy(), limits)) * STEP_MINUTES / 60
    upper = later[:, None].repeat(1, len(blocks))
    first = dose_limit(history, limits)
    if covered is not None:
        first = np.minimum(first, covered.covered(history))
    upper[:, 0] = torch.from_numpy(first).float()
    return ActionSpace(grid, blocks, torch.zeros_like(upper)[..., None], upper[..., None], ("insulin",), warp=2.0)


@remembered
def fallback_dose(history: History, limits: InsulinLimits) -> np.ndarray:
    """[B] U: the standard of care's dose for the coming 5 minutes.

    Args:
        history: Regular steps of 5 minutes, equal lengths.
        limits: Numbers of the insulin pack.
    """
    values = {name: tensor.numpy().astype(np.float64) for name, tensor in history.values.items()}
    count = len(history)
    # The fallback reads weight and profile alone; a measured person has no simulator parameters.
    people = Patients(
        names=tuple(str(i) for i in range(count)),
        group=("adult",) * count,
        params=np.zeros((count, 0)),
        x0=np.zeros((count, 0)),
        weight=values["weight"],
        basal=values["basal"],
        cr=values["cr"],
        cf=values["cf"],
    )
    past = Past(history.times[0].numpy(), values["cgm"], values["insulin"], values["carbs"])
    return Fallback(limits=limits).dose(people, past)


class InsulinTask:
    """The insulin task as planning wants it.

    Args:
        limits: Numbers of the insulin pack.
        rails: Guardrails instead of the standard ones, for experiments.
    """

    def __init__(self, limits: InsulinLimits | None = None, rails: tuple[Guardrail, ...] | None = None) -> None:
        self.limits = limits or InsulinLimits()
        self.guardrails = rails or guardrails(self.limits)
        self.max_age = {"cgm": 3.0 * STEP_MINUTES}

    def objective(self, profile: Profile) -> GlucoseObjective:
        """Glucose within range, by the profile's weights."""
        return GlucoseObjective(profile)

    def space(self, grid: HorizonGrid, history: History) -> ActionSpace:
        """Insulin now, to 1 h, to 3 h, and to the end of the horizon."""
        covered = next((rail for rail in self.guardrails if isinstance(rail, CoveredDose)), None)
        return action_space(grid, history, self.limits, covered)

    def suggestions(self, space: ActionSpace, history: History) -> Tensor:
        """[B, 3, K, 1]: no insulin, the profile basal, and the fallback's dose followed by the profile basal."""
        basal = (history.values["basal"].float() * STEP_MINUTES / 60)[:, None, None].expand_as(space.upper)
        first = basal.clone()
        first[:, 0] = self.fallback(history).float()
        return torch.stack([torch.zeros_like(basal), basal, first], dim=1)

    def fallback(self, history: History) -> Tensor:
        """[B, 1] U: the standard of care with low suspends (`fallback.Fallback`)."""
        return torch.from_numpy(fallback_dose(history, self.limits))[:, None]

    def last_resort(self, history: History) -> Tensor:
        """[B, 1] U: no insulin for five minutes passes every rule in every state."""
        return torch.zeros(len(history), 1)
