"""Guardrail packs of the insulin task: the built-in one, which is the floor, and which way each limit is stricter.

pack = load_pack("clinic.toml")                                    # refused if it is weaker than the floor anywhere
pack = load_pack("trial.toml", override="protocol 7, approved")    # a weaker one, with its reason in every decision
agent = insulin_agent(forecaster, pack=pack)
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from foreworld.domains.treatment.limits import InsulinLimits
from foreworld.domains.treatment.schema import SCHEMA, STEP_MINUTES
from foreworld.errors import InputError
from foreworld.forecast.forecaster import Calibration
from foreworld.planning.pack import LimitKind, Pack, Stricter, admit, check_calibrated
from foreworld.planning.pack_file import read_pack

BUILT_IN = Path(__file__).with_name("packs") / "insulin.toml"

_LESS, _MORE, _NEITHER = Stricter.lower, Stricter.higher, Stricter.neither

# By limit: the side on which the greatest allowed dose never rises, in no state; tests/domains/treatment/
# test_insulin_pack.py tries it. A number that loosens some states as it tightens others has none: a longer window
# counts more boluses and more carbs, a sensor that is called stale sooner stops basal insulin later.
KINDS = {
    "step_minutes": LimitKind(_NEITHER, "min"),
    "channel_max": LimitKind(_LESS, "U"),
    "max_basal": LimitKind(_LESS, "U/h"),
    "max_daily_safety_multiplier": LimitKind(_LESS),
    "current_basal_safety_multiplier": LimitKind(_LESS),
    "step_basal_multiplier": LimitKind(_LESS),
    "step_bolus": LimitKind(_LESS, "U"),
    "step_bolus_carbs": LimitKind(_LESS, "g"),
    "bolus_per_kg": LimitKind(_LESS, "U/kg"),
    "bolus_interval": LimitKind(_MORE, "min"),
    "dia": LimitKind(_MORE, "min"),
    "peak": LimitKind(_MORE, "min"),
    "iob_basal_hours": LimitKind(_LESS, "h"),
    "iob_carbs": LimitKind(_LESS, "g"),
    "iob_per_kg": LimitKind(_LESS, "U/kg"),
    "day_basal_hours": LimitKind(_LESS, "h"),
    "day_carbs": LimitKind(_LESS, "g"),
    "day_per_kg": LimitKind(_LESS, "U/kg"),
    "justified_minutes": LimitKind(_NEITHER, "min"),
    "carb_factor": LimitKind(_LESS),
    "max_carbs": LimitKind(_LESS, "g"),
    "correction_factor": LimitKind(_LESS),
    "correction_target": LimitKind(_MORE, "mg/dL"),
    "free_basal_hours": LimitKind(_LESS, "h"),
    "min_bg": LimitKind(_MORE, "mg/dL"),
    "low_minutes": LimitKind(_MORE, "min"),
    "predict_minutes": LimitKind(_NEITHER, "min"),
    "fit_minutes": LimitKind(_NEITHER, "min"),
    "max_age": LimitKind(_NEITHER, "min"),
    "cgm_low": LimitKind(_MORE, "mg/dL"),
    "cgm_high": LimitKind(_LESS, "mg/dL"),
    "flat_minutes": LimitKind(_LESS, "min"),
    "max_noise": LimitKind(_LESS),
}


@cache
def floor() -> Pack:
    """The built-in pack: what acts without any other, and what no other may be weaker than."""
    return read_pack(BUILT_IN, SCHEMA, KINDS)


def load_pack(path: str | Path, *, override: str | None = None) -> Pack:
    """Read a pack and hold it to the floor.

    Args:
        path: TOML file; docs/guardrails.md has its format.
        override: Why a weaker pack is let through; it is recorded with every decision and told wherever one is
            explained.

    Raises:
        InputError: The file is absent or wrong, or the pack is weaker than the floor and there is no reason.
        FormatError: It is no TOML, or of a newer format.
    """
    pack = read_pack(path, SCHEMA, KINDS)
    insulin_limits(pack)
    return admit(pack, floor(), KINDS, override)


def held(pack: Pack, calibration: Calibration) -> Pack:
    """A pack as it may be planned with: held to the floor however it was made, and within what was calibrated.

    Args:
        pack: With its override, if it has one.
        calibration: Of the model that is planned with.

    Raises:
        InputError: It is weaker than the floor without a reason, or its guardrails were not calibrated.
    """
    check_calibrated(pack, calibration, floor().guardrails)
    return admit(pack, floor(), KINDS, pack.override or None)


def insulin_limits(pack: Pack) -> InsulinLimits:
    """The limits of a pack, for planner and checker.

    Raises:
        InputError: A number makes no sense, or the step is not that of the domain.
    """
    limits = InsulinLimits(**{name: limit.value for name, limit in pack.limits.items()})
    if limits.step_minutes != STEP_MINUTES:
        raise InputError(
            f"pack {pack.name}: step_minutes is {limits.step_minutes:g} min, and the domain's step is {STEP_MINUTES} "
            "min; it states a fact and is no setting"
        )
    return limits
