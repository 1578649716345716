"""`check_guardrail`: is a guardrail fixed, told apart from its neighbours, and on the right side of its bound?"""

from __future__ import annotations

import copy
import dataclasses
import math

import torch
from torch import Tensor

from foreworld.conformance.report import Report, Review
from foreworld.conformance.toy import select_history
from foreworld.errors import InputError
from foreworld.forecast.forecaster import Calibration, Forecast
from foreworld.model.belief import History
from foreworld.planning.guardrail import Guardrail, StateGuardrail, digest

SCALE = 1.0
# Steps of the sweep that a state guardrail is tried on, in units of the predicted scale around the bound.
OFFSETS = (-30.0, -3.0, -0.5, 0.5, 3.0, 30.0)


def check_guardrail(
    guardrail: Guardrail,
    *,
    history: History | None = None,
    inside: Tensor | None = None,
    outside: Tensor | None = None,
    forecast: Forecast | None = None,
) -> Report:
    """Try a guardrail.

    A `StateGuardrail` (or a subclass) is tried on forecasts made for it. Another guardrail bounds actions, and needs
    examples.

    Args:
        guardrail: What is tried.
        history: Of B subjects; for a guardrail of actions.
        inside: [B, S, H, A] actions that it must allow.
        outside: [B, S, H, A] actions that it must not allow.
        forecast: Of B subjects and S candidates, if it looks at one besides.

    Raises:
        InputError: A guardrail of actions without examples.
        ConformanceError: With every finding.
    """
    review = Review(f"guardrail {guardrail.name}")
    with review.check("is frozen"):
        _frozen(guardrail, review)
    with review.check("has a stable hash and digest"):
        _digest(guardrail, review)
    if isinstance(guardrail, StateGuardrail):
        _check_state(guardrail, review)
    elif history is None or inside is None or outside is None:
        raise InputError(
            f"guardrail {guardrail.name} bounds actions; give `history`, and actions `inside` and `outside` its bound"
        )
    else:
        _check_action(guardrail, review, history, inside, outside, forecast or _forecast("", inside.shape))
    return review.close()


def _frozen(guardrail: Guardrail, review: Review) -> None:
    names = [f.name for f in dataclasses.fields(guardrail)]
    for name in names:
        before = getattr(guardrail, name)
        try:
            setattr(guardrail, name, before)
        except (AttributeError, TypeError):
            continue
        review.expect(
            False,
            f"{name} to be fixed",
            "an assignment that succeeded",
            "make the class a frozen dataclass: @dataclass(frozen=True, kw_only=True)",
        )


def _digest(guardrail: Guardrail, review: Review) -> None:
    twin = copy.deepcopy(guardrail)
    alike = hash(twin) == hash(guardrail) and twin == guardrail
    review.expect(alike, "a copy to be equal, with an equal hash", "a different one", "compare by value")
    same = digest((twin,)) == digest((guardrail,))
    review.expect(same, "equal digests of equal guardrails", "different ones", "keep to JSON-able fields")
    other = dataclasses.replace(guardrail, source=guardrail.source + " (changed)")
    changed = digest((other,)) != digest((guardrail,))
    review.expect(changed, "the digest to change with a field", "the same digest", "hold all settings in fields")


# --- state guardrails --------------------------------------------------------------------------------------------


def _forecast(quantity: str, shape: torch.Size | tuple[int, ...], mean: Tensor | None = None) -> Forecast:
    """A forecast of `quantity` [B, S, H] at steps 1..H, familiar and usable to its end."""
    batch, candidates, points = shape[:3]
    level = torch.zeros(batch, candidates, points) if mean is None else mean
    name = quantity or "nothing"
    scale = torch.full_like(level, SCALE)
    return Forecast(
        points=torch.arange(1, points + 1),
        samples={name: level[None]},
        mean={name: level},
        scale={name: scale},
        lower={name: level - scale},
        upper={name: level + scale},
        calibration=Calibration(),
        novelty=torch.zeros(batch, candidates),
        usable=torch.full((batch, candidates), points, dtype=torch.int64),
        known=torch.ones(batch, dtype=torch.int64),
    )


def _blank(batch: int) -> History:
    return History(torch.zeros(batch, 1, dtype=torch.float64), {}, torch.ones(batch, dtype=torch.int64))


def _margin(guardrail: Guardrail, forecast: Forecast) -> Tensor:
    batch, candidates, points = forecast.mean[next(iter(forecast.mean))].shape
    return guardrail.margin(forecast, torch.zeros(batch, candidates, points, 1), _blank(batch))


def _check_state(guardrail: StateGuardrail, review: Review) -> None:
    side = 1.0 if guardrail.sense == "at_least" else -1.0
    points = guardrail.horizon + 2
    offsets = torch.tensor(OFFSETS)
    level = (guardrail.bound + side * SCALE * torch.stack([offsets, offsets.flip(0)]))[:, :, None]
    sweep = _forecast(guardrail.quantity, (2, len(offsets), points), level.repeat(1, 1, points))
    with review.check("gives margins [B, S]"):
        shape = tuple(_margin(guardrail, sweep).shape)
        review.expect(shape == (2, len(offsets)), f"margins of shape (2, {len(offsets)})", f"{shape}", "reduce over H")
    with review.check("is positive inside and negative outside"):
        ends = _margin(guardrail, sweep)[0]
        words = f"{guardrail.quantity} far {{}} the bound {guardrail.bound:g} ({guardrail.sense})"
        repair = "the margin is the distance on the allowed side; look at the sign"
        seen = f"{float(ends[0]):g}"
        review.expect(ends[0] < 0, f"a negative margin for {words.format('outside')}", seen, repair)
        review.expect(ends[-1] > 0, f"a positive margin for {words.format('inside')}", f"{float(ends[-1]):g}", repair)
    with review.check("grows with the distance from the bound"):
        rise = torch.diff(_margin(guardrail, sweep)[0])
        review.expect(
            (rise >= 0).all() and bool((rise > 0).any()),
            f"margins that grow as {guardrail.quantity} moves inwards",
            f"{[round(float(v), 6) for v in _margin(guardrail, sweep)[0]]}",
            "use a monotone function of the quantity",
        )
    with review.check("sees a violation at any step that counts"):
        _check_steps(guardrail, review, side)
    with review.check("lets nothing unknown pass"):
        _check_unknown(guardrail, review, side)
    with review.check("is tightened by the calibrated score"):
        _check_tightening(guardrail, review, sweep)
    with review.check("does not depend on the batch"):
        both = _margin(guardrail, sweep)
        for i in range(2):
            one = _forecast(guardrail.quantity, (1, len(offsets), points), sweep.mean[guardrail.quantity][i : i + 1])
            alone = _margin(guardrail, one)
            near = torch.allclose(alone[0], both[i], atol=1e-5, rtol=1e-5, equal_nan=True)
            review.expect(near, "the same margins alone as in a batch", "others", "work row by row")


def _check_steps(guardrail: StateGuardrail, review: Review, side: float) -> None:
    points = guardrail.horizon + 2
    for step in range(guardrail.start, guardrail.horizon + 1):
        level = torch.full((1, 1, points), guardrail.bound + side * 30 * SCALE)
        level[..., step - 1] = guardrail.bound - side * 30 * SCALE
        margin = float(_margin(guardrail, _forecast(guardrail.quantity, level.shape, level)))
        review.expect(
            not margin >= 0,
            f"a negative margin when step {step} of {guardrail.start}..{guardrail.horizon} is far outside",
            f"{margin:g}",
            "take the least margin over all steps that count",
        )


def _check_unknown(guardrail: StateGuardrail, review: Review, side: float) -> None:
    points = guardrail.horizon + 2
    fine = torch.full((1, 1, points), guardrail.bound + side * 30 * SCALE)
    for step in (guardrail.start, guardrail.horizon):
        level = fine.clone()
        level[..., step - 1] = math.nan
        margin = float(_margin(guardrail, _forecast(guardrail.quantity, level.shape, level)))
        review.expect(
            not margin >= 0, f"NaN or a negative margin when step {step} is NaN", f"{margin:g}", "let NaN through"
        )
    for name, words in (("scale", "a NaN scale"), ("usable", "a usable horizon that ends before the guardrail's")):
        forecast = _forecast(guardrail.quantity, fine.shape, fine)
        if name == "scale":
            forecast = dataclasses.replace(forecast, scale={guardrail.quantity: torch.full_like(fine, math.nan)})
            forecast = dataclasses.replace(forecast, calibration=_calibration(guardrail, 1.0))
        else:
            short = torch.full((1, 1), guardrail.horizon - 1, dtype=torch.int64)
            forecast = dataclasses.replace(forecast, usable=short)
        margin = float(_margin(guardrail, forecast))
        review.expect(
            not margin >= 0, f"NaN or a negative margin for {words}", f"{margin:g}", "give NaN where it cannot be told"
        )


def _calibration(guardrail: StateGuardrail, score: float) -> Calibration:
    return Calibration(trajectory={guardrail.name: {f"{guardrail.risk:g}": score}})


def _check_tightening(guardrail: StateGuardrail, review: Review, sweep: Forecast) -> None:
    before = _margin(guardrail, sweep)
    for score in (0.5, 1.0, 5.0, math.inf):
        after = _margin(guardrail, dataclasses.replace(sweep, calibration=_calibration(guardrail, score)))
        review.expect(
            bool((after < before).all()),
            f"every margin to be lower at a calibrated score of {score:g} than at a lower one",
            "one that did not fall",
            "subtract forecast.trajectory_bound(name, risk) times the predicted scale",
        )
        before = torch.where(torch.isinf(after), before, after)


# --- guardrails of actions ---------------------------------------------------------------------------------------


def _check_action(
    guardrail: Guardrail, review: Review, history: History, inside: Tensor, outside: Tensor, forecast: Forecast
) -> None:
    def margin(actions: Tensor, past: History = history) -> Tensor:
        return guardrail.margin(forecast, actions, past)

    with review.check("gives margins [B, S]"):
        shape, wanted = tuple(margin(inside).shape), tuple(inside.shape[:2])
        review.expect(shape == wanted, f"margins of shape {wanted}", f"{shape}", "reduce over steps and actions")
    with review.check("is positive inside and negative outside"):
        least, most = margin(inside).min(), margin(outside).max()
        repair = "the margin is what is left before the bound; look at the sign"
        review.expect(least >= 0, "margins of at least 0 for actions inside the bound", f"{float(least):g}", repair)
        review.expect(most < 0, "negative margins for actions outside the bound", f"{float(most):g}", repair)
    with review.check("lets nothing unknown pass"):
        lost = margin(torch.full_like(inside, math.nan))
        review.expect(
            not bool((lost >= 0).any()), "NaN or negative margins for NaN actions", "a margin of 0 or more", "keep NaN"
        )
        blind = margin(outside, _unmeasured(history))
        review.expect(
            not bool((blind >= 0).any()),
            "actions outside the bound to be refused when nothing was measured",
            "a margin of 0 or more",
            "give NaN, or the bound that holds without measurements",
        )
    with review.check("does not depend on the batch"):
        both = margin(inside)
        for i in range(len(history)):
            index = torch.tensor([i])
            alone = guardrail.margin(_row(forecast, i), inside[index], select_history(history, index))
            near = torch.allclose(alone[0], both[i], atol=1e-5, rtol=1e-5, equal_nan=True)
            review.expect(near, "the same margins alone as in a batch", f"others for subject {i}", "work row by row")
    with review.check("leaves its inputs alone"):
        copies = inside.clone(), {name: value.clone() for name, value in history.values.items()}
        margin(inside)
        same = torch.equal(copies[0], inside) and all(
            torch.equal(torch.nan_to_num(value.double()), torch.nan_to_num(history.values[name].double()))
            for name, value in copies[1].items()
        )
        review.expect(same, "unchanged actions and history", "changed ones", "do not work in place")


def _unmeasured(history: History) -> History:
    values = {
        name: torch.full_like(value, math.nan) if value.is_floating_point() else value
        for name, value in history.values.items()
    }
    return History(history.times, values, history.lengths)


def _row(forecast: Forecast, i: int) -> Forecast:
    """The forecast of subject `i` alone."""

    def of(values: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: value[i : i + 1] for name, value in values.items()}

    return dataclasses.replace(
        forecast,
        samples={name: value[:, i : i + 1] for name, value in forecast.samples.items()},
        mean=of(forecast.mean),
        scale=of(forecast.scale),
        lower=of(forecast.lower),
        upper=of(forecast.upper),
        novelty=forecast.novelty[i : i + 1],
        usable=forecast.usable[i : i + 1],
    )
