"""What the world model stands beside: a plain supervised network on the same store, and the best that can be done.

`filtered` knows the equations and all distributions and infers the patient: no method that sees the same can be better
in the mean, so it bounds what is attainable.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foreworld.domains.treatment.tumour.growth import (
    ALPHA,
    BETA,
    CAPACITY,
    CHEMO,
    CORRELATION,
    DEATH,
    DRUG,
    GROWTH,
    HALF,
    NOISE,
    RADIO,
    SHIFT,
    Patients,
)
from foreworld.domains.treatment.tumour.therapy import DAYS, HORIZON, SCHEMA, SMALLEST, Courses, history_of, training
from foreworld.domains.treatment.tumour_benchmark.branches import Branches
from foreworld.episodes import EpisodeStore
from foreworld.learning.fit import fit
from foreworld.learning.train import EpisodeStream
from foreworld.model.belief import History

CHUNK = 2_000  # days of patients at a time; bounds memory
GUESSES = 64  # of each patient's parameters


class PlainNetwork(nn.Module):
    """All of the past and the plan up to a day, to the volume on that day as a share of today's."""

    def __init__(self, hidden: int = 256) -> None:
        super().__init__()
        self.past, self.plan = nn.Linear(4 * DAYS + 3, hidden), nn.Linear(3 * HORIZON, hidden)
        self.layers = nn.Sequential(
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, 1),
        )

    def forward(self, past: Tensor, plan: Tensor) -> Tensor:
        """[N, S, H] shares, from the past [N, 4 * days + 3] and doses [N, S, H, 2] (1 is a dose)."""
        until = torch.tril(torch.ones(HORIZON, HORIZON))[..., None]
        doses = (plan[:, :, None] * until).flatten(3)
        which = torch.eye(HORIZON).expand(*plan.shape[:2], -1, -1)
        hidden = self.past(past)[:, None, None] + self.plan(torch.cat([doses, which], dim=-1))
        return torch.exp(self.layers(hidden)[..., 0])


def past_of(history: History, rows: Tensor, at: Tensor) -> Tensor:
    """[N, 4 * days + 3]: logarithms of volumes, whether there was one, the doses before each, and the kind of patient.

    Args:
        history: Of B patients.
        rows: [N] index of a patient.
        at: [N] the present day; it comes last.
    """
    when = at[:, None] - torch.arange(DAYS).flip(0)
    there = (when >= 0).float()
    volumes = torch.log(history.values["volume"][rows[:, None], when.clamp(min=0)]).float() * 0.3
    doses = [
        history.values[name][rows[:, None], (when - 1).clamp(min=0)].float() / size * (when > 0)
        for name, size in (("chemo", CHEMO), ("radio", RADIO))
    ]
    kind = torch.nn.functional.one_hot(history.values["kind"][rows].long(), 3).float()
    return torch.cat([volumes * there, there, *doses, kind], dim=-1)


def _network_loss(network: PlainNetwork, history: History, generator: torch.Generator) -> dict[str, Tensor]:
    """Mean squared error of the share of today's volume, of random days and all horizons."""
    anchors = training(1, 0).loss.anchors
    rows = torch.arange(len(history)).repeat_interleave(anchors)
    room = (history.lengths - 1)[rows]
    at = (torch.rand(len(rows), generator=generator) * room).long()
    long = history.extended(SCHEMA, HORIZON)
    ahead = at[:, None] + torch.arange(HORIZON)
    plan = torch.stack([long.values["chemo"] / CHEMO, long.values["radio"] / RADIO], dim=-1)[rows[:, None], ahead]
    volumes = long.values["volume"]
    share = volumes[rows[:, None], ahead + 1] / volumes[rows, at][:, None]
    known = ahead + 1 < history.lengths[rows][:, None]
    missed = (network(past_of(long, rows, at), plan[:, None])[:, 0] - share) ** 2
    return {"loss": (missed * known).sum() / known.sum()}


def train_network(data: Path, steps: int, seed: int) -> PlainNetwork:
    """As long, on as many patients and moments, as the world model."""
    store, config = EpisodeStore.open(data), training(steps, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = PlainNetwork()
    stream: Any = EpisodeStream(store, store.schema, seed=seed, batch=config.windows, split=config.split)
    fit(network, stream, _network_loss, config.fit, progress="none")
    return network.eval()


@torch.no_grad()
def network_volumes(network: PlainNetwork, patients: Patients, courses: Courses, branches: Branches) -> np.ndarray:
    """[N, S, H] volumes of all branches, cm3."""
    history, out = history_of(patients, courses), []
    horizon = branches.plan.shape[2]
    for start in range(0, len(branches.day), CHUNK):
        part = slice(start, start + CHUNK)
        rows, at = torch.from_numpy(branches.patient[part]), torch.from_numpy(branches.day[part])
        plan = torch.zeros(*branches.plan[part].shape[:2], HORIZON, 2)
        plan[:, :, :horizon] = torch.from_numpy(branches.plan[part] / [CHEMO, RADIO])
        last = history.values["volume"][rows, at][:, None, None]
        out.append((network(past_of(history, rows, at), plan) * last)[..., :horizon].numpy())
    return np.asarray(np.maximum(np.concatenate(out), SMALLEST))


def filtered(patients: Patients, courses: Courses, branches: Branches, rng: np.random.Generator) -> np.ndarray:
    """[N, S, H] mean volumes over what each patient may be, given the true equations and distributions, cm3.

    A day's relative growth is linear in growth rate, radiosensitivity and drug sensitivity, with Gaussian noise: their
    posterior is the truncated Gaussian prior times a Gaussian likelihood, and exact up to the number of guesses.
    """
    guesses, out = _guesses(patients, courses, branches.patient, branches.day, rng), np.zeros(branches.truth.shape)
    for start in range(0, len(branches.day), CHUNK):
        part = slice(start, start + CHUNK)
        who, at, plan = branches.patient[part], branches.day[part], branches.plan[part]
        maybe = guesses.pick(part)
        # Guesses before branches: every guess [n, k] is tried on every branch [n, k, s].
        now = np.broadcast_to(courses.volumes[who, at][:, None, None], (*maybe.growth.shape, plan.shape[1]))
        drug = np.where(at > 0, courses.drug[who, at - 1], 0.0)[:, None, None]
        for h in range(plan.shape[2]):
            drug = HALF * drug + plan[:, None, :, h, 0]
            now = np.maximum(maybe.after_a_day(now, drug, plan[:, None, :, h, 1], 0.0), 0.0)
            out[part, :, h] = now.mean(1)
    return out


def _guesses(
    patients: Patients, courses: Courses, who: np.ndarray, day: np.ndarray, rng: np.random.Generator
) -> Patients:
    """Draws [N, guesses] from the posterior of patients [N] after the volumes up to a day [N]."""
    both = CORRELATION * ALPHA[1] * GROWTH[1]
    prior = np.linalg.inv([[ALPHA[1] ** 2, both, 0.0], [both, GROWTH[1] ** 2, 0.0], [0.0, 0.0, DRUG[1] ** 2]])
    shift = SHIFT * np.stack([ALPHA[0] * (patients.kind == 0), DRUG[0] * (patients.kind == 2)])
    now, after = courses.volumes[:, :-1], courses.volumes[:, 1:]
    told = (now > 1e-3) & (after > 1e-3) & (after < DEATH)
    now, after = np.where(told, now, 1.0), np.where(told, after, 1.0)
    beam, drug = courses.doses[:, :-1, 1] + BETA * courses.doses[:, :-1, 1] ** 2, courses.drug[:, :-1]
    x = np.stack([-beam, np.log(CAPACITY / now), -drug], axis=-1)
    y = after / now - 1.0 + shift[0][:, None] * beam + shift[1][:, None] * drug
    weight = np.where(told, NOISE**-2, 0.0)[..., None]
    known = np.cumsum(np.einsum("nti,ntj->ntij", weight * x, x), axis=1)
    heard = np.cumsum(weight * x * y[..., None], axis=1)
    before, later = np.maximum(day - 1, 0), (day > 0).astype(np.float64)
    covariance = np.linalg.inv(prior + later[:, None, None] * known[who, before])
    mean = prior @ np.array([ALPHA[0], GROWTH[0], DRUG[0]]) + later[:, None] * heard[who, before]
    mean = np.einsum("nij,nj->ni", covariance, mean)
    root = np.linalg.cholesky(covariance)
    drawn = np.zeros((len(who), GUESSES, 3))
    for start in range(0, len(who), CHUNK):
        part = slice(start, start + CHUNK)
        many = rng.standard_normal((len(mean[part]), 8 * GUESSES, 3))
        many = mean[part, None] + np.einsum("nij,nsj->nsi", root[part], many)
        order = np.argsort((many[..., :2] <= 0.0).any(-1), axis=1, kind="stable")[:, :GUESSES]
        drawn[part] = np.take_along_axis(many, order[..., None], axis=1)
    alpha, growth, sensitive = np.moveaxis(np.maximum(drawn, 1e-6), -1, 0)
    alpha, sensitive = alpha + shift[0][who][:, None], sensitive + shift[1][who][:, None]
    return Patients(patients.kind[who], patients.start[who], growth, alpha, sensitive)
