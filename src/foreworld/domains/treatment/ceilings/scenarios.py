"""A forecaster whose scenarios are particles: their spread is the uncertainty, and nothing is added to it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from foreworld.domains.treatment.ceilings.particle_filter import FilterConfig, ParticleFilter
from foreworld.domains.treatment.physiology import MealUnits
from foreworld.domains.treatment.scenario import ScenarioConfig
from foreworld.domains.treatment.tables import Patients
from foreworld.domains.treatment.task import guardrails
from foreworld.forecast.forecaster import Calibration, Forecast, Forecaster, Imagined
from foreworld.planning.guardrail import Guardrail, StateGuardrail

LEAST_SCALE = 0.5  # mg/dL


class ScenarioForecaster(Forecaster):
    """Reads mean, scale and bands off the scenarios.

    A `Forecaster` adds each member's own predicted spread to it. A particle has none: it is one possible truth. Nothing
    is novel to the true equations, so every forecast may be used to its end.
    """

    @torch.no_grad()
    def forecast(self, imagined: Imagined, actions: Tensor) -> Forecast:
        """Futures of candidates [B, S, H, A]; `scale` is the standard deviation among scenarios."""
        model = self.model
        latents = model.respond(imagined.prepared, model.normalise_actions(imagined.belief, actions))
        samples = model.read(latents)
        mean, scale, lower, upper = {}, {}, {}, {}
        normal = float(torch.special.ndtri(torch.tensor(0.5 + self.calibration.coverage / 2)))
        for name, values in samples.items():
            mean[name] = values.mean(0)
            # Written out: torch's own standard deviation over the first dimension is several times slower.
            variance = values.square().mean(0) - mean[name].square()
            scale[name] = variance.clamp(min=LEAST_SCALE**2).sqrt()
            lower[name], upper[name] = mean[name] - normal * scale[name], mean[name] + normal * scale[name]
        size = actions.shape[:2]
        familiar, usable = torch.zeros(size), torch.full(size, model.config.grid.last, dtype=torch.int64)
        return Forecast(
            self.points, samples, mean, scale, lower, upper, self.calibration, familiar, usable, imagined.belief.count
        )


def normal_calibration(rails: Sequence[Guardrail] | None = None) -> Calibration:
    """Tightens each state guardrail by the normal quantile of its risk: a posterior is calibrated by itself."""
    bounds = {}
    for guardrail in rails or guardrails():
        if isinstance(guardrail, StateGuardrail):
            quantile = -float(torch.special.ndtri(torch.tensor(guardrail.risk, dtype=torch.float64)))
            bounds[guardrail.name] = {f"{guardrail.risk:g}": quantile}
    return Calibration(trajectory=bounds)


def make_filter(
    patients: Patients,
    scenario: ScenarioConfig,
    config: FilterConfig | None = None,
    *,
    meal_units: MealUnits = "fixed",
) -> Forecaster:
    """The filter's forecaster for `insulin_agent`.

    Args:
        patients: In the order of the simulator.
        scenario: That the simulator's was drawn with; of it only statistics are used.
        config: Sizes of the filter.
        meal_units: The simulator's.
    """
    return ScenarioForecaster(ParticleFilter(patients, scenario, config, meal_units=meal_units), normal_calibration())
