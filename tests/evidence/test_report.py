"""Pages of evidence and model cards: well formed, escaped, self-contained, and the same for the same input."""

import re
import struct
import zlib
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreworld.errors import InputError
from foreworld.evidence.card import Card, model_card
from foreworld.evidence.report import (
    BANNER,
    Bullets,
    Commands,
    Facts,
    Page,
    Picture,
    Section,
    Table,
    evidence_table,
    number,
    render,
    write_page,
)

HOSTILE = "</title><script src='http://evil.example/x.js'>alert(\"1\")</script><img src=x onerror=y> & \x00\x1b\ud800"
VOID = {"meta", "img", "br", "hr", "link", "input"}
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"></svg>'


def png() -> bytes:
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")


class Reader(HTMLParser):
    """Collects tags and fails where one is closed that was not the last opened."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)


def read(text) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert not reader.open
    return reader


def page(word="plain") -> Page:
    blocks = [
        word,
        Bullets([word, "second"]),
        Facts({word: word, "seeds": (0, 1), "versions": {"torch": "2.13.0"}, "seconds": 1.25, "none": None}),
        Commands([f"foreworld demo {word}"]),
        Table(["Arm", word], [[word, 1.5], ["b", None]], word),
        Picture(png(), word, word),
        Picture(SVG, word, word),
    ]
    return Page(title=word, lead=word, sections=[Section(word, blocks), Section("Second", [])])


@pytest.mark.parametrize("word", ["plain", HOSTILE])
def test_page_is_well_formed_and_runs_nothing_that_it_was_given(word):
    reader = read(render(page(word)))
    tags = [tag for tag, _ in reader.tags]
    assert "script" not in tags
    assert not [key for _, attrs in reader.tags for key in attrs if key.startswith("on")]
    assert tags.count("img") == 2
    assert tags.count("h1") == tags.count("title") == tags.count("main") == 1
    shown = "".join(reader.text)
    if word is HOSTILE:
        assert shown.count("<script src='http://evil.example/x.js'>") >= 8
        assert "\N{REPLACEMENT CHARACTER}" in shown


@given(st.text())
def test_any_text_is_written_as_utf8_and_reads_back_as_one_paragraph(text):
    content = render(Page(title="t", lead=text)).encode("utf-8")
    tags = [tag for tag, _ in read(content.decode("utf-8")).tags]
    assert tags == [tag for tag, _ in read(render(Page(title="t", lead="plain"))).tags]


def test_page_loads_nothing_and_says_so_to_the_browser():
    text = render(page())
    for _, attrs in read(text).tags:
        for key in ("src", "href", "srcset", "action", "data", "poster"):
            assert attrs.get(key, "#").startswith(("data:image/", "#"))
    assert "default-src 'none'" in text
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style and "@import" not in style and "http" not in style


def test_page_is_accessible_and_bears_the_banner():
    reader = read(render(page()))
    assert ("html", {"lang": "en"}) in reader.tags
    assert all(attrs["alt"] for tag, attrs in reader.tags if tag == "img")
    assert all("scope" in attrs for tag, attrs in reader.tags if tag == "th")
    banners = [attrs for _, attrs in reader.tags if attrs.get("class") == "banner"]
    assert len(banners) == 1
    assert BANNER in reader.text and BANNER.startswith("Research software, not a medical device")
    ids = [attrs["id"] for _, attrs in reader.tags if "id" in attrs]
    links = [attrs["href"][1:] for tag, attrs in reader.tags if tag == "a"]
    assert links == ids and len(set(ids)) == 2
    style = render(page())
    for query in ("prefers-color-scheme: dark", "@media print", "max-width: 44rem"):
        assert query in style


@pytest.mark.parametrize(
    ("block", "word"),
    [
        (Picture(b"GIF89a", "alt", "c"), "PNG or SVG"),
        (Picture(png(), "  ", "c"), "alternative"),
        (Table(["a", "b"], [["only one"]], "c"), "1 cells for 2"),
    ],
)
def test_refuses_what_would_not_show(block, word):
    with pytest.raises(InputError, match=word):
        render(Page(title="t", lead="l", sections=[Section("s", [block])]))


def test_write_page_replaces_whole_and_leaves_no_draft(tmp_path):
    path = write_page(tmp_path / "new" / "report.html", page())
    before = path.read_bytes()
    with pytest.raises(InputError):
        write_page(path, Page(title="t", lead="l", sections=[Section("s", [Picture(b"", "a", "c")])]))
    assert path.read_bytes() == before
    write_page(path, Page(title="other", lead="l"))
    assert b"other" in path.read_bytes()
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def row(arm, metric, value, **more):
    return {"arm": arm, "metric": metric, "value": value, "unit": "share", **more}


def test_evidence_table_sets_arms_against_metrics():
    rows = [
        row("bb", "tir", 0.858, low=0.84, high=0.875, n=21),
        row("foreworld", "tir", 0.9125, low=0.9, high=0.92, n=21),
        row("foreworld", "below", 0.0001, n=42),
        {"arm": "other", "metric": "rmse", "value": 13.04, "unit": "mg/dL"},
        row("foreworld", "hidden", 0.5),
    ]
    metrics = {"tir": "In range", "below": "Below", "rmse": "RMSE"}
    table = evidence_table(rows, caption="c", arms={"foreworld": "Foreworld", "bb": "Basal"}, metrics=metrics)
    assert list(table.columns) == ["Arm", "In range, %", "Below, %", "RMSE, mg/dL", "n"]
    assert [list(line) for line in table.rows] == [
        ["Foreworld", "91.2 (90.0 to 92.0)", "<0.1", "–", "21 to 42"],
        ["Basal", "85.8 (84.0 to 87.5)", "–", "–", "21"],
        ["other", "–", "–", "13.0", "–"],
    ]


def test_evidence_table_keeps_groups_apart_and_refuses_doubles():
    rows = [row("a", "m", 0.1, group="all"), row("a", "m", 0.2, group="child")]
    table = evidence_table(rows, caption="c")
    assert [list(line)[:3] for line in table.rows] == [["a", "all", "10.0"], ["a", "child", "20.0"]]
    with pytest.raises(InputError, match="two evidence rows"):
        evidence_table([*rows, rows[0]], caption="c")
    with pytest.raises(InputError, match="no 'value'"):
        evidence_table([{"arm": "a", "metric": "m"}], caption="c")


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0, "share", "0.0"), (0.0004, "share", "<0.1"), (0.99999, "share", ">99.9"), (1.0, "share", "100.0"),
        (12345.6, "", "12,346"), (0.01234, "s", "0.0123"), (float("nan"), "", "–"),
        (0.0, "", "0.0"), (-3.14, "", "-3.1"),
    ],
)  # fmt: skip
def test_numbers_never_show_something_as_nothing(value, unit, text):
    assert number(value, unit) == text


CARD = {
    "name": "Glucose model",
    "summary": "Forecasts CGM.",
    "trained_on": {"patients": "adult#001 | adult#002", "days": 2400},
    "sizes": {"parameters": 81234},
    "calibration": {"coverage": 0.9},
    "figures": [
        {"metric": "rmse_60", "value": 13.04, "low": 12.5, "high": 13.6, "n": 21, "unit": "mg/dL", "command": "run a"},
        {"metric": "time_in_range", "value": 0.9, "unit": "share", "command": "run b"},
        {"metric": "coverage_90", "value": 0.899, "unit": "share", "command": "run a", "by_seed": [0.9]},
    ],
    "limits": ["Simulated patients only."],
}


def test_card_says_all_of_it_and_every_figure_stands_under_its_command():
    text = model_card(CARD)
    assert text == model_card(Card.model_validate(CARD))
    titles = [line for line in text.splitlines() if line.startswith("#")]
    assert titles == ["# Glucose model", "## Trained on", "## Sizes", "## Calibration", "## Figures", "## Limits"]
    assert BANNER in text and "- parameters: 81,234" in text
    first, second = text.index("run a"), text.index("run b")
    assert first < text.index("| rmse_60 | 13.0 mg/dL | 12.5 to 13.6 | 21 |") < text.index("89.9 %") < second
    assert text.count("run a") == 1


def test_card_fits_below_a_title_that_stands_already():
    text = model_card(CARD, level=3)
    assert BANNER not in text
    assert {line.split()[0] for line in text.splitlines() if line.startswith("#")} == {"###"}


def test_card_text_is_never_markup():
    hostile = "# x\n<b>|`*_a_* [l](http://e)"
    figure = {"metric": hostile, "value": 1.0, "command": "echo ```` \n# no"}
    text = model_card(CARD | {"summary": hostile, "limits": ["1. x", hostile], "figures": [figure]})
    lines = text.splitlines()
    assert "\\# x \\<b\\>\\|\\`\\*\\_a\\_\\* \\[l\\](http://e)" in lines
    assert "- 1\\. x" in lines
    fences = [line for line in lines if line.startswith("````")]
    assert fences == ["`````sh", "`````"]
    [cells] = [line for line in lines if line.startswith("| foreworld")]
    assert len(re.findall(r"(?<!\\)\|", cells)) == 6


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"limits": []}, "limits"),
        ({"figures": [{"metric": "m", "value": 1.0, "command": ""}]}, "command"),
        ({"figures": [{"metric": "m", "value": float("nan"), "command": "c"}]}, "value"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_card_refuses_what_is_incomplete(change, word):
    with pytest.raises(InputError, match=word):
        model_card(CARD | change)


def test_card_refuses_a_level_without_headings():
    with pytest.raises(InputError, match="level 6"):
        model_card(CARD, level=6)
