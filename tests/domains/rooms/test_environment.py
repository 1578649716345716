import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from foreworld.domains.rooms.environment import CONFIGS, RoomsVectorEnv, register


@pytest.fixture(autouse=True)
def known():
    register()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_gymnasium_finds_nothing_wrong(name):
    check_env(gymnasium.make(name).unwrapped, skip_render_check=True)


def test_reaching_the_goal_ends_an_episode_with_a_reward():
    environment = gymnasium.make("foreworld/TwoRoom-v0").unwrapped
    environment.reset(seed=0)
    scenes = environment._scenes
    scenes.place(scenes.goal + np.array([[20.0, 0.0]], dtype=np.float32), scenes.goal)
    seen = [environment.step(np.array([-1.0, 0.0], dtype=np.float32)) for _ in range(1)]
    assert seen[0][1:3] == (1.0, True)


def test_an_episode_is_cut_off_after_its_steps():
    environment = gymnasium.make("foreworld/TwoRoom-v0", steps=3).unwrapped
    environment.reset(seed=0)
    ends = [environment.step(np.zeros(2, dtype=np.float32))[3] for _ in range(3)]
    assert ends == [False, False, True]


def test_many_scenes_go_on_with_new_episodes():
    many = RoomsVectorEnv(5, steps=4)
    frames, _ = many.reset(seed=3)
    assert frames.shape == (5, 64, 64, 3)
    starts = many._scenes.position.copy()
    for _ in range(4):
        *_, late, _ = many.step(np.zeros((5, 2), dtype=np.float32))
    assert late.all()
    _, _, reached, late, _ = many.step(np.zeros((5, 2), dtype=np.float32))
    assert not late.any() and not reached.any() and (many._scenes.position != starts).any(1).all()


def test_a_step_before_a_reset_says_what_to_do():
    with pytest.raises(gymnasium.error.ResetNeeded, match="reset"):
        gymnasium.make("foreworld/Maze-v0").unwrapped.step(np.zeros(2))
