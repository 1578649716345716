"""The input file of `foreworld plan`: what is right is read exactly, what is wrong is named."""

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreworld.domains.treatment.plan_file import read_plan_file
from foreworld.errors import ForeworldError, FormatError, InputError, SchemaError

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "person.json"
GOOD = json.loads(EXAMPLE.read_text(encoding="utf-8"))


def write(tmp_path, change):
    content = copy.deepcopy(GOOD)
    change(content)
    path = tmp_path / "person.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def fails(tmp_path, kind, change, *words):
    with pytest.raises(kind) as caught:
        read_plan_file(write(tmp_path, change))
    for word in ("person.json", *words):
        assert word in str(caught.value)


def test_reads_the_example_exactly():
    person = read_plan_file(EXAMPLE)
    hours, minutes = map(int, GOOD["times"]["values"][0][11:].split(":"))
    assert person.times[0] == 60 * hours + minutes
    assert np.all(np.diff(person.times) == 5)
    assert person.now == GOOD["times"]["values"][-1]
    expected = [math.nan if value is None else value for value in GOOD["cgm"]["values"]]
    np.testing.assert_array_equal(person.values["cgm"], expected)
    np.testing.assert_array_equal(person.values["insulin"], GOOD["insulin"]["values"])
    assert len(person.values["insulin"]) == len(person.times) - 1
    assert person.statics["weight"] == np.float32(GOOD["statics"]["weight"]["value"])


def test_minutes_and_clock_times_mean_the_same(tmp_path):
    first = read_plan_file(EXAMPLE)
    second = read_plan_file(
        write(tmp_path, lambda c: c.update(times={"unit": "min", "values": first.times.astype(int).tolist()}))
    )
    np.testing.assert_array_equal(first.times, second.times)


def test_a_wrong_unit_says_how_to_convert(tmp_path):
    fails(tmp_path, InputError, lambda c: c["cgm"].update(unit="mmol/L"), "cgm", "mmol/L", "mg/dL", "18.016")
    fails(tmp_path, InputError, lambda c: c["statics"]["weight"].update(unit="lb"), "weight", "'lb'", "'kg'")
    fails(tmp_path, InputError, lambda c: c["times"].update(unit="s"), "times", "'s'", "'min'")


def test_a_value_out_of_bounds_is_named_with_place_bound_and_unit(tmp_path):
    fails(tmp_path, InputError, lambda c: c["cgm"]["values"].__setitem__(7, 5.4), "cgm", "index 7", "5.4", "20 mg/dL")
    fails(tmp_path, InputError, lambda c: c["insulin"]["values"].__setitem__(3, -1), "insulin", "-1 U", "0 U")
    fails(tmp_path, InputError, lambda c: c["statics"]["weight"].update(value=900), "weight", "900 kg", "300 kg")


def test_nan_and_null_are_told_apart(tmp_path):
    fails(tmp_path, InputError, lambda c: c["cgm"]["values"].__setitem__(2, math.nan), "cgm", "index 2", "write null")
    fails(tmp_path, InputError, lambda c: c["carbs"]["values"].__setitem__(2, None), "carbs", "index 2", "write 0 g")
    read_plan_file(write(tmp_path, lambda c: c["cgm"]["values"].__setitem__(2, None)))


def test_time_must_go_forward_in_regular_steps_and_reach_back_far_enough(tmp_path):
    def swap(content):
        values = content["times"]["values"]
        values[4], values[5] = values[5], values[4]

    def cut(content):
        content["times"]["values"] = content["times"]["values"][-30:]

    fails(
        tmp_path, InputError, lambda c: c["times"]["values"].__setitem__(5, c["times"]["values"][4]), "sort", "index 5"
    )
    fails(tmp_path, InputError, swap, "index 4", "10 min", "expected 5")
    fails(tmp_path, InputError, cut, "145 min", "300 min", "longer record")
    fails(tmp_path, InputError, lambda c: c["times"]["values"].__setitem__(0, "noon"), "'noon'", "ISO 8601")
    fails(tmp_path, InputError, lambda c: c["times"].update(values=[]), "times")


def test_missing_unknown_and_ill_fitting_parts_are_named(tmp_path):
    fails(tmp_path, SchemaError, lambda c: c.pop("carbs"), "carbs is missing")
    fails(tmp_path, SchemaError, lambda c: c.update(glucose=[]), "glucose is not known")
    fails(tmp_path, SchemaError, lambda c: c["statics"].pop("cr"), "statics.cr is missing")
    fails(tmp_path, InputError, lambda c: c["insulin"]["values"].append(0), "insulin", "one less")
    fails(tmp_path, InputError, lambda c: c["statics"]["age_group"].update(value="old"), "age_group", "adolescent")
    fails(tmp_path, FormatError, lambda c: c.update(format=2), "format 2", "up to 1")
    fails(tmp_path, FormatError, lambda c: c.pop("format"), "format")


def test_a_file_that_is_no_json_is_named(tmp_path):
    path = tmp_path / "person.json"
    path.write_text('{"format": 1, "subject"', encoding="utf-8")
    with pytest.raises(FormatError, match="no JSON"):
        read_plan_file(path)
    with pytest.raises(InputError, match="no input file"):
        read_plan_file(tmp_path / "absent.json")


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.floats(allow_nan=True, allow_infinity=True),
    st.integers(-(10**30), 10**30),
    st.text(max_size=5),
    st.lists(st.one_of(st.none(), st.floats(), st.text(max_size=2)), max_size=3),
    st.dictionaries(st.sampled_from(["unit", "values", "value"]), st.one_of(st.none(), st.integers()), max_size=2),
)
PLACES = st.sampled_from(
    [(), ("format",), ("subject",), ("statics",), ("times",), ("cgm",), ("insulin",), ("carbs",)]
    + [("statics", name) for name in GOOD["statics"]]
    + [("statics", "weight", "value"), ("statics", "age_group", "value"), ("statics", "cf", "unit")]
    + [(name, "values") for name in ("times", "cgm", "insulin", "carbs")]
    + [(name, "values", 3) for name in ("times", "cgm", "insulin", "carbs")]
    + [("cgm", "unit"), ("times", "unit")]
)


@given(place=PLACES, junk=JUNK)
@settings(max_examples=150)
def test_junk_anywhere_is_read_or_named_and_never_crashes(tmp_path_factory, place, junk):
    content = copy.deepcopy(GOOD)
    if place:
        target = content
        for key in place[:-1]:
            target = target[key]
        target[place[-1]] = junk
    else:
        content = junk
    path = tmp_path_factory.mktemp("junk") / "person.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    try:
        person = read_plan_file(path)
    except ForeworldError as error:
        assert "person.json" in str(error)
    else:
        assert np.isfinite(person.values["insulin"]).all() and (person.values["insulin"] >= 0).all()
        assert not np.isinf(person.values["cgm"]).any()
