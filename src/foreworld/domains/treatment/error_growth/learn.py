"""The arms that are trained here, each for its share of the CPU time that the world model's training took, and kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import nn

from foreworld.domains.treatment.error_growth.budget import Cost, seeded
from foreworld.domains.treatment.error_growth.gpt import GPT, Autoregressive, GPTConfig, train_gpt
from foreworld.domains.treatment.error_growth.logs import Log
from foreworld.domains.treatment.error_growth.recursive import Recursive
from foreworld.domains.treatment.error_growth.stepwise import StepConfig, StepNetwork, train_steps
from foreworld.domains.treatment.error_growth.two_rate import HOUR, TwoRate
from foreworld.domains.treatment.forecasting import Arm
from foreworld.episodes.files import read_json, write_json
from foreworld.evidence.report import write_file


class ArmsConfig(BaseModel):
    """The arms and their CPU time.

    Attributes:
        gpt: Of `token`.
        step: Of `recursive`, and of both networks of `two_rate`.
        token: Its CPU time, as a share of that of the world model's training.
        recursive: Its; at 0.12 it sees about twice as many moments as the world model does.
        two_rate: Its, half for each network.
        seconds: What counts as the world model's CPU time where nobody knows it: a model was given, or its training
            was interrupted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    gpt: GPTConfig = GPTConfig()
    step: StepConfig = StepConfig()
    token: float = Field(default=1.0, gt=0)
    recursive: float = Field(default=0.12, gt=0)
    two_rate: float = Field(default=0.12, gt=0)
    seconds: float = Field(default=900.0, gt=0)


LEARNED = ("token", "recursive", "two_rate")


def networks(name: str, config: ArmsConfig, seed: int) -> dict[str, nn.Module]:
    """The untrained networks of an arm."""

    def step(ahead: int) -> StepNetwork:
        made = config.step.model_copy(update={"ahead": ahead, "seed": seed})
        return seeded(lambda: StepNetwork(made), seed)

    if name == "token":
        gpt = config.gpt.model_copy(update={"seed": seed})
        return {"gpt": seeded(lambda: GPT(gpt), seed)}
    return {"fine": step(1)} if name == "recursive" else {"coarse": step(HOUR), "fine": step(1)}


def arm_of(parts: Mapping[str, nn.Module]) -> Arm:
    """The arm that these networks make."""
    match parts:
        case {"gpt": GPT() as gpt}:
            return Autoregressive(gpt)
        case {"coarse": StepNetwork() as coarse, "fine": StepNetwork() as fine}:
            return TwoRate(coarse, fine)
        case {"fine": StepNetwork() as fine}:
            return Recursive(fine)
    raise ValueError(f"no arm is made of {', '.join(parts)}")


def learn(
    name: str, log: Callable[[], Log], config: ArmsConfig, *, seconds: float, seed: int, folder: Path
) -> tuple[Arm, Cost]:
    """An arm, trained once and then read from `folder`: what a CPU clock stopped cannot be trained again bit for bit.

    Args:
        name: One of `LEARNED`.
        log: Gives what to learn from; only called where something is to be learned.
        config: Sizes and shares of time.
        seconds: CPU seconds that the world model's training took.
        seed: Of weights and batches.
        folder: Where trained arms of this configuration, store and seed are kept.
    """
    parts = networks(name, config, seed)
    both, file, note = nn.ModuleDict(parts), folder / f"{name}.safetensors", folder / f"{name}.json"
    if not (file.is_file() and note.is_file()):
        each = getattr(config, name) * seconds / len(parts)
        taken = log()
        costs = [
            train_gpt(part, taken, each) if isinstance(part, GPT) else train_steps(part, taken, each)
            for part in parts.values()
            if isinstance(part, GPT | StepNetwork)
        ]
        write_file(file, to_bytes(both.state_dict()))
        write_json(note, {"steps": sum(c.steps for c in costs), "cpu_seconds": sum(c.cpu_seconds for c in costs)})
    both.load_state_dict(load_file(file))
    both.eval()
    found = read_json(note)
    return arm_of(parts), Cost(int(found["steps"]), float(found["cpu_seconds"]))
