import pytest
import torch

from foreworld.errors import FormatError, InputError
from foreworld.learning.fit import FitConfig
from foreworld.planning.temporal import PairStream, TemporalConfig, TemporalDistance, fit_temporal

SHORT = TemporalConfig(block=2, hidden=64, width=8, batch=256, fit=FitConfig(steps=600, lr=5e-3, warmup=20, floor=0.02))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def ring(episodes=60, moments=60, seed=0):
    """Walkers on a ring that has a wall at angle 0: who is on its one side goes round to get to the other."""
    generator = torch.Generator().manual_seed(seed)
    at = 5.2 * torch.rand(episodes, generator=generator)
    speed = torch.where(torch.rand(episodes, generator=generator) < 0.5, -0.1, 0.1)
    path = []
    for _ in range(moments):
        path.append(at)
        at = at + speed
        turn = (at < 0.0) | (at > 5.2) | (torch.rand(episodes, generator=generator) < 0.02)
        speed = torch.where(turn, -speed, speed)
        at = at.clamp(0.0, 5.2)
    return torch.stack(path, dim=1)


def seen(angle):
    """A latent in which both sides of the wall are near one another."""
    turned = angle * (2 * torch.pi / 6.0)
    return torch.stack([turned.cos(), turned.sin()], dim=-1)


def test_distance_goes_round_a_wall_that_the_latent_distance_does_not_know():
    distance = fit_temporal(seen(ring()), SHORT)
    place, goal = torch.tensor([0.2, 2.6, 4.9, 0.8]), torch.tensor([5.0, 3.2, 4.3, 3.8])
    blocks = distance.between(distance.place(seen(place)), distance.place(seen(goal)))
    true = (place - goal).abs() / 0.2
    straight = (seen(place) - seen(goal)).norm(dim=-1)
    assert straight[0] < straight[3]
    assert blocks[0] > blocks[3] > blocks[1]
    torch.testing.assert_close(blocks, true, rtol=0.3, atol=1.0)


def test_batches_of_plans_are_judged_as_single_pairs():
    torch.manual_seed(0)
    distance = TemporalDistance(3, 16)
    latents, goals = torch.randn(2, 4, 5, 6, 3), torch.randn(4, 2, 3)
    found = distance(latents, goals)
    assert found.shape == (2, 4, 5, 6, 2)
    one = distance.between(distance.place(latents[1, 2, 3, 4]), distance.place(goals[2, 1]))
    torch.testing.assert_close(found[1, 2, 3, 4, 1], one)


def test_it_is_a_quasimetric_whatever_it_learned():
    torch.manual_seed(0)
    distance = TemporalDistance(3, 16)
    places = distance.place(3.0 * torch.randn(30, 3))
    apart = distance.between(places[:, None], places[None])
    assert (apart >= 0).all() and apart.diagonal().max() < 1e-3
    assert (apart[:, None] <= apart[:, :, None] + apart[None] + 1e-5).all()
    assert not torch.allclose(apart, apart.T)


def test_pairs_are_of_the_same_layout():
    layouts = torch.tensor([7, 3, 7, 3, 5])
    paths = torch.zeros(5, 9, 2)
    paths[..., 0], paths[..., 1] = layouts[:, None].float(), torch.arange(9.0)
    draws = PairStream(paths, layouts, 2, 200, 0)
    pairs = draws.next()
    assert torch.equal(pairs.now[:, 0], pairs.other[:, 0]) and torch.equal(pairs.now[:, 0], pairs.later[:, 0])
    assert torch.equal(pairs.later[:, 1], pairs.now[:, 1] + 2)
    assert set(pairs.other[:, 1].tolist()) == set(range(9))


def test_draws_go_on_where_they_stopped():
    paths = seen(ring(6, 20))
    one, other = (PairStream(paths, torch.zeros(6, dtype=torch.int64), 2, 8, 3) for _ in range(2))
    one.next()
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.next().other, other.next().other)


def test_a_distance_comes_back_from_its_folder_and_damage_is_told(tmp_path):
    distance = TemporalDistance(3, 16)
    distance.save(tmp_path)
    latents, goals = torch.randn(1, 1, 1, 1, 3), torch.randn(1, 1, 3)
    assert torch.equal(TemporalDistance.load(tmp_path)(latents, goals), distance(latents, goals))
    (tmp_path / "temporal.safetensors").write_bytes(b"no")
    with pytest.raises(FormatError, match="learn it again"):
        TemporalDistance.load(tmp_path)


def test_paths_that_are_too_short_are_refused():
    with pytest.raises(InputError, match="more than 2 moments"):
        fit_temporal(torch.zeros(4, 2, 3), SHORT)
    with pytest.raises(InputError, match="as many layouts"):
        fit_temporal(torch.zeros(4, 5, 3), SHORT, layouts=torch.zeros(3, dtype=torch.int64))
