"""Searches for proposals that get past the insulin pack: each follows somebody's margin to where accepting ends.

    for state, action in ATTACKS["gradient"](checker, rng): ...

`gradient` ascends the reference's margin by finite differences in the whole state, and ends with secant steps;
`secant` follows the margins that the checker itself reports, in the dose, where they are piecewise smooth; `decision`
bisects between an accepted and a refused state on the checker's answer alone (the boundary attack of Brendel et al.
2018, for what has no gradient); `greedy` takes the greatest dose that the checker accepts, again and again, so that
limits on sums and intervals are approached in many steps; `model_doses` follows the gradient of the world model's own
objective beyond the limits.
"""

import copy
import math
from types import SimpleNamespace

import numpy as np
import torch
from proposals import KINDS, LENGTHS, history, proposal
from reference_checker import greatest_doses, is_sound

from foreworld.agent.check import Measured

PROFILE = ("weight", "basal", "cr", "cf")
SERIES = ("times", "cgm", "insulin", "carbs")
# Beside a boundary, relative: within the tolerance of the comparison, and just and well beyond it.
NEAR = (0.0, 2e-16, 1e-12, 3e-9, 1e-8, 1e-7, 9e-7, 1.1e-6, 1e-5, 1e-3)
UNITS_OF_DOSE = ("step_dose", "bolus_size", "max_iob", "daily_total", "justified_bolus", "insulin_bounds")


def measured_from(state):
    """What the checker may look at of a state of lists and floats."""
    return Measured(
        times=np.array(state["times"]),
        observations={"cgm": np.array(state["cgm"])},
        actions={"insulin": np.array(state["insulin"])},
        exogenous={"carbs": np.array(state["carbs"])},
        statics={name: state[name] for name in PROFILE},
    )


def accepts(checker, state, dose):
    return checker.check(measured_from(state), {"insulin": dose}).accepted


def beside(dose):
    """Doses on both sides of a boundary."""
    return [x for gap in NEAR for x in (dose * (1 - gap), dose * (1 + gap))] + [math.nextafter(dose, math.inf)]


# --- The checker's own margins ---------------------------------------------------------------------------------------


def greatest_accepted(checker, state, top=30.0):
    """The greatest dose that the checker accepts, to the last bits: secant steps on its margins, then bisection.

    A rule that judges an amount of insulin says by how much the dose is too great; from a refused dose that is the
    secant step to its boundary. The greatest dose below which a rule knows nothing of amounts is bisected.
    """
    measured = measured_from(state)

    def judged(dose):
        return checker.check(measured, {"insulin": dose})

    high, low = top, 0.0
    for _ in range(6):
        verdict = judged(high)
        if verdict.accepted:
            break
        excess = [r.value - r.bound for r in verdict.reasons if r.rule in UNITS_OF_DOSE and math.isfinite(r.value)]
        step = max((x for x in excess if x == x), default=0.0)
        down = high - step
        if not 0.0 < down < high:
            break
        # Not quite the whole step: the boundary has a tolerance, and below it lies the next rule.
        probe = down * (1 - 1e-9)
        if judged(probe).accepted:
            low = probe
            high = min(high, down * (1 + 1e-5))
            break
        high = probe
    if judged(high).accepted:
        return high
    for _ in range(60):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if judged(middle).accepted else (low, middle)
        if high - low <= 4e-16 * high:
            break
    return low


def secant(checker, rng):
    """Doses on both sides of the greatest accepted one, and around what each rule alone would allow."""
    state = history(rng)
    if rng.random() < 0.3 and state["times"]:
        # A light person before a large meal, whom the limits by weight bind and not those by the carb ratio.
        steps = len(state["insulin"])
        state |= {"weight": state["weight"] * float(rng.uniform(0.2, 0.6)), "insulin": [state["basal"] / 12] * steps}
        state["carbs"] = [*state["carbs"][:-1], float(rng.uniform(60.0, 140.0))]
    greatest = greatest_accepted(checker, state)
    doses = beside(greatest) if greatest > 0 else [5e-324, 1e-300, 1e-12, 1e-6, 1e-3, 0.1]
    yield from ((state, {"insulin": float(dose)}) for dose in doses)


def greedy(checker, rng, steps=24):
    """A person who is given the greatest dose that is accepted, step after step, for two hours."""
    state = history(rng, int(rng.choice([12, 40, 250])))
    cgm = float(rng.uniform(90.0, 380.0))
    tries = (0.0, 1e-12, 3e-9, 1e-7, 1.1e-6, 1e-4)
    for _ in range(steps):
        greatest = greatest_accepted(checker, state)
        for gap in tries:
            yield state, {"insulin": greatest * (1 + gap)}
        if not state["times"]:
            return
        cgm = min(max(cgm + float(rng.normal(2.0, 3.0)), 71.0), 590.0)
        carbs = float(rng.uniform(10.0, 140.0)) if rng.random() < 0.15 else 0.0
        state = {
            **state,
            "times": [*state["times"], state["times"][-1] + float(rng.choice([1.0, 3.0, 5.0, 5.0, 5.0]))],
            "cgm": [*state["cgm"], cgm],
            "insulin": [*state["insulin"], greatest],
            "carbs": [*state["carbs"], carbs],
        }


# --- The answer alone ------------------------------------------------------------------------------------------------


def mixed(one, other, share):
    """The state a share of the way from one to another of the same length; what cannot be mixed changes half way."""

    def between(a, b):
        if a == b or not (math.isfinite(a) and math.isfinite(b)):
            return a if share < 0.5 else b
        return a + share * (b - a)

    state = {key: [between(a, b) for a, b in zip(one[key], other[key], strict=True)] for key in SERIES}
    return state | {key: between(one[key], other[key]) for key in PROFILE}


def start(checker, rng):
    """A state in which some insulin is accepted, how much, and whether its newest reading is some minutes old."""
    while True:
        state, late = history(rng, int(rng.choice(LENGTHS[1:]))), rng.random() < 0.25
        if not state["times"]:
            continue
        if late:
            state["cgm"] = [*state["cgm"][:-1], math.nan]
        greatest = greatest_accepted(checker, state)
        if greatest > 0:
            return state, greatest, late


def target(checker, rng, state, dose, late):
    """A state of the same length in which the dose is refused, or None."""
    for _ in range(12):
        other = history(rng, len(state["times"]) - 1)
        if late and is_sound(state["times"]):
            # The present moves on and no reading comes: the newest becomes too old.
            other = {**copy.deepcopy(state), "times": [*state["times"][:-1], state["times"][-1] + 40.0]}
        elif other["times"] and rng.random() < 0.8:  # one stream or number at a time; otherwise another person
            changed = str(rng.choice([*SERIES, *PROFILE]))
            other = {**copy.deepcopy(state), changed: other[changed]}
        if other["times"] and not accepts(checker, other, dose):
            return other
    return None


def decision(checker, rng):
    """States on both sides of where the checker begins to refuse a dose, on the way to a state in which it does."""
    found, greatest, late = start(checker, rng)
    dose = float(greatest * rng.choice([0.999, 0.9, 0.5, 0.1]))
    other = target(checker, rng, found, dose, late)
    if other is None:
        return
    low, high = 0.0, 1.0
    for _ in range(55):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        accepted = accepts(checker, mixed(found, other, middle), dose)
        low, high = (middle, high) if accepted else (low, middle)
    for gap in NEAR:
        for share in (max(low - gap, 0.0), min(high + gap, 1.0)):
            yield mixed(found, other, share), {"insulin": dose}


# --- The reference's margin ------------------------------------------------------------------------------------------


def coordinates(state, rng):
    """Ways to change a state a little: the profile, the newest readings, doses and entries, and the clock."""
    ways = [("static", name, 0) for name in PROFILE] + [("carbs", "carbs", -1), ("clock", "times", 0)]
    ways += [("value", "cgm", -1 - k) for k in (0, 1, 3, 5) if k < len(state["cgm"])]
    past = len(state["insulin"])
    ways += [("value", "insulin", -1 - int(k)) for k in rng.choice(past, min(past, 3), replace=False)] if past else []
    return ways


def moved(state, ways, x):
    """The state with coordinate i changed by x[i]: a share of a profile's number, mg/dL, U, g or a share of time."""
    result = {**state, **{key: list(state[key]) for key in SERIES}}
    for (kind, name, at), change in zip(ways, x, strict=True):
        if kind == "static":
            result[name] = state[name] * math.exp(change)
        elif kind == "clock":
            start = state["times"][0]
            result["times"] = [start + (t - start) * math.exp(0.1 * change) for t in state["times"]]
        elif math.isfinite(result[name][at]):
            scale = {"cgm": 30.0, "insulin": 1.0, "carbs": 30.0}[name]
            result[name][at] = max(float(result[name][at] + scale * change), 0.0)
    return result


def margin(state, dose):
    """How far a dose is from the greatest that the reference allows, on a logarithmic scale; below 0 it is refused."""
    greatest = min(greatest_doses(state, 0.0, 0.0).values())
    return math.log((greatest + 1e-6) / dose)


def gradient(checker, rng):
    """Follow the gradient of the reference's margin in the state to its zero; propose states on both sides of it."""
    state = history(rng, int(rng.choice(LENGTHS[1:-1])))
    if not state["times"] or not all(math.isfinite(state[name]) and state[name] > 0 for name in PROFILE):
        return
    greatest = min(greatest_doses(state, 0.0, 0.0).values())
    dose = greatest * float(rng.choice([0.7, 0.9, 1.1, 1.4])) if greatest > 0 else state["basal"] / 12
    ways = coordinates(state, rng)
    x, sides = np.zeros(len(ways)), {}
    for _ in range(6):
        here = margin(moved(state, ways, x), dose)
        sides[here >= 0] = x.copy()
        slope = np.zeros(len(ways))
        for i in range(len(ways)):
            step = np.zeros(len(ways))
            step[i] = 1e-4
            ahead, behind = (margin(moved(state, ways, x + s * step), dose) for s in (1, -1))
            slope[i] = (ahead - behind) / 2e-4
        size = float(slope @ slope)
        if not (math.isfinite(size) and size > 1e-12) or abs(here) < 1e-13:
            # No slope, as where insulin is suspended: a random direction, as far as it takes.
            x = x + rng.normal(0, 0.3, len(ways))
        else:
            # A little more than the Newton step, so that both sides of the boundary are met.
            x = x - np.clip(1.1 * here * slope / size, -0.5, 0.5)
        yield moved(state, ways, x), {"insulin": dose}
    here = margin(moved(state, ways, x), dose)
    sides[here >= 0] = x.copy()
    if len(sides) < 2:
        return
    inside, outside = sides[True], sides[False]
    low, high, at = margin(moved(state, ways, inside), dose), margin(moved(state, ways, outside), dose), 0.5
    a, b = 0.0, 1.0  # shares of the way from inside to outside, with the margins `low` >= 0 and `high` < 0 there
    for k in range(40):
        # Secant steps (Illinois), every third one a bisection, as the margin jumps where a rule begins to hold.
        at = (a + b) / 2 if k % 3 == 2 or low == high else min(max(a + (b - a) * low / (low - high), a), b)
        here = margin(moved(state, ways, inside + at * (outside - inside)), dose)
        a, b, low, high = (at, b, here, high / 2) if here >= 0 else (a, at, low / 2, here)
        if b - a < 1e-15:
            break
    for gap in NEAR:
        for share in (a - gap, b + gap):
            yield moved(state, ways, inside + share * (outside - inside)), {"insulin": dose}


ATTACKS = {
    "random": lambda checker, rng: [proposal(rng.integers(1 << 62), tuple(k for k in KINDS if k != "boundary"))],
    "boundary": lambda checker, rng: [proposal(rng.integers(1 << 62), ("boundary",))],
    "gradient": gradient,
    "secant": secant,
    "decision": decision,
    "greedy": greedy,
}


# --- The world model -------------------------------------------------------------------------------------------------

WISHES = ("high", "mean", "hypo", "insulin")


def wish(name, glucose):
    """What an adversary would have the model want [E, B, S, H] -> [B, S], less is better."""
    if name == "high":
        return (torch.clamp((glucose - 115.0) / 50.0, min=0.0) ** 2).mean((0, -1))
    if name == "hypo":
        return (((glucose - 40.0) / 18.0) ** 2).mean((0, -1))
    return glucose.mean((0, -1)) / 50.0


def model_doses(forecaster, problem, starts, *, steps=16):
    """Doses along gradient ascents on the world model, from near the greatest that is allowed and far beyond it.

    Args:
        forecaster: Whose model is asked, unbounded and without guardrails.
        problem: Of B subjects, `SimpleNamespace(belief, grid)`.
        starts: [B] U where the ascents begin.
        steps: Of each ascent; their length grows from 1e-7 to 1, relative to the dose.

    Returns:
        [B, W, steps + 1] U of the coming step for W wishes.
    """
    model, belief = forecaster.model, problem.belief
    prepared = model.prepare(belief, None)
    size = torch.as_tensor(starts, dtype=torch.float32).clamp(min=1e-6)
    found = [[] for _ in WISHES]
    for w, name in enumerate(WISHES):
        theta = torch.zeros(len(belief), len(problem.grid), requires_grad=True)
        for k in range(steps + 1):
            plan = size[:, None] * torch.exp(theta)
            found[w].append(plan[:, 0].detach().double().numpy())
            if name == "insulin":
                cost = -plan.sum(1)
            else:
                latents = model.respond(prepared, model.normalise_actions(belief, plan[:, None, :, None]))
                cost = wish(name, model.read(latents)["cgm"])[:, 0]
            (slope,) = torch.autograd.grad(cost.sum(), theta)
            # A sign step of growing length: the slope in the first dose may be small, and the limits are close.
            length = 10.0 ** (-7.0 + 7.0 * k / steps)
            theta = (theta - length * torch.sign(torch.nan_to_num(slope))).detach().requires_grad_(True)
    return np.stack([np.stack(one, axis=1) for one in found], axis=1)


def from_model(forecaster, checker, past, rng):
    """Proposals from gradient ascents on a model, for people with a past, at one moment.

    Args:
        forecaster: Trained.
        checker: Says where the ascents begin.
        past: `tiny.Past`.
        rng: Of the moment.
    """
    from foreworld.domains.treatment.schema import SCHEMA
    from foreworld.model.belief import History

    now = int(rng.integers(2, past.insulin.shape[1]))
    size = len(past.names)
    values = {"cgm": past.cgm[:, : now + 1], "carbs": past.carbs[:, : now + 1], "insulin": past.insulin[:, :now]}
    told = History.from_arrays(SCHEMA, np.tile(5.0 * np.arange(now + 1.0), (size, 1)), values | past.statics)
    states = [state_of(told, i) for i in range(size)]
    starts = np.array([greatest_accepted(checker, state) for state in states])
    with torch.no_grad():
        belief = forecaster.model.encode(told)
    doses = model_doses(forecaster, SimpleNamespace(belief=belief, grid=forecaster.model.config.grid), starts)
    for i, state in enumerate(states):
        for dose in doses[i].ravel():
            yield state, {"insulin": float(dose)}


def state_of(told, i):
    """Subject `i` of a history as lists and floats, with what the checker is shown of it."""
    last = int(told.lengths[i])
    cut = {"insulin": last - 1}
    series = {name: told.values[name][i].double().tolist()[: cut.get(name, last)] for name in SERIES[1:]}
    statics = {name: float(told.values[name][i]) for name in PROFILE}
    return {"times": told.times[i].double().tolist()[:last], **series, **statics}
