"""What the insulin pack must do, written a second time, plainly, from the descriptions of its rules.

Every rule is monotone: in a given state it allows doses up to some greatest one. `greatest_doses` gives that dose
for each rule, with loops over lists and without any code of foreworld. `tolerance` is the relative excess over a
bound that still counts as the bound; call it a little above and a little below to leave out the last few ulps.
"""

import itertools
import math

STEP = 5.0  # min
CLOCK = 1e-9  # min


def usable(value):
    return isinstance(value, float) and math.isfinite(value)


def left_of(age, duration=300.0, peak=75.0):
    """Share of a dose still to act (oref0's exponential curve)."""
    if age >= duration:
        return 0.0
    tau = peak * (1 - peak / duration) / (1 - 2 * peak / duration)
    a = 2 * tau / duration
    s = 1 / (1 - a + (1 + a) * math.exp(-duration / tau))
    return 1 - s * (1 - a) * ((age * age / (tau * duration * (1 - a)) - age / tau - 1) * math.exp(-age / tau) + 1)


def is_sound(times):
    if len(times) == 0 or not all(math.isfinite(t) for t in times):
        return False
    return all(later > earlier for earlier, later in itertools.pairwise(times))


def window(times, amounts, minutes):
    """(age, amount) of the last `minutes`; None if an amount is unusable."""
    now, found = times[-1], []
    for t, amount in zip(times, amounts, strict=False):
        if t >= now - minutes - CLOCK:
            if not math.isfinite(amount):
                return None
            found.append((now - t, amount))
    return found


def greatest_doses(history, tolerance, edge):
    """By rule, the greatest dose in U that it allows; 0 where it allows no insulin.

    `edge` widens (>0) or narrows (<0) the comparison of glucose with thresholds, relative.
    """
    times, cgm, insulin = (history[key] for key in ("times", "cgm", "insulin"))
    weight, basal, cr, cf = (history[key] for key in ("weight", "basal", "cr", "cf"))
    more = 1 + tolerance
    result = {"insulin_bounds": 25.0 * more, "sound_history": math.inf}
    if not is_sound(times):
        return {**result, "sound_history": 0.0}
    now = times[-1]

    # The profile
    for name, value, low, high in (
        ("weight", weight, 5.0, 300.0),
        ("basal", basal, 0.02, 5.0),
        ("cr", cr, 1.5, 100.0),
        ("cf", cf, 2.0, 500.0),
    ):
        result[f"profile_{name}"] = math.inf if usable(value) and low <= value <= high else 0.0
    known = usable(weight) and weight > 0 and usable(basal)
    paired = usable(cf) and usable(cr) and cr > 0
    result["profile_cf_per_cr"] = math.inf if paired and 0.3 <= cf / cr <= 20.0 else 0.0
    result["profile_basal_per_weight"] = math.inf if known and 0 <= basal / weight <= 0.05 else 0.0

    cr_, cf_ = (ratio if usable(ratio) and ratio > 0 else math.nan for ratio in (cr, cf))
    weight_ = weight if usable(weight) else math.nan
    basal_ = basal if usable(basal) else math.nan
    step_basal = basal * STEP / 60 if usable(basal) and basal > 0 else math.nan  # what may run without a CGM
    temp = min(10.0, 3 * basal_, 4 * basal_) * STEP / 60 if usable(basal) else math.nan

    # The dose
    hard_cap = 4 * basal_ * STEP / 60 + (min(10.0, 100.0 / cr_) if usable(cr_) else math.nan)
    result["step_dose"] = hard_cap * more
    result["bolus_size"] = temp + 0.4 * weight_ * more

    recent = window(times, insulin, 3.0)
    if recent is None:
        result["bolus_interval"] = temp * more
    else:
        hit = any(age < 3.0 - CLOCK and amount > temp * more for age, amount in recent)
        result["bolus_interval"] = temp * more if hit or not usable(temp) else math.inf

    past = window(times, insulin, 300.0)
    limit = min(max(12 * basal_, 150 / cr_), 0.5 * weight_) if usable(cr_ + basal_ + weight_) else math.nan
    board = math.nan
    if past is not None:
        board = sum(max(dose - basal_ * STEP / 60, 0.0) * left_of(age) for age, dose in past)
    result["max_iob"] = at_least(limit * more - board + basal_ * STEP / 60, step_basal * more)

    past = window(times, insulin, 1440.0)
    given = math.nan if past is None else sum(max(dose, 0.0) for _, dose in past)
    limit = min(48 * basal_ + 450 / cr_, 2.5 * weight_) if usable(cr_ + basal_ + weight_) else math.nan
    result["daily_total"] = at_least(limit * more - given, step_basal * more)

    result["justified_bolus"] = at_least(justified(history, temp, basal_, cr_, cf_, more), temp * more)

    # The sensor
    readings = [(t, x) for t, x in zip(times, cgm, strict=True) if math.isfinite(x)]
    true_readings = [(t, x) for t, x in readings if x > 10.0 and x != 38.0]
    only_basal = step_basal * more if usable(step_basal) else 0.0
    threshold = 70.0 * (1 - edge)

    result["low_suspend"] = only_basal
    if true_readings and now - true_readings[-1][0] <= 30.0 + CLOCK:
        result["low_suspend"] = math.inf if true_readings[-1][1] >= threshold else 0.0

    result["predicted_low_suspend"] = only_basal
    line = [(t - now, x) for t, x in true_readings if t >= now - 30.0 - CLOCK]
    if len(line) >= 3 and -line[-1][0] <= 12.0 + CLOCK:
        n, st, sx = len(line), sum(t for t, _ in line), sum(x for _, x in line)
        stt, stx = sum(t * t for t, _ in line), sum(t * x for t, x in line)
        slope = (n * stx - st * sx) / (n * stt - st * st)
        ahead = sx / n + slope * (30.0 - st / n)
        if math.isfinite(ahead):
            result["predicted_low_suspend"] = math.inf if ahead >= threshold else 0.0

    fresh = readings and now - readings[-1][0] <= 12.0 + CLOCK
    result["cgm_stale"] = math.inf if fresh else only_basal
    result["cgm_range"] = math.inf if readings and 38.0 < readings[-1][1] <= 600.0 else only_basal
    result["cgm_flat"] = only_basal if not readings or is_flat(readings) else math.inf
    return {name: dose if not math.isnan(dose) else 0.0 for name, dose in result.items()}


def at_least(dose, exempt):
    """The greater of the two, ignoring what is unknown."""
    known = [x for x in (dose, exempt) if not math.isnan(x)]
    return max(known) if known else 0.0


def justified(history, temp, basal, cr, cf, more):
    times, cgm = history["times"], history["cgm"]
    doses, eaten = window(times, history["insulin"], 120.0), window(times, history["carbs"], 120.0)
    if doses is None or eaten is None:
        return math.nan
    given = sum(max(dose - temp, 0.0) for _, dose in doses)
    grams = min(sum(max(x, 0.0) for _, x in eaten), 120.0)
    correction = 0.0
    for t, x in zip(reversed(times), reversed(cgm), strict=True):
        if math.isfinite(x):
            if times[-1] - t <= 12.0 and 38.0 < x <= 600.0:
                correction = max(x - 100.0, 0.0)
            break
    return temp + (1.7 * grams / cr + 1.5 * correction / cf + 4 * basal) * more - given


def is_flat(readings):
    last_time, last = readings[-1]
    for t, x in reversed(readings):
        if x != last:
            return False
        if last_time - t >= 45.0 - CLOCK:
            return True
    return False


def allows(history, action, tolerance=1e-6, edge=0.0):
    """Whether the pack must accept this raw action, and the names of the rules that it breaks."""
    if not isinstance(action, dict) or set(action) != {"insulin"}:
        return False, {"finite_insulin"}
    dose = action["insulin"]
    if isinstance(dose, bool) or not isinstance(dose, (int, float)) or not abs(dose) <= 1.7e308:
        return False, {"finite_insulin"}
    if dose < 0:
        return False, {"insulin_bounds"}
    if dose == 0:
        return True, set()
    broken = {name for name, most in greatest_doses(history, tolerance, edge).items() if not dose <= most}
    return not broken, broken
