"""Rooms with walls of their own: the recipe whose model sees what is around, ways imagined, and films."""

import dataclasses

import numpy as np
import pytest

from foreworld.domains.rooms.film import HOLD, SHOWN, record, save_film
from foreworld.domains.rooms.loop import Planned, run_scenes
from foreworld.domains.rooms.prepare import prepare
from foreworld.domains.rooms.protocols import PROTOCOLS, RANDOM, SIGHTED, TASKS, arms_of
from foreworld.domains.rooms.scene import Scenes
from foreworld.domains.rooms.zones import Zones
from foreworld.errors import InputError
from foreworld.evidence.protocol import Request

QUICK = SIGHTED.quick()
TINY = QUICK.model_copy(
    update={
        "name": "tiny",
        "episodes": 60,
        "steps": 30,
        "places": 60,
        "train": QUICK.train.model_copy(
            update={"clips": 16, "labels": 40, "fit": QUICK.train.fit.model_copy(update={"steps": 6, "warmup": 2})}
        ),
    }
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("sighted"), TINY, seed=3, progress="none")


def placed(count):
    scenes = Scenes(RANDOM, range(count))
    scenes.reset()
    return scenes


def test_episodes_do_not_depend_on_which_others_run_beside_them(tiny):
    whole = run_scenes(Planned(tiny, seed=1, by="imagined"), placed(3), 5)
    again = run_scenes(Planned(tiny, seed=1, by="imagined"), placed(3), 5)
    np.testing.assert_array_equal(whole.path, again.path)
    assert whole.decisions == 15 and not whole.refused.any()


def test_without_places_no_ways_are_imagined(tiny):
    bare = dataclasses.replace(tiny, places=None)
    with pytest.raises(InputError, match="no places were gathered"):
        run_scenes(Planned(bare, by="imagined"), placed(1), 2)


def test_a_film_shows_each_step_and_the_end(tiny, tmp_path):
    from PIL import Image

    zones = Zones(np.full((2, 2), 10.0, np.float32), np.full((2, 2), 20.0, np.float32))
    reel = record(Planned(tiny, by="imagined"), placed(2), 4)
    assert len(reel.shots) == 4 + HOLD and reel.shots[0].imagined.shape == (2, 3, 2)
    assert np.isfinite(reel.shots[0].imagined).all() and np.isnan(reel.shots[-1].imagined).all()
    candidates = reel.shots[0].candidates
    assert candidates.shape == (2, SHOWN, 3, 2) and np.isfinite(candidates).all()
    assert (candidates[:, 1:] != candidates[:, :1]).any((1, 2, 3)).all()
    save_film(tmp_path / "new" / "film.gif", dataclasses.replace(reel, zones=zones))
    with Image.open(tmp_path / "new" / "film.gif") as film:
        # Pillow merges frames of the end that are all the same.
        assert film.n_frames >= 5 and film.size[0] == 2 * 192


def test_to_be_filmed_changes_nothing(tiny):
    filmed = record(Planned(tiny, by="imagined", seed=2), placed(2), 5)
    path = run_scenes(Planned(tiny, by="imagined", seed=2), placed(2), 5).path
    np.testing.assert_array_equal(np.stack([shot.position for shot in filmed.shots[:6]]), path)


def test_arms_are_those_that_the_recipe_allows():
    assert "foreworld_waypoints" not in arms_of(TASKS["random-layout"][1])
    assert "foreworld_waypoints" in arms_of(TASKS["cross-room"][1])


def test_a_protocol_films_its_first_scenes(tiny, tmp_path, monkeypatch):
    import foreworld.domains.rooms.protocols as module

    monkeypatch.setattr(module, "prepare", lambda *args, **options: tiny)
    monkeypatch.setattr(module, "FILMED", 1)
    config = TASKS["random-layout"][1].model_copy(update={"budget": 3})
    path = module.film_of("random-layout", config, Request(seeds=(3,)), tmp_path)
    assert path.is_file() and PROTOCOLS["rooms/random-layout"].film is not None
    assert (tmp_path / "random-layout-3-probe.png").read_bytes().startswith(b"\x89PNG")
