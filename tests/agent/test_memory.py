import numpy as np
import pytest

from foreworld.agent.memory import Memory
from foreworld.domains.treatment.schema import SCHEMA
from foreworld.errors import InputError, SchemaError

STATICS = {
    "weight": np.array([70.0, 30.0]),
    "basal": np.array([1.0, 0.4]),
    "cr": np.array([10.0, 20.0]),
    "cf": np.array([40.0, 90.0]),
    "age_group": np.array([2, 0]),
}


def memory(**options):
    return Memory(SCHEMA, ("a", "b"), STATICS, **options)


def seen(t, cgm=(100.0, 110.0), carbs=(0.0, 0.0)):
    return {"cgm": np.array(cgm) + t, "carbs": np.array(carbs)}


def filled(moments, **options):
    kept = memory(**options)
    for t in range(moments):
        kept.see(5.0 * t, seen(t))
        kept.act(np.full((2, 1), 0.01 * t))
    return kept


@pytest.mark.parametrize("time", [10.0, 5.0, float("nan"), float("inf")])
def test_time_must_increase_and_a_refused_moment_leaves_no_trace(time):
    kept = filled(3)
    with pytest.raises(InputError, match="time"):
        kept.see(time, seen(3))
    assert len(kept) == 3
    kept.see(15.0, seen(3))


@pytest.mark.parametrize("moments", [1, 2, 5, 9, 30])
@pytest.mark.parametrize("now", [True, False])
def test_each_action_stands_between_the_moments_it_lies_between(moments, now):
    # Asked before and after what is done now is added, and long after the first moments were forgotten.
    kept = filled(moments, steps=6)
    if now:
        kept.see(5.0 * moments, seen(moments))
    times, values = kept.arrays()
    assert values["insulin"].shape == (2, len(times) - 1) and values["cgm"].shape == (2, len(times))
    np.testing.assert_allclose(values["insulin"][0], 0.01 * times[:-1] / 5.0)
    np.testing.assert_allclose(values["cgm"][0], 100.0 + times / 5.0)
    assert len(times) == min(moments + now, 7)


def test_a_moment_taken_back_is_as_if_it_had_not_been_seen():
    kept, other = filled(9, steps=20), filled(9, steps=20)
    kept.see(45.0, seen(9, cgm=(300.0, 300.0)))
    kept.forget()
    for t in (9, 10):
        for each in (kept, other):
            each.see(5.0 * t, seen(t))
            each.act(np.ones((2, 1)))
    np.testing.assert_equal(kept.arrays(), other.arrays())
    with pytest.raises(InputError, match="forget"):
        kept.forget()


def test_what_was_done_must_be_told_before_the_next_moment_and_only_once():
    kept = filled(2)
    kept.see(10.0, seen(2))
    with pytest.raises(InputError, match="what was done"):
        kept.see(15.0, seen(3))
    kept.act(np.zeros((2, 1)))
    with pytest.raises(InputError, match="`see` before `act`"):
        kept.act(np.zeros((2, 1)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cgm": np.array([100.0, 5.0]), "carbs": np.zeros(2)}, "cgm at time 0.*5.*20 mg/dL"),
        ({"cgm": np.array([100.0, np.inf]), "carbs": np.zeros(2)}, "cgm.*infinite"),
        ({"cgm": np.full(2, 100.0), "carbs": np.array([0.0, np.nan])}, "carbs of b.*NaN.*give 0 g"),
        ({"cgm": np.full(2, 100.0), "carbs": np.array([-1.0, 0.0])}, "carbs.*-1"),
        ({"cgm": np.full(3, 100.0), "carbs": np.zeros(2)}, r"cgm.*shape \(3,\)"),
        ({"cgm": np.array(100.0), "carbs": np.zeros(2)}, r"cgm.*shape \(\)"),
        ({"cgm": np.array(["x", "y"]), "carbs": np.zeros(2)}, "not numbers"),
    ],
)
def test_a_wrong_value_is_named_and_nothing_is_kept(values, message):
    kept = memory()
    with pytest.raises(InputError, match=message):
        kept.see(0.0, values)
    assert len(kept) == 0
    with pytest.raises(InputError, match="nothing was seen"):
        kept.arrays()


def test_a_missing_channel_is_a_schema_error():
    with pytest.raises(SchemaError, match="carbs is missing"):
        memory().see(0.0, {"cgm": np.full(2, 100.0)})
    with pytest.raises(SchemaError, match="cf is missing"):
        Memory(SCHEMA, ("a", "b"), {name: value for name, value in STATICS.items() if name != "cf"})


@pytest.mark.parametrize(
    ("name", "value"), [("cr", [10.0]), ("basal", [1.0, np.nan]), ("weight", [70.0, 9000.0]), ("age_group", [0, 3])]
)
def test_wrong_statics_are_refused(name, value):
    with pytest.raises(InputError, match=name):
        Memory(SCHEMA, ("a", "b"), STATICS | {name: np.array(value)})


@pytest.mark.parametrize("action", [np.zeros(2), np.zeros((1, 1)), np.full((2, 1), np.nan), np.full((2, 1), 99.0)])
def test_wrong_actions_are_refused(action):
    kept = memory()
    kept.see(0.0, seen(0))
    with pytest.raises(InputError, match=r"action|insulin"):
        kept.act(action)
    kept.act(np.zeros((2, 1)))


def test_memory_keeps_copies():
    values, statics, action = seen(0), {k: v.copy() for k, v in STATICS.items()}, np.full((2, 1), 0.5)
    kept = Memory(SCHEMA, ("a", "b"), statics)
    kept.see(0.0, values)
    kept.act(action)
    values["cgm"][:], statics["weight"][:], action[:] = 400.0, 5.0, 9.0
    kept.see(5.0, seen(1))
    _, arrays = kept.arrays()
    assert arrays["cgm"][0, 0] == 100.0 and arrays["weight"][0] == 70.0 and arrays["insulin"][0, 0] == 0.5


def test_ages_count_from_the_last_measurement():
    kept = memory()
    for t, cgm in enumerate([(100.0, np.nan), (np.nan, np.nan), (np.nan, np.nan)]):
        kept.see(5.0 * t, seen(t, cgm=cgm))
        kept.act(np.zeros((2, 1)))
    assert kept.ages("cgm").tolist() == [10.0, np.inf]
