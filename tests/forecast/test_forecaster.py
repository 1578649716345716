import dataclasses
import math

import pytest
import torch

from foreworld.conformance.toy import CALIBRATION, SCHEMA, ToyBelief, ToyModel, toy_problem
from foreworld.errors import InputError, ModelError
from foreworld.forecast.forecaster import Calibration, Forecaster, check_finite, require_finite


def belief(*rows):
    return ToyBelief(torch.tensor(rows, dtype=torch.float32))


HEALTHY = (5.0, 0.5, 0.0, 0.0, 0.0)
ACTIONS = torch.tensor([-0.5, 0.0, 1.0]).reshape(1, 3, 1, 1).expand(1, 3, 4, 1)


def forecast(*rows, model=None, calibration=CALIBRATION):
    forecaster = Forecaster(model or ToyModel(), calibration)
    return forecaster.forecast(forecaster.begin(belief(*rows)), ACTIONS.expand(len(rows), -1, -1, -1))


class Bounded(ToyModel):
    """The toy patient with bounds on its level, as a model that clamps what it reads."""

    def __init__(self, low, high):
        level = SCHEMA["level"].model_copy(update={"low": low, "high": high})
        self.schema = SCHEMA.model_copy(update={"channels": (level, *SCHEMA.channels[1:])})
        self.low, self.high = low, high

    def read(self, latents):
        return {"level": latents[..., 0].clamp(self.low, self.high)}


def test_shapes_and_the_mean_are_those_of_the_model():
    f = forecast(HEALTHY, HEALTHY)
    assert f.samples["level"].shape == (9, 2, 3, 4)
    assert f.mean["level"].shape == f.lower["level"].shape == f.scale["level"].shape == (2, 3, 4)
    assert f.novelty.shape == f.usable.shape == (2, 3)
    torch.testing.assert_close(f.mean["level"][0, 2], 5 + 0.5 * torch.tensor([1.0, 2.0, 4.0, 8.0]))


def test_scenarios_are_ordered_and_reach_both_tails_about_the_mean():
    f = forecast(HEALTHY)
    samples = f.samples["level"]
    parts = samples.unflatten(0, (3, 3))
    assert (torch.diff(parts, dim=0) > 0).all() and (torch.diff(parts, dim=1) > 0).all()
    # Nine equally likely ones: the outermost stand for the outermost ninths.
    reach = (samples[-1] - f.mean["level"]) / f.scale["level"]
    assert (reach > 1.59).all()
    torch.testing.assert_close(samples.mean(0), forecast(HEALTHY).mean["level"], atol=1e-5, rtol=0)


def test_bands_are_gaussian_before_calibration_and_calibrated_after():
    f = forecast(HEALTHY, calibration=Calibration(coverage=0.9))
    torch.testing.assert_close(f.upper["level"] - f.mean["level"], 1.644854 * f.scale["level"], atol=1e-5, rtol=1e-5)
    f = forecast(HEALTHY, calibration=Calibration(bands={"level": (1.0, 2.0, 3.0, 4.0)}))
    half = (f.mean["level"] - f.lower["level"]) / f.scale["level"]
    torch.testing.assert_close(half[0, 0], torch.tensor([1.0, 2.0, 3.0, 4.0]), atol=1e-5, rtol=1e-5)


def test_scenarios_and_bands_stay_within_the_bounds_of_the_quantity():
    f = forecast(HEALTHY, model=Bounded(4.9, 5.5))
    for values in (f.samples["level"], f.lower["level"], f.upper["level"]):
        assert float(values.min()) >= 4.9 - 1e-6 and float(values.max()) <= 5.5 + 1e-6


@pytest.mark.parametrize("start", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_not_hidden_by_the_bounds_of_the_quantity(start):
    f = forecast(HEALTHY, (start, 0.5, 0, 0, 0), model=Bounded(0.0, 100.0))
    assert check_finite(f).tolist() == [[True] * 3, [False] * 3]
    assert torch.isnan(f.mean["level"][1]).all()
    assert not (f.novelty[1] <= 1).any() and (f.usable[1] == 0).all()
    with pytest.raises(ModelError, match="subject 1"):
        require_finite(f)
    require_finite(forecast(HEALTHY))


def test_one_bad_member_is_enough_to_make_a_forecast_unsound():
    class OneBad(ToyModel):
        def respond(self, prepared, actions):
            latents = super().respond(prepared, actions).clone()
            latents[1, :, 0, 2, 0] = math.inf
            return latents

    assert check_finite(forecast(HEALTHY, model=OneBad())).tolist() == [[False, True, True]]


def test_the_usable_horizon_ends_where_members_part():
    f = forecast(HEALTHY, (5.0, 0.5, 0.0, 1.0, 0.0))
    assert f.usable.tolist() == [[8] * 3, [2] * 3]
    assert (f.novelty < 1).all()
    assert forecast((5.0, 0.5, 0, 1.0, 0), calibration=None).usable.tolist() == [[8] * 3]


def test_disagreement_at_the_first_steps_is_novelty_and_leaves_no_usable_horizon():
    apart = CALIBRATION.novelty.model_copy(update={"disagreement": (0.01, 0.5, 0.5, 0.5)})
    f = forecast(HEALTHY, calibration=CALIBRATION.model_copy(update={"novelty": apart}))
    assert (f.novelty > 1).all() and (f.usable == 0).all()


def test_a_strange_state_is_novel_for_every_candidate():
    assert (forecast((5.0, 0.5, 1.2, 0.0, 0.0)).novelty - 1.2).abs().max() < 1e-5


def test_picking_a_candidate_keeps_its_figures():
    f = forecast(HEALTHY, HEALTHY)
    picked = f.pick(torch.tensor([2, 0]))
    for name in ("mean", "scale", "lower", "upper"):
        expected = torch.stack([getattr(f, name)["level"][0, 2], getattr(f, name)["level"][1, 0]])[:, None]
        assert torch.equal(getattr(picked, name)["level"], expected)
    assert picked.samples["level"].shape == (9, 2, 1, 4)
    assert picked.usable.shape == (2, 1)


def test_a_calibration_of_another_grid_is_refused():
    short = CALIBRATION.novelty.model_copy(update={"disagreement": (0.5,) * 3})
    for calibration in (Calibration(bands={"level": (1.0, 2.0)}), Calibration(novelty=short)):
        with pytest.raises(InputError, match="calibrate again"):
            Forecaster(ToyModel(), calibration)


def test_a_subject_is_forecast_alike_alone_and_in_a_batch():
    problem = toy_problem({"start": (5.0, 3.0, 8.0), "strange": (0.0, 0.5, 0.9)})
    actions = ACTIONS.expand(3, -1, -1, -1)
    together = problem.forecaster.forecast(problem.imagined, actions)
    for i in range(3):
        index = torch.tensor([i])
        alone = problem.forecaster.forecast(problem.imagined.select(index), actions[index])
        torch.testing.assert_close(alone.mean["level"], together.mean["level"][index])
        torch.testing.assert_close(alone.novelty, together.novelty[index])


def test_a_forecast_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        forecast(HEALTHY).novelty = torch.zeros(1)


def test_values_whose_sum_overflows_are_finite_all_the_same():
    f = forecast(HEALTHY)
    huge = {"level": torch.full_like(f.mean["level"], 3e38)}
    assert check_finite(dataclasses.replace(f, mean=huge)).all()
    huge["level"][0, 1, 2] = math.inf
    assert check_finite(dataclasses.replace(f, mean=huge)).tolist() == [[True, False, True]]
