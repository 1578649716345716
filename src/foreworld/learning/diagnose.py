"""What a latent model sees, as figures that decide whether it may be used.

    found = diagnose(model, store, "default/check", labelled="default/fit")
    require_sound(found, Gate())

A loss can look perfect while the latent holds only what is easy to predict: prediction error, regulariser and
effective rank all do, when a layout takes over. So a latent is asked four things on episodes that were not learned
from: does it vary, do actions matter to what it foresees, does it foresee better than that nothing changes, and can
what a person cares about be read from it?
"""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor, nn

from foreworld.episodes import EpisodeStore
from foreworld.episodes.options import Options
from foreworld.errors import InputError, ModelError
from foreworld.learning.clips import clips_of, labelled_frames
from foreworld.model.latent_model import LatentModel

DEAD = 0.01  # variance below which a dimension holds nothing


class Diagnosis(Options):
    """Figures of a latent model on episodes that it did not learn from.

    Attributes:
        clips: How many were looked at.
        variance: Of a latent's dimension, the mean over them; SIGReg asks for 1.
        dead: Share of dimensions whose variance is below 0.01.
        rank: Effective rank (Roy and Vetterli 2007). It does not know scale: a collapsed latent can have a high one.
        sensitivity: Share of the squared error of one block that is due to doing it under other actions than were done:
            0 where actions do not matter to the model.
        error: By block ahead: open-loop error as a share of the latent's spread.
        persistence: The same if nothing changed.
        linear: By quantity: share of variance (R2) that a linear probe reads.
        perceptron: By quantity: what a small perceptron reads.
    """

    clips: int
    variance: float
    dead: float
    rank: float
    sensitivity: float
    error: tuple[float, ...]
    persistence: tuple[float, ...]
    linear: dict[str, float] = Field(default_factory=dict)
    perceptron: dict[str, float] = Field(default_factory=dict)

    def table(self) -> str:
        """The figures in lines."""
        lines = [
            f"on {self.clips} clips that it did not learn from",
            f"variance of a dimension     {self.variance:8.3f}  (dead {self.dead:.0%}, effective rank {self.rank:.1f})",
            f"what actions matter         {self.sensitivity:8.3f}   (0: not at all, 1: all of a block's error)",
            "blocks ahead                " + " ".join(f"{k:6d}" for k in range(1, len(self.error) + 1)),
            "open-loop error             " + " ".join(f"{value:6.3f}" for value in self.error),
            "error if nothing changed    " + " ".join(f"{value:6.3f}" for value in self.persistence),
        ]
        for name, linear in self.linear.items():
            lines.append(f"{name + ' read, R2':27} linear {linear:.4f}, perceptron {self.perceptron[name]:.4f}")
        return "\n".join(lines)


class Gate(Options):
    """What a model must at least show.

    Attributes:
        variance: Of a dimension, in the mean.
        sensitivity: As in `Diagnosis`.
        better: By what share open-loop error of one block must be below that of no change.
        read: R2 of every labelled quantity by the better probe.
    """

    variance: float = 0.1
    sensitivity: float = 0.3
    better: float = 0.2
    read: float = 0.8


def findings(found: Diagnosis, gate: Gate) -> list[str]:
    """What is wrong, in words; empty where nothing is. What cannot be told (NaN) is wrong."""
    wrong = []
    if not found.variance >= gate.variance:
        wrong.append(
            f"the latent has collapsed: its variance is {found.variance:.2g}, at least {gate.variance:g} is asked"
        )
    if not found.sensitivity >= gate.sensitivity:
        wrong.append(
            f"actions hardly matter to what it foresees: {found.sensitivity:.2f}, at least {gate.sensitivity:g} is "
            "asked; something else than what moves may have taken over the latent"
        )
    limit = (1.0 - gate.better) * found.persistence[0]
    if not found.error[0] <= limit:
        wrong.append(
            f"it foresees one block with an error of {found.error[0]:.2f}, at most {limit:.2f} is asked "
            f"({found.persistence[0]:.2f} if nothing changed)"
        )
    for name, linear in found.linear.items():
        best = max(linear, found.perceptron.get(name, linear))
        if not best >= gate.read:
            wrong.append(f"{name} cannot be read from it: R2 {best:.2f}, at least {gate.read:g} is asked")
    return wrong


def require_sound(found: Diagnosis, gate: Gate) -> None:
    """Let a model pass, or not.

    Raises:
        ModelError: With everything that is wrong.
    """
    wrong = findings(found, gate)
    if wrong:
        raise ModelError(
            f"this latent model is not fit for use: {'; '.join(wrong)}. Train longer, regularise within episodes "
            "(`within`), add the inverse head (`inverse`), or record data in which more moves"
        )


@torch.no_grad()
def diagnose(
    model: LatentModel,
    store: str | Path,
    split: str,
    *,
    labelled: str | None = None,
    clips: int = 256,
    blocks: int = 10,
    labels: int = 500,
    seed: int = 0,
) -> Diagnosis:
    """Look at a model.

    Args:
        model: Trained.
        store: Of episodes.
        split: Part that it did not learn from.
        labelled: Part whose labels probes are fitted on; None fits none.
        clips: How many, drawn at random.
        blocks: How far open-loop error is measured; fewer where episodes are shorter.
        labels: Frames that probes are fitted on, at most.
        seed: Of the draws.

    Raises:
        InputError: Episodes are too short for one block.
    """
    data = EpisodeStore.open(store)
    longest = int(data.lengths[data.episodes_of(split)].max(initial=0)) // model.block
    drawn = clips_of(data, model, split, frames=min(blocks, longest) + 1, count=clips, seed=seed)
    latents = model.embed(drawn.frames)
    flat = latents.flatten(0, 1)
    variance = flat.var(0)
    spread = (flat - flat.mean(0)).pow(2).sum(-1).mean().sqrt()
    around = model.around(drawn.frames[:, 0])
    foreseen = model.roll(latents[:, 0], drawn.actions, around).mean(0)
    # Of another clip at the same place: actions are as common as before and belong to nothing.
    other = model.roll(latents[:, 0], drawn.actions.roll(1, 0), around).mean(0)
    one, wrong = ((f[:, 0] - latents[:, 1]).pow(2).sum(-1).mean() for f in (foreseen, other))

    def relative(guess: Tensor) -> tuple[float, ...]:
        apart = (guess - latents[:, 1:]).pow(2).sum(-1).mean(0).sqrt() / spread
        return tuple(apart.tolist())

    linear: dict[str, float] = {}
    perceptron: dict[str, float] = {}
    if labelled is not None and model.quantities:
        frames, known = labelled_frames(data, model, labelled, labels, seed + 1)
        held, truth = labelled_frames(data, model, split, max(labels, 200), seed + 2)
        learned, asked = model.embed(frames), model.embed(held)
        for name in model.quantities:
            linear[name] = _share(truth[name], _linear(learned, known[name], asked))
            perceptron[name] = _share(truth[name], _perceptron(learned, known[name], asked, seed))
    return Diagnosis(
        clips=len(drawn),
        variance=float(variance.mean()),
        dead=float((variance < DEAD).float().mean()),
        rank=effective_rank(flat),
        sensitivity=float(1.0 - one / wrong),
        error=relative(foreseen),
        persistence=relative(latents[:, :1].expand_as(foreseen)),
        linear=linear,
        perceptron=perceptron,
    )


def effective_rank(latents: Tensor) -> float:
    """The exponential of the entropy of the singular values of latents [N, D]."""
    values = torch.linalg.svdvals((latents - latents.mean(0)).double())
    share = values / values.sum().clamp(min=1e-300)
    return float(torch.exp(-(share * share.clamp(min=1e-300).log()).sum()))


def _share(truth: Tensor, guess: Tensor) -> float:
    """R2."""
    known = ~torch.isnan(truth)
    if int(known.sum()) < 2:
        raise InputError("a probe is judged on at least two labelled frames of the part that was not learned from")
    truth, guess = truth[known], guess[known]
    return float(1.0 - (truth - guess).pow(2).sum() / (truth - truth.mean()).pow(2).sum())


def _linear(x: Tensor, y: Tensor, asked: Tensor) -> Tensor:
    known = ~torch.isnan(y)
    centre, label = x[known].double().mean(0), y[known].double().mean()
    inputs = x[known].double() - centre
    gram = inputs.T @ inputs + 1e-3 * len(inputs) * torch.eye(inputs.shape[1], dtype=torch.float64)
    weight = torch.linalg.solve(gram, inputs.T @ (y[known].double() - label))
    read: Tensor = (asked.double() - centre) @ weight + label
    return read


@torch.enable_grad()
def _perceptron(x: Tensor, y: Tensor, asked: Tensor, seed: int, *, hidden: int = 64, steps: int = 400) -> Tensor:
    """One hidden layer, fitted on all labels at once."""
    known = ~torch.isnan(y)
    centre, scale = x[known].mean(0), x[known].std(0).clamp(min=1e-6)
    label, width = y[known].float().mean(), y[known].float().std().clamp(min=1e-6)
    inputs, wanted = (x[known] - centre) / scale, (y[known].float() - label) / width
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(x.shape[1], hidden), nn.GELU(), nn.Linear(hidden, 1))
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=1e-2)
    for _ in range(steps):
        optimiser.zero_grad()
        missed = (net(inputs)[:, 0] - wanted).pow(2).mean()
        missed.backward()
        optimiser.step()
    with torch.no_grad():
        read: Tensor = net((asked - centre) / scale)[:, 0].double()
    return read * width.double() + label.double()
