"""Guardrail packs: what is read, what is hashed, and what counts as weaker."""

import dataclasses

import pytest

from foreworld.episodes.schema import Channel, Role, Schema
from foreworld.errors import FormatError, InputError
from foreworld.forecast.forecaster import Calibration
from foreworld.planning.pack import LimitKind, Stricter, admit, check_calibrated, compare, describe
from foreworld.planning.pack_file import read_pack
from foreworld.planning.plan import Reason, Refusal

SCHEMA = Schema(
    name="toy",
    step=1.0,
    time_unit="min",
    channels=(
        Channel(name="level", role=Role.observation, unit="mm"),
        Channel(name="push", role=Role.action, unit="N", low=0.0, high=9.0),
    ),
)
KINDS = {
    "most": LimitKind(Stricter.lower, "N"),
    "gap": LimitKind(Stricter.higher, "min"),
    "window": LimitKind(Stricter.neither, "min"),
}
TEXT = """
[pack]
format = 1
name = "toy"
version = "1"
source = "a test"

[[guardrail]]
name = "floor"
quantity = "level"
sense = "at_least"
bound = 10.0
unit = "mm"
risk = 0.1
start = 2
horizon = 8
severity = 4
source = "a book"

[[guardrail]]
name = "roof"
quantity = "level"
sense = "at_most"
bound = 90
unit = "mm"
risk = 0.1
start = 2
horizon = 8
severity = 4
source = "another book"

[limits]
source = "a table"
most = 5

[limits.times]
source = "a clock"
gap = 3.0
window = { value = 20.0, source = "a letter" }
"""


@pytest.fixture
def read(tmp_path):
    """Reads the pack with some of its text replaced."""

    def reader(*changes):
        text = TEXT
        for old, new in changes:
            assert old in text
            text = text.replace(old, new, 1)
        path = tmp_path / "toy.toml"
        path.write_text(text, encoding="utf-8")
        return read_pack(path, SCHEMA, KINDS)

    return reader


def test_every_number_is_read_with_the_nearest_source(read):
    pack = read()
    assert (pack.name, pack.version, pack.source) == ("toy", "1", "a test")
    assert [g.name for g in pack.guardrails] == ["floor", "roof"]
    assert (pack.guardrails[0].bound, pack.guardrails[0].start, pack.guardrails[0].source) == (10.0, 2, "a book")
    told = {name: (limit.value, limit.source) for name, limit in pack.limits.items()}
    assert told == {"most": (5.0, "a table"), "gap": (3.0, "a clock"), "window": (20.0, "a letter")}


def test_the_hash_follows_what_is_said_and_not_how_it_is_written(read):
    first = read().hash
    assert read(("most = 5", "most = 5.0  # a comment")).hash == first
    turned = TEXT.split("[[guardrail]]")
    assert len(first) == 64 and len(turned) == 3
    for change in (
        ('name = "toy"', 'name = "toys"'),
        ('version = "1"', 'version = "2"'),
        ('source = "a book"', 'source = "a blog"'),
        ("bound = 10.0", "bound = 10.5"),
        ("risk = 0.1", "risk = 0.05"),
        ("gap = 3.0", "gap = 4.0"),
        ('source = "a letter"', 'source = "a rumour"'),
    ):
        assert read(change).hash != first, change


def test_the_order_of_guardrails_does_not_change_the_hash(read):
    pack = read()
    assert dataclasses.replace(pack, guardrails=pack.guardrails[::-1]).hash == pack.hash


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (("format = 1", "format = 2"), FormatError, ["format 2", "update"]),
        (("format = 1", 'format = "1"'), FormatError, ["format = 1"]),
        (("[pack]", "[pack"), FormatError, ["no TOML"]),
        (('version = "1"\n', ""), InputError, ["[pack] version is missing"]),
        (('version = "1"', "version = 1"), InputError, ["[pack] version is 1", "text"]),
        (('version = "1"', 'version = "1"\nauthor = "me"'), InputError, ["author is not known"]),
        (("risk = 0.1", ""), InputError, ["guardrail floor risk is missing"]),
        (("risk = 0.1", "risk = nan"), InputError, ["guardrail floor risk", "nan", "finite"]),
        (("risk = 0.1", "risk = 1.5"), InputError, ["guardrail floor", "risk 1.5"]),
        (("risk = 0.1", "risk = true"), InputError, ["risk is True"]),
        (("start = 2", "start = 2.0"), InputError, ["start is 2.0", "whole"]),
        (("start = 2", "start = 9"), InputError, ["start 9", "horizon 8"]),
        (('quantity = "level"', 'quantity = "push"'), InputError, ["quantity is 'push'", "level"]),
        (('unit = "mm"', 'unit = "cm"'), InputError, ["unit is 'cm'", "'mm'", "convert"]),
        (('name = "roof"', 'name = "floor"'), InputError, ["two guardrails are named floor"]),
        (("gap = 3.0", ""), InputError, ["limits are missing: gap"]),
        (("gap = 3.0", "gap = inf"), InputError, ["limit gap is inf", "finite"]),
        (("gap = 3.0", "gap = 3.0\nspeed = 1.0"), InputError, ["speed is not known", "most, gap, window"]),
        (("gap = 3.0", "gap = 3.0\nmost = 1.0"), InputError, ["most is given twice"]),
        (('source = "a table"\n', ""), InputError, ["limit most has no source"]),
        ((', source = "a letter"', ""), InputError, ["limit window source is missing"]),
        (("[[guardrail]]", "[guardrail]"), FormatError, ["no TOML"]),
    ],
)
def test_what_is_wrong_is_named(read, change, kind, words):
    with pytest.raises(kind) as caught:
        read(change)
    for word in ("toy.toml", *words):
        assert word in str(caught.value)


def test_an_absent_pack_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no guardrail pack .*absent\.toml"):
        read_pack(tmp_path / "absent.toml", SCHEMA, KINDS)


WEAKER = {
    "guardrail floor bound": (("bound = 10.0", "bound = 9.9"), ("bound = 10.0", "bound = 10.1")),
    "guardrail roof bound": (("bound = 90", "bound = 91"), ("bound = 90", "bound = 89")),
    "guardrail floor risk": (("risk = 0.1", "risk = 0.11"), ("risk = 0.1", "risk = 0.09")),
    "guardrail floor start": (("start = 2", "start = 3"), ("start = 2", "start = 1")),
    "guardrail floor horizon": (("horizon = 8", "horizon = 7"), ("horizon = 8", "horizon = 9")),
    "guardrail floor severity": (("severity = 4", "severity = 3"), ("severity = 4", "severity = 5")),
    "limit most": (("most = 5", "most = 5.1"), ("most = 5", "most = 4.9")),
    "limit gap": (("gap = 3.0", "gap = 2.9"), ("gap = 3.0", "gap = 3.1")),
}


@pytest.mark.parametrize("where", WEAKER)
def test_each_number_has_a_weaker_and_a_stricter_side(read, where):
    floor = read()
    weak, strict = (compare(read(change), floor, KINDS) for change in WEAKER[where])
    assert [(d.where, d.weaker) for d in weak] == [(where, True)]
    assert [(d.where, d.weaker) for d in strict] == [(where, False)]


@pytest.mark.parametrize("number", ["19.0", "21.0"])
def test_a_number_without_a_stricter_side_is_weaker_either_way(read, number):
    found = compare(read(("value = 20.0", f"value = {number}")), read(), KINDS)
    assert [(d.where, d.weaker) for d in found] == [("limit window", True)]


def test_a_missing_guardrail_is_weaker_an_added_one_is_stricter_and_another_side_is_another_guardrail(read):
    floor = read()
    short = dataclasses.replace(floor, guardrails=floor.guardrails[:1])
    assert [(d.explain(), d.weaker) for d in compare(short, floor, KINDS)] == [("guardrail roof: missing", True)]
    assert [(d.explain(), d.weaker) for d in compare(floor, short, KINDS)] == [("guardrail roof: added", False)]
    turned = read(('sense = "at_least"', 'sense = "at_most"'), ("bound = 10.0", "bound = 50.0"))
    assert ("guardrail floor sense", True) in [(d.where, d.weaker) for d in compare(turned, floor, KINDS)]


def test_a_weaker_pack_is_refused_with_every_weaker_number(read):
    weak = read(("bound = 10.0", "bound = 8"), ("most = 5", "most = 6"), ("gap = 3.0", "gap = 4"))
    with pytest.raises(InputError) as caught:
        admit(weak, read(), KINDS)
    text = str(caught.value)
    assert "guardrail floor bound: 8 mm, floor 10 mm" in text and "limit most: 6 N, floor 5 N" in text
    assert "gap" not in text and "override" in text
    for nothing in ("", "  \n"):
        with pytest.raises(InputError, match="weaker"):
            admit(weak, read(), KINDS, nothing)


def test_an_override_goes_with_the_pack_and_is_refused_where_there_is_nothing_to_override(read):
    weak = admit(read(("most = 5", "most = 6")), read(), KINDS, " trial 7,\n approved ")
    assert weak.note() == {
        "name": "toy",
        "version": "1",
        "hash": weak.hash,
        "override": "trial 7, approved",
        "weaker": ["limit most: 6 N, floor 5 N"],
    }
    with pytest.raises(InputError, match="leave the override out"):
        admit(read(("most = 5", "most = 4")), read(), KINDS, "to be sure")


def test_a_stricter_pack_is_let_through_and_says_where(read):
    pack = admit(read(("most = 5", "most = 4")), read(), KINDS)
    assert pack.note()["override"] is None and pack.note()["weaker"] == []
    assert [d.where for d in pack.stricter] == ["limit most"] and pack.weaker == ()


def test_an_explanation_names_a_weakened_pack_and_its_reason_and_no_other(read):
    weak = admit(read(("most = 5", "most = 6")), read(), KINDS, "trial 7")
    plain = admit(read(), read(), KINDS)

    def told(pack):
        return Refusal(Reason.no_safe_plan, "", None, (), {}, provenance={"pack": pack.note()}).explain()

    for words in ("weakened guardrail pack, toy 1", weak.hash[:12], "trial 7", "limit most: 6 N, floor 5 N"):
        assert words in told(weak)
    assert "pack" not in told(plain)


def test_a_description_shows_every_number_its_source_and_the_standing(read):
    weak = read(("most = 5", "most = 6"), ("gap = 3.0", "gap = 4"))
    text = describe(dataclasses.replace(weak, differences=compare(weak, read(), KINDS)), KINDS)
    for words in (weak.hash, "limit window: 20 min", "a letter", "roof: level at most 90 mm", "risk 0.1", "override"):
        assert words in text
    assert text.index("Weaker than the built-in floor in 1:") < text.index("Stricter than the built-in floor in 1:")
    assert "Every number is that of the built-in floor." in describe(read(), KINDS)


def calibration(**levels):
    return Calibration(trajectory={name: {"0.1": 1.0, "0.2": 0.5} for name in ("floor", "roof")} | levels)


def test_guardrails_must_be_among_those_calibrated(read):
    floor = read()
    check_calibrated(
        read(("risk = 0.1", "risk = 0.2"), ("bound = 10.0", "bound = 12")), calibration(), floor.guardrails
    )
    check_calibrated(read(("risk = 0.1", "risk = 0.07")), Calibration(), floor.guardrails)  # nothing is claimed yet
    for change, words in (
        (("risk = 0.1", "risk = 0.07"), ["floor was not calibrated at risk 0.07", "floor at 0.1, 0.2"]),
        (('name = "floor"', 'name = "ground"'), ["ground was not calibrated", "only floor, roof"]),
        (("horizon = 8", "horizon = 9"), ["steps 2 to 9", "steps 2 to 8", "calibrate"]),
        (("start = 2", "start = 1"), ["steps 1 to 8"]),
        (('sense = "at_least"', 'sense = "at_most"'), ["at most", "at least"]),
    ):
        with pytest.raises(InputError) as caught:
            check_calibrated(read(change), calibration(), floor.guardrails)
        for word in words:
            assert word in str(caught.value)
