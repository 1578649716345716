"""Adversarial raw proposals for the insulin pack: a history, and an action that tries to get past the rules."""

import math

import numpy as np
from reference_checker import greatest_doses

LENGTHS = (0, 1, 2, 3, 4, 7, 12, 26, 40, 64, 100, 320)
KINDS = ("standard", "uniform", "boundary", "boundary", "boundary", "basal", "broken", "raw", "tiny", "huge")


def subject(rng):
    """A plausible profile; one in ten is damaged."""
    daily = rng.uniform(12.0, 75.0)
    profile = {
        "weight": float(rng.uniform(20.0, 115.0)),
        "basal": float(daily / rng.uniform(36.0, 70.0)),
        "cr": float(rng.uniform(350.0, 550.0) / daily),
        "cf": float(rng.uniform(1200.0, 2000.0) / daily),
    }
    if rng.random() < 0.1:
        key = str(rng.choice(list(profile)))
        damage = [math.nan, 0.0, -1.0, math.inf, profile[key] * 10, profile[key] / 18, profile[key] * 1000]
        profile[key] = float(rng.choice(damage))
    return profile


def clock(rng, steps):
    times = float(rng.uniform(0, 1e5)) * (rng.random() < 0.5) + 5.0 * np.arange(steps + 1)
    way = rng.random()
    if way < 0.1:
        times = times + rng.uniform(-1.5, 1.5, steps + 1)
    elif way < 0.15 and steps > 2:
        times[rng.integers(1, steps) :] += rng.uniform(5.0, 400.0)
    elif way < 0.2:
        times = times[0] + (times - times[0]) * rng.choice([0.2, 0.6, 3.0])
    elif way < 0.23 and steps:
        times[rng.integers(0, steps + 1)] = rng.choice([math.nan, math.inf, times[0]])
    return times


def glucose(rng, steps):
    cgm = rng.uniform(65.0, 300.0) + np.cumsum(rng.normal(rng.normal(0, 0.7), rng.uniform(0.5, 5.0), steps + 1))
    cgm = np.clip(cgm, 39.0, 600.0)
    for chance, damage in (
        (0.15, "gone"),
        (0.1, "late"),
        (0.06, "flat"),
        (0.06, "code"),
        (0.03, "all"),
        (0.03, "wild"),
    ):
        if rng.random() >= chance:
            continue
        tail = int(rng.integers(1, 14))
        if damage == "gone":
            cgm[rng.random(steps + 1) < rng.uniform(0, 0.9)] = math.nan
        elif damage == "late":
            cgm[-tail:] = math.nan
        elif damage == "flat":
            cgm[-tail:] = cgm[-1]
        elif damage == "code":
            cgm[-min(tail, 4) :] = rng.choice([38.0, 10.0, 5.0, 0.0, 37.0, 601.0, 1000.0])
        elif damage == "all":
            cgm[:] = math.nan
        else:
            cgm[-tail:] = rng.choice([math.inf, -math.inf, 1e308, -50.0])
    return cgm


def history(rng, steps=None):
    """One subject's raw history, as lists and floats; of a random length if `steps` is None."""
    steps = int(rng.choice(LENGTHS)) if steps is None else steps
    profile = subject(rng)
    basal, cr = (profile[k] if math.isfinite(profile[k]) and profile[k] > 0 else 1.0 for k in ("basal", "cr"))
    insulin = np.full(steps, basal / 12)
    carbs = np.zeros(steps + 1)
    meals = rng.random(steps + 1) < rng.choice([0.0, 0.01, 0.05])
    carbs[meals] = rng.uniform(5.0, 120.0, meals.sum())
    if rng.random() < 0.3:
        carbs[-1] = rng.uniform(5.0, 160.0)
    insulin += carbs[:-1] / cr * rng.uniform(0.0, 1.5)
    if rng.random() < 0.5:
        insulin *= rng.choice([0.0, 1.0, 1.0, 3.0, 8.0], steps)
    if rng.random() < 0.05 and steps:
        insulin[rng.integers(0, steps)] = rng.choice([math.nan, -3.0, math.inf, 1e308])
    if rng.random() < 0.03:
        carbs[rng.integers(0, steps + 1)] = rng.choice([math.nan, -30.0, math.inf, 1e308])
    times, cgm = clock(rng, steps), glucose(rng, steps)
    if rng.random() < 0.01:
        times, cgm, carbs, insulin = np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0)
    series = {"times": times, "cgm": cgm, "insulin": insulin, "carbs": carbs}
    return {**{name: values.tolist() for name, values in series.items()}, **profile}


def dose(rng, state, kind):
    """A raw value for the insulin channel."""
    basal, cr = (state[k] if math.isfinite(state[k]) and state[k] > 0 else 1.0 for k in ("basal", "cr"))
    if kind == "standard":
        grams = state["carbs"][-1] if state["carbs"] else 0.0
        return float(basal / 12 + (grams / cr if math.isfinite(grams) else 0.0) * rng.uniform(0.7, 1.2))
    if kind == "uniform":
        return float(rng.uniform(0, rng.choice([basal / 4, 3.0, 15.0, 40.0])))
    if kind == "boundary":
        bounds = [x for x in greatest_doses(state, 0.0, 0.0).values() if 0 < x < 1e300] or [basal / 12]
        bound = min(bounds) if rng.random() < 0.5 else float(rng.choice(bounds))
        factor = rng.choice([1.0, 1 - 1e-5, 1 + 1e-5, 1 + 1e-4, 0.999, 1.001])
        nudged = [bound, math.nextafter(bound, math.inf), math.nextafter(bound, 0.0), float(bound * factor)]
        return nudged[int(rng.integers(0, 4))]
    if kind == "basal":
        exact = basal / 12
        options = [exact, float(np.float32(exact)), basal * (5 / 60), math.nextafter(exact, 1.0), exact * 1.001]
        return options[int(rng.integers(0, 5))]
    if kind == "broken":
        return [math.nan, math.inf, -math.inf, -0.0, 0.0, -1e-300, -5.0][int(rng.integers(0, 7))]
    if kind == "raw":
        return [None, "1.0", True, [1.0], 10**400, 1 + 0j, b"1", {}][int(rng.integers(0, 8))]
    return float(10.0 ** rng.uniform(-320, -3)) if kind == "tiny" else float(10.0 ** rng.uniform(2, 308))


def proposal(seed, kinds=KINDS):
    """A history and a raw action of one of the kinds; the same for the same seed."""
    rng = np.random.default_rng(seed)
    state = history(rng)
    action = {"insulin": dose(rng, state, str(rng.choice(kinds)))}
    way = rng.random()
    if way < 0.01:
        action = {}
    elif way < 0.02:
        action = {**action, "glucagon": 0.0}
    elif way < 0.025:
        action = {"Insulin": 0.1}
    return state, action
