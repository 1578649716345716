from dataclasses import replace

import pytest
import torch

from foreworld.agent.policy import Examples, Policy, Teacher, fit_policy
from foreworld.conformance import check_planner
from foreworld.conformance.toy import ToyObjective, select, toy_problem
from foreworld.errors import FormatError, InputError
from foreworld.learning.fit import FitConfig
from foreworld.planning.plan import Plan, Refusal
from foreworld.planning.planners.cem import CEMConfig, CEMPlanner
from foreworld.planning.planners.fast import FastPlanner

CEM = CEMPlanner(CEMConfig.icem(samples=64, iterations=4))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Wanted(ToyObjective):
    """The toy's objective, whose target is each subject's own and told to a policy."""

    def __init__(self, targets, starts):
        super().__init__()
        self.targets, self.starts = torch.as_tensor(targets), torch.as_tensor(starts)

    def condition(self):
        return torch.stack([self.targets, self.starts], dim=1)

    def terms(self, forecast, actions, imagined):
        level = forecast.samples["level"]
        return {"distance": (level - self.targets[None, :, None, None]).square().mean(-1)}


def problem_of(starts, targets, **fields):
    starts = tuple(float(s) for s in starts)
    return toy_problem({"start": starts, **fields}, objective=Wanted(targets, starts))


@pytest.fixture(scope="module")
def policy():
    generator = torch.Generator().manual_seed(0)
    teacher = Teacher(CEM)
    # A subject's bounds lie a little higher than those of the one before: few at a time have nearly the same.
    for _ in range(64):
        starts, targets = 4.0 + 4.0 * torch.rand(2, 8, generator=generator)
        teacher.plan(problem_of(starts, targets.tolist()))
    examples = teacher.examples()
    assert len(examples) == 512
    return fit_policy(examples, FitConfig(steps=400, lr=3e-3, warmup=20), hidden=64, batch=256)


def test_a_distilled_policy_does_nearly_as_well_as_the_search_that_it_learned_from(policy):
    generator = torch.Generator().manual_seed(1)
    found, best, idle = [], [], []
    for _ in range(10):
        starts, targets = 4.0 + 4.0 * torch.rand(2, 8, generator=generator)
        problem = problem_of(starts, targets.tolist())
        quick = FastPlanner(policy).plan(problem)
        assert quick.planned.all()
        found.append(quick.chosen.cost)
        best.append(CEM.plan(problem).chosen.cost)
        idle.append((starts - targets).square())
    lost = torch.cat(found).mean() - torch.cat(best).mean()
    assert lost < 0.1 * (torch.cat(idle).mean() - torch.cat(best).mean())


def test_a_policys_plan_that_breaks_a_guardrail_is_searched_for_anew_and_nobody_else_is(policy):
    problem = problem_of((7.0, 2.05, 6.0), (6.0, 6.0, 5.5))
    eager = Policy(policy.mean.numel(), policy.shape)
    eager.propose = lambda p: (torch.full((len(p), *p.space.shape), 0.05), torch.full((len(p), *p.space.shape), 0.1))
    fast = FastPlanner(eager, CEM).plan(problem)
    assert fast.planned.all()
    alone = FastPlanner(eager, CEM).plan(select_wanted(problem, [0]))
    torch.testing.assert_close(fast.chosen.blocks[:1], alone.chosen.blocks)
    # The second may not fall, so the search found another plan.
    own = problem.space.decode(torch.full((3, 1, *problem.space.shape), 0.05))
    assert torch.equal(fast.chosen.blocks[[0, 2]], own[[0, 2]])
    assert not torch.equal(fast.chosen.blocks[1], own[1])
    assert isinstance(fast[1], Plan) and all(margin >= 0 for margin in fast[1].margins.values())


def select_wanted(problem, rows):
    index = torch.tensor(rows)
    wanted = problem.objective
    return replace(select(problem, index), objective=Wanted(wanted.targets[index], wanted.starts[index]))


def test_a_policy_cannot_answer_where_nothing_is_known_or_nothing_safe(policy):
    problem = problem_of((5.0, 5.0, -50.0), (6.0, 6.0, 6.0), strange=(9.0, 0.0, 0.0), broken=(0.0, 1.0, 0.0))
    fast = FastPlanner(policy, CEM).plan(problem)
    assert all(isinstance(fast[i], Refusal) for i in range(3))


class Wrong(Policy):
    def propose(self, problem):
        shape = (len(problem), *problem.space.shape)
        return torch.full(shape, torch.nan), torch.full(shape, torch.nan)


def test_a_fast_planner_conforms_whatever_its_policy_says():
    assert check_planner(FastPlanner(Wrong(1, (2, 1)), CEM)).passed


def test_students_act_and_teachers_tell(policy):
    problem = problem_of((5.0,), (6.0,))
    teacher = Teacher(CEM, policy)
    acted = teacher.plan(problem)
    torch.testing.assert_close(acted.chosen.blocks, FastPlanner(policy).plan(problem).chosen.blocks)
    torch.testing.assert_close(
        problem.space.decode(teacher.examples().plans[:, None]), CEM.plan(problem).chosen.blocks, atol=1e-4, rtol=0
    )


def test_nothing_can_be_learned_from_refusals():
    teacher = Teacher(CEM)
    teacher.plan(problem_of((-50.0,), (6.0,)))
    with pytest.raises(InputError, match="no plan"):
        teacher.examples()
    with pytest.raises(InputError, match="no example"):
        fit_policy(Examples(torch.zeros(0, 3), torch.zeros(0, 2, 1)), FitConfig(steps=1))


def test_a_policy_comes_back_from_its_folder_and_damage_is_told(policy, tmp_path):
    policy.save(tmp_path)
    problem = problem_of((5.0, 6.0), (6.0, 5.0))
    torch.testing.assert_close(Policy.load(tmp_path).propose(problem), policy.propose(problem))
    (tmp_path / "policy.safetensors").write_bytes(b"no")
    with pytest.raises(FormatError, match="distil it again"):
        Policy.load(tmp_path)


def test_a_policy_of_another_task_is_refused(policy):
    with pytest.raises(InputError, match="distil one for this task"):
        policy.propose(toy_problem({"start": (5.0,)}))
