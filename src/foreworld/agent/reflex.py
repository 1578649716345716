"""`Reflex`: the fast mode with nothing around it, a decision in a few operations.

    reflex = Reflex(policy, forecaster)
    posed = reflex.pose(wanted, space, guardrails)                    # once, as long as the task stays the same
    actions, may = reflex.answer(posed, context, history, imagined=...)

A policy's one plan is held to the same guardrails as any candidate, at the price of what they ask for: where each of
them looks at actions alone and nothing is known of what is familiar, no forecast is made. Whoever's plan may not be
done is told so, and is searched for by an agent (`planning.planners.fast.FastPlanner` does both within one).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from foreworld.agent.policy import Policy
from foreworld.errors import InputError
from foreworld.forecast.forecaster import Forecaster, Imagined, check_finite
from foreworld.model.belief import History
from foreworld.planning.guardrail import Guardrail, check_guardrails, margin_of
from foreworld.planning.space import ActionSpace


@dataclass(frozen=True)
class Posed:
    """What stays the same from one decision to the next.

    Attributes:
        space: What may be done.
        guardrails: What every plan is held to.
        entered: [B, hidden] what is wanted adds to the first hidden layer, bias included; [hidden] where nothing is.
        enter: [C, hidden] weights of the states in it.
        foreseen: Whether a plan must be foreseen to be judged.
        even: Whether the unit cube is the space but for scale and place.
        each: Whether a block is one interval of the grid.
    """

    space: ActionSpace
    guardrails: tuple[Guardrail, ...]
    entered: Tensor
    enter: Tensor
    foreseen: bool
    even: bool
    each: bool


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
        (self._enter, self._bias), self._between, self._leave = [
            (w.T.clone().contiguous(), b.clone()) for w, b in layers
        ]

    @torch.no_grad()
    def pose(self, wanted: Tensor | None, space: ActionSpace, guardrails: Sequence[Guardrail]) -> Posed:
        """What is asked, made ready for many decisions.

        Args:
            wanted: [B, G] what is wanted (`Objective.condition`), or None.
            space: What may be done.
            guardrails: What every plan is held to.

        Raises:
            InputError: The policy plans another number of blocks or actions, or reads fewer numbers than are wanted;
                the guardrails cannot work together with the horizon.
        """
        if space.shape != self.shape:
            raise InputError(
                f"the policy plans {self.shape} blocks and actions, not {space.shape}: distil one for this"
            )
        check_guardrails(guardrails, space.grid.last)
        inputs = len(self._enter) - (0 if wanted is None else wanted.shape[1])
        if inputs <= 0:
            raise InputError(f"the policy reads {len(self._enter)} numbers, more are wanted: distil one for this")
        entered = self._bias if wanted is None else torch.addmm(self._bias, wanted, self._enter[inputs:])
        return Posed(
            space,
            tuple(guardrails),
            entered,
            self._enter[:inputs],
            self.forecaster.calibration.novelty is not None or any(rail.risk for rail in guardrails),
            space.warp == 1.0 and not any(space.levels),
            space.blocks == tuple(range(1, len(space.grid) + 1)),
        )

    def propose(self, posed: Posed, context: Tensor) -> Tensor:
        """[B, K, A] plans in the unit cube, as `Policy.propose` gives their mean; from states [B, C].

        Raises:
            InputError: The policy reads another number of features.
        """
        if context.shape[1] != len(posed.enter):
            raise InputError(
                f"the policy reads {len(posed.enter)} numbers of a state, here are {context.shape[1]}: "
                "distil one for this"
            )
        hidden = gelu(torch.addmm(posed.entered, context, posed.enter))
        hidden = gelu(torch.addmm(self._between[1], hidden, self._between[0]))
        return torch.addmm(self._leave[1], hidden, self._leave[0]).sigmoid_().view(-1, *self.shape)

    @torch.inference_mode()
    def answer(
        self, posed: Posed, context: Tensor, history: History, imagined: Callable[[], Imagined]
    ) -> tuple[Tensor, Tensor]:
        """The action to do now and whether it may be done.

        Args:
            posed: What is asked.
            context: [B, C] states as the predictor reads them (`Ready.context`).
            history: What was measured and done.
            imagined: The beliefs made ready; asked only where a forecast is needed.

        Returns:
            [B, A] raw units and [B].

        Raises:
            InputError: The policy reads another number of features.
        """
        plans, space = self.propose(posed, context), posed.space
        if posed.even:
            blocks = torch.lerp(space.lower, space.upper, plans)  # as `decode`, in one operation
        else:
            blocks = space.decode(plans[:, None])[:, 0]
        actions = blocks[:, None] if posed.each else space.expand(blocks[:, None])
        # All must be at least 0, and what is no number is not: what a plan of the unit cube sums to, and each margin.
        least = plans.sum((1, 2))
        forecast = None
        if posed.foreseen:
            forecast = self.forecaster.forecast(imagined(), actions)
            known = check_finite(forecast) & (forecast.novelty <= 1.0)
            least = torch.where(known[:, 0], least, -1.0)
        for rail in posed.guardrails:
            if forecast is None:  # at which an action guardrail does not look
                margin = rail.margin(None, actions, history)  # type: ignore[arg-type]
            else:
                margin = margin_of(rail, forecast, actions, history)
            least = torch.minimum(least, margin[:, 0])
        return blocks[:, 0], least >= 0.0
