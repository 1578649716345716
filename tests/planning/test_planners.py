from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foreworld.conformance import check_planner
from foreworld.conformance.toy import GUARDRAILS, Needle, ToyObjective, select, toy_problem
from foreworld.errors import InputError
from foreworld.forecast.forecaster import Forecaster
from foreworld.planning.guardrail import Guardrail
from foreworld.planning.plan import Plan, Reason, Refusal
from foreworld.planning.planners.cem import CEMConfig, CEMPlanner
from foreworld.planning.planners.exhaustive import ExhaustiveConfig, ExhaustivePlanner
from foreworld.planning.planners.gradient import GradientConfig, GradientPlanner
from foreworld.planning.planners.judged import judge
from foreworld.planning.planners.mppi import MPPIConfig, MPPIPlanner
from foreworld.planning.planners.points import uniforms
from foreworld.planning.planners.prior import PriorPlanner


class Usual:
    """A prior that always does the same."""

    def __init__(self, mean=0.5, spread=0.3):
        self.mean, self.spread = mean, spread

    def propose(self, problem):
        shape = (len(problem), *problem.space.shape)
        return torch.full(shape, self.mean), torch.full(shape, self.spread)


PLANNERS = {
    "cem": CEMPlanner(),
    "icem": CEMPlanner(CEMConfig.icem()),
    "small icem": CEMPlanner(CEMConfig.icem(samples=32, iterations=2)),
    "mppi": MPPIPlanner(),
    "mppi, one iteration": MPPIPlanner(MPPIConfig(iterations=1)),
    "gradient": GradientPlanner(),
    "prior": PriorPlanner(Usual()),
    "nothing but a prior": PriorPlanner(Usual(), CEMConfig(iterations=1), broad=0.0),
    "exhaustive": ExhaustivePlanner(),
    "exhaustive in chunks": ExhaustivePlanner(ExhaustiveConfig(levels=11, chunk=7)),
}


@pytest.fixture(autouse=True)
def one_thread():
    # Tensors here are tiny: threads would only wait for one another.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", PLANNERS)
def test_every_planner_conforms(name):
    report = check_planner(PLANNERS[name])
    assert len(report.passed) == 8


value = st.floats(-20, 20, width=32)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(
    name=st.sampled_from(["cem", "icem", "mppi", "gradient", "prior", "exhaustive"]),
    start=st.tuples(value, value),
    gain=st.tuples(st.floats(-2, 2, width=32), st.floats(-2, 2, width=32)),
    target=st.floats(-50, 50),
    bribe=st.sampled_from([0.0, 1e9]),
)
def test_a_plan_keeps_every_guardrail_and_bound_and_a_refusal_means_that_no_end_of_the_space_was_safe(
    name, start, gain, target, bribe
):
    problem = toy_problem({"start": start, "gain": gain}, objective=ToyObjective(target, bribe))
    decisions = PLANNERS[name].plan(problem)
    for i in range(2):
        answer = decisions[i]
        if isinstance(answer, Plan):
            assert all(margin >= 0 for margin in answer.margins.values())
            assert (answer.actions >= problem.space.lower[i, 0]).all()
            assert (answer.actions <= problem.space.upper[i, 0]).all()
        else:
            # Effects are monotone, so one of the ends of what the cap allows is the safest plan there is.
            steps = torch.tensor([1.0, 1.0, 2.0, 4.0]).cumsum(0)
            at_least = float(problem.space.lower[i, 0, 0])
            ahead = start[i] + gain[i] * at_least * steps
            assert ahead.min() - 0.2 * 0.5 < 2.0


def test_the_lower_end_is_always_tried():
    # Only the least action is safe; random candidates almost never hit it.
    rail = Needle(name="needle", unit="", source="t", at=-1.0, width=1e-9)
    for planner in (CEMPlanner(CEMConfig(samples=4, iterations=1)), MPPIPlanner(MPPIConfig(samples=4, iterations=1))):
        assert planner.plan(toy_problem({"start": (5.0,)}, guardrails=(rail,))).planned.all()


def test_nan_suggestions_do_no_harm():
    given_ = torch.full((2, 3, 2, 1), torch.nan)
    problem = toy_problem({"start": (5.0, -50.0)}, suggestions=given_)
    for planner in PLANNERS.values():
        decisions = planner.plan(problem)
        assert isinstance(decisions[0], Plan)
        assert torch.isfinite(decisions[1].nearest).all()


def test_suggestions_out_of_bounds_are_brought_inside():
    problem = toy_problem({"start": (5.0,)}, suggestions=torch.full((1, 1, 2, 1), 1e6))
    decisions = CEMPlanner().plan(problem)
    assert (decisions.chosen.blocks <= problem.space.upper).all()


def test_suggestions_of_the_wrong_shape_are_refused():
    problem = toy_problem({"start": (5.0, 5.0)}, suggestions=torch.zeros(2, 2, 1))
    with pytest.raises(InputError, match="suggestions"):
        CEMPlanner().plan(problem)


def test_exhaustive_search_is_exact_for_categories():
    problem = toy_problem(
        {"start": (3.0, 9.0), "cap": (9.0, 9.0)}, lower=0.0, upper=3.0, levels=(4, 4), objective=ToyObjective(6.3)
    )
    best = ExhaustivePlanner().plan(problem)
    found = CEMPlanner(CEMConfig(samples=256)).plan(problem)
    assert (best.chosen.cost <= found.chosen.cost + 1e-6).all()
    assert torch.equal(best.chosen.blocks, best.chosen.blocks.round())


def test_exhaustive_search_refuses_too_many_combinations():
    with pytest.raises(InputError, match="fewer blocks"):
        ExhaustivePlanner(ExhaustiveConfig(levels=400)).plan(toy_problem({"start": (5.0,)}))


def test_random_points_of_a_subject_depend_on_its_key_alone_and_fill_the_cube():
    keys = torch.tensor([5, 99, -3])
    points = uniforms(keys, 256, 4)
    assert torch.equal(points[1:2], uniforms(keys[1:2], 256, 4))
    assert not torch.equal(points[0], points[1])
    assert ((points > 0) & (points < 1)).all()
    # A rotated Sobol set is far more even than independent draws (standard error of a mean 0.018).
    assert (points.mean(1) - 0.5).abs().max() < 0.006


def test_a_broken_subject_does_not_change_its_neighbour():
    problem = toy_problem({"start": (5.0, 5.0), "broken": (0.0, 1.0)}, suggestions=torch.full((2, 1, 2, 1), 0.3))
    for planner in PLANNERS.values():
        together, alone = planner.plan(problem), planner.plan(select(problem, torch.tensor([0])))
        torch.testing.assert_close(together.first[:1], alone.first, atol=1e-5, rtol=0)


@dataclass(frozen=True, kw_only=True)
class Blind(Guardrail):
    """Never held, and of little action nothing can be told."""

    blind_below: float

    def margin(self, forecast, actions, history):
        pushed = actions[:, :, 0, 0]
        return torch.where(pushed < self.blind_below, torch.nan, -10.0 - pushed)


@pytest.mark.parametrize("name", ["cem", "icem", "mppi", "gradient", "prior", "exhaustive"])
def test_what_came_nearest_is_no_answer_where_less_could_not_be_told(name):
    problem = toy_problem({"start": (5.0, 5.0)})

    def with_rail(below):
        rail = Blind(name="blind", unit="", source="a test", blind_below=below)
        return replace(problem, guardrails=(*problem.guardrails, rail))

    least = float(problem.space.lower[:, 0, 0].min())
    told = PLANNERS[name].plan(with_rail(least - 1.0))
    assert [told.reason(i) for i in range(2)] == [Reason.no_safe_plan] * 2
    # Doing nothing has an unknown outcome: the greater action must not be taken for the better one.
    blind = PLANNERS[name].plan(with_rail(least + 0.5))
    assert (blind.first[:, 0] >= least + 0.5).all()
    for i in range(2):
        answer = blind[i]
        assert isinstance(answer, Refusal) and answer.reason is Reason.novel_state
        assert "unlike what the model was trained on" in answer.explain()


@pytest.mark.parametrize(
    ("planner", "most"),
    [
        (CEMPlanner(CEMConfig(samples=16, iterations=10)), 0.02),
        (CEMPlanner(CEMConfig(samples=16, iterations=10, keep=3, color=0.5)), 0.02),
        # The mean of feasible candidates lies inside the feasible set, and the optimum on its edge.
        (MPPIPlanner(MPPIConfig(samples=16, iterations=8)), 0.2),
    ],
)
def test_refining_moves_towards_the_optimum(planner, most):
    # Few samples an iteration, so that drawing at random is not good enough.
    problem = toy_problem({"start": (5.0, 3.0, 8.0), "gain": (0.5, 0.4, -0.6)})
    fine = ExhaustivePlanner(ExhaustiveConfig(levels=150)).plan(problem)
    chosen = planner.plan(problem)
    middle = judge(problem, problem.space.decode(torch.full((3, 1, 2, 1), 0.5)))
    share = (chosen.chosen.cost - fine.chosen.cost) / (middle.cost - fine.chosen.cost)
    assert float(share.max()) < most


def test_an_infinite_reward_does_not_hide_the_rejected_alternative():
    class Endless(ToyObjective):
        def cost(self, forecast, actions, imagined):
            cost = super().cost(forecast, actions, imagined)
            return torch.where(actions[:, :, 0, 0] > 1.0, -torch.inf, cost - 10 * actions[:, :, 0, 0])

    answer = CEMPlanner().plan(toy_problem({"start": (5.0,)}, objective=Endless(target=50.0)))[0]
    assert isinstance(answer, Plan)
    assert answer.rejected[0].guardrail == "cap" and 0.9 < float(answer.rejected[0].actions[0, 0]) <= 1.0


class Learned(Forecaster):
    """Has learned that the level is far above its floor, where the model as calibrated foresaw it below."""

    def forecast(self, imagined, actions):
        was = super().forecast(imagined, actions)
        return replace(was, mean={"level": was.mean["level"] + 50.0}, calibrated=was)


def test_no_plan_passes_that_the_model_as_it_was_calibrated_would_not_let_pass():
    problem = toy_problem({"start": (-5.0,)})
    adapted = replace(problem, forecaster=Learned(problem.forecaster.model, problem.forecaster.calibration))
    found = [judge(one, one.space.lower[:, None]) for one in (problem, adapted)]
    assert not found[0].feasible.any()
    assert not found[1].feasible.any()
    torch.testing.assert_close(found[1].margins, found[0].margins)


def test_a_gradient_finds_what_chance_does_not_in_as_many_judgements():
    # Both judge 64 plans besides what is always judged, of 2 actions; the least cost is inside the space.
    problem = toy_problem({"start": (3.0, 4.0), "gain": (0.31, 0.27)})
    descended = GradientPlanner(GradientConfig(samples=4, iterations=15)).plan(problem)
    drawn = CEMPlanner(CEMConfig(samples=64, iterations=1)).plan(problem)
    assert (descended.chosen.cost < drawn.chosen.cost - 1e-4).all()


def test_a_gradient_leads_back_from_where_guardrails_are_broken():
    # Nothing that is judged first is feasible: the floor needs much push, the cap forbids most of it.
    problem = toy_problem({"start": (1.9,), "gain": (0.5,), "cap": (0.62,)}, lower=-1.0, upper=1.0)
    assert not PriorPlanner(Usual(0.1, 0.01), CEMConfig(samples=8, iterations=1), broad=0.0).plan(problem).planned.any()
    assert GradientPlanner(GradientConfig(samples=1, iterations=20)).plan(problem).planned.all()


def test_a_discrete_action_stays_as_it_started_while_the_other_descends():
    problem = toy_problem({"start": (3.0, 9.0)}, lower=0.0, upper=3.0, levels=(4, 0), guardrails=GUARDRAILS[:1])
    found = GradientPlanner(GradientConfig(samples=8)).plan(problem)
    assert torch.equal(found.chosen.blocks[..., 0], found.chosen.blocks[..., 0].round())
    assert (found.chosen.cost < CEMPlanner(CEMConfig(samples=64, iterations=1)).plan(problem).chosen.cost + 0.05).all()


def test_a_forecast_can_be_differentiated_by_actions_that_ask_for_it_alone():
    problem = toy_problem({"start": (5.0,)})
    actions = torch.full((1, 1, 4, 1), 0.5, requires_grad=True)
    with torch.enable_grad():
        assert problem.forecaster.forecast(problem.imagined, actions).mean["level"].requires_grad
        assert not problem.forecaster.forecast(problem.imagined, actions.detach()).mean["level"].requires_grad
    with torch.no_grad():
        assert not problem.forecaster.forecast(problem.imagined, actions).mean["level"].requires_grad


def test_a_prior_decides_where_to_look():
    problem = toy_problem({"start": (5.0,)}, objective=ToyObjective(target=4.5))
    narrow = PriorPlanner(Usual(0.9, 0.001), CEMConfig(samples=8, iterations=1), broad=0.0)
    judged = narrow.sweep(problem, 8)
    assert (judged - 0.9).abs().max() < 0.01
    wide = PriorPlanner(Usual(0.9, 0.001), broad=0.5).sweep(problem, 8)
    assert ((wide - 0.9).abs().amax(-1) > 0.01).sum() == 4
    assert judged[0, 1].tolist() == pytest.approx([0.9, 0.9])


def test_a_prior_that_is_nan_or_of_another_shape_is_no_plan():
    problem = toy_problem({"start": (5.0,)})
    assert PriorPlanner(Usual(float("nan"))).plan(problem).planned.all()
    wrong = Usual()
    wrong.propose = lambda problem: (torch.zeros(1, 3, 1), torch.zeros(1, 3, 1))
    with pytest.raises(InputError, match="prior gave shapes"):
        PriorPlanner(wrong).plan(problem)
    with pytest.raises(InputError, match="broad"):
        PriorPlanner(Usual(), broad=2.0)


class Unopened(CEMPlanner):
    """Judges what it begins with by itself."""

    def opening(self, problem):
        return None


@pytest.mark.parametrize("config", [CEMConfig(), CEMConfig.icem()])
@pytest.mark.parametrize("suggested", [None, 0.2])
def test_a_search_finds_the_same_whether_its_beginning_is_judged_with_what_was_suggested_or_after_it(config, suggested):
    problem = toy_problem({"start": (3.0, -2.0), "gain": (0.5, 1.5)}, objective=ToyObjective(7.0))
    if suggested is not None:
        problem = replace(problem, suggestions=torch.full((2, 1, *problem.space.shape), suggested))
    calls = []

    class Counting(Forecaster):
        def forecast(self, imagined, actions):
            calls.append(actions.shape[1])
            return super().forecast(imagined, actions)

    problem = replace(problem, forecaster=Counting(problem.forecaster.model, problem.forecaster.calibration))
    together, counted = CEMPlanner(config).plan(problem), len(calls)
    apart = Unopened(config).plan(problem)
    assert len(calls) - counted == counted + 1 == config.iterations + 2
    torch.testing.assert_close(together.chosen.blocks, apart.chosen.blocks)
    torch.testing.assert_close(together.rejected.blocks, apart.rejected.blocks)
    assert torch.equal(together.told, apart.told) and not together.chosen.key.is_inference()


def test_what_begins_a_search_is_no_suggestion_that_must_be_judged():
    problem = toy_problem({"start": (3.0, -2.0), "gain": (0.5, 1.5)})

    class Half(Guardrail):
        """Knows nothing of a plan that does much."""

        def margin(self, forecast, actions, history):
            return torch.where(actions.amax((-1, -2)) > 0.3, torch.nan, -1.0)

    rail = Half(name="half", unit="1", source="of this test")
    assert CEMPlanner().plan(replace(problem, guardrails=(rail,))).told.all()


@pytest.mark.parametrize("name", ["cem", "icem", "mppi", "gradient", "prior", "exhaustive"])
def test_nothing_is_searched_for_whoever_is_in_a_novel_state_whoever_else_is_asked_for(name, monkeypatch):
    planner, searches = PLANNERS[name], []
    search = type(planner).search
    monkeypatch.setattr(type(planner), "search", lambda *given: (searches.append(1), search(*given)))
    problem = toy_problem({"strange": (3.0, 0.0, 3.0), "start": (5.0, 5.0, -50.0)})
    mixed = planner.plan(problem)
    assert len(searches) == 1 and isinstance(mixed[1], Plan)
    lost = planner.plan(select(problem, torch.tensor([0, 2])))
    assert len(searches) == 1
    for one, other in ((mixed[0], lost[0]), (mixed[2], lost[1])):
        assert one.reason is other.reason is Reason.novel_state
        torch.testing.assert_close(one.nearest, other.nearest)
        assert one.margins == pytest.approx(other.margins, nan_ok=True)
    # What was cheapest of all that they may not do, too, is that of what was suggested, whatever others' search found.
    torch.testing.assert_close(mixed.rejected.blocks[[0, 2]], lost.rejected.blocks)


def test_what_a_search_begins_with_is_the_best_suggestion_and_its_own_points_each_with_its_key():
    problem = toy_problem({"start": (3.0, -2.0), "gain": (0.5, 1.5)}, objective=ToyObjective(7.0))
    problem = replace(problem, suggestions=torch.full((2, 1, *problem.space.shape), 0.2))

    class Noting(CEMPlanner):
        def search(self, problem, best):
            self.opened = best.opened
            super().search(problem, best)

    planner = Noting()
    planner.plan(problem)
    points, key = planner.opened.points, planner.opened.key
    judged = judge(problem, problem.space.decode(points.reshape(*points.shape[:2], *problem.space.shape)))
    torch.testing.assert_close(key, judged.key)
    assert points.shape[1] == planner.config.samples
