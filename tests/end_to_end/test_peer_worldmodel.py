"""The scripts beside stable-worldmodel, as far as they go without it."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from foreworld.domains.rooms.layout import two_rooms
from foreworld.domains.rooms.render import Camera
from foreworld.domains.rooms.scene import RoomsConfig, Scenes
from foreworld.errors import InputError, MissingDataError

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks" / "peers" / "stable_worldmodel"
SCRIPTS = ("equality", "evaluator", "reading", "timing")
VARIABLE = "FOREWORLD_STABLE_WORLDMODEL"


@pytest.fixture
def script(monkeypatch):
    """Imports one of the scripts, and forgets it afterwards: their names are short."""
    monkeypatch.syspath_prepend(str(FOLDER))
    names = {path.stem for path in FOLDER.glob("*.py")}
    before = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    path = list(sys.path)
    yield importlib.import_module
    for name in names:
        sys.modules.pop(name, None)
    sys.modules.update(before)
    sys.path[:] = path


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_peer_that_is_missing_is_asked_for_with_the_command(name, tmp_path):
    command = [sys.executable, str(FOLDER / f"{name}.py"), "--json", str(tmp_path / "report.json")]
    done = subprocess.run(command, env={VARIABLE: str(tmp_path)}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert re.match(r"error: stable-worldmodel 0\.1\.1 is not installed: .*make peers-worldmodel", done.stderr)
    assert not (tmp_path / "report.json").exists()


def test_another_version_of_the_peer_is_refused(script, tmp_path, monkeypatch):
    peer = script("peer")
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    (tmp_path / "venv" / "lib" / "python3.11" / "site-packages" / "stable_worldmodel-0.2.0.dist-info").mkdir(
        parents=True
    )
    (tmp_path / "venv" / "bin").mkdir()
    (tmp_path / "venv" / "bin" / "python").touch()
    with pytest.raises(
        MissingDataError, match=r"holds stable_worldmodel-0\.2\.0, not version 0\.1\.1.*make peers-worldmodel"
    ):
        peer.peer_python()


def test_the_command_that_errors_name_installs_the_version_that_scripts_ask_for(script):
    assert re.search(r"^peers-worldmodel:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    pinned = (FOLDER / "requirements.txt").read_text(encoding="utf-8")
    assert f"stable-worldmodel[all]=={script('peer').VERSION}\n" in pinned


@pytest.mark.parametrize("text", ["", "seventy", "70,,71", "70,70"])
def test_seeds_that_are_none_are_refused(script, text):
    with pytest.raises(InputError, match="--seeds"):
        script("peer").seeds_of(text)


def test_seeds_are_read_in_order(script):
    assert script("peer").seeds_of("71,70") == (71, 70)


def test_columns_of_a_table_stand_under_their_heads(script):
    lines = script("peer").table([("arm", "n"), ("foreworld", "1,000"), ("x", "7")]).splitlines()
    assert lines == ["arm            n", "foreworld  1,000", "x              7"]


class Remembering:
    """A player that goes right and remembers what it was shown."""

    def __init__(self):
        self.seen, self.going = [], []

    def begin(self, scenes, frames):
        self.goals, self.count, self.first = scenes.goal_frames(), len(scenes), frames

    def act(self, frames, going):
        self.seen.append(frames)
        self.going.append(going.tolist())
        return np.tile(np.float32([1.0, 0.0]), (len(frames), 1))


def test_our_agent_sees_their_frames_as_it_sees_its_own_and_is_told_who_has_ended(script):
    large, small = Scenes(RoomsConfig(frame=224), (1, 2)), Scenes(RoomsConfig(), (1, 2))
    frames, own = large.reset(), small.reset()
    player = Remembering()
    visitor = script("evaluator").Visitor(player, "ours")
    infos = {"pixels": frames[:, None], "goal": large.goal_frames()[:, None], "terminated": np.array([[True], [False]])}
    action = visitor.get_action(infos)
    visitor.get_action(infos)
    np.testing.assert_array_equal(player.first, own)
    np.testing.assert_array_equal(player.seen[1], own)
    np.testing.assert_array_equal(player.goals, small.goal_frames())
    # Before the first step nobody was stepped, whatever a flag of the last episode says.
    assert player.count == 2 and player.going == [[True, True], [False, True]]
    assert action.shape == (2, 2) and len(visitor.actions) == 2


def test_an_arm_goes_from_the_same_starts_in_both_loops(script, monkeypatch):
    evaluator = script("evaluator")

    def ours_for_theirs(visitor, start, goal, ahead, budget):
        scenes = Scenes(RoomsConfig(frame=224), range(len(start)))
        frames, reached = scenes.place(start, goal), scenes.reached
        for _ in range(budget):
            infos = {"pixels": frames, "goal": scenes.goal_frames(), "proprio": scenes.position, "goal_proprio": goal}
            given = {name: np.asarray(value)[:, None] for name, value in infos.items()}
            before = scenes.position.copy()
            frames = scenes.step(visitor.get_action(given | {"terminated": reached[:, None]}))
            scenes.position[reached] = before[reached]
            reached = reached | scenes.reached
        return {"episode_successes": reached, "success_rate": 100.0 * reached.mean()}

    monkeypatch.setattr(evaluator, "their_evaluation", ours_for_theirs)
    found = evaluator.evaluate("two-room", "straight_line", 70, 6, "ours")
    assert found["same_first_frames"] and found["ours"].any()
    np.testing.assert_array_equal(found["ours"], found["theirs"])
    assert found["world_says"] == pytest.approx(100.0 * found["theirs"].mean())


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_a_script_takes_from_foreworld_is_there(name):
    tree = ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))
    taken = [
        (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("foreworld")
        for alias in node.names
    ]
    assert taken
    assert [one for one in taken if not hasattr(importlib.import_module(one[0]), one[1])] == []


def test_starts_that_are_solved_are_no_success_of_either_loop(script):
    both = {
        "solved": np.array([True, False, False, False, False]),
        "theirs": np.array([True, True, True, False, False]),
        "ours": np.array([True, True, False, False, False]),
    }
    found = script("evaluator").summary(both, [60.0])
    assert (found["n"], found["solved_at_start"], found["unlike"][0]) == (4, 1, 0.25)
    assert found["success_theirs"][0] == 0.5 and found["success_ours"][0] == 0.25
    assert found["difference_points"][0] == 25.0 and found["difference_points"][2] >= 25.0


def test_loops_that_end_alike_on_few_starts_may_yet_differ(script):
    none, all_of_them = np.zeros(42, dtype=bool), np.ones(42, dtype=bool)
    found = script("evaluator").summary({"solved": none, "theirs": all_of_them, "ours": all_of_them}, [100.0])
    value, low, high = found["difference_points"]
    assert value == 0.0 and low == -high and 8.0 < high < 9.0 and 0.06 < found["unlike"][2] < 0.1


def test_levels_that_differ_by_rounding_are_told_from_others(script):
    floor = Camera(two_rooms(1), 224).frames(np.full((1, 2), np.nan, dtype=np.float32), np.float32([7.0]))[0]
    apart = script("equality").from_whole(floor, np.float32([60.0, 60.0]))
    assert apart[60, 60].max() < 1e-9 and apart[60, 66].max() > 1e-3  # the red of red on white is 255 throughout
    assert apart[60, 66, 0] < 1e-9


def test_places_that_both_paint_are_within_the_border_and_stand_at_wall_and_door(script):
    places = script("equality").places_of(400, np.random.default_rng(0))
    assert places.dtype == np.float32 and (places >= 21.0).all() and (places <= 203.0).all()
    assert (places[:, 0] == 99.5).any() and ((abs(places[:, 0] - 112) < 5) & (abs(places[:, 1] - 49) < 14)).any()


def test_ratios_are_taken_turn_by_turn(script):
    timing = script("timing")
    ours = [{"plan": 1.0, "search": 0.5}, {"plan": 4.0, "search": 0.5}, {"plan": 2.0, "search": 0.5}]
    found = timing.ratios([{"plan": 10.0, "search": 5.0}, {"plan": 20.0}, {"plan": 40.0}], ours)
    assert found == {"plan": [5.0, 10.0, 20.0], "search": [10.0, 10.0, 10.0]}


def test_what_is_read_side_by_side_has_an_action_less_than_frames(script):
    reading = script("reading")
    episodes = reading.record(3, 64, seed=5)
    assert episodes["pixels"].shape == (3, reading.STEPS + 1, 64, 64, 3) and episodes["pixels"].dtype == np.uint8
    assert episodes["action"].shape == (3, reading.STEPS, 2) and episodes["proprio"].shape == (3, reading.STEPS + 1, 2)
    again = reading.record(3, 64, seed=5)
    np.testing.assert_array_equal(again["pixels"], episodes["pixels"])
