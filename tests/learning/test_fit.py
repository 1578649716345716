"""`fit` minimises what it is given, logs it, stops at what is not finite, and leaves the process as it was."""

import io
import json
import math
import sys
import types
from itertools import pairwise

import pytest
import torch
from pydantic import ValidationError
from rich.console import Console
from tests.learning.toy import Draws, Net, loss
from tests.model.toy import SCHEMA, episode, make_model
from torch import nn

import foreworld.learning.progress as progress
from foreworld.errors import InputError, ModelError
from foreworld.learning.fit import FitConfig, fit
from foreworld.learning.progress import Progress
from foreworld.learning.resume import read_state
from foreworld.model.belief import History
from foreworld.model.loss import LossConfig, prediction_loss


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_loss_falls(tmp_path):
    done = fit(Net(), Draws(128), loss, FitConfig(steps=300, lr=1e-2, warmup=10, log_every=20), tmp_path)
    log = rows(tmp_path)
    assert [row["step"] for row in log] == list(range(20, 301, 20))
    assert log[-1]["error"] < 0.25 * log[0]["error"]
    assert done.steps == 300
    assert done.resumed == 0
    assert done.metrics == {key: value for key, value in log[-1].items() if key != "step"}
    assert {"loss", "error", "sigreg", "rate", "gradient_norm"} == set(done.metrics)


def test_a_row_is_the_mean_of_its_steps(tmp_path):
    fit(Net(), Draws(), loss, FitConfig(steps=7, log_every=1), tmp_path / "each")
    fit(Net(), Draws(), loss, FitConfig(steps=7, log_every=3), tmp_path / "some")
    each, some = rows(tmp_path / "each"), rows(tmp_path / "some")
    assert [row["step"] for row in some] == [3, 6, 7]
    for row, part in zip(some, (each[:3], each[3:6], each[6:]), strict=True):
        assert row["error"] == pytest.approx(sum(r["error"] for r in part) / len(part))


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    weights = []
    for seed in (0, 0, 1):
        net = Net(dropout=0.2)
        fit(net, Draws(), loss, FitConfig(steps=5, seed=seed))
        weights.append(net.head.weight.detach().clone())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_gradient_of_an_indexing_is_the_same_on_many_threads(tmp_path):
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.rows = nn.Parameter(torch.ones(4, 64))

    def picked(module, batch, generator):
        index = torch.randint(4, (100_000,), generator=generator)
        return {"loss": (module.rows[index] * torch.randn(100_000, 64, generator=generator)).sum()}

    moments = []
    for i in range(4):
        fit(Table(), Draws(), picked, FitConfig(steps=2, warmup=0, threads=3, clip=None), tmp_path / str(i))
        # Not the weights, in which a difference in the last bit of the gradient is lost.
        moments.append(read_state(tmp_path / str(i)).tensors["optimizer/exp_avg/rows"])
    assert all(torch.equal(moments[0], other) for other in moments)


def test_a_world_model_trains_and_keeps_its_weights_finite(tmp_path):
    class Windows(Draws):
        def next(self):
            self.given += 1
            return History.from_episodes(SCHEMA, [episode(16 * self.given + i, 40) for i in range(16)])

    model, weights = make_model(), LossConfig(anchors=8, points=8, slices=16)
    config = FitConfig(steps=30, lr=3e-3, warmup=0, log_every=10)
    fit(model, Windows(), lambda m, batch, generator: prediction_loss(m, batch, weights, generator), config, tmp_path)
    assert rows(tmp_path)[-1]["loss"] < rows(tmp_path)[0]["loss"]


def test_fit_puts_back_what_it_sets_for_the_process():
    net, state = Net().eval(), torch.get_rng_state()
    threads = torch.get_num_threads()
    fit(net, Draws(), loss, FitConfig(steps=2, threads=threads + 1))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert not net.training


def test_the_rate_rises_linearly_and_falls_as_a_cosine_to_its_floor():
    config = FitConfig(steps=101, lr=2.0, warmup=10, floor=0.1)
    rates = [config.rate(step) for step in range(101)]
    assert rates[:10] == pytest.approx([0.2 * (i + 1) for i in range(10)])
    assert rates[10] == pytest.approx(2.0)
    assert rates[55] == pytest.approx(2.0 * (0.1 + 0.9 * 0.5))
    assert rates[100] == pytest.approx(0.2)
    assert all(a >= b for a, b in pairwise(rates[10:]))
    assert FitConfig(steps=3, lr=1.0, warmup=10).rate(2) == pytest.approx(0.3)


def test_weight_decay_spares_vectors_and_clipping_bounds_the_step():
    class Still(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, 2))
            self.bias = nn.Parameter(torch.ones(2))
            self.moving = nn.Parameter(torch.zeros(1))

    def still(module, batch, generator):
        return {"loss": 0.0 * (module.weight.sum() + module.bias.sum()) + module.moving.sum()}

    net = Still()
    fit(net, Draws(), still, FitConfig(steps=1, lr=0.1, warmup=0, weight_decay=0.5, clip=1e-12))
    assert net.weight.detach().flatten().tolist() == pytest.approx([0.95] * 4)
    assert net.bias.tolist() == [1.0, 1.0]
    # Adam divides the gradient by its own size, unless clipping made it smaller than Adam's epsilon.
    assert abs(net.moving.item()) < 1e-4


def test_with_ema_the_module_ends_with_the_average_of_its_weights(tmp_path):
    steps, decay = 12, 0.6
    plain = Net()
    start = plain.head.weight.detach().clone()
    trace = []

    def traced(module, batch, generator):
        trace.append(module.head.weight.detach().clone())
        return loss(module, batch, generator)

    fit(plain, Draws(), traced, FitConfig(steps=steps, lr=1e-2, warmup=0))
    trace.append(plain.head.weight.detach().clone())
    expected = start
    for step, weight in enumerate(trace[1:]):
        share = min(decay, (1 + step) / (10 + step))
        expected = share * expected + (1 - share) * weight
    averaged = Net()
    fit(averaged, Draws(), loss, FitConfig(steps=steps, lr=1e-2, warmup=0, ema=decay), tmp_path)
    torch.testing.assert_close(averaged.head.weight.detach(), expected)
    assert not torch.equal(averaged.head.weight, plain.head.weight)
    # The state keeps the weights themselves, from which training could go on.
    assert torch.equal(read_state(tmp_path).tensors["weights/head.weight"], plain.head.weight)


def test_bf16_runs_the_loss_under_autocast():
    seen = []

    def watched(module, batch, generator):
        seen.append(module.body(batch["x"]).dtype)
        return loss(module, batch, generator)

    for bf16 in (True, False):
        fit(Net(), Draws(), watched, FitConfig(steps=1, bf16=bf16))
    assert seen == [torch.bfloat16, torch.float32]


@pytest.mark.parametrize("bad", ["loss", "gradient"])
def test_a_loss_that_is_not_finite_names_the_step_and_keeps_the_last_good_state(tmp_path, bad):
    count = 0

    def breaking(module, batch, generator):
        nonlocal count
        count += 1
        parts = loss(module, batch, generator)
        if count == 6:
            broken = module.head.weight.sum() * math.nan
            if bad == "gradient":  # The square root of 0 is 0, and its slope is infinite.
                broken = torch.sqrt(0.0 * module.head.weight.sum())
            parts["loss"] = parts["loss"] + broken
        return parts

    net = Net()
    with pytest.raises(ModelError, match=f"{bad} of step 6 is not finite"):
        fit(net, Draws(), breaking, FitConfig(steps=10, log_every=1, save_every_seconds=0), tmp_path)
    state = read_state(tmp_path)
    assert state.step == 5
    assert all(torch.isfinite(value).all() for value in state.tensors.values())
    assert torch.isfinite(net.head.weight).all()
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4, 5]


def test_a_metric_that_is_not_finite_is_logged_as_null(tmp_path):
    def odd(module, batch, generator):
        return {**loss(module, batch, generator), "odd": torch.tensor(math.inf)}

    fit(Net(), Draws(), odd, FitConfig(steps=1), tmp_path)
    assert rows(tmp_path)[0]["odd"] is None


def test_a_module_without_parameters_is_refused():
    with pytest.raises(InputError, match="Tanh has no parameter"):
        fit(nn.Tanh(), Draws(), loss, FitConfig(steps=1))


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"lr": -1}, {"ema": 1.0}, {"clip": 0}, {"budget_seconds": 9}])
def test_an_option_out_of_range_is_refused(wrong):
    with pytest.raises(ValidationError):
        FitConfig(**{"steps": 1, **wrong})


class Clock:
    """A clock that goes on by half a second at every look."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 0.5
        return self.now


def shown(monkeypatch, mode, steps, terminal=False):
    monkeypatch.setattr(progress, "monotonic", Clock())
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120)
    with Progress(mode, total=steps, console=console) as bar:
        for step in range(1, steps + 1):
            bar.update(step, loss=1.25, windows=64)
    return console.file.getvalue()


def test_lines_come_every_ten_seconds_and_at_the_end(monkeypatch):
    lines = shown(monkeypatch, "lines", 50).splitlines()
    assert lines[0] == "step 20/50 · loss 1.25 · 2.0 steps/s · 128 windows/s · 15 s left"
    assert [line.split()[1] for line in lines] == ["20/50", "40/50", "50/50"]


def test_a_bar_is_drawn_on_a_terminal_or_when_asked(monkeypatch):
    assert "50/50" in shown(monkeypatch, "auto", 50, terminal=True)
    assert "128 windows/s" in shown(monkeypatch, "bar", 50)
    assert shown(monkeypatch, "auto", 50) == ""
    assert shown(monkeypatch, "none", 50, terminal=True) == ""


@pytest.mark.parametrize("mode", ["bar", "lines"])
def test_a_run_of_less_than_two_seconds_shows_nothing(monkeypatch, mode):
    assert shown(monkeypatch, mode, 3, terminal=True) == ""


def test_tensorboard_gets_the_rows(tmp_path, monkeypatch):
    written = []

    class SummaryWriter:
        def __init__(self, log_dir, purge_step):
            written.append((log_dir, purge_step))

        def add_scalar(self, name, value, step):
            written.append((name, step))

        def close(self):
            written.append("closed")

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=SummaryWriter))
    fit(Net(), Draws(), loss, FitConfig(steps=2), tmp_path, tensorboard=True)
    assert written[0] == (str(tmp_path / "tensorboard"), 1)
    assert ("error", 2) in written
    assert written[-1] == "closed"


def test_tensorboard_that_is_absent_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match="pip install tensorboard"):
        fit(Net(), Draws(), loss, FitConfig(steps=1), tmp_path, tensorboard=True)
    with pytest.raises(InputError, match="run folder"):
        fit(Net(), Draws(), loss, FitConfig(steps=1), tensorboard=True)
