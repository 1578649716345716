"""A model adapted by gradient steps: what it may change, what it may not, and which updates the guard lets stand."""

import dataclasses

import pytest
import torch
from tests.forecast.test_recent import SCHEMA, told

from foreworld.errors import InputError
from foreworld.forecast import adapter as adapter_module
from foreworld.forecast.adapter import AdaptConfig, Adapted, adapt
from foreworld.forecast.forecaster import Calibration, Forecaster
from foreworld.forecast.novelty import disagreement
from foreworld.forecast.recent import Forgetful
from foreworld.learning.adapt import fit_adapter, past_of
from foreworld.model.belief import History
from foreworld.model.dynamics import ADAPTABLE, HorizonGrid
from foreworld.model.low_rank import Adapter
from foreworld.model.world_model import WorldModel, WorldModelConfig
from foreworld.planning.guardrail import StateGuardrail, margin_of

GRID = HorizonGrid(points=(1, 2, 4, 6))
CONFIG = AdaptConfig(
    layers=("hidden", "baseline", "gains", "mixture"), warmup=6, least=40, held_out=40, stride=1, steps=40, lr=1e-2
)
EVERY = CONFIG.model_copy(update={"layers": ADAPTABLE})
RAIL = StateGuardrail(name="low", quantity="level", bound=-9.0, unit="u", source="test", risk=0.1, horizon=6)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = WorldModelConfig(grid=GRID, width=8, hidden=6, latent=2, members=2, stride=3, recent=3, memory=(2.0, 9.0))
    return WorldModel(SCHEMA, config).eval()


@pytest.fixture(scope="module")
def forecaster(model):
    novelty = {"mean": (0.0,) * 8, "precision": torch.eye(8).tolist(), "distance": 1.0, "disagreement": (0.1,) * 4}
    calibration = Calibration(novelty={**novelty, "false_alarm": 0.01}, trajectory={"low": {"0.1": 0.5}})
    return Forecaster(model, calibration)


def lived(size=1, moments=160, gain=-1.0, seed=0):
    """Levels that fall back to 0 and that a dose moves by `gain` a step."""
    generator = torch.Generator().manual_seed(seed)
    dose = 4 * torch.rand(size, moments - 1, generator=generator)
    noise = 0.1 * torch.randn(size, moments, generator=generator)
    level = torch.zeros(size, moments)
    for t in range(moments - 1):
        level[:, t + 1] = 0.8 * level[:, t] + gain * dose[:, t] + noise[:, t]
    values = {"level": level, "dose": dose, "meal": torch.zeros(size, moments), "weight": torch.full((size,), 70.0)}
    times = torch.arange(moments, dtype=torch.float64).expand(size, -1)
    return History(times, values, torch.full((size,), moments))


def corrupted(h, gain=3.0):
    """What is fitted on tells of doses that raise the level; what judges is as it was."""
    other = lived(len(h), h.times.shape[1], gain=gain)
    cut = h.times.shape[1] - CONFIG.held_out
    levels = torch.cat([other.values["level"][:, :cut], h.values["level"][:, cut:]], dim=1)
    return History(h.times, {**h.values, "level": levels}, h.lengths)


def fitted(model, h, config=CONFIG):
    return fit_adapter(model, past_of(model, h, config.warmup, config.stride), config)


def forecast(forecaster, h, seed=1):
    doses = 9 * torch.rand(len(h), 5, len(GRID), 1, generator=torch.Generator().manual_seed(seed))
    imagined = forecaster.begin(forecaster.model.encode(h), torch.zeros(len(h), len(GRID), 1))
    return forecaster.forecast(imagined, doses)


PARTS = ("mean", "scale", "lower", "upper", "samples")


def assert_same_forecast(a, b, atol=0.0):
    for name in PARTS:
        torch.testing.assert_close(getattr(a, name), getattr(b, name), atol=atol, rtol=0)
    for name in ("novelty", "usable", "known"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), atol=atol, rtol=0)


def test_before_any_step_the_adapted_model_is_the_model(forecaster):
    model, h = forecaster.model, lived(3)
    layers = {name: getattr(model.dynamics, name) for name in ADAPTABLE}
    start = Adapter.start(layers, 4, torch.Generator().manual_seed(0))
    adapted = Adapted(model, Adapter.stack([start] * 3))
    assert_same_forecast(forecast(Forecaster(adapted, forecaster.calibration), h), forecast(forecaster, h))


def test_an_update_of_the_belief_equals_encoding_the_longer_history(model):
    h = lived(2, 40)
    adapted = Adapted(model, Adapter.stack([fitted(model, lived())] * 2))
    belief = adapted.update(adapted.encode(h.until(SCHEMA, 39)), *told(h, 39))
    whole, at = adapted.encode(h), adapted.encode_at(h, torch.full((2, 1), 39))
    torch.testing.assert_close(belief.belief.state, whole.belief.state)
    torch.testing.assert_close(at.belief.state, whole.belief.state)
    assert belief.count.tolist() == at.count.tolist() == [40, 40]


def test_gradient_steps_change_what_is_foreseen_and_no_scale_context_or_weight(forecaster):
    model, h = forecaster.model, lived(gain=-3.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    one = Forecaster(Adapted(model, fitted(model, h, EVERY)), forecaster.calibration)
    own, was = forecast(one, h), forecast(forecaster, h)
    assert (own.mean["level"] - was.mean["level"]).abs().mean() > 0.1
    torch.testing.assert_close(own.scale, was.scale, atol=0, rtol=0)
    imagined = one.begin(one.model.encode(h))
    assert torch.equal(imagined.distance, forecaster.begin(model.encode(h)).distance)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("gain", [-3.0, 3.0])
@pytest.mark.parametrize("held", [None, (2, 4)])
def test_more_of_a_dose_never_raises_what_it_lowers_whatever_was_learned(model, gain, held):
    h = lived(gain=gain)
    learned = fitted(model, h, EVERY.model_copy(update={"steps": 100, "lr": 3e-2}))
    generator = torch.Generator().manual_seed(3)
    wild = {name: 5 * torch.randn(value.shape, generator=generator) for name, value in learned.up.items()}
    for adapter in (learned, dataclasses.replace(learned, up=wild)):
        adapted = Adapted(model, adapter)
        prepared = adapted.prepare(adapted.encode(h))
        doses = torch.rand(1, 1, 2 if held else len(GRID), 1, generator=generator)
        blocks = doses.shape[2]
        more = torch.cat([doses, doses + 3 * torch.eye(blocks).reshape(1, blocks, blocks, 1)], dim=1)
        ready = prepared.hold(held) if held else prepared
        mean = adapted.respond(ready, more)[..., 0]
        assert (mean[:, :, 1:] <= mean[:, :, :1] + 1e-5).all()
        # Doses that raised the level can at most teach that they do nothing.
        assert (mean[:, :, 1:] < mean[:, :, :1] - 1e-4).any() or (gain > 0 and adapter is learned)


def test_the_guard_accepts_an_update_for_a_subject_whom_the_model_does_not_fit(forecaster):
    h = lived(2, gain=-1.0)
    found = adapt(forecaster, h, CONFIG)
    for verdict in found.verdicts:
        before, after = verdict.before["level"], verdict.after["level"]
        assert verdict.accepted and "fell from" in verdict.reason
        assert after.error < 0.9 * before.error and after.coverage > before.coverage
        assert verdict.readings == sum(40 - p + 1 for p in GRID.points)
    # On a stretch that neither fitted nor judged it, too.
    later = lived(2, 161, gain=-1.0, seed=5)
    errors = []
    for one in (forecaster, found.forecaster):
        belief = one.model.encode(later.until(SCHEMA, 155))
        doses = later.values["dose"][:, 154:160]
        at = torch.einsum("hk,bk->bh", GRID.averaging(), doses)[:, None, :, None]
        mean = one.forecast(one.begin(belief, torch.zeros(2, len(GRID), 1)), at).mean["level"][:, 0]
        errors.append(float((mean - later.values["level"][:, torch.tensor(GRID.points) + 154]).abs().mean()))
    assert errors[1] < errors[0]


def test_the_guard_rejects_an_update_learned_from_a_corrupted_history(forecaster):
    h = corrupted(lived(2, gain=-0.1))
    found = adapt(forecaster, h, CONFIG)
    assert [verdict.accepted for verdict in found.verdicts] == [False, False]
    assert all("level" in verdict.reason and "held-out" in verdict.reason for verdict in found.verdicts)
    # Who was rejected keeps the model as it was.
    assert_same_forecast(forecast(found.forecaster, h), forecast(forecaster, h))


def test_a_rejection_says_which_of_coverage_and_error_spoke_against_it():
    def reason(was, now, better=0.01):
        before, after = {"level": adapter_module.Held(*was)}, {"level": adapter_module.Held(*now)}
        return adapter_module._reason(before, after, 0.9, better)

    assert reason((0.95, 1.0), (0.92, 0.9)) is None
    assert reason((0.7, 1.0), (0.75, 0.9)) is None
    assert "coverage of level fell from 95.0% to 89.0%" in reason((0.95, 1.0), (0.89, 0.5))
    assert "coverage of level fell from 70.0% to 69.0%" in reason((0.7, 1.0), (0.69, 0.5))
    assert "error of level went from 1.000 to 0.995" in reason((0.95, 1.0), (0.95, 0.995))
    for now in ((0.95, float("nan")), (float("nan"), 0.5)):
        assert reason((0.95, 1.0), now) is not None


def test_what_is_held_out_never_reaches_the_fit(forecaster):
    h = lived()
    other = corrupted(h)
    cut = h.times.shape[1] - CONFIG.held_out
    levels = torch.cat([h.values["level"][:, :cut], 5 - h.values["level"][:, cut:]], dim=1)
    other = History(h.times, {**h.values, "level": levels}, h.lengths)
    a, b = (adapt(forecaster, one, CONFIG).forecaster.model.adapter for one in (h, other))
    torch.testing.assert_close(a.down, b.down, atol=0, rtol=0)


def test_a_subject_is_adapted_alike_alone_and_in_a_batch_and_again(forecaster):
    h = lived(3, gain=-2.0)
    h.values["level"][1] *= 0.5
    whole, rows = adapt(forecaster, h, CONFIG), torch.tensor([1])
    alone = adapt(forecaster, h.select(rows), CONFIG)
    assert whole.verdicts[1] == alone.verdicts[0]
    torch.testing.assert_close(whole.forecaster.model.adapter.select(rows).up, alone.forecaster.model.adapter.up)
    assert_same_forecast(
        dataclasses.replace(forecast(alone.forecaster, h.select(rows)), calibrated=None),
        row_of(forecaster, whole, h, 1),
        atol=1e-5,
    )
    other = adapt(forecaster, h.select(rows), CONFIG.model_copy(update={"seed": 1}))
    assert not torch.equal(other.forecaster.model.adapter.up["gains"], alone.forecaster.model.adapter.up["gains"])


def row_of(forecaster, found, h, row):
    doses = 9 * torch.rand(1, 5, len(GRID), 1, generator=torch.Generator().manual_seed(1))
    one = found.forecaster
    imagined = one.begin(one.model.encode(h), torch.zeros(len(h), len(GRID), 1))
    return one.forecast(imagined, doses.expand(len(h), -1, -1, -1)).row(row)


def test_a_plan_must_pass_every_guardrail_before_and_after(forecaster):
    h = lived(2, gain=-1.0)
    own, was = (forecast(one, h) for one in (adapt(forecaster, h, CONFIG).forecaster, forecaster))
    alone = dataclasses.replace(own, calibrated=None, usable=was.usable)
    margins = [margin_of(RAIL, one, None, None) for one in (own, alone, was)]
    known = ~torch.isnan(margins[0])
    expected = torch.minimum(margins[1], margins[2])
    torch.testing.assert_close(margins[0][known], expected[known])
    picked = own.pick(torch.tensor([3, 1])).row(1)
    assert_same_forecast(picked.calibrated, was.pick(torch.tensor([3, 1])).row(1))


def test_an_adapted_model_is_trusted_no_more_and_no_further_than_before(forecaster):
    model, h, amounts = forecaster.model, lived(), torch.linspace(0, 9, 5).reshape(1, 5, 1, 1)
    amounts = amounts.expand(-1, -1, len(GRID), -1)
    # Novel by disagreement alone, with limits at what the members disagree by before.
    latents = model.respond(model.prepare(model.encode(h)), model.normalise_actions(model.encode(h), amounts))
    means, scale = model.read(latents)["level"], model.read_scale(latents)["level"].mean(0)
    limits = tuple(disagreement(means, scale).mean((0, 1)).tolist())
    distant = forecaster.calibration.novelty.model_copy(update={"distance": 1e6, "disagreement": limits})
    layers = {name: getattr(model.dynamics, name) for name in ADAPTABLE}
    nearer = farther = longer = 0
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        start = Adapter.start(layers, 2, generator)
        up = {name: 0.1 * torch.randn(value.shape, generator=generator) for name, value in start.up.items()}
        one = Forecaster(Adapted(model, dataclasses.replace(start, up=up)), Calibration(novelty=distant))
        imagined = one.begin(one.model.encode(h))
        both = one.forecast(imagined, amounts)
        prepared, scaled = imagined.prepared, one.model.normalise_actions(imagined.belief, amounts)
        own, was = (one.of_latents(imagined, model.respond(p, scaled)) for p in (prepared.own, prepared.calibrated))
        assert torch.equal(both.novelty, torch.maximum(own.novelty, was.novelty))
        assert torch.equal(both.usable, torch.minimum(own.usable, was.usable))
        nearer += bool((own.novelty < was.novelty).any())
        longer += bool((own.usable > was.usable).any())
        farther += bool((own.novelty > was.novelty).any())
    assert nearer and farther and longer


def test_missing_readings_are_skipped_and_broken_numbers_are_rejected_not_raised(forecaster):
    gappy, blind, broken = lived(), lived(), lived()
    gappy.values["level"][0, ::3] = torch.nan
    blind.values["level"][0, -CONFIG.held_out :] = torch.nan
    broken.values["dose"][0, 20] = torch.nan
    assert adapt(forecaster, gappy, CONFIG).verdicts[0].accepted
    for h, reason in ((blind, "nothing was measured"), (broken, "finite numbers")):
        found = adapt(forecaster, h, CONFIG)
        assert not found.verdicts[0].accepted and reason in found.verdicts[0].reason
        fresh = lived()
        assert_same_forecast(forecast(found.forecaster, fresh), forecast(forecaster, fresh))


def test_what_cannot_be_adapted_is_refused_with_what_to_do(forecaster, model):
    with pytest.raises(InputError, match="history of 85 moments is too short to adapt to: 86 are needed"):
        adapt(forecaster, lived(moments=85), CONFIG)
    assert adapt(forecaster, lived(moments=86), CONFIG).verdicts[0].readings
    padded = dataclasses.replace(lived(2), lengths=torch.tensor([160, 120]))
    with pytest.raises(InputError, match="one length"):
        adapt(forecaster, padded, CONFIG)
    with pytest.raises(InputError, match="Forgetful has no layers"):
        adapt(Forecaster(Forgetful(model)), lived(), CONFIG)
    with pytest.raises(InputError, match="no layer 'levels' to adapt; choose from from_context"):
        adapt(forecaster, lived(), CONFIG.model_copy(update={"layers": ("levels",)}))
    with pytest.raises(InputError, match="3 histories for the adapters of 1 subjects"):
        adapt(forecaster, lived(), CONFIG).forecaster.model.encode(lived(3))
    with pytest.raises(InputError, match="rank 0"):
        Adapter.start({"hidden": model.dynamics.hidden}, 0, torch.Generator())
    with pytest.raises(InputError, match="both halves"):
        Adapter({}, {})
