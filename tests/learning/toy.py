"""A module, a stream and a loss that are small, and that use everything that a resumed run must restore."""

import torch
from torch import Tensor, nn

from foreworld.model.regularizers import sigreg, vicreg


class Draws:
    """Batches {"x": [B, 3], "y": [B, 1]} of a fixed nonlinear function, from a generator of its own."""

    def __init__(self, size: int = 32, seed: int = 0) -> None:
        self.size = size
        self.generator = torch.Generator().manual_seed(seed)
        self.given = 0

    def next(self) -> dict[str, Tensor]:
        self.given += 1
        x = torch.randn(self.size, 3, generator=self.generator)
        return {"x": x, "y": torch.sin(2 * x[:, :1]) + 0.5 * x[:, 1:2] * x[:, 2:]}

    def state_dict(self) -> dict[str, object]:
        return {"generator": self.generator.get_state().tolist(), "given": self.given}

    def load_state_dict(self, state: dict[str, object]) -> None:
        self.generator.set_state(torch.tensor(state["generator"], dtype=torch.uint8))
        self.given = state["given"]


class Net(nn.Module):
    """Two heads on one body; `spare` never takes part in the loss."""

    def __init__(self, dropout: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.body = nn.Sequential(nn.Linear(3, 24), nn.Tanh(), nn.Dropout(dropout), nn.Linear(24, 8))
            self.head = nn.Linear(8, 1)
            self.spare = nn.Linear(2, 2)


def loss(module: Net, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """A mean over samples, and regularisers that are not linear in the batch; a method is called, not `forward`."""
    latent = module.body(batch["x"])
    error = ((module.head(latent) - batch["y"]) ** 2).mean()
    variance, covariance = vicreg(latent)
    spread = sigreg(latent, slices=8, generator=generator)
    return {"loss": error + 0.02 * spread + 0.1 * variance + 0.1 * covariance, "error": error, "sigreg": spread}
