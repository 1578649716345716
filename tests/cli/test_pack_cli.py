"""Guardrail packs, what if and safety requirements on the command line."""

import json

import pytest
from tests.cli.commands import EXAMPLE, STRICT, fails, run

from foreworld.agent.audit import read
from foreworld.domains.treatment.pack import BUILT_IN, floor

WHY = "trial 7, approved"


@pytest.fixture
def weak(tmp_path):
    path = tmp_path / "weak.toml"
    text = BUILT_IN.read_text(encoding="utf-8")
    path.write_text(text.replace("bound = 70.0", "bound = 65.0").replace("risk = 0.05", "risk = 0.1"), encoding="utf-8")
    return path


def plan(model, *tokens):
    return ("plan", "--model", model, "--input", EXAMPLE, *tokens)


# --- packs -----------------------------------------------------------------------------------------------------------


def test_a_stricter_pack_is_planned_with_and_its_hash_is_told(capsys, model):
    code, out, _ = run(capsys, *plan(model, "--json"))
    usual = json.loads(out)
    assert code == 0 and usual["provenance"]["pack"]["hash"] == floor().hash
    code, out, _ = run(capsys, *plan(model, "--json", "--pack", STRICT))
    strict = json.loads(out)
    assert code == 0 and strict["provenance"]["pack"]["name"] == "strict"
    apart = [c["guardrails"]["predicted_low"]["margin"] for c in (usual, strict)]
    assert apart[0] != apart[1] and strict["provenance"]["pack"]["override"] is None
    assert "weakened" not in strict["explanation"]


def test_a_weaker_pack_needs_a_reason_which_is_told_recorded_and_replayed(capsys, model, weak, tmp_path):
    words = ["predicted_low bound: 65 mg/dL, floor 70 mg/dL", "predicted_very_low risk: 0.1, floor 0.05", "override"]
    fails(capsys, 2, words, *plan(model, "--pack", weak))
    log = tmp_path / "audit"
    code, out, _ = run(capsys, *plan(model, "--pack", weak, "--override", WHY, "--audit", log))
    assert code == 0 and f"Reason given: {WHY}." in out and words[0] in out
    [entry] = read(log)
    assert entry.record["pack"]["override"] == WHY
    code, out, _ = run(capsys, "audit", "verify", log)
    assert code == 0 and f"1 of them were made with a weakened guardrail pack; reason given: {WHY}" in out
    fails(capsys, 5, [WHY, "--pack"], "audit", "replay", log, "--model", model)
    code, out, _ = run(capsys, "audit", "replay", log, "--model", model, "--pack", weak)
    assert code == 0 and out.startswith("1 of 1 decisions")
    fails(capsys, 2, ["leave the override out"], "audit", "replay", log, "--model", model, "--pack", STRICT)


def test_a_log_of_a_stricter_pack_is_replayed_with_it_and_nothing_else(capsys, model, tmp_path):
    log = tmp_path / "audit"
    run(capsys, *plan(model, "--pack", STRICT, "--audit", log))
    fails(capsys, 5, ["replay with the same"], "audit", "replay", log, "--model", model)
    code, out, _ = run(capsys, "audit", "replay", log, "--model", model, "--pack", STRICT)
    assert code == 0 and out.startswith("1 of 1 decisions")


def test_what_is_wrong_with_a_pack_is_named(capsys, model, weak, tmp_path):
    fails(capsys, 2, ["no guardrail pack"], *plan(model, "--pack", tmp_path / "absent.toml"))
    fails(capsys, 2, ["no --pack"], *plan(model, "--override", WHY))
    fails(capsys, 2, ["leave the override out"], *plan(model, "--pack", STRICT, "--override", WHY))
    risky = STRICT.read_text(encoding="utf-8").replace("risk = 0.1", "risk = 0.07")
    weak.write_text(risky, encoding="utf-8")
    fails(capsys, 2, ["not calibrated at risk 0.07", "0.05, 0.1, 0.2"], *plan(model, "--pack", weak))
    weak.write_text(risky.replace("dia = 300.0", "dia = 480.0").replace("risk = 0.07", "risk = 0.1"), encoding="utf-8")
    short = json.loads(EXAMPLE.read_text(encoding="utf-8"))
    for name in ("times", "cgm", "carbs"):
        short[name]["values"] = short[name]["values"][-70:]
    short["insulin"]["values"] = short["insulin"]["values"][-69:]
    record = tmp_path / "short.json"
    record.write_text(json.dumps(short), encoding="utf-8")
    assert run(capsys, "plan", "--model", model, "--input", record)[0] == 0
    fails(capsys, 2, ["345 min", "480 min"], "plan", "--model", model, "--input", record, "--pack", weak)
    weak.write_text("[pack", encoding="utf-8")
    fails(capsys, 4, ["no TOML"], *plan(model, "--pack", weak))


def test_inspect_shows_a_pack_and_how_it_stands(capsys, weak):
    code, out, _ = run(capsys, "inspect", STRICT)
    assert (
        code == 0 and "predicted_low: cgm at least 80 mg/dL" in out and "Stricter than the built-in floor in 4:" in out
    )
    code, out, _ = run(capsys, "inspect", weak)
    assert code == 0 and "Weaker than the built-in floor in 2:" in out and "override" in out
    code, out, _ = run(capsys, "inspect", BUILT_IN)
    assert code == 0 and floor().hash in out and "Every number is that of the built-in floor." in out
    code, out, _ = run(capsys, "inspect", weak, "--json")
    content = json.loads(out)
    assert code == 0 and [d["weaker"] for d in content["differences"]] == [True, True] and len(content["hash"]) == 64


# --- what if ---------------------------------------------------------------------------------------------------------


def whatif(model, *tokens):
    return ("whatif", "--model", model, "--input", EXAMPLE, *tokens)


def test_whatif_speaks_in_sentences(capsys, model):
    code, out, _ = run(capsys, *whatif(model, "--actions", "2.0", "0.5"))
    assert code == 0 and out.startswith("(1) insulin 2 U now, then the profile basal.")
    for words in ("(2) insulin 0.5 U now", "in 30 min", "in 240 min", "Compared with (1)", "It would pass"):
        assert words in out
    assert "Research software, not a medical device." in out


def test_whatif_as_json_is_nothing_but_json(capsys, model):
    code, out, _ = run(capsys, *whatif(model, "--actions", "0.5", "40", "--actions", "1.0", "--json"))
    content = json.loads(out)
    assert code == 0 and [o["now"]["insulin"]["value"] for o in content["options"]] == [0.5, 40.0, 1.0]
    assert [o["refused"] for o in content["options"]] == [False, True, False]
    assert {"by": "guardrail", "name": "dose_limit"}.items() <= content["options"][1]["refused_by"][0].items()
    assert content["options"][0]["forecast"]["cgm"]["minutes"] == [30.0, 60.0, 120.0, 240.0]
    assert content["options"][0]["against_first"] == {}
    assert len(content["options"][2]["against_first"]["cgm"]["least"]) == 4
    assert content["provenance"]["pack"]["hash"] == floor().hash


def test_whatif_exits_with_3_if_every_dose_would_be_refused(capsys, model):
    code, out, _ = run(capsys, *whatif(model, "--actions", "40", "50"))
    assert code == 3 and out.count("It would be refused by") == 2


def test_whatif_draws(capsys, model, tmp_path):
    code, _, err = run(capsys, *whatif(model, "--actions", "2", "0.5", "--png", tmp_path / "what.png"))
    assert code == 0 and "picture in" in err and (tmp_path / "what.png").read_bytes().startswith(b"\x89PNG")


def test_whatif_tells_a_weakened_pack_and_names_what_is_wrong(capsys, model, weak, tmp_path):
    code, out, _ = run(capsys, *whatif(model, "--actions", "2", "0.5", "--pack", weak, "--override", WHY))
    assert code == 0 and f"Reason given: {WHY}." in out
    fails(capsys, 2, ["weaker"], *whatif(model, "--actions", "2", "0.5", "--pack", weak))
    fails(capsys, 2, ["nothing to compare"], *whatif(model, "--actions", "2"))
    fails(capsys, 2, ["-1 U is no dose", "0 to 60 U"], *whatif(model, "--actions=-1", "--actions=2"))
    fails(capsys, 2, ["cannot draw"], *whatif(model, "--actions", "2", "1", "--png", tmp_path / "absent" / "what.png"))
    fails(capsys, 2, ["--actions"], *whatif(model))


# --- safety ----------------------------------------------------------------------------------------------------------


def test_safety_prints_or_writes_the_same_page(capsys, tmp_path):
    code, out, _ = run(capsys, "safety")
    assert code == 0 and "| FW-S-001 |" in out and "| FW-S-101 |" in out
    code, nothing, _ = run(capsys, "safety", "--out", tmp_path / "safety.md")
    assert code == 0 and nothing == "" and (tmp_path / "safety.md").read_text(encoding="utf-8") == out
    fails(capsys, 2, ["cannot write the page"], "safety", "--out", tmp_path / "absent" / "safety.md")
    fails(capsys, 2, ["'rheology'"], "safety", "--domain", "rheology")
