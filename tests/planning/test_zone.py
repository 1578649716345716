from dataclasses import asdict, replace

import pytest
import torch

from foreworld.errors import InputError
from foreworld.forecast.forecaster import Calibration, Forecast
from foreworld.planning.guardrail import digest
from foreworld.planning.zone import KeepOut

POINTS = torch.tensor([4, 8, 12])


def rail(**more):
    given = {"name": "zone", "unit": "px", "source": "t", "risk": 0.01, "horizon": 12, "quantities": ("x", "y"),
             "low": ((10.0, 20.0),), "high": ((30.0, 40.0),)}  # fmt: skip
    return KeepOut(**{**given, **more})


def forecast(path, bound=0.0, usable=12, scale=2.0):
    """Of places [B, S, H, 2]."""
    path = torch.as_tensor(path, dtype=torch.float32)
    batch, count = path.shape[:2]
    mean = {"x": path[..., 0], "y": path[..., 1]}
    spread = {name: torch.full_like(value, scale) for name, value in mean.items()}
    calibration = Calibration(trajectory={"zone": {"0.01": bound}}) if bound else Calibration()
    return Forecast(
        POINTS, {}, mean, spread, mean, mean, calibration, torch.zeros(batch, count),
        torch.full((batch, count), usable), torch.ones(batch, dtype=torch.int64),
    )  # fmt: skip


def margin(guardrail, *args, **more):
    return guardrail.margin(forecast(*args, **more), None, None)


def test_distance_is_euclidean_outside_and_to_the_nearest_side_inside():
    place = torch.tensor([[[20.0, 50.0], [33.0, 44.0], [28.0, 30.0], [20.0, 30.0], [30.0, 25.0]]])
    found = rail().distance(place)
    torch.testing.assert_close(found, torch.tensor([[10.0, 5.0, -2.0, -10.0, 0.0]]))


def test_a_straight_way_is_as_far_as_where_it_comes_nearest():
    start = torch.tensor([[[0.0, 30.0], [0.0, 50.0], [0.0, 0.0]]])
    end = torch.tensor([[[40.0, 30.0], [40.0, 50.0], [torch.nan, 0.0]]])
    found = rail().along(start, end)
    torch.testing.assert_close(found, torch.tensor([[-10.0, 10.0, torch.nan]]), equal_nan=True)


def test_the_way_between_two_points_counts_and_so_does_that_from_the_present():
    path = [[[[0.0, 30.0], [40.0, 30.0], [80.0, 30.0]]]]
    assert margin(rail(), path) == -10.0
    beside = forecast([[[[45.0, 30.0], [45.0, 30.0], [45.0, 30.0]]]])
    assert rail().margin(beside, None, None) == 15.0
    came = replace(beside, now={"x": torch.tensor([5.0]), "y": torch.tensor([30.0])})
    assert rail().margin(came, None, None) <= -5.0


def test_a_path_is_as_far_as_its_nearest_point_and_tightened_by_the_score():
    path = [[[[0.0, 30.0], [8.0, 30.0], [0.0, 30.0]], [[40.0, 50.0], [50.0, 50.0], [60.0, 60.0]]]]
    torch.testing.assert_close(margin(rail(), path), torch.tensor([[2.0, 200.0**0.5]]))
    torch.testing.assert_close(margin(rail(), path, bound=1.5), torch.tensor([[2.0 - 3.0, 200.0**0.5 - 3.0]]))


def test_what_is_far_is_as_far_as_any_other_and_nearer_counts_as_it_is():
    path = [[[[0.0, 30.0]] * 3, [[90.0, 30.0]] * 3, [[7.0, 30.0]] * 3, [[15.0, 30.0]] * 3]]
    near = rail(far=5.0)
    torch.testing.assert_close(margin(near, path), torch.tensor([[5.0, 5.0, 3.0, -5.0]]))
    torch.testing.assert_close(margin(near, path, bound=2.0)[0, :2], torch.tensor([1.0, 1.0]))
    for wrong in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(InputError, match="far is"):
            rail(far=wrong)


def test_only_the_horizon_counts():
    path = [[[[0.0, 0.0], [0.0, 10.0], [20.0, 30.0]]]]
    assert margin(rail(), path) == -10.0
    assert margin(rail(horizon=8), path) > 10.0
    with pytest.raises(InputError, match="none of the model's horizon points"):
        margin(rail(horizon=9), path)


def test_what_is_not_known_is_not_safe():
    path = torch.zeros(1, 1, 3, 2)
    path[0, 0, 1, 0] = torch.nan
    assert torch.isnan(margin(rail(), path)).all()
    assert torch.isnan(margin(rail(), torch.zeros(1, 1, 3, 2), usable=8)).all()


def test_every_subject_has_a_box_of_its_own():
    path = torch.zeros(2, 1, 3, 2)
    both = rail(low=((10.0, 0.0), (-5.0, -5.0)), high=((20.0, 5.0), (5.0, 5.0)))
    torch.testing.assert_close(margin(both, path), torch.tensor([[10.0], [-5.0]]))
    with pytest.raises(InputError, match="2 boxes for 3 subjects"):
        margin(both, torch.zeros(3, 1, 3, 2))


@pytest.mark.parametrize(
    "wrong",
    [
        {"low": ((10.0,),)},
        {"low": ((30.0, 20.0),)},
        {"low": ()},
        {"high": ((30.0, float("inf")),)},
        {"quantities": ()},
        {"risk": 0.0},
        {"low": ((10.0, float("nan")),)},
    ],
)
def test_boxes_that_are_none_are_refused(wrong):
    with pytest.raises(InputError, match="zone"):
        rail(**wrong)


def test_it_is_frozen_and_hashed():
    assert digest([rail()]) != digest([rail(high=((30.0, 41.0),))])
    assert digest([rail()]) == digest([replace(rail())]) and asdict(rail())["quantities"] == ("x", "y")
