"""Predictions for plans that hold one amount over each block of intervals, with all that is known before folded in.

A planner asks for hundreds of candidates of a few amounts each. The impulse responses to a block's intervals, their
mixture, the levels of the curves, the gains and the typical changes do not depend on the candidate, so they are
multiplied out once; a candidate then costs two small products and one bend of the saturating curves. What comes out is
what the long way gives (`WorldModel.respond`), but for the order of sums: within 1e-6 of its size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


def summed(responses: Tensor, blocks: tuple[int, ...]) -> Tensor:
    """Impulse responses [K, P, H] to one unit amount a step in every interval of a block: [K, P, N].

    Args:
        responses: To each interval.
        blocks: Last interval of each of the N blocks, exclusive.
    """
    starts = (0, *blocks[:-1])
    parts = [responses[..., start:stop].sum(-1) for start, stop in zip(starts, blocks, strict=True)]
    return torch.stack(parts, dim=-1)


@dataclass(frozen=True)
class Held:
    """Predictions of Q quantities by E members, for B subjects at P points, from amounts of N blocks.

    Attributes:
        start: [E, B, Q, P] what happens without actions.
        scale: [E, B, Q, P] log scales; actions do not change them.
        linear: [E, B, N * A, Q * P] what a unit amount changes by the linear curves.
        drive: [E, B, A, N, L * P] what the L saturating curves are driven to, in units of their level.
        gains: [E, B, A, L, Q, P] what those change at their level.
    """

    start: Tensor
    scale: Tensor
    linear: Tensor
    drive: Tensor
    gains: Tensor

    @classmethod
    def fold(
        cls,
        baseline: Tensor,
        gains: Tensor,
        weights: Tensor,
        responses: Tensor,
        levels: Tensor,
        *,
        sizes: Tensor,
        last: Tensor,
    ) -> Self:
        """Multiply out what `dynamics.Prepared` holds.

        Args:
            baseline: [E, B, P, 2 Q].
            gains: [E, B, P, Q, A * J] of the curves, the last L of each action's J saturating.
            weights: [E, B, A, K, J] mixture of the impulse responses.
            responses: [K, P, N] from `summed`.
            levels: [E, L] where the saturating curves level off.
            sizes: [P, Q] typical changes.
            last: [B, Q] last measured values.
        """
        kernels, points, blocks = responses.shape
        members, batch, actions, _, curves = weights.shape
        half, size = curves - levels.shape[-1], sizes.T
        drive = torch.matmul(responses.permute(2, 1, 0).reshape(-1, kernels), weights)
        drive = drive.reshape(members, batch, actions, blocks, points, curves).transpose(-1, -2)
        gains = gains.reshape(*gains.shape[:4], actions, curves).permute(0, 1, 4, 5, 3, 2) * size
        straight = drive.transpose(2, 3)[:, :, :, :, :half, None]  # [E, B, N, A, J, 1, P]
        linear = (straight * gains[:, :, None, :, :half]).sum(4)
        mean, scale = baseline.transpose(-1, -2).chunk(2, dim=2)
        return cls(
            mean * size + last[:, :, None],
            scale + size.log(),
            linear.reshape(members, batch, blocks * actions, -1),
            (drive[..., half:, :] / levels[:, None, None, None, :, None]).flatten(-2),
            (gains[:, :, :, half:] * levels[:, None, None, :, None, None]).contiguous(),
        )

    def select(self, index: Tensor) -> Held:
        """Those of some subjects."""
        parts = (self.start, self.scale, self.linear, self.drive, self.gains)
        return Held(*(part[:, index] for part in parts))

    def respond(self, amounts: Tensor) -> Tensor:
        """Latents [E, B, S, P, 2 Q] of normalised amounts [B, S, N, A]."""
        members, batch, actions, levels, quantities, points = self.gains.shape
        given = amounts.flatten(2).expand(members, -1, -1, -1).flatten(0, 1)
        mean = torch.baddbmm(self.start.reshape(members * batch, 1, -1), given, self.linear.flatten(0, 1))
        mean = mean.reshape(members, batch, -1, quantities, points)
        bent = torch.tanh(torch.matmul(amounts.permute(0, 3, 1, 2), self.drive))
        bent = bent.reshape(*bent.shape[:4], levels, 1, points)
        for action in range(actions):
            for level in range(levels):
                gains = self.gains[:, :, None, action, level]
                mean = torch.addcmul(mean, bent[:, :, action, :, level], gains)
        # Output by output in memory: readers take one of them at a time.
        scale = self.scale[:, :, None].expand_as(mean)
        return torch.cat([mean.movedim(3, 0), scale.movedim(3, 0)]).movedim(0, -1)
