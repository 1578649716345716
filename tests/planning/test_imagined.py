"""Ways that nobody walked: an exact model of two rooms stands in for a learned one, so that ways are known."""

import pytest
import torch
from safetensors.torch import load_file

from foreworld.errors import FormatError, InputError
from foreworld.planning.hierarchy import UNREACHED
from foreworld.planning.imagined import Places, imagine_ways, moved_by_actions

STRIDE = 0.3


class Sight:
    """Nobody is within the wall between -0.2 and 0.2, but in the door above 1."""

    def present(self, latents, around):
        inside = (latents[..., 0].abs() < 0.2) & ((latents[..., 1] < 1.0) | (around[0, 0, 0, 0] == 0))
        return torch.where(inside, -9.0, 9.0)


class Exact:
    """Moves by its action, but not into the wall; `around` says whether there is a door."""

    block = 2
    sight = Sight()
    centre = torch.zeros(2)

    def fan(self, latents, actions, around):
        count = len(actions)
        each = self.step(latents.repeat_interleave(count, 0), actions.repeat(len(latents), 1, 1), around)
        return each.reshape(1, len(latents), count, -1)

    def step(self, latents, actions, around):
        ends = (latents + STRIDE * actions[:, 0]).clamp(-1.5, 1.5)
        hit = (ends[:, 0].abs() < 0.2) & ((ends[:, 1] < 1.0) | (around[0, 0, 0, 0] == 0))
        crossed = (ends[:, 0].sign() != latents[:, 0].sign()) & (latents[:, 0].abs() >= 0.2)
        crossed &= (latents[:, 1] < 1.0) | (around[0, 0, 0, 0] == 0)
        return torch.where((hit | crossed)[:, None], latents, ends)


@pytest.fixture(scope="module")
def places():
    line = torch.arange(-1.5, 1.51, 0.1)
    return Places(torch.cartesian_prod(line, line), STRIDE, torch.tensor([True, True]))


def ways(places, now, goal, *, door=True, least=0.06):
    around = torch.full((1, 1, 1, 1), float(door))
    goals = torch.tensor([[list(goal)]])
    found = imagine_ways(Exact(), places, torch.tensor([list(now)]), around, goals, least=least)
    return found, float(found(torch.tensor([[[[list(now)]]]]), goals).squeeze())


def test_a_way_leads_through_the_door_of_this_very_scene(places):
    _, here = ways(places, (-1.0, -1.0), (-1.0, 0.2))
    found, across = ways(places, (-1.0, -1.0), (1.0, -1.0))
    # Up by 2 while going right by up to 2, and down again: about 14 blocks, where the bird has seven.
    assert here == pytest.approx(4.0, abs=1.0) and 12.0 < across < 18.0
    assert found.left(torch.tensor([[-1.0, -1.0]])).tolist() == [[True]]


def test_where_there_is_no_door_there_is_no_way(places):
    found, across = ways(places, (-1.0, -1.0), (1.0, -1.0), door=False)
    assert across >= UNREACHED
    assert found.left(torch.tensor([[-1.0, -1.0]])).tolist() == [[False]]
    assert found.left(torch.tensor([[1.0, 0.0]])).tolist() == [[True]]


def test_where_nobody_may_be_no_way_leads_through(places):
    barred = ((places.nodes[:, 0].abs() < 0.2) & (places.nodes[:, 1] > 0.9))[None]
    around, goals = torch.ones(1, 1, 1, 1), torch.tensor([[[1.0, -1.0]]])
    found = imagine_ways(Exact(), places, torch.tensor([[-1.0, -1.0]]), around, goals, barred=barred)
    assert found.left(torch.tensor([[-1.0, -1.0]])).tolist() == [[False]]
    with pytest.raises(InputError, match="barred has shape"):
        imagine_ways(Exact(), places, torch.zeros(1, 2), around, goals, barred=barred[:, :3])


def test_no_way_leaps_over_where_nobody_may_be(places):
    # A strip across the door that is narrower than a move: no place lies within it.
    around, goals, now = torch.ones(1, 1, 1, 1), torch.tensor([[[1.0, -1.0]]]), torch.tensor([[-1.0, -1.0]])

    def over(scene, starts, ends):
        assert scene == 0
        return (starts[None, :, None, None, 0] < 0.05) != (ends[..., 0] < 0.05)

    free = imagine_ways(Exact(), places, now, around, goals)
    kept = imagine_ways(Exact(), places, now, around, goals, bars=over)
    assert free.left(now).tolist() == [[True]] and kept.left(now).tolist() == [[False]]
    assert kept.left(torch.tensor([[1.0, 1.0]])).tolist() == [[True]]


def test_where_ways_are_barred_a_move_is_rounded_less_far(places):
    # Ends lie 0.45 blocks from the nearest places.
    line = torch.arange(-1.5, 1.51, STRIDE)
    apart = Places(torch.cartesian_prod(line, line), STRIDE, torch.tensor([True, True]))
    around, goals, now = torch.ones(1, 1, 1, 1), torch.tensor([[[1.2, 1.2]]]), torch.tensor([[-0.9, 1.2]])

    class Short(Exact):
        def step(self, latents, actions, around):
            return latents + 0.55 * STRIDE * actions[:, 0]

    def nothing(scene, starts, ends):
        return torch.zeros(ends.shape[:-1], dtype=torch.bool)

    assert imagine_ways(Short(), apart, now, around, goals).left(now).tolist() == [[True]]
    assert imagine_ways(Short(), apart, now, around, goals, bars=nothing).left(now).tolist() == [[False]]


class Divided(Exact):
    """Two members, of which the second holds the door for shut."""

    def fan(self, latents, actions, around):
        return torch.cat([super().fan(latents, actions, around), super().fan(latents, actions, 0.0 * around)])


def test_a_way_that_one_member_denies_is_none():
    # Places a block apart: who is held ends at no other place by rounding.
    line = torch.arange(-1.5, 1.51, STRIDE)
    places = Places(torch.cartesian_prod(line, line), STRIDE, torch.tensor([True, True]))
    around, now = torch.ones(1, 1, 1, 1), torch.tensor([[-0.9, -0.9]])
    goals = torch.tensor([[[0.9, -0.9], [-0.9, 0.9]]])
    assert imagine_ways(Exact(), places, now, around, goals).left(now).tolist() == [[True, True]]
    assert imagine_ways(Divided(), places, now, around, goals).left(now).tolist() == [[False, True]]


class Held(Exact):
    """Whatever is done, nobody gets anywhere: by a tenth of a block at most."""

    def step(self, latents, actions, around):
        return latents + 0.1 * STRIDE * actions[:, 0]


def test_who_is_held_gets_nowhere_by_rounding(places):
    around, goals, now = torch.ones(1, 1, 1, 1), torch.tensor([[[1.0, -1.0]]]), torch.tensor([[0.5, -1.0]])
    found = imagine_ways(Held(), places, now, around, goals)
    assert found.left(now).tolist() == [[False]] and (found.onwards[0, 0] < UNREACHED).sum() == 3


def test_a_goal_that_is_missing_is_not_reached(places):
    around, goals = torch.ones(1, 1, 1, 1), torch.tensor([[[1.0, 0.0], [torch.nan, torch.nan]]])
    found = imagine_ways(Exact(), places, torch.tensor([[0.5, 0.0]]), around, goals)
    assert (found.onwards[0, 1] >= UNREACHED).all() and (found.onwards[0, 0] < UNREACHED).any()


def test_places_are_saved_and_read(places, tmp_path):
    places.near(torch.zeros(1, 1, 2))  # what is worked out on the way is not written
    places.save(tmp_path)
    assert set(load_file(tmp_path / Places.file)) == {"nodes", "pace", "known", "moved"}
    again = Places.load(tmp_path)
    assert torch.equal(again.nodes, places.nodes) and again.pace == places.pace
    with pytest.raises(FormatError, match="holds no places"):
        Places.load(tmp_path / "nothing")


def test_places_are_gathered_from_clips():
    clips = torch.cumsum(torch.full((50, 4, 2), 0.5), dim=1)
    moved = torch.tensor([True, False])
    found = Places.gather(clips, moved, count=4)
    assert found.pace == pytest.approx(0.5) and found.nodes.shape == (4, 2) and not found.nodes[:, 1].any()
    assert found.known == float("inf")
    with pytest.raises(InputError, match=r"astray is 0\.9"):
        Places.gather(clips, moved, count=4, astray=0.9)
    with pytest.raises(InputError, match="200 latents give no 300"):
        Places.gather(clips, moved, count=300)
    with pytest.raises(InputError, match="does not heed"):
        Places.gather(clips, torch.tensor([False, False]), count=4)


class Open(Exact):
    """Knows of no wall and takes every place for one where somebody could be."""

    class sight:
        @staticmethod
        def present(latents, around):
            return torch.full(latents.shape[:-1], 9.0)

    def step(self, latents, actions, around):
        return latents + 0.2 * actions[:, 0]


def test_nobody_goes_where_nobody_was():
    # Places left and right of a wall of 0.3, one block, that nobody was in.
    line = torch.arange(-1.45, 1.46, 0.1)
    nodes = torch.cartesian_prod(line[line.abs() > 0.1], line)
    now, goals, around = torch.tensor([[-0.55, 0.05]]), torch.tensor([[[0.55, 0.05]]]), torch.ones(1, 1, 1, 1)
    for known, there in ((float("inf"), True), (0.25, False)):
        places = Places(nodes, STRIDE, torch.tensor([True, True]), known=known)
        found = imagine_ways(Open(), places, now, around, goals)
        assert found.left(now).tolist() == [[there]]
        # Nor does a plan lead through: behind where nobody was it leads nowhere.
        path = torch.tensor([[-0.25, 0.05], [0.0, 0.05], [0.35, 0.05]])[None, None, None]
        away = found(path, goals)[0, 0, 0, :, 0]
        assert (away[1:] < UNREACHED).all() if there else (away[1:] >= UNREACHED).all()


def test_what_counts_as_seen_is_what_was():
    clips = torch.rand(500, 4, 2, generator=torch.Generator().manual_seed(0))
    found = Places.gather(clips, torch.tensor([True, True]), count=50, astray=2.0)
    away = torch.cdist(clips.flatten(0, 1), found.nodes).amin(1)
    assert found.known * found.pace == pytest.approx(2.0 * float(away.quantile(0.99)))


class Beside(Exact):
    """The same, with somebody else whom nobody moves."""

    def step(self, latents, actions, around):
        return torch.cat([super().step(latents[:, :2], actions, around), latents[:, 2:] + 0.1], dim=-1)


def test_where_somebody_else_is_does_not_count(places):
    model, now = Beside(), torch.tensor([[-1.0, -1.0, 0.7]])
    moved = moved_by_actions(model, now, torch.ones(1, 1, 1, 1))
    assert moved.tolist() == [True, True, False]
    others = Places(torch.cat([places.nodes, torch.zeros(len(places.nodes), 1)], dim=1), STRIDE, moved)
    around, goals = torch.ones(1, 1, 1, 1), torch.tensor([[[1.0, -1.0, -5.0]]])
    found = imagine_ways(model, others, now, around, goals)
    alone = imagine_ways(Exact(), places, now[:, :2], around, goals[..., :2])
    assert torch.equal(found.onwards, alone.onwards)
    here = now[None, :, None, None]
    torch.testing.assert_close(found(here, goals), alone(here[..., :2], goals[..., :2]))


def test_a_blind_model_imagines_no_ways(places):
    blind = Exact()
    blind.sight = None
    with pytest.raises(InputError, match="sees nothing around"):
        imagine_ways(blind, places, torch.zeros(1, 2), torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 2))
