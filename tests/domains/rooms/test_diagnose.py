"""What a latent sees: a trained one passes, and each way to be blind is found and named."""

import copy

import pytest
import torch

from foreworld.errors import ModelError
from foreworld.learning.diagnose import Diagnosis, Gate, diagnose, effective_rank, findings, require_sound
from foreworld.model.latent_model import LatentModel


def look(model, quick, labelled=None):
    return diagnose(model, quick[1].store, "default/check", labelled=labelled, clips=64, labels=200)


def test_a_trained_model_passes_on_scenes_that_it_did_not_learn_from(quick):
    found = quick[1].diagnosis
    assert not findings(found, Gate())
    assert len(found.error) == len(found.persistence) == 10
    assert found.error[0] < 0.6 * found.persistence[0] and found.error[0] < found.error[-1]
    assert min(found.perceptron.values()) > 0.9 and found.sensitivity > 0.7
    require_sound(found, Gate())


def test_figures_are_repeated(quick):
    assert look(quick[1].model, quick) == look(quick[1].model, quick)


def test_a_collapsed_latent_is_found_though_its_rank_is_high(quick):
    model = copy.deepcopy(quick[1].model)
    with torch.no_grad():
        model.encoder.out.weight *= 0.01
    found = look(model, quick)
    assert found.rank == pytest.approx(look(quick[1].model, quick).rank, rel=0.05)
    assert found.dead == 1.0 and "collapsed" in findings(found, Gate())[0]
    with pytest.raises(ModelError, match="collapsed"):
        require_sound(found, Gate())


def test_a_latent_in_which_nothing_can_be_read_is_found(quick):
    torch.manual_seed(1)
    blind = copy.deepcopy(quick[1].model)
    with torch.no_grad():
        blind.encoder.layers[0].weight.zero_()
        blind.encoder.layers[0].bias.zero_()
    found = look(blind, quick, labelled="default/fit")
    assert any("cannot be read" in line for line in findings(found, Gate()))


def test_a_model_that_does_not_heed_actions_is_found(quick):
    deaf = copy.deepcopy(quick[1].model)
    with torch.no_grad():
        deaf.push.weight.zero_()
    found = look(deaf, quick)
    assert found.sensitivity == 0.0
    assert any("actions hardly matter" in line for line in findings(found, Gate()))


def test_an_untrained_model_does_not_pass(quick):
    torch.manual_seed(0)
    raw = LatentModel(quick[1].model.schema, quick[1].model.config).eval()
    assert findings(look(raw, quick), Gate())


def test_what_cannot_be_told_does_not_pass():
    nan = float("nan")
    found = Diagnosis(
        clips=1, variance=nan, dead=0.0, rank=1.0, sensitivity=nan, error=(nan,), persistence=(1.0,), linear={"x": nan}
    )
    assert len(findings(found, Gate())) == 4


def test_the_effective_rank_of_noise_is_its_width_and_that_of_a_line_one():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(5000, 6, generator=generator)
    assert effective_rank(noise) == pytest.approx(6.0, abs=0.05)
    assert effective_rank(noise[:, :1] * torch.ones(6)) == pytest.approx(1.0)
    assert effective_rank(1e-6 * noise) == pytest.approx(effective_rank(noise))
