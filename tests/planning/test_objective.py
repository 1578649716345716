import pytest
import torch

from foreworld.conformance.toy import ToyObjective, toy_problem
from foreworld.errors import InputError
from foreworld.planning.objective import Objective, time_weights
from foreworld.planning.planners.judged import judge
from foreworld.planning.profile import Profile


class Two(Objective):
    names = ("spread", "plain")

    def terms(self, forecast, actions, imagined):
        return {"spread": torch.tensor([1.0, 3.0]).reshape(2, 1, 1), "plain": torch.tensor([[10.0]])}


def test_the_cost_is_the_weighted_sum_of_terms_averaged_over_scenarios():
    assert float(Two(Profile(name="p")).cost(None, None, None)) == 12.0
    assert float(Two(Profile(name="p", weights={"spread": 3.0, "plain": 0.0})).cost(None, None, None)) == 6.0


def test_weights_of_unknown_terms_and_negative_weights_are_refused():
    with pytest.raises(InputError, match="no term of Two"):
        Two(Profile(name="p", weights={"speed": 1.0}))
    for weight in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="finite and at least 0"):
            Profile(name="p", weights={"plain": weight})


def test_an_objective_without_terms_is_refused():
    class Nothing(Two):
        def terms(self, forecast, actions, imagined):
            return {}

    with pytest.raises(InputError, match="no terms"):
        Nothing(Profile(name="p")).cost(None, None, None)


def test_time_weights_make_a_mean_over_time():
    weights = time_weights(torch.tensor([1, 2, 4, 8]))
    torch.testing.assert_close(weights, torch.tensor([1.0, 1.0, 2.0, 4.0]) / 8)


def test_an_objective_of_the_wrong_shape_is_refused():
    class Flat(ToyObjective):
        def cost(self, forecast, actions, imagined):
            return super().cost(forecast, actions, imagined)[:, 0]

    problem = toy_problem({"start": (5.0, 5.0)}, objective=Flat())
    with pytest.raises(InputError, match="the objective gave shape"):
        judge(problem, problem.space.lower[:, None])
