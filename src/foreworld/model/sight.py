"""What the predictor sees around the points of a latent, in the frame that the imagination starts from.

A wall that stands elsewhere in each episode is the same few pixels from wherever one stands before it. So the predictor
need not learn where each wall of each scene is, and the latent need not hold it: it samples the frame around where a
point is, or would be (spatial transformers, Jaderberg et al. 2015; glimpses, Mnih et al. 2014). The frame is an input
and nothing is to predict it, so nothing of it can take over the latent.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foreworld.model.ensemble import EnsembleLinear
from foreworld.model.vision import SPREAD

SPACING = 2.0  # px of the frame between samples


class Sight(nn.Module):
    """Samples a frame around each point, for E predictors, and judges whether anybody could be there.

    Args:
        members: Predictors, E.
        hidden: Their width.
        points: P.
        colours: Of a frame.
        side: Of a frame, px.
        reach: Samples to each side of a point.
    """

    offsets: Tensor

    def __init__(self, members: int, hidden: int, points: int, colours: int, side: int, reach: int) -> None:
        super().__init__()
        self.points = points
        line = torch.arange(-reach, reach + 1) * (2.0 * SPACING / side)
        grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1).flatten(0, 1)
        self.register_buffer("offsets", grid, persistent=False)
        seen = colours * len(grid) * points
        self.see = EnsembleLinear(members, seen, hidden)
        self.more = EnsembleLinear(members, hidden, hidden)
        self.support = nn.Sequential(nn.Linear(seen + 2 * points, 128), nn.GELU(), nn.Linear(128, 1))

    def forward(self, latents: Tensor, around: Tensor) -> Tensor:
        """[E, N, hidden] what is seen around latents [E, N, 2 P], or [N, 2 P], in frames [B, C, H, W]."""
        return self.see(self.patches(latents, around))  # type: ignore[no-any-return]

    def deepen(self, hidden: Tensor) -> Tensor:
        """[E, N, hidden] after one more layer: whether a wall is in the way depends on several things at once."""
        return nn.functional.gelu(self.more(hidden) + hidden)

    def present(self, latents: Tensor, around: Tensor) -> Tensor:
        """[..., N] log odds that somebody who is at latents [..., N, 2 P] was seen in this scene and not in another.

        Learned by telling one's own places from those of other scenes (noise-contrastive estimation, Gutmann and
        Hyvarinen 2010): where nobody can be, such as within a wall, nobody was.
        """
        seen = torch.cat([self.patches(latents, around), latents], dim=-1)
        return self.support(seen)[..., 0]  # type: ignore[no-any-return]

    def patches(self, latents: Tensor, around: Tensor) -> Tensor:
        """[..., N, C P (2 reach + 1)^2] pixels around each point of latents [..., N, 2 P].

        The N follow one another by scene, equally many for each of the B frames.
        """
        *lead, count, _ = latents.shape
        scenes, colours = len(around), around.shape[1]
        each = count // scenes
        flat = latents.reshape(-1, scenes, each, self.points, 1, 2).transpose(0, 1)  # [B, E, N / B, P, 1, 2]
        places = (flat / SPREAD + self.offsets).flatten(1, 3)
        seen = nn.functional.grid_sample(around, places, padding_mode="border", align_corners=False)
        seen = seen.reshape(scenes, colours, -1, each, self.points, len(self.offsets))
        return seen.permute(2, 0, 3, 1, 4, 5).reshape(*lead, count, -1)
