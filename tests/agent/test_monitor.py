"""The monitor: what came against what was foreseen, and which way actions are foreseen to act."""

import numpy as np
import pytest
import torch
from tests.agent.test_agent import EVERYONE, NOW, decide, names, open_minded, tuned

from foreworld.agent.agent import Actor
from foreworld.agent.monitor import (
    EVERY,
    LAG,
    LOOKS,
    RELEASE,
    WORST,
    Monitor,
    _between,
    _of_looks,
    fit_monitor,
    hindsight,
)
from foreworld.domains.treatment.loop import insulin_agent
from foreworld.domains.treatment.sabotage import KINDS, sabotage
from foreworld.domains.treatment.schema import SCHEMA
from foreworld.errors import InputError
from foreworld.forecast.forecaster import MonitorLimits
from foreworld.model.belief import History
from foreworld.planning.plan import Reason

NEVER = MonitorLimits(surprise=(1e9, 1e9), usual=0.5, jump=1e9, false_alarm=0.01)
ALWAYS = MonitorLimits(surprise=(1e-9, 1e9), usual=0.5, jump=1e9, false_alarm=0.01)


def watched(forecaster, limits):
    return tuned(open_minded(forecaster), monitor=limits)


def test_where_nothing_was_measured_nothing_is_imagined_to_compare_it_with(forecaster, past, monkeypatch):
    agent, _ = decide(open_minded(forecaster), past, steps=LAG)
    for kept in agent.memory._seen["cgm"]:
        kept[:] = np.nan
    monkeypatch.setattr(type(agent.forecaster), "forecast", None)
    assert np.isnan(hindsight(agent.forecaster, agent.memory, LAG, 1)).all()


@pytest.mark.parametrize(("lag", "first"), sorted({(look.lag, look.first) for look in LOOKS}))
def test_hindsight_is_the_forecast_of_a_while_ago_told_what_was_done_since(forecaster, past, lag, first):
    now = NOW + lag
    agent, steps = decide(open_minded(forecaster), past, steps=lag)
    agent.memory.see(5.0 * now, past.values(now, EVERYONE))
    found = hindsight(agent.forecaster, agent.memory, lag, first)
    insulin = np.concatenate([past.insulin[:, :NOW], *(step.actions for step in steps)], axis=1)
    values = {"cgm": past.cgm[:, : NOW + 1], "carbs": past.carbs[:, : NOW + 1], "insulin": insulin[:, :NOW]}
    history = History.from_arrays(SCHEMA, np.tile(5.0 * np.arange(NOW + 1), (7, 1)), values | past.statics)
    model = agent.forecaster.model
    actions = torch.zeros(7, 1, len(model.config.grid), 1)
    actions[:, 0, :lag, 0] = torch.from_numpy(insulin[:, NOW:])
    carbs = torch.zeros(7, len(model.config.grid), 1)
    carbs[:, :lag, 0] = torch.from_numpy(past.carbs[:, NOW + 1 : now + 1])
    forecast = agent.forecaster.forecast(agent.forecaster.begin(model.encode(history), carbs), actions)
    part = slice(first - 1, lag)
    half = (forecast.upper["cgm"] - forecast.lower["cgm"])[:, 0, part].numpy() / 2
    error = np.abs(past.cgm[:, NOW + first : now + 1] - forecast.mean["cgm"][:, 0, part].numpy())
    np.testing.assert_allclose(found, np.minimum(error / half, WORST).mean(1), rtol=1e-3)


def test_an_alarm_refuses_and_the_fallback_acts_until_surprise_is_well_below_its_limit(forecaster, past):
    agent, steps = decide(watched(forecaster, ALWAYS), past, steps=LAG + EVERY + 1)
    assert all(reason is not Reason.model_invalid for step in steps[:LAG] for reason in step.reasons)
    last = steps[-1]
    assert set(last.reasons) == {Reason.model_invalid} and set(names(last)) == {Actor.fallback}
    assert "disagrees with what the model foresaw" in last.answer(0).explain()
    assert agent.monitor.alarm.all() and (agent.monitor.surprise[:, 0] > 0).all()
    _, calm = decide(watched(forecaster, NEVER), past, steps=LAG + EVERY + 1)
    assert all(reason is not Reason.model_invalid for step in calm for reason in step.reasons)


def test_an_alarm_ends_below_a_share_of_the_limit(forecaster, past, monkeypatch):
    limits = MonitorLimits(surprise=(1.0, 10.0), usual=0.0, jump=1e9, false_alarm=0.01)
    agent, steps = decide(watched(forecaster, NEVER), past, steps=LAG)
    imagined, space = steps[-1].decisions.problem.imagined, steps[-1].decisions.problem.space
    monitor, seen = Monitor(7, limits), []
    for score in (4.0, 4.0, 4.0, np.nan, *(0.0,) * 6):
        monkeypatch.setattr("foreworld.agent.monitor.hindsight", lambda *_, score=score: np.full(7, score))
        for _ in range(EVERY):
            alarm = monitor.look(agent.forecaster, agent.memory, imagined, space)
        seen.append((round(float(monitor.surprise[0, 0]), 3), bool(alarm[0])))
    kept = np.exp(-EVERY / LOOKS[0].window)
    assert seen[0] == (round(4 * (1 - kept), 3), False) and seen[1][1] and seen[2] == seen[3]
    assert [on for _, on in seen[4:]] == [level > RELEASE for level, _ in seen[4:]]
    assert seen[4][1] and not seen[-1][1]


def test_a_model_that_does_not_know_where_the_subject_is_now_is_noticed_by_the_nearer_look(
    forecaster, past, monkeypatch
):
    limits = MonitorLimits(surprise=(10.0, 10.0, 1.2), usual=0.4, jump=1e9, false_alarm=0.01)
    agent, steps = decide(watched(forecaster, NEVER), past, steps=LAG)
    imagined, space = steps[-1].decisions.problem.imagined, steps[-1].decisions.problem.space
    near = lambda *asked: np.full(7, 4.0 if asked[2:] == (EVERY, 1) else 0.4)  # noqa: E731
    monkeypatch.setattr("foreworld.agent.monitor.hindsight", near)
    monitor = Monitor(7, limits)
    for _ in range(2 * EVERY):
        alarm = monitor.look(agent.forecaster, agent.memory, imagined, space)
    assert alarm.all()


@pytest.mark.parametrize("kind", ["sign_flipped", "nan"])
def test_a_wrong_direction_is_seen_at_the_first_decision(forecaster, past, kind):
    _, (step,) = decide(sabotage(watched(forecaster, NEVER), kind), past)
    assert set(step.reasons) == {Reason.model_invalid} and set(names(step)) == {Actor.fallback}


def test_nobody_watches_without_limits(forecaster, past):
    _, steps = decide(sabotage(open_minded(forecaster), "sign_flipped"), past)
    assert Reason.model_invalid not in steps[0].reasons


def test_too_much_confidence_raises_surprise(forecaster, past):
    surprise = {}
    for kind in ("healthy", "overconfident"):
        chosen = watched(forecaster, NEVER)
        chosen = chosen if kind == "healthy" else sabotage(chosen, kind)
        agent, _ = decide(chosen, past, steps=2 * LAG)
        surprise[kind] = agent.monitor.surprise.mean()
    assert surprise["overconfident"] > 1.2 * surprise["healthy"]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_broken_model_answers_like_a_healthy_one(forecaster, past, kind):
    chosen = sabotage(watched(forecaster, NEVER), kind)
    _, steps = decide(chosen, past, steps=LAG + EVERY + 1)
    assert all(np.isfinite(step.actions).all() for step in steps)
    with pytest.raises(InputError, match="unknown"):
        sabotage(chosen, "asleep")


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_broken_model_is_healthy_until_its_onset(forecaster, past, kind):
    chosen = open_minded(forecaster)
    _, healthy = decide(chosen, past, steps=6)
    _, later = decide(sabotage(chosen, kind, onset=NOW + 4), past, steps=6)
    _, at_once = decide(sabotage(chosen, kind), past, steps=6)

    def foreseen(steps):
        return torch.stack([step.decisions.chosen.forecast.mean["cgm"][:, 0] for step in steps])

    def spread(steps):
        return torch.stack([step.decisions.chosen.forecast.scale["cgm"][:, 0] for step in steps])

    for of in (foreseen, spread):
        torch.testing.assert_close(of(later[:4]), of(healthy[:4]), rtol=1e-4, atol=1e-3, equal_nan=True)
    changed = {
        name: [not torch.allclose(of(one), of(healthy), equal_nan=True) for one in (later, at_once)]
        for name, of in (("mean", foreseen), ("scale", spread))
    }
    assert any(both[0] for both in changed.values()) and any(both[1] for both in changed.values())
    with pytest.raises(InputError, match="onset -1"):
        sabotage(chosen, kind, onset=-1)


def test_forecasts_are_compared_after_an_action_that_stands_out_and_only_then(forecaster, past):
    agent, _ = decide(watched(forecaster, NEVER), past, steps=LAG)
    dose = np.where(np.arange(7) < 3, 40.0, 1.0) * past.statics["basal"] / 12.0
    agent.memory._done["insulin"][-1][:] = dose
    for decision in agent.memory.decisions:
        decision.action[:, 0] = past.statics["basal"] / 12.0
    agent.memory.decisions[-1].action[:, 0] = dose
    agent.decide(5.0 * (NOW + LAG), past.values(NOW + LAG, EVERYONE))
    assert (agent.monitor.jump[:3] > 0).all() and np.isnan(agent.monitor.jump[3:]).all()


def test_an_incoherent_model_stays_refused_for_long(forecaster, past, monkeypatch):
    limits = NEVER.model_copy(update={"jump": 1.0})
    monkeypatch.setattr("foreworld.agent.monitor.jumps", lambda *_: np.array([2.0, np.nan, 0.5, *(np.nan,) * 4]))
    agent, steps = decide(watched(forecaster, limits), past)
    monkeypatch.setattr("foreworld.agent.monitor.jumps", lambda *_: np.full(7, np.nan))
    later = [agent.decide(5.0 * t, past.values(t, EVERYONE)) for t in range(NOW + 1, NOW + 20)]
    for step in (*steps, *later):
        assert [reason is Reason.model_invalid for reason in step.reasons] == [True] + [False] * 6


def test_a_decision_that_failed_leaves_the_monitor_as_it_was(forecaster, past, monkeypatch):
    agent, _ = decide(watched(forecaster, NEVER), past, steps=LAG + 2)
    before = agent.monitor.surprise.copy()
    monkeypatch.setattr(agent.planner, "plan", lambda problem: 1 / 0)
    for _ in range(2 * EVERY):
        with pytest.raises(ZeroDivisionError):
            agent.decide(5.0 * (NOW + LAG + 2), past.values(NOW + LAG + 2, EVERYONE))
    np.testing.assert_array_equal(agent.monitor.surprise, before)


def test_limits_are_exceeded_at_the_stated_rate_by_fresh_moments():
    draw = np.random.default_rng(0)
    seen, fresh = draw.gamma(4.0, 0.2, (20000, 3)), draw.gamma(4.0, 0.2, (20000, 3))
    limits = fit_monitor(seen, seen[:, 0], 0.02)
    assert (fresh > np.array(limits.surprise)).any(1).mean() == pytest.approx(0.02, abs=0.004)
    assert limits.usual == pytest.approx(seen.mean(0))
    assert (Monitor(2, limits).surprise == limits.usual).all()
    # A calibration of before there was a third look: one usual number, and no limit on what it did not know.
    old = MonitorLimits(surprise=(1.0, 2.0), usual=0.5, jump=1.0, false_alarm=0.01)
    assert (Monitor(2, old).surprise == 0.5).all()
    np.testing.assert_array_equal(_of_looks(old.surprise, np.inf), [1.0, 2.0, np.inf])
    few = fit_monitor(seen[:50], np.full(3, np.nan), 0.02)
    np.testing.assert_array_equal(few.surprise, seen[:50].max(0))


def test_an_agent_that_was_started_again_has_forgotten_its_surprise(forecaster, past):
    agent, _ = decide(watched(forecaster, ALWAYS), past, steps=LAG + EVERY + 1)
    assert agent.monitor.alarm.any()
    _, (step,) = decide(None, past, agent=agent)
    assert not agent.monitor.alarm.any() and Reason.model_invalid not in step.reasons
    assert isinstance(insulin_agent(agent.forecaster).monitor, type(None))


def test_forecasts_are_read_off_the_line_between_two_points_for_all_subjects_at_once():
    points, ahead = np.array([1.0, 2.0, 4.0, 8.0]), np.array([0.5, 1.0, 3.0, 4.0, 7.0, 8.0, 9.0])
    values = torch.randn(5, 1, 4, generator=torch.Generator().manual_seed(0))
    found = _between(ahead, points, values)
    for i in range(5):
        np.testing.assert_allclose(found[i], np.interp(ahead, points, values[i, 0].double().numpy()), rtol=1e-14)
