"""The insulin pack: the built-in one is what the code says; the stricter side of each limit is the stricter one."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.domains.treatment.test_task import as_history, random_history

from foreworld.domains.treatment.dose_limit import dose_limit
from foreworld.domains.treatment.limits import InsulinLimits
from foreworld.domains.treatment.pack import BUILT_IN, KINDS, floor, held, insulin_limits, load_pack
from foreworld.domains.treatment.task import guardrails
from foreworld.errors import InputError
from foreworld.forecast.forecaster import Calibration
from foreworld.planning.guardrail import StateGuardrail
from foreworld.planning.pack import Limit, Stricter

STRICT = Path(__file__).parents[3] / "docs" / "examples" / "strict.toml"
HISTORIES = [as_history(*random_history(np.random.default_rng(steps), steps, 500)) for steps in (1, 5, 14, 60, 300)]
ALLOWED = [dose_limit(history, InsulinLimits()) for history in HISTORIES]


def written(tmp_path, *changes):
    text = BUILT_IN.read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_built_in_pack_is_what_the_code_says():
    assert insulin_limits(floor()) == InsulinLimits()
    assert floor().guardrails == tuple(g for g in guardrails() if isinstance(g, StateGuardrail))
    assert set(KINDS) == set(floor().limits) == {field.name for field in dataclasses.fields(InsulinLimits)}
    assert load_pack(BUILT_IN).differences == ()


def test_every_guardrail_and_limit_of_the_built_in_pack_has_a_source():
    assert all(limit.source for limit in floor().limits.values())
    assert all(guardrail.source for guardrail in floor().guardrails)


def change_of(name, factor):
    """The default limits with one number moved, or None where that makes no sense."""
    try:
        return dataclasses.replace(InsulinLimits(), **{name: getattr(InsulinLimits(), name) * factor})
    except InputError:
        return None


def rises(limits):
    return sum(
        int((dose_limit(history, limits) > before + 1e-9).sum())
        for history, before in zip(HISTORIES, ALLOWED, strict=True)
    )


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.stricter is not Stricter.neither])
def test_the_stricter_side_of_a_limit_never_raises_the_greatest_allowed_dose(name):
    factors = (0.3, 0.7, 0.97) if KINDS[name].stricter is Stricter.lower else (1.03, 1.3, 1.9)
    for factor in factors:
        limits = change_of(name, factor)
        assert limits is not None and rises(limits) == 0


@settings(max_examples=25)
@given(st.dictionaries(st.sampled_from(sorted(KINDS)), st.floats(0.02, 0.9), min_size=2, max_size=8))
def test_limits_stricter_together_never_raise_the_greatest_allowed_dose(moves):
    factors = {Stricter.lower: lambda x: 1 - x, Stricter.higher: lambda x: 1 + x, Stricter.neither: lambda x: 1.0}
    values = {name: getattr(InsulinLimits(), name) * factors[KINDS[name].stricter](x) for name, x in moves.items()}
    values["dia"] = max(values.get("dia", 300.0), 2.1 * values.get("peak", 75.0))
    assert rises(dataclasses.replace(InsulinLimits(), **values)) == 0


@pytest.mark.parametrize("name", ["justified_minutes", "fit_minutes", "max_age", "predict_minutes"])
def test_a_limit_without_a_stricter_side_loosens_some_states_and_tightens_others(name):
    loosened = [rises(change_of(name, factor)) for factor in (0.5, 0.8, 1.25, 1.9)]
    tightened = [
        sum(
            int((dose_limit(h, change_of(name, factor)) < a - 1e-9).sum())
            for h, a in zip(HISTORIES, ALLOWED, strict=True)
        )
        for factor in (0.5, 0.8, 1.25, 1.9)
    ]
    assert any(up and down for up, down in zip(loosened, tightened, strict=True))


def test_a_stricter_pack_loads_and_allows_less():
    pack = load_pack(STRICT)
    assert pack.weaker == () and pack.override == "" and len(pack.stricter) == 4
    limits = insulin_limits(pack)
    assert rises(limits) == 0
    assert any((dose_limit(h, limits) < a).any() for h, a in zip(HISTORIES, ALLOWED, strict=True))


def test_a_weaker_pack_needs_a_reason(tmp_path):
    path = written(tmp_path, ("bound = 70.0", "bound = 65.0"), ("step_bolus = 10.0", "step_bolus = 12.0"))
    with pytest.raises(InputError) as caught:
        load_pack(path)
    assert "guardrail predicted_low bound: 65 mg/dL, floor 70 mg/dL" in str(caught.value)
    assert "limit step_bolus: 12 U, floor 10 U" in str(caught.value)
    assert load_pack(path, override="trial 7").override == "trial 7"


def test_a_pack_made_in_memory_is_held_to_the_floor_too():
    loose = dataclasses.replace(floor(), limits={**floor().limits, "max_basal": Limit(20.0, "nowhere")})
    with pytest.raises(InputError, match="max_basal: 20 U/h, floor 10 U/h"):
        held(loose, Calibration())
    assert held(dataclasses.replace(loose, override="test"), Calibration()).note()["weaker"]
    with pytest.raises(InputError, match="bound"):
        held(
            dataclasses.replace(floor(), guardrails=(dataclasses.replace(floor().guardrails[0], bound=1.0),)),
            Calibration(),
        )


def test_nonsense_is_refused_whatever_the_reason(tmp_path):
    for change, words in (
        (("step_minutes = 5.0", "step_minutes = 10.0"), "domain's step is 5 min"),
        (("peak = 75.0", "peak = 200.0"), "peak 200 min"),
        (("step_bolus = 10.0", "step_bolus = -1.0"), "step_bolus is -1.0"),
        (('unit = "mg/dL"', 'unit = "mmol/L"'), "convert the bound"),
    ):
        with pytest.raises(InputError, match=words):
            load_pack(written(tmp_path, change), override="because")
