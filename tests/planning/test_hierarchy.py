import math
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file, save_file

from foreworld.errors import FormatError, InputError
from foreworld.planning.goal import GoalObjective, squared_distance
from foreworld.planning.hierarchy import UNREACHED, WaypointGraph, spaced
from foreworld.planning.profile import Profile


def walks():
    """Somebody who walks a horseshoe to and fro, unsteadily: both its ends are near, and far to walk."""
    places = [(float(x), 0.0) for x in range(8)] + [(7.0, 1.0)] + [(float(x), 2.0) for x in range(7, -1, -1)]
    way = torch.tensor(places)
    noise = torch.randn(40, len(way), 2, generator=torch.Generator().manual_seed(0))
    return torch.stack([way, way.flip(0)] * 20) + 0.1 * noise


@pytest.fixture(scope="module")
def graph():
    return WaypointGraph.build(walks(), nodes=40, rounds=20, seed=3)


def distance(graph, start, goal):
    latents = torch.tensor([[[[list(start)]]]])
    return float(graph.distance(latents, torch.tensor([[list(goal)]])).squeeze())


def test_the_way_is_counted_and_not_the_flight_of_a_bird(graph):
    near, far = distance(graph, (0.0, 0.0), (3.0, 0.0)), distance(graph, (0.0, 0.0), (0.0, 2.0))
    assert far > 10.0 > 4.0 > near > 1.0
    assert distance(graph, (1.0, 0.0), (1.0, 0.0)) == pytest.approx(0.0, abs=1e-3)


def test_distance_falls_along_the_way(graph):
    found = [distance(graph, place, (0.0, 2.0)) for place in [(float(x), 0.0) for x in range(8)] + [(7.0, 1.0)]]
    assert all(before > after - 1.0 for before, after in pairwise(found))
    assert found[0] > found[3] + 1.0 > found[6] + 2.0


def test_of_several_goals_each_has_its_own_distance(graph):
    latents = torch.zeros(2, 1, 3, 1, 2)
    found = graph.distance(latents, torch.tensor([[[0.0, 2.0], [1.0, 0.0]]]))
    assert found.shape == (2, 1, 3, 1, 2)
    assert float(found[0, 0, 0, 0, 0]) > 10.0 > float(found[0, 0, 0, 0, 1])


def test_where_nobody_may_be_no_way_leads_through(graph):
    barred = (graph.nodes[:, 0] > 6.5) & (graph.nodes[:, 1] > 0.5) & (graph.nodes[:, 1] < 1.5)
    assert int(barred.sum()) >= 1
    goals = torch.tensor([[[0.0, 2.0], [3.0, 0.0]]]).expand(2, -1, -1)
    place = torch.zeros(1, 2, 1, 1, 2)
    cut = graph.towards(goals, torch.stack([barred, torch.zeros_like(barred)]))
    found = cut(place, goals)[0, :, 0, 0]
    assert found[0, 0] >= UNREACHED and found[0, 1] < 4.0
    # Of the other subject nothing is barred, and its ways are those that were worked out for everybody.
    torch.testing.assert_close(found[1], graph.distance(place, goals)[0, 1, 0, 0])
    assert cut.left(place[0, :, 0, 0]).tolist() == [[False, True], [True, True]]
    with pytest.raises(InputError, match="barred has shape"):
        graph.towards(goals, barred[None])


def test_a_plan_that_goes_astray_leads_nowhere_even_where_it_comes_back():
    goals = torch.tensor([[[0.0, 2.0]]])
    through_the_wall = torch.tensor([[[[[0.0, 0.0], [0.0, 1.0], [0.0, 2.0]]]]])
    bold = WaypointGraph.build(walks(), nodes=200, seen=1, seed=3)
    careful = WaypointGraph.build(walks(), nodes=200, seen=1, seed=3, astray=1.5)
    assert math.isinf(bold.known) and careful.known < 0.6
    assert (bold.distance(through_the_wall, goals) < UNREACHED).all()
    found = careful.distance(through_the_wall, goals).flatten()
    assert found[0] < 20.0 and (found[1:] >= UNREACHED).all()
    along = torch.tensor([[[[[6.0, 0.0], [7.0, 0.0], [7.0, 1.0]]]]])
    assert (careful.distance(along, goals) < 12.0).all()
    with pytest.raises(InputError, match="at least 1"):
        WaypointGraph.build(walks(), nodes=40, astray=0.5)


def test_spaced_waypoints_are_also_where_hardly_anybody_was():
    crowd = 0.1 * torch.randn(5000, 2, generator=torch.Generator().manual_seed(1))
    seldom = torch.tensor([[5.0, 0.0], [6.0, 0.0]])
    points = torch.cat([crowd, seldom])
    nodes, farthest = spaced(points, 10, seed=2)
    apart = torch.cdist(points, nodes).amin(1)
    assert farthest == pytest.approx(float(apart.max())) and farthest < 0.3
    assert float(torch.cdist(seldom, nodes).amin(1).max()) == 0.0
    with pytest.raises(InputError, match="record more"):
        spaced(points, 6000)


def test_waypoints_are_written_and_read(graph, tmp_path):
    graph.save(tmp_path)
    again = WaypointGraph.load(tmp_path)
    assert torch.equal(again.nodes, graph.nodes) and torch.equal(again.blocks, graph.blocks)
    assert again.pace == graph.pace and math.isinf(again.known)
    careful = WaypointGraph.build(walks(), nodes=40, seed=3, astray=2.0)
    careful.save(tmp_path)
    assert WaypointGraph.load(tmp_path).known == careful.known < math.inf
    earlier = load_file(tmp_path / WaypointGraph.file)
    earlier.pop("known")
    save_file(earlier, tmp_path / WaypointGraph.file)
    assert math.isinf(WaypointGraph.load(tmp_path).known)
    with pytest.raises(FormatError, match="no waypoints"):
        WaypointGraph.load(tmp_path / "elsewhere")
    (tmp_path / "waypoints.safetensors").write_bytes(b"no")
    with pytest.raises(FormatError, match="no waypoints"):
        WaypointGraph.load(tmp_path)


def test_more_waypoints_than_places_are_refused():
    with pytest.raises(InputError, match="record more"):
        WaypointGraph.build(walks()[:1], nodes=500)


def test_a_squared_distance_is_one():
    latents, goals = torch.randn(2, 3, 4, 5, 6), torch.randn(3, 2, 6)
    whole = (latents[..., None, :] - goals[None, :, None, None]).pow(2).sum(-1)
    torch.testing.assert_close(squared_distance(latents, goals), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("goals", [torch.zeros(2, 3), torch.full((1, 2, 3), torch.nan)])
def test_a_subject_without_a_goal_is_refused(goals):
    with pytest.raises(InputError, match="at least one"):
        GoalObjective(Profile(name="p", weights={"along": 1.0, "closest": 0.0, "last": 0.0, "effort": 0.0}), goals)
