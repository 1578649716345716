"""What is the same, and what is not, for the arms of a track."""

import pytest

from foreworld.domains.treatment import closed_loop
from foreworld.domains.treatment.closed_loop import CEILING_ARMS, Job, run_job, subjects_of
from foreworld.domains.treatment.task import PROFILES
from foreworld.domains.treatment.tracks import TRACKS, LoopConfig


@pytest.mark.parametrize("track", TRACKS, ids=lambda track: track.name)
def test_whoever_announces_nothing_is_planned_for_with_the_caution_that_guessed_meals_need(track):
    assert track.config.profile == ("standard" if track.config.scenario.announced else "unannounced")
    assert PROFILES[track.config.profile].weight("low") == (1.0 if track.config.scenario.announced else 6.0)


class Stopped(Exception):
    pass


@pytest.mark.parametrize("arm", [*CEILING_ARMS, "foreworld"])
def test_a_ceiling_plans_by_the_standard_profile_whatever_the_track_asks_of_others(arm, monkeypatch):
    planned = []

    def run(agent, simulator, **options):
        planned.append(agent.configurator.profile.name)
        raise Stopped

    monkeypatch.setattr(closed_loop, "run_agent", run)
    if arm == "foreworld":  # any forecaster will do: what it plans by is asked, not how well
        monkeypatch.setattr(
            closed_loop, "_forecaster", lambda job: closed_loop.make_oracle(closed_loop.simulator_of(job))
        )
    job = Job(arm, 0, subjects_of(1), LoopConfig(days=1, burn_in=0, profile="unannounced"))
    with pytest.raises(Stopped):
        run_job(job)
    assert planned == ["unannounced" if arm == "foreworld" else "standard"]
