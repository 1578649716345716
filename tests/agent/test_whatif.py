"""What if: doses beside each other from one state, judged by all that a decision passes."""

import copy
import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.agent.tiny import RAILS

from foreworld.agent.record import Recorder
from foreworld.agent.whatif import compare_actions
from foreworld.domains.treatment.loop import insulin_agent
from foreworld.domains.treatment.plan_file import decide, read_plan_file
from foreworld.domains.treatment.whatif import what_if
from foreworld.errors import InputError
from foreworld.forecast.forecaster import Forecaster

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "person.json"


@pytest.fixture(scope="module")
def person():
    return read_plan_file(EXAMPLE)


def open_minded(forecaster, bound=-1000.0):
    trajectory = {rail.name: {f"{rail.risk:g}": bound} for rail in RAILS}
    update = {"trajectory": trajectory, "novelty": None}
    return Forecaster(forecaster.model, forecaster.calibration.model_copy(update=update))


def by(option):
    return {(objection.by, objection.name) for objection in option.objections}


def test_the_figures_are_those_of_the_forecast(forecaster, person):
    answer = what_if(open_minded(forecaster), person, [2.0, 0.5, 0.0], minutes=(60.0, 120.0))
    points = (answer.forecast.points * 5).tolist()
    assert len(answer.options) == 3
    for i, option in enumerate(answer.options):
        [course] = option.courses
        assert course.times == (60.0, 120.0) and course.unit == "mg/dL"
        for values, part in ((course.mean, "mean"), (course.lower, "lower"), (course.upper, "upper")):
            curve = getattr(answer.forecast, part)["cgm"][0, i].double().numpy()
            np.testing.assert_allclose(values, np.interp((60.0, 120.0), points, curve))


def test_the_first_step_is_the_dose_and_the_rest_the_profile_basal(forecaster, person):
    ready = open_minded(forecaster)
    answer = what_if(ready, person, [2.0, 0.5])
    step = decide(insulin_agent(ready), person)
    problem, basal = step.decisions.problem, float(person.statics["basal"][0]) / 12
    actions = torch.full((1, 2, len(problem.space.grid), 1), basal)
    actions[0, :, 0, 0] = torch.tensor([2.0, 0.5])
    direct = ready.forecast(problem.imagined, actions)
    torch.testing.assert_close(answer.forecast.mean["cgm"], direct.mean["cgm"])
    assert answer.then == "then the profile basal"


def test_differences_are_those_of_the_scenarios_and_an_equal_dose_differs_nowhere(forecaster, person):
    answer = what_if(open_minded(forecaster), person, [2.0, 2.0, 0.5], minutes=(60.0,))
    first, same, less = answer.options
    assert first.against == ()
    assert same.against[0].lower == same.against[0].upper == (0.0,)
    [apart] = less.against
    assert apart.lower[0] <= apart.mean[0] <= apart.upper[0]
    # Insulin lowers glucose in the model by construction.
    assert apart.mean[0] > 0 and answer.scenarios == 9


def test_what_would_be_refused_says_by_what(forecaster, person):
    _, much = what_if(open_minded(forecaster), person, [0.1, 40.0]).options
    assert {("guardrail", "dose_limit"), ("checker", "bolus_size"), ("checker", "insulin_bounds")} <= by(much)
    text = what_if(open_minded(forecaster), person, [0.1, 40.0]).explain()
    assert "It would be refused by guardrail dose_limit (misses by" in text and "by the checker (insulin_bounds" in text
    careful = what_if(open_minded(forecaster, bound=1000.0), person, [0.1, 0.2])
    assert all(("guardrail", "predicted_low") in by(option) for option in careful.options)
    margin = careful.options[0].margins["predicted_low"]
    assert f"guardrail predicted_low (misses by {-margin:.3g} mg/dL)" in careful.explain()


def test_the_agents_own_dose_would_pass(forecaster, person):
    ready = open_minded(forecaster)
    step = decide(insulin_agent(ready), person)
    assert step.reasons == (None,)
    own = float(step.actions[0, 0])
    answer = what_if(ready, person, [own, 0.0])
    assert not answer.options[0].refused and answer.proposed == {"insulin": own} and answer.actor == "planner"
    assert "It would pass every guardrail and the checker." in answer.explain()


def test_in_a_state_without_a_plan_every_dose_is_refused(forecaster, person):
    cgm = person.values["cgm"].copy()
    cgm[-6:] = np.nan
    silent = dataclasses.replace(person, values=person.values | {"cgm": cgm})
    answer = what_if(open_minded(forecaster), silent, [0.0, 0.1])
    assert all(("state", "stale or missing data") in by(option) for option in answer.options)
    assert answer.actor == "fallback"


def test_a_novel_state_and_a_broken_model_are_told(forecaster, person):
    novelty = forecaster.calibration.novelty.model_copy(update={"distance": 1e-6})
    strange = Forecaster(forecaster.model, forecaster.calibration.model_copy(update={"novelty": novelty}))
    answer = what_if(strange, person, [0.0, 0.1])
    assert all(("novelty", "") in by(option) and option.novelty > 1 for option in answer.options)
    model = copy.deepcopy(forecaster.model)
    with torch.no_grad():
        model.dynamics.baseline.bias.fill_(torch.nan)
    answer = what_if(Forecaster(model, forecaster.calibration), person, [0.0, 0.1])
    assert all(("forecast", "") in by(option) for option in answer.options)
    assert math.isnan(answer.options[0].courses[0].mean[0])
    assert "unknown (unknown to unknown)" in answer.explain() and "cannot be judged" in answer.explain()


def test_asking_changes_and_records_nothing(forecaster, past, person, tmp_path):
    recorder = Recorder(tmp_path / "log", "a" * 64)
    agent = past.begin(insulin_agent(open_minded(forecaster), recorder=recorder), [0, 1], 40)
    twin = past.begin(insulin_agent(open_minded(forecaster)), [0, 1], 40)
    first = what_if(agent, person, [1.0, 2.0])
    assert recorder.log.records == 0 and agent.recorder is recorder
    assert first.explain() == what_if(agent, person, [1.0, 2.0]).explain()
    asked, unasked = (a.decide(200.0, past.values(40, [0, 1])) for a in (agent, twin))
    np.testing.assert_array_equal(asked.actions, unasked.actions)
    assert recorder.log.records == 1
    recorder.close()


@pytest.mark.parametrize(
    ("doses", "words"),
    [
        ([1.0], "1 dose is nothing to compare"),
        ([1.0, -0.1], "-0.1 U is no dose"),
        ([1.0, math.nan], "nan U"),
        ([61.0, 1.0], "0 to 60 U"),
    ],
)
def test_what_is_no_dose_is_named(forecaster, person, doses, words):
    with pytest.raises(InputError, match=words):
        what_if(forecaster, person, doses)


def test_only_one_subject_is_asked_about_at_a_time(forecaster, past):
    agent = past.begin(insulin_agent(forecaster), [0, 1], 40)
    step = agent.decide(200.0, past.values(40, [0, 1]))
    with pytest.raises(InputError, match="2 subjects"):
        compare_actions(step, agent.checker, np.zeros((2, 1)), np.zeros(1), at=(60.0,), then="")


def test_times_beyond_the_horizon_are_left_out(forecaster, person):
    answer = what_if(open_minded(forecaster), person, [1.0, 2.0], minutes=(30.0, 240.0, 241.0, 1000.0))
    assert answer.options[0].courses[0].times == (30.0, 240.0)


def test_the_picture_is_drawn_even_of_an_unknown_future(forecaster, person):
    from foreworld.domains.treatment.figure_style import png_bytes
    from foreworld.domains.treatment.figure_whatif import whatif_figure

    model = copy.deepcopy(forecaster.model)
    with torch.no_grad():
        model.dynamics.baseline.bias.fill_(torch.nan)
    for chosen in (open_minded(forecaster), Forecaster(model, forecaster.calibration)):
        answer = what_if(chosen, person, [0.5, 40.0])
        figure = whatif_figure(answer, person)
        assert png_bytes(figure).startswith(b"\x89PNG")
        labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        assert "insulin 40 U: would be refused" in labels
