"""What every process of `test_distributed` runs; the first one writes what it found into the folder given."""

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from tests.learning.toy import Draws, Net, loss
from tests.model.toy import SCHEMA, episode, make_model
from torch import Tensor, nn

from foreworld.errors import InputError, ModelError
from foreworld.learning.distributed import Ranks, processes
from foreworld.learning.fit import FitConfig, fit
from foreworld.learning.resume import read_state
from foreworld.model.belief import History
from foreworld.model.loss import LossConfig, prediction_loss
from foreworld.model.regularizers import sigreg, vicreg

CONFIG = FitConfig(steps=12, lr=1e-2, warmup=2, ema=0.8, log_every=5)
TERMS = {
    "mean": lambda x, y: ((x - y) ** 2).mean(),
    "sigreg": lambda x, y: sigreg(x, slices=8, generator=torch.Generator().manual_seed(4)),
    "variance": lambda x, y: vicreg(0.2 * x)[0],
    "covariance": lambda x, y: vicreg(x)[1],
    "product": lambda x, y: ((x - y) ** 2).mean() + 3.0 * sigreg(x**2, slices=4, generator=torch.Generator()),
}


def gradients(ranks: Ranks) -> dict[str, Tensor]:
    """Of each term, on the whole batch or on this process's share of it."""
    batch = ranks.shard(Draws(24).next())
    found = {}
    for name, term in TERMS.items():
        net = Net()
        term(net.body(batch["x"]), batch["y"]).backward()
        ranks.average_gradients(net)
        assert net.spare.weight.grad is None, "a parameter without a gradient must keep none"
        for key, parameter in net.named_parameters():
            if parameter.grad is not None:
                found[f"{name}/{key}"] = parameter.grad
    return found


def resumed(ranks: Ranks, folder: Path) -> None:
    """A run that stops and goes on equals one that does not, with a dropout that differs between processes."""
    ends = []
    for stop in (None, 4):
        calls = 0

        def stopping(module, batch, generator, stop=stop):
            nonlocal calls
            calls += 1
            if calls - 1 == stop:
                raise KeyboardInterrupt
            return loss(module, batch, generator)

        run = folder / f"stop-{stop}"
        config = CONFIG.model_copy(update={"save_every_seconds": 0.0})
        net = Net(dropout=0.3)
        if stop is not None:
            try:
                fit(net, Draws(), stopping, config, run)
            except KeyboardInterrupt:
                assert read_state(run).step == stop
            net = Net(dropout=0.3, seed=9)
        assert fit(net, Draws(), loss, config, run).resumed == (stop or 0)
        ends.append(nn.utils.parameters_to_vector(net.parameters()).detach())
    assert torch.equal(*ends)
    states = read_state(run).tensors["random/torch"]
    assert len(states) == ranks.size
    assert not torch.equal(states[0], states[-1]) or ranks.size == 1


def refusals(ranks: Ranks, folder: Path) -> None:
    """A loss that is not finite on one process stops all of them; a batch that cannot be shared is refused."""

    def broken(module, batch, generator):
        parts = loss(module, batch, generator)
        return {"loss": parts["loss"] * (torch.nan if ranks.rank == ranks.size - 1 else 1.0)}

    try:
        fit(Net(), Draws(), broken, CONFIG, folder / "broken")
    except ModelError as error:
        assert "step 1 is not finite" in str(error)
    else:
        raise AssertionError("trained on NaN")
    try:
        fit(Net(), Draws(33), loss, CONFIG)
    except InputError as error:
        assert ranks.size > 1
        assert "multiple of 2" in str(error)
    else:
        assert ranks.size == 1


def world_model(ranks: Ranks) -> None:
    """A world model trains, and all processes end with one set of weights."""

    class Windows(Draws):
        def next(self):
            return History.from_episodes(SCHEMA, [episode(i, 40) for i in range(4)])

    weights = LossConfig(anchors=4, points=4, slices=8)
    model = make_model(seed=ranks.rank)
    fit(model, Windows(), lambda m, b, g: prediction_loss(m, b, weights, g), FitConfig(steps=3))
    every = ranks.gather(nn.utils.parameters_to_vector(model.parameters()).detach())
    assert (every == every[0]).all()


def main(folder: Path) -> None:
    """Everything, in one start of Python."""
    torch.set_num_threads(1)
    with processes(timeout_seconds=60) as ranks:
        found = gradients(ranks)
        # Different first weights: the first process's count.
        net = Net(seed=ranks.rank)
        fit(net, Draws(), loss, CONFIG, folder / "run")
        found |= {f"weights/{name}": value for name, value in net.state_dict().items()}
        resumed(ranks, folder)
        refusals(ranks, folder)
        world_model(ranks)
        found["size"] = torch.tensor(ranks.size)
        if ranks.main:
            save_file(found, folder / "found.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    # Not through the end of the interpreter: gloo's threads may still hold tensors then, and abort the process
    # (https://github.com/pytorch/pytorch/pull/179291). What is tested here is over.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
