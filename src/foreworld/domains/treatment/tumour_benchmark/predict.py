"""How the world model answers the benchmark: all horizons at once, or day by day."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch

from foreworld.domains.treatment.tumour.growth import Patients
from foreworld.domains.treatment.tumour.therapy import HORIZON, Courses, history_of
from foreworld.domains.treatment.tumour_benchmark.branches import Branches
from foreworld.domains.treatment.tumour_benchmark.comparators import CHUNK
from foreworld.model.belief import Belief
from foreworld.model.world_model import WorldModel

Predict = Callable[[Patients, Courses, Branches], np.ndarray]


@torch.no_grad()
def directly(model: WorldModel, patients: Patients, courses: Courses, branches: Branches) -> np.ndarray:
    """[N, S, H] mean volumes of all branches as the model foresees them, every horizon from the whole plan, cm3."""
    beliefs, out = model.encode_all(history_of(patients, courses)), []
    horizon = branches.plan.shape[2]
    points = torch.arange(horizon)
    for part in _parts(branches):
        belief = _belief(beliefs, branches.patient[part], branches.day[part])
        plan = torch.zeros(*branches.plan[part].shape[:2], HORIZON, 2)
        plan[:, :, :horizon] = torch.from_numpy(branches.plan[part])
        latents = model.respond(model.prepare(belief, None, points), model.normalise_actions(belief, plan), points)
        out.append(model.read(latents)["volume"].mean(0).numpy())
    return np.concatenate(out)


@torch.no_grad()
def stepwise(model: WorldModel, patients: Patients, courses: Courses, branches: Branches) -> np.ndarray:
    """The same day by day: what is foreseen for tomorrow is taken as measured, with `update`, and so on."""
    beliefs, out, tomorrow = model.encode_all(history_of(patients, courses)), [], torch.arange(1)
    for part in _parts(branches):
        plan = torch.from_numpy(branches.plan[part]).float()
        count, doses = plan.shape[1], plan.flatten(0, 1)
        belief = _belief(beliefs, branches.patient[part].repeat(count), branches.day[part].repeat(count))
        found: list[torch.Tensor] = []
        for h in range(plan.shape[2]):
            today = torch.zeros(len(doses), 1, HORIZON, 2)
            today[:, 0, 0] = doses[:, h]
            prepared = model.prepare(belief, None, tomorrow)
            latents = model.respond(prepared, model.normalise_actions(belief, today), tomorrow)
            found.append(model.read(latents)["volume"].mean(0)[:, 0, 0])
            given = {"chemo": doses[:, h, 0], "radio": doses[:, h, 1]}
            belief = model.update(belief, belief.time + 1.0, {"volume": found[-1]}, given)
        out.append(torch.stack(found, dim=-1).reshape(*plan.shape[:3]).numpy())
    return np.concatenate(out)


FORESEE: dict[str, Callable[[WorldModel, Patients, Courses, Branches], np.ndarray]] = {
    "foreworld": directly,
    "foreworld_stepwise": stepwise,
}


def _parts(branches: Branches) -> list[slice]:
    return [slice(start, start + CHUNK) for start in range(0, len(branches.day), CHUNK)]


def _belief(beliefs: Mapping[str, torch.Tensor], patient: np.ndarray, day: np.ndarray) -> Belief:
    """Those of patients [N] at days [N], of what `encode_all` gave."""
    rows, at = torch.from_numpy(patient), torch.from_numpy(day)
    return Belief(**{name: value[rows] if name == "statics" else value[rows, at] for name, value in beliefs.items()})
