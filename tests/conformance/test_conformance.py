"""Each check passes a sound part and catches parts that were broken on purpose."""

import dataclasses
import importlib.metadata
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "model"))
import toy as toy_world

from foreworld.agent.check import Level
from foreworld.agent.check_rules import Bounds, FiniteAction
from foreworld.conformance import (
    Report,
    check_dataset,
    check_domain,
    check_guardrail,
    check_planner,
    check_world_model,
)
from foreworld.conformance.toy import GUARDRAILS, ToyCap, ToyObjective
from foreworld.episodes import Channel, Episode, EpisodeStore, Schema, fit_statistics
from foreworld.errors import ConformanceError, InputError
from foreworld.evidence.domain import Domain, load_domain
from foreworld.model.belief import History
from foreworld.planning.guardrail import StateGuardrail
from foreworld.planning.planners.base import Best, Decisions, Planner
from foreworld.planning.planners.cem import CEMPlanner
from foreworld.planning.planners.judged import judge
from foreworld.planning.profile import Profile
from foreworld.planning.space import ActionSpace


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def findings(check, *args, **kwargs):
    with pytest.raises(ConformanceError) as caught:
        check(*args, **kwargs)
    assert all("expected" in found and "saw" in found and "repair:" in found for found in caught.value.findings)
    assert str(len(caught.value.findings)) in str(caught.value)
    return "\n".join(caught.value.findings)


# --- planners ----------------------------------------------------------------------------------------------------


class FirstWhenNoneIsSafe(CEMPlanner):
    """Falls back to what came nearest, and calls it a plan."""

    def plan(self, problem):
        decisions = super().plan(problem)
        chosen = dataclasses.replace(decisions.chosen, feasible=torch.ones_like(decisions.chosen.feasible))
        return dataclasses.replace(decisions, chosen=chosen)


class Cheapest(CEMPlanner):
    """Ranks by cost alone."""

    def plan(self, problem):
        x = torch.rand(len(problem), 64, *problem.space.shape, generator=torch.Generator().manual_seed(0))
        judged = judge(problem, problem.space.decode(x))
        at = torch.nan_to_num(judged.cost, nan=torch.inf).argmin(1)
        chosen = judge(problem, judged.blocks[torch.arange(len(at)), at][:, None])
        none = torch.zeros(len(problem), dtype=torch.bool)
        every = dataclasses.replace(chosen, feasible=~none[:, None])
        return Decisions(every, every, none, problem, {"planner": "", "profile": "", "guardrails": ""})


class GlobalRandom(Planner):
    def search(self, problem, best):
        x = torch.rand(len(problem), 64, *problem.space.shape)
        best.take(judge(problem, problem.space.decode(x)))


class SharedRandom(Planner):
    """One generator for the whole batch, and a decision that depends on everyone."""

    def search(self, problem, best):
        generator = torch.Generator().manual_seed(int(problem.keys.sum()))
        x = torch.rand(len(problem), 64, *problem.space.shape, generator=generator)
        best.take(judge(problem, problem.space.decode(x)))


class Lazy(Planner):
    def search(self, problem, best):
        pass


class Deaf(CEMPlanner):
    """Throws suggestions away."""

    def plan(self, problem):
        return super().plan(dataclasses.replace(problem, suggestions=None))


class OutOfBounds(CEMPlanner):
    def plan(self, problem):
        space = problem.space
        wider = dataclasses.replace(space, upper=space.upper + 1e-6 * (1 + space.upper.abs()), levels=())
        return super().plan(dataclasses.replace(problem, space=wider))


class Forgetful(CEMPlanner):
    """Answers the first subject only."""

    def plan(self, problem):
        whole = super().plan(problem)
        return Short(whole.chosen, whole.rejected, whole.rejected_any, whole.problem, whole.provenance)


class Short(Decisions):
    def __len__(self):
        return 1


class Raising(Planner):
    def search(self, problem, best):
        raise RuntimeError("out of luck")


@pytest.mark.parametrize(
    ("planner", "words"),
    [
        (FirstWhenNoneIsSafe(), "never fall back to an infeasible candidate"),
        (FirstWhenNoneIsSafe(), "a refusal for a subject with a NaN forecast"),
        (FirstWhenNoneIsSafe(), "a refusal for a subject of novelty above 1"),
        (FirstWhenNoneIsSafe(), "a refusal where every cost is NaN"),
        (FirstWhenNoneIsSafe(), "a refusal for a subject with a NaN margin"),
        (Cheapest(), "with a reward of 1e+09 for violations"),
        (GlobalRandom(), "draw from `problem.keys` alone"),
        (SharedRandom(), "the same plan alone (subject 0) as in the batch"),
        (Lazy(), "search more candidates"),
        (Deaf(), "judge `problem.suggestions`"),
        (OutOfBounds(), "to the last bit"),
        (OutOfBounds(), "whole numbers for a discrete action"),
        (Forgetful(), "6 answers for 6 subjects"),
        (Raising(), "RuntimeError: out of luck"),
    ],
)
def test_a_broken_planner_is_caught(planner, words):
    assert words in findings(check_planner, planner)


def test_ranking_feasible_and_infeasible_alike_costs_a_planner_its_plans(monkeypatch):
    # Best is what keeps planners safe; breaking it must not go unnoticed.
    def take(self, judged):
        at = torch.nan_to_num(judged.cost, nan=torch.inf).argmin(1)
        self.blocks = judged.blocks[torch.arange(len(at)), at]

    monkeypatch.setattr(Best, "take", take)
    assert "rank every feasible candidate above every infeasible one" in findings(check_planner, CEMPlanner())


# --- guardrails --------------------------------------------------------------------------------------------------


class Flipped(StateGuardrail):
    def margin(self, forecast, actions, history):
        return -super().margin(forecast, actions, history)


class LastStepOnly(StateGuardrail):
    def margin(self, forecast, actions, history):
        return forecast.mean[self.quantity][..., self.horizon - 1] - self.bound


class NanIsFine(StateGuardrail):
    def margin(self, forecast, actions, history):
        return torch.nan_to_num(super().margin(forecast, actions, history), nan=0.0)


class Loosened(StateGuardrail):
    def margin(self, forecast, actions, history):
        score = forecast.trajectory_bound(self.name, self.risk)
        return self.predicted(forecast)[0] + score


class Crowd(StateGuardrail):
    def margin(self, forecast, actions, history):
        margin = super().margin(forecast, actions, history)
        return margin - margin.mean(0)


class Stepwise(StateGuardrail):
    def margin(self, forecast, actions, history):
        return forecast.mean[self.quantity] - self.bound


class NotMonotone(StateGuardrail):
    def margin(self, forecast, actions, history):
        least = super().margin(forecast, actions, history)
        return torch.where(least > 1, 2 - 0.01 * least, least)


@dataclasses.dataclass(eq=False)
class Thawed:
    """Not frozen, not hashable by value."""

    name: str = "thawed"
    source: str = ""
    severity: int = 5
    risk: float = 0.0
    horizon: int = 1

    def margin(self, forecast, actions, history):
        return 1.0 - actions[:, :, 0, 0]


SETTINGS = {
    "name": "low", "quantity": "x", "bound": 70.0, "unit": "mg/dL", "source": "t", "risk": 0.1, "start": 2, "horizon": 5
}  # fmt: skip


@pytest.mark.parametrize("sense", ["at_least", "at_most"])
def test_a_sound_state_guardrail_conforms(sense):
    report = check_guardrail(StateGuardrail(**SETTINGS, sense=sense))
    assert isinstance(report, Report) and len(report.passed) == 9
    assert "9 checks passed" in str(report)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (Flipped, "a negative margin for x far outside the bound 70 (at_least)"),
        (LastStepOnly, "when step 2 of 2..5 is far outside"),
        (NanIsFine, "NaN or a negative margin when step 2 is NaN"),
        (NanIsFine, "a usable horizon that ends before the guardrail's"),
        (Loosened, "every margin to be lower at a calibrated score of 0.5"),
        (Crowd, "the same margins alone as in a batch"),
        (Stepwise, "margins of shape (2, 6)"),
        (NotMonotone, "margins that grow as x moves inwards"),
    ],
)
def test_a_broken_state_guardrail_is_caught(broken, words):
    assert words in findings(check_guardrail, broken(**SETTINGS))


def examples(cap=(0.5, 2.0)):
    caps = torch.tensor(cap)
    history = History(torch.zeros(2, 1, dtype=torch.float64), {"cap": caps}, torch.ones(2, dtype=torch.int64))
    inside = (caps[:, None] - torch.tensor([[0.5, 0.0]]))[:, :, None, None].repeat(1, 1, 3, 1)
    return {"history": history, "inside": inside, "outside": inside + 0.6}


class FlippedCap(ToyCap):
    def margin(self, forecast, actions, history):
        return -super().margin(forecast, actions, history)


class BlindCap(ToyCap):
    def margin(self, forecast, actions, history):
        return torch.nan_to_num(super().margin(forecast, actions, history), nan=1.0)


class ScalingCap(ToyCap):
    def margin(self, forecast, actions, history):
        actions.mul_(1.0).add_(0.0).sub_(1e-3)
        return super().margin(forecast, actions, history)


class MeanCap(ToyCap):
    def margin(self, forecast, actions, history):
        return history.values["cap"].max() + 0 * history.values["cap"][:, None] - actions[:, :, 0, 0]


def test_a_sound_action_guardrail_conforms_and_needs_examples():
    assert len(check_guardrail(GUARDRAILS[1], **examples()).passed) == 7
    with pytest.raises(InputError, match="inside"):
        check_guardrail(GUARDRAILS[1])


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (FlippedCap, "negative margins for actions outside the bound"),
        (BlindCap, "NaN or negative margins for NaN actions"),
        (BlindCap, "when nothing was measured"),
        (ScalingCap, "unchanged actions and history"),
        (MeanCap, "the same margins alone as in a batch"),
    ],
)
def test_a_broken_action_guardrail_is_caught(broken, words):
    assert words in findings(check_guardrail, broken(name="cap", unit="", source="t"), **examples())


def test_a_guardrail_that_can_be_changed_is_caught():
    found = findings(check_guardrail, Thawed(), **examples(cap=(1.0, 1.0)))
    assert "name to be fixed" in found and "a copy to be equal" in found


# --- world models ------------------------------------------------------------------------------------------------

HISTORY = History.from_episodes(toy_world.SCHEMA, [toy_world.episode(seed, 14 + 2 * seed) for seed in range(3)])


class Wrapped:
    """A world model of which a method may be broken."""

    def __init__(self):
        self.model = toy_world.make_model()

    def __getattr__(self, name):
        return getattr(self.model, name)

    def eval(self):
        self.model.eval()
        return self


class ShiftedPast(Wrapped):
    """Gives every action one step late."""

    def encode(self, history):
        values = dict(history.values)
        for name in ("insulin", "mode"):
            values[name] = torch.cat([values[name][:, :1], values[name][:, :-1]], dim=1)
        return self.model.encode(dataclasses.replace(history, values=values))


class ShiftedPlan(Wrapped):
    """Lets every action act one interval late."""

    def respond(self, prepared, actions):
        return self.model.respond(prepared, torch.cat([0 * actions[:, :, :1], actions[:, :, :-1]], dim=2))


class Foreseeing(Wrapped):
    """Lets every action act one interval early."""

    def respond(self, prepared, actions):
        return self.model.respond(prepared, torch.cat([actions[:, :, 1:], actions[:, :, -1:]], dim=2))


class Peeking(Wrapped):
    """Reads the last observation of the array, wherever the history ends."""

    def encode(self, history):
        belief = self.model.encode(history)
        newest = torch.nan_to_num(history.values["pulse"][:, -1:, None])
        return dataclasses.replace(belief, recent=belief.recent + newest)


class Bidirectional(Wrapped):
    def encode_all(self, history):
        beliefs = self.model.encode_all(history)
        return {**beliefs, "state": beliefs["state"] + beliefs["state"].flip(1)}


class WrongUpdate(Wrapped):
    def update(self, belief, time, observation, action):
        return self.model.update(belief, time, observation, {name: 0 * value for name, value in action.items()})


class BatchNorm(Wrapped):
    def encode(self, history):
        belief = self.model.encode(history)
        return dataclasses.replace(belief, state=belief.state - belief.state.mean(0))


class Noisy(Wrapped):
    def respond(self, prepared, actions):
        latents = self.model.respond(prepared, actions)
        return latents + 1e-3 * torch.randn_like(latents)


class Contest(Wrapped):
    def respond(self, prepared, actions):
        latents = self.model.respond(prepared, actions)
        return latents - latents.mean(2, keepdim=True)


class Unbounded(Wrapped):
    def read(self, latents):
        return {name: latents[..., i] * 100 for i, name in enumerate(self.model.quantities)}


class Imputing(Wrapped):
    """Fills missing values with the mean, silently."""

    def encode(self, history):
        values = dict(history.values)
        for name in ("glucose", "pulse"):
            values[name] = torch.nan_to_num(values[name], nan=toy_world.SCHEMA.statistics[name].mean)
        return self.model.encode(dataclasses.replace(history, values=values))


class NanMeansNan(Wrapped):
    def encode(self, history):
        belief = self.model.encode(history)
        lost = torch.isnan(history.values["glucose"]).all(1, keepdim=True)
        return dataclasses.replace(belief, state=torch.where(lost, torch.nan, belief.state))


def test_the_world_model_conforms():
    assert len(check_world_model(toy_world.make_model(), HISTORY).passed) == 10


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (ShiftedPast, "action[t - 1] belongs to the input at t"),
        (ShiftedPast, "`update` by one moment to equal `encode`"),
        (ShiftedPlan, "interval 0 leads to point 0"),
        (Foreseeing, "actions from interval 1 on to leave the horizon points before it alone"),
        (Peeking, "what lies behind `history.lengths` not to matter"),
        (Bidirectional, "`state` of encode_all at a moment not to change"),
        (WrongUpdate, "`update` by one moment to equal `encode`"),
        (BatchNorm, "to be predicted alike alone and in the batch"),
        (Noisy, "turn noise off in eval()"),
        (Contest, "a candidate's future not to depend on the others"),
        (Unbounded, "glucose within 20..600 mg/dL"),
        (Imputing, "a missing glucose to differ from one measured at its mean"),
        (NanMeansNan, "finite predictions when nothing was measured"),
    ],
)
def test_a_broken_world_model_is_caught(broken, words):
    assert words in findings(check_world_model, broken(), HISTORY)


def test_a_history_too_short_to_judge_on_is_refused():
    short = History.from_episodes(toy_world.SCHEMA, [toy_world.episode(0, 3), toy_world.episode(1, 9)])
    with pytest.raises(InputError, match="5 moments"):
        check_world_model(toy_world.make_model(), short)


# --- data sets ---------------------------------------------------------------------------------------------------

WARD = Schema(
    name="ward",
    step=5.0,
    channels=(
        Channel(name="level", role="observation", unit="mg/dL", low=-1e6, high=1e6),
        Channel(name="pulse", role="observation", unit="1/min"),
        Channel(name="dose", role="action", unit="U", low=0, high=100),
        Channel(name="weight", role="static", unit="kg"),
    ),
)


def course(subject, seed, *, shift=0, gap=5.0, actions=60):
    """The dose acts on the next level at once; `shift` records it so many steps late."""
    r = np.random.default_rng(seed)
    dose = r.uniform(0, 10, actions)
    level = 100.0 + np.concatenate([[0.0], np.cumsum(-dose + 5 + r.normal(0, 0.5, actions))])
    level[r.random(actions + 1) < 0.1] = np.nan
    values = {
        "level": level.astype(np.float32),
        "pulse": r.normal(80, 5, actions + 1).astype(np.float32),
        "dose": np.roll(dose, shift).astype(np.float32),
        "weight": np.float32(r.uniform(50, 90)),
    }
    return Episode(subject, gap * np.arange(actions + 1.0), values)


def stored(path, episodes, *, statistics="train", split=True):
    store = EpisodeStore.create(path, WARD)
    store.append(episodes)
    if split:
        store.split("default", {"train": 0.5, "test": 0.5}, seed=0)
    if statistics:
        chosen = store.episodes_of("train") if statistics == "train" else range(len(store))
        store.set_statistics(fit_statistics(WARD, [store.episode(i) for i in chosen]))
    return store


@pytest.fixture
def ward(tmp_path):
    return stored(tmp_path / "ward", [course(f"s{i}", i) for i in range(8)])


def test_a_sound_store_conforms_without_a_warning(ward):
    report = check_dataset(ward)
    assert len(report.passed) == 6 and report.warnings == ()
    assert check_dataset(str(ward.path)) == dataclasses.replace(report, part=f"dataset {ward.path}")


def test_statistics_fitted_on_test_subjects_are_caught(tmp_path):
    store = stored(tmp_path / "leak", [course(f"s{i}", i) for i in range(8)], statistics="all")
    assert "those of all subjects: test subjects leak into training" in findings(check_dataset, store)


def test_wrong_statistics_are_caught(ward):
    wrong = dict(ward.schema.statistics)
    wrong["level"] = wrong["level"].model_copy(update={"mean": wrong["level"].mean + 1})
    ward.set_statistics(wrong)
    found = findings(check_dataset, ward)
    assert "of level" in found and "leak" not in found
    del wrong["pulse"]
    ward.set_statistics(wrong)
    assert "none of pulse" in findings(check_dataset, ward)


def test_one_episode_under_two_names_in_two_parts_is_caught(tmp_path):
    store = stored(tmp_path / "twins", [course(f"s{i}", i % 7) for i in range(8)], split=False, statistics=None)
    store.set_split("default", {"train": ["s0", "s1"], "test": ["s2", "s7"]})
    assert "the same series of subjects s0, s7 in parts test, train" in findings(check_dataset, store)


def test_a_subject_in_two_parts_or_in_none_of_the_store_is_caught(ward):
    # The store refuses such splits; someone edited the file.
    file = ward.path / "zarr.json"
    index = json.loads(file.read_text())
    parts = index["attributes"]["foreworld"]["splits"]["default"]
    parts["test"] += [parts["train"][0], "nobody"]
    file.write_text(json.dumps(index))
    found = findings(check_dataset, ward.path)
    assert f"{parts['train'][0]!r} in both 'train' and 'test'" in found and "'nobody', who is not" in found


def rewrite(store, change):
    """Change the schema of a store behind its back."""
    file = store.path / "zarr.json"
    index = json.loads(file.read_text())
    change(index["attributes"]["foreworld"]["schema"])
    file.write_text(json.dumps(index))


def test_values_out_of_bounds_are_caught(ward):
    rewrite(ward, lambda schema: schema["channels"][2].update(high=2.0))
    assert "channel dose" in findings(check_dataset, ward.path)


def test_a_damaged_store_is_caught(ward):
    (ward.path / "zarr.json").write_text("{")
    assert "restore the damaged file" in findings(check_dataset, ward.path)


def test_a_mask_that_calls_nan_measured_is_caught(tmp_path, monkeypatch):
    masked = [dataclasses.replace(course(f"s{i}", i), masks={"level": np.arange(61) % 7 > 0}) for i in range(4)]
    store = stored(tmp_path / "masks", masked)
    assert check_dataset(store).warnings == ()
    # The store itself neither writes nor opens such a mask; a store of another make may.
    sound = store.episode
    wrong = {"level": np.ones(61, dtype=bool)}
    monkeypatch.setattr(store, "episode", lambda i: dataclasses.replace(sound(i), masks=wrong))
    assert "the mask of level" in findings(check_dataset, store)


def test_actions_shifted_by_one_step_are_warned_of(tmp_path):
    shifted = stored(tmp_path / "shifted", [course(f"s{i}", i, shift=1) for i in range(8)])
    warnings = check_dataset(shifted).warnings
    assert len(warnings) == 1
    assert "action dose goes with the change of level just before it" in warnings[0] and "shifted" in warnings[0]


def test_constant_and_empty_channels_and_odd_steps_are_warned_of(tmp_path):
    episodes = [course(f"s{i}", i, gap=300.0) for i in range(4)]
    for episode in episodes:
        episode.values["pulse"][:] = np.nan
        episode.values["dose"][:] = 3.0
    store = stored(tmp_path / "dull", episodes, statistics=None)
    text = "\n".join(check_dataset(store).warnings)
    for words in ("pulse is empty", "dose is constant at 3 U", "300 apart", "no statistics"):
        assert words in text


def test_an_empty_store_is_warned_of(tmp_path):
    assert "no episode" in check_dataset(EpisodeStore.create(tmp_path / "empty", WARD)).warnings[0]


# --- domains -----------------------------------------------------------------------------------------------------


class WardTask:
    """Keep the level above 50 with doses up to 10."""

    max_age = {"level": 15.0}  # noqa: RUF012
    guardrails = (
        StateGuardrail(
            name="low", quantity="level", bound=50.0, unit="mg/dL", source="a paper", risk=0.1, start=1, horizon=6
        ),
    )
    top = 10.0

    def objective(self, profile):
        objective = ToyObjective()
        objective.profile = profile
        return objective

    def space(self, grid, history):
        ends = torch.zeros(len(history), 1, 1)
        return ActionSpace(grid, (len(grid),), ends, ends + self.top, ("dose",))

    def suggestions(self, space, history):
        return space.lower[:, None]

    def fallback(self, history):
        return torch.nan_to_num(history.values["level"][:, -1:]).clamp(0, 1)

    def last_resort(self, history):
        return torch.zeros(len(history), 1)


RULES = (
    FiniteAction(name="finite", channel="dose"),
    Bounds(name="bounds", channel="dose", low=0.0, high=Level(10.0)),
)
DOMAIN = Domain("ward", WARD, WardTask(), RULES, {"standard": Profile(name="standard")})


def test_a_sound_domain_conforms():
    assert len(check_domain(DOMAIN).passed) == 7


def with_task(**parts):
    return dataclasses.replace(DOMAIN, task=type("Task", (WardTask,), parts)())


def rail(**change):
    return (dataclasses.replace(WardTask.guardrails[0], **change),)


@pytest.mark.parametrize(
    ("domain", "words"),
    [
        (with_task(guardrails=rail(quantity="mood")), "to bound one of level, pulse"),
        (with_task(guardrails=rail(unit="mmol/L")), "in mg/dL, as channel level"),
        (with_task(guardrails=rail(bound=2e6)), "the bound of low within"),
        (with_task(guardrails=rail(source="")), "a source of guardrail low"),
        (with_task(guardrails=()), "give at least one"),
        (with_task(top=1000.0), "bounds of dose within 0.0..100.0 U"),
        (with_task(fallback=lambda self, history: history.values["level"][:, -1:]), "from fallback on unmeasured"),
        (with_task(last_resort=lambda self, history: torch.full((len(history), 1), 11.0)), "the last resort to pass"),
        (with_task(suggestions=lambda self, space, history: space.lower), "suggestions [B, N, K, A]"),
        (with_task(objective=lambda self, profile: ToyObjective()), "an objective with profile standard"),
        (dataclasses.replace(DOMAIN, profiles={"bold": Profile(name="x")}), "a profile named standard"),
        (dataclasses.replace(DOMAIN, profiles={"bold": Profile(name="x")}), "profile bold to bear its name"),
        (dataclasses.replace(DOMAIN, rules=RULES[:1]), "dose of 201 to be refused"),
        (dataclasses.replace(DOMAIN, name="yard"), "a schema named yard"),
        (
            dataclasses.replace(DOMAIN, protocols={"a": dataclasses.make_dataclass("P", ["name", "arms"])("b", ())}),
            "a protocol named ward/a",
        ),
    ],
)
def test_a_broken_domain_is_caught(domain, words):
    assert words in findings(check_domain, domain)


class Entry:
    def __init__(self, name, found):
        self.name, self.found, self.value = name, found, f"{name}:domain"

    def load(self):
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


def test_installed_domains_are_found_by_name(monkeypatch):
    entries = [
        Entry("ward", DOMAIN), Entry("lazy", lambda: DOMAIN), Entry("odd", 3), Entry("gone", AttributeError("domain"))
    ]  # fmt: skip
    monkeypatch.setattr("foreworld.evidence.domain.entry_points", lambda group: entries)
    assert load_domain("ward") is DOMAIN and load_domain("lazy") is DOMAIN
    assert check_domain("ward").part == "domain ward"
    with pytest.raises(InputError, match="no domain 'yard' is installed; installed: gone, lazy, odd, ward"):
        load_domain("yard")
    with pytest.raises(InputError, match="gives int"):
        load_domain("odd")
    with pytest.raises(InputError, match="does not exist"):
        load_domain("gone")


def test_nothing_installed_is_said(monkeypatch):
    monkeypatch.setattr("foreworld.evidence.domain.entry_points", lambda group: importlib.metadata.EntryPoints())
    with pytest.raises(InputError, match="installed: none"):
        load_domain("ward")
