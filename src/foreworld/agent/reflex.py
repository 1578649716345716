"""`Reflex`: the fast mode with nothing around it, a decision in a few operations.

    reflex = Reflex(policy, forecaster)
    actions, may = reflex.answer(context, wanted, space, guardrails, history, imagined=...)

A policy's one plan is held to the same guardrails as any candidate, at the price of what they ask for: where each of
them looks at actions alone and nothing is known of what is familiar, no forecast is made. Whoever's plan may not be
done is told so, and is searched for by an agent (`planning.planners.fast.FastPlanner` does both within one).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from foreworld.agent.policy import Policy
from foreworld.errors import InputError
from foreworld.forecast.forecaster import Forecaster, Imagined, check_finite
from foreworld.model.belief import History
from foreworld.planning.guardrail import Guardrail, check_guardrails, margin_of
from foreworld.planning.space import ActionSpace


class Reflex:
    """A copy of a policy as it is now, its normalisation folded into its weights.

    Args:
        policy: Proposes.
        forecaster: Foresees the plan where a guardrail or what is familiar asks for it.
    """

    @torch.no_grad()
    def __init__(self, policy: Policy, forecaster: Forecaster) -> None:
        self.shape, self.forecaster = policy.shape, forecaster
        first, second, last = (layer for layer in policy.layers if isinstance(layer, nn.Linear))
        plans = self.shape[0] * self.shape[1]  # the rest says how far a plan may be off, and nobody asks
        weight = first.weight / policy.scale
        layers = [
            (weight, first.bias - weight @ policy.mean),
            (second.weight, second.bias),
            (last.weight[:plans], last.bias[:plans]),
        ]
        self._layers = [(w.T.clone().contiguous(), b.clone()) for w, b in layers]
        self._inputs = len(policy.mean)

    def propose(self, context: Tensor, wanted: Tensor | None) -> Tensor:
        """[B, K, A] plans in the unit cube, as `Policy.propose` gives their mean; from [B, C] and [B, G].

        Raises:
            InputError: The policy reads another number of features.
        """
        hidden = context if wanted is None else torch.cat([context, wanted], dim=1)
        if hidden.shape[1] != self._inputs:
            raise InputError(
                f"the policy reads {self._inputs} numbers, here are {hidden.shape[1]}: distil one for this"
            )
        for k, (weight, bias) in enumerate(self._layers):
            hidden = torch.addmm(bias, hidden, weight)
            if k < 2:
                hidden = nn.functional.gelu(hidden)
        return hidden.sigmoid_().view(len(hidden), *self.shape)

    @torch.no_grad()
    def answer(
        self,
        context: Tensor,
        wanted: Tensor | None,
        space: ActionSpace,
        guardrails: Sequence[Guardrail],
        history: History,
        imagined: Callable[[], Imagined],
    ) -> tuple[Tensor, Tensor]:
        """The action to do now and whether it may be done.

        Args:
            context: [B, C] states as the predictor reads them (`Ready.context`).
            wanted: [B, G] what is wanted (`Objective.condition`), or None.
            space: What may be done.
            guardrails: What every plan is held to.
            history: What was measured and done.
            imagined: The beliefs made ready; asked only where a forecast is needed.

        Returns:
            [B, A] raw units and [B].

        Raises:
            InputError: The policy plans another number of blocks or actions, or reads something else; the guardrails
                cannot work together with the horizon.
        """
        if space.shape != self.shape:
            raise InputError(
                f"the policy plans {self.shape} blocks and actions, not {space.shape}: distil one for this"
            )
        check_guardrails(guardrails, space.grid.last)
        plans = self.propose(context, wanted)
        if space.warp == 1.0 and not any(space.levels):
            blocks = torch.lerp(space.lower, space.upper, plans)[:, None]  # as `decode`, in one operation
        else:
            blocks = space.decode(plans[:, None])
        actions = blocks if space.blocks == tuple(range(1, len(space.grid) + 1)) else space.expand(blocks)
        may = torch.isfinite(actions.sum((1, 2, 3)))  # within bounds, so that a sum does not overflow
        forecast = None
        if self.forecaster.calibration.novelty is not None or any(rail.risk for rail in guardrails):
            forecast = self.forecaster.forecast(imagined(), actions)
            may &= (check_finite(forecast) & (forecast.novelty <= 1.0))[:, 0]
        for rail in guardrails:
            if forecast is None:  # at which an action guardrail does not look
                margin = rail.margin(None, actions, history)  # type: ignore[arg-type]
            else:
                margin = margin_of(rail, forecast, actions, history)
            may &= margin[:, 0] >= 0
        return blocks[:, 0, 0], may
