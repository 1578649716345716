"""The ten lines of the README run, with less data and training than they ask for."""

import re
from pathlib import Path

from foreworld.domains.treatment import prepare as preparing
from foreworld.domains.treatment.calibrate import CalibrateConfig
from foreworld.domains.treatment.collect import CollectConfig

ROOT = Path(__file__).parents[2]
TINY = preparing.Recipe(
    name="tiny",
    window=1008,
    collect=CollectConfig(subjects=14, days=5),
    steps=3,
    calibrate=CalibrateConfig(subjects=8, logged_subjects=24, days=2, loop_days=0.4, rounds=1, every=10),
)


def test_the_ten_lines_run(tmp_path, monkeypatch, capsys):
    [code] = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    assert len(code.strip().splitlines()) <= 10
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(preparing, "DEMO", TINY)
    exec(compile(code, "README.md", "exec"), {})
    out = capsys.readouterr().out
    assert out.startswith(("Proposed now: insulin", "Refused: "))
    assert "Research software, not a medical device." in out
