"""`check_planner`: does a planner honour every guardrail, whatever it is asked for?"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from foreworld.conformance.report import Report, Review
from foreworld.conformance.toy import GUARDRAILS, Needle, ToyObjective, select, toy_problem
from foreworld.planning.plan import Plan, Reason, Refusal
from foreworld.planning.planners.base import Decisions, Planner
from foreworld.planning.planners.judged import Problem, judge
from foreworld.planning.space import ActionSpace

# Starts and gains of a mixed ward: all have feasible plans, none is at ease with every plan.
STARTS = (5.0, 3.0, 2.5, 8.0, 4.0, 6.5)
GAINS = (0.5, 0.4, 0.8, -0.6, 0.5, -0.3)
# A decision may differ by this share of the range of an action when the batch changes (float32 rounding).
SAME = 1e-5


def check_planner(planner: Planner, *, tolerance: float = 0.3) -> Report:
    """Try a planner on problems whose answers are known.

    Args:
        planner: With its own settings; it must find a plan where a third of the space is feasible.
        tolerance: How far its cost may lie above the least, as a share of the way to the median feasible cost.

    Raises:
        ConformanceError: With every finding.
    """
    review = Review(f"planner {type(planner).__name__}")
    with review.check("answers every subject"):
        _answers(planner, review)
    with review.check("honours guardrails whatever the objective pays"):
        _honours(planner, review)
    with review.check("refuses where nothing is feasible"):
        _refuses(planner, review)
    with review.check("stays within the bounds exactly"):
        _bounds(planner, review)
    with review.check("does not depend on the batch"):
        _batch(planner, review)
    with review.check("gives the same plan for the same keys"):
        _repeats(planner, review)
    with review.check("uses suggestions"):
        _suggestions(planner, review)
    with review.check("comes near the optimum"):
        _optimum(planner, review, tolerance)
    return review.close()


def _ward(objective: ToyObjective | None = None) -> Problem:
    return toy_problem({"start": STARTS, "gain": GAINS}, objective=objective)


def _answers(planner: Planner, review: Review) -> None:
    problem = _ward()
    decisions = planner.plan(problem)
    review.expect(
        len(decisions) == len(problem),
        f"{len(problem)} answers for {len(problem)} subjects",
        f"{len(decisions)}",
        "answer every subject with a Plan or a Refusal",
    )
    for i in range(len(problem)):
        answer = decisions[i]
        known = isinstance(answer, Plan | Refusal)
        review.expect(known, "a Plan or a Refusal", type(answer).__name__, "return one of the two")
        agree = bool(decisions.planned[i]) == isinstance(answer, Plan)
        review.expect(
            agree, f"planned[{i}] to say what decisions[{i}] is", "a contradiction", "derive both from one place"
        )
        if isinstance(answer, Plan):
            same = torch.equal(answer.actions[0], decisions.first[i])
            review.expect(same, "first[i] to be the plan's first action", "another action", "take it from the plan")
            review.expect(answer.explain(), "an explanation", "an empty text", "give the plan its figures")


def _honours(planner: Planner, review: Review) -> None:
    for objective in (ToyObjective(), ToyObjective(bribe=1e9), ToyObjective(bribe=1e30), ToyObjective(target=-1e3)):
        problem = _ward(objective)
        decisions = planner.plan(problem)
        what = f"with a reward of {objective.bribe:g} for violations and target {objective.target:g}"
        for i in range(len(problem)):
            found = isinstance(decisions[i], Plan)
            review.expect(
                found,
                f"a plan for subject {i} {what}, as feasible ones exist",
                "a refusal",
                "rank every feasible candidate above every infeasible one",
            )
        _sound(problem, decisions, what, review)


def _sound(problem: Problem, decisions: Decisions, what: str, review: Review) -> None:
    """Judge every plan again, apart from the planner."""
    for i in range(len(problem)):
        answer = decisions[i]
        if not isinstance(answer, Plan):
            continue
        one = select(problem, torch.tensor([i]))
        actions = answer.actions[None, None]
        forecast = one.forecaster.forecast(one.imagined, actions)
        for guardrail in one.guardrails:
            margin = float(guardrail.margin(forecast, actions, one.history)[0, 0])
            review.expect(
                margin >= 0,
                f"margins of at least 0 {what}",
                f"{margin:g} of guardrail {guardrail.name} for subject {i}",
                "plan only candidates whose every margin is at least 0; NaN is infeasible",
            )
        cost = float(one.objective.cost(forecast, actions, one.imagined)[0, 0])
        novelty = float(forecast.novelty[0, 0])
        fine = cost - cost == 0.0 and novelty <= 1.0
        review.expect(
            fine,
            f"plans with a finite cost and a familiar forecast {what}",
            f"cost {cost:g} and novelty {novelty:g} for subject {i}",
            "refuse instead",
        )


def _refuses(planner: Planner, review: Review) -> None:
    healthy, sick = (5.0, 0.0), {"strange": 3.0, "vague": 1.0, "broken": 1.0, "cap": float("nan"), "start": -50.0}
    reasons = {
        "strange": Reason.novel_state,
        "vague": Reason.novel_state,
        "broken": Reason.model_invalid,
        "cap": Reason.stale_data,
        "start": Reason.no_safe_plan,
    }
    well = toy_problem({"start": (5.0, 5.0)})
    expected = planner.plan(select(well, torch.tensor([0]))).first[0]
    words = {
        "strange": "of novelty above 1",
        "vague": "whose usable horizon ends before a guardrail's",
        "broken": "with a NaN forecast",
        "cap": "with a NaN margin",
        "start": "without a feasible candidate",
    }
    for field, value in sick.items():
        usual = {"cap": 0.9, "start": healthy[0]}.get(field, 0.0)
        problem = toy_problem({"start": (5.0, 5.0), field: (usual, value)})
        decisions = planner.plan(problem)
        _refused(decisions, 1, f"a refusal for a subject {words[field]}", reasons[field], review)
        near = (decisions.first[0] - expected).abs().max() <= SAME * 3
        review.expect(
            isinstance(decisions[0], Plan) and bool(near),
            f"the healthy subject beside one {words[field]} to get the plan that it gets alone",
            f"{_words(decisions[0])}",
            "keep subjects apart",
        )
    decisions = planner.plan(toy_problem({"start": (5.0,)}, objective=ToyObjective(broken=True)))
    _refused(decisions, 0, "a refusal where every cost is NaN", Reason.model_invalid, review)


def _refused(decisions: Decisions, i: int, expected: str, reason: Reason, review: Review) -> None:
    answer = decisions[i]
    if not isinstance(answer, Refusal):
        repair = "never fall back to an infeasible candidate: refuse, and let recovery act"
        review.expect(False, expected, _words(answer), repair)
        return
    named = answer.reason is reason
    review.expect(named, f"{expected}, for the reason {reason.value!r}", f"{answer.reason.value!r}", "name the cause")
    review.expect(
        not bool(decisions.planned[i]), "planned to be False of a refusal", "True", "derive it from the answer"
    )


def _words(answer: object) -> str:
    if isinstance(answer, Plan):
        return f"a plan starting with {[round(v, 6) for v in answer.actions[0].tolist()]}"
    return f"a refusal ({answer.reason.value})" if isinstance(answer, Refusal) else type(answer).__name__


def _bounds(planner: Planner, review: Review) -> None:
    for target in (-1e4, 3.0, 1e4):
        for problem in (
            toy_problem({"start": (50.0,) * 4}, objective=ToyObjective(target), lower=0.1, upper=0.7),
            toy_problem({"start": (50.0,) * 2}, objective=ToyObjective(target), lower=0.3, upper=0.3),
            toy_problem(
                {"start": (50.0,) * 3, "cap": (9.0,) * 3},
                objective=ToyObjective(target),
                lower=0.0,
                upper=3.0,
                levels=(0, 4),
            ),
        ):
            decisions = planner.plan(problem)
            lower, upper = (
                problem.space.expand(end[:, None])[:, 0] for end in (problem.space.lower, problem.space.upper)
            )
            for i in range(len(problem)):
                answer = decisions[i]
                if isinstance(answer, Plan):
                    _within(problem.space, answer.actions, lower[i], upper[i], review)


def _within(space: ActionSpace, actions: Tensor, lower: Tensor, upper: Tensor, review: Review) -> None:
    inside = bool(((actions >= lower) & (actions <= upper)).all())
    review.expect(
        inside,
        f"actions within {lower.min():.9g}..{upper.max():.9g}, to the last bit",
        f"{actions.min():.9g}..{actions.max():.9g}",
        "clip to the bounds in raw units after decoding",
    )
    for k, level in enumerate(space.levels):
        whole = not level or bool((actions[:, k] == actions[:, k].round()).all())
        review.expect(whole, "whole numbers for a discrete action", f"{actions[:, k].tolist()}", "snap categories")


def _batch(planner: Planner, review: Review) -> None:
    problem = _ward()
    together = planner.plan(problem)
    count = len(problem)
    groups: Iterable[tuple[str, Tensor]] = (
        *((f"alone (subject {i})", torch.tensor([i])) for i in range(count)),
        ("in reverse order", torch.arange(count - 1, -1, -1)),
        ("in pairs", torch.tensor([0, count - 1])),
    )
    width = (problem.space.upper - problem.space.lower).amax((-1, -2))
    for words, index in groups:
        apart = planner.plan(select(problem, index))
        for j, i in enumerate(index.tolist()):
            one, other = together[i], apart[j]
            if isinstance(one, Plan) and isinstance(other, Plan):
                away = float((one.actions - other.actions).abs().max() / width[i])
                review.expect(
                    away <= SAME,
                    f"the same plan {words} as in the batch",
                    f"subject {i} differs by {away:.2g} of the range",
                    "let nothing pass between subjects: no shared random numbers, no `.all()` over the batch",
                )
            else:
                alike = type(one) is type(other)
                review.expect(alike, f"the same kind of answer {words}", _words(other), "keep subjects apart")


def _repeats(planner: Planner, review: Review) -> None:
    problem = _ward()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        before = torch.get_rng_state()
        first = planner.plan(problem)
        untouched = torch.equal(before, torch.get_rng_state())
        torch.manual_seed(2)
        second = planner.plan(problem)
    same = torch.equal(first.chosen.blocks, second.chosen.blocks)
    review.expect(
        same, "the same plan twice for the same keys", "two plans", "draw from `problem.keys` alone (`base.uniforms`)"
    )
    review.expect(
        untouched, "torch's global random state to be left alone", "a changed state", "draw from `problem.keys` alone"
    )


def _suggestions(planner: Planner, review: Review) -> None:
    at = 0.4321
    needle = (*GUARDRAILS, Needle(name="needle", unit="", source="toy", at=at))
    given = torch.full((2, 1, 2, 1), at)
    problem = toy_problem({"start": (5.0, 7.0)}, guardrails=needle, suggestions=given)
    decisions = planner.plan(problem)
    for i in range(len(problem)):
        review.expect(
            isinstance(decisions[i], Plan),
            "a suggested plan, the only feasible one, to be found",
            _words(decisions[i]),
            "judge `problem.suggestions` beside the planner's own candidates",
        )
    _sound(problem, decisions, "with a suggestion", review)


def _optimum(planner: Planner, review: Review, tolerance: float) -> None:
    problem = _ward()
    axis = torch.linspace(0, 1, 61)
    x = torch.cartesian_prod(axis, axis).reshape(1, -1, 2, 1).expand(len(problem), -1, -1, -1)
    every = judge(problem, problem.space.decode(x))
    cost = torch.where(every.feasible, every.cost, torch.inf)
    least = cost.amin(1)
    typical = cost.masked_fill(torch.isinf(cost), torch.nan).nanmedian(1).values - least
    chosen = planner.plan(problem).chosen.cost[:, 0]
    for i, share in enumerate(((chosen - least) / typical).tolist()):
        review.expect(
            share <= tolerance,
            f"a cost within {tolerance:g} of the way from the least ({float(least[i]):.3g}) to the median feasible "
            "cost of a smooth problem with two blocks",
            f"{share:.2f} of the way for subject {i}",
            "search more candidates, or check the direction of the search",
        )
