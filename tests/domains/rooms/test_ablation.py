"""What keeps a latent from collapsing: arms differ in what they are called for alone, at equal time, and are drawn."""

import numpy as np
import pytest
import torch
from tests.domains.rooms.test_reaching import TINY
from tests.domains.rooms.test_sighted import TINY as TINY_SIGHTED

from foreworld.domains.rooms import ablation
from foreworld.domains.rooms.ablation import HEADLINE, KINDS, AblationConfig, AblationTask, steps_of
from foreworld.domains.rooms.figure_ablation import draw, pictures
from foreworld.domains.rooms.protocols import ABLATED, PROTOCOLS, RANDOM, WITH_DISC
from foreworld.domains.rooms.scene import RoomsConfig
from foreworld.domains.rooms.training_speed import Trained
from foreworld.errors import InputError
from foreworld.evidence.protocol import Request
from foreworld.evidence.rows import Evidence
from foreworld.model.regularizers import sigreg, vicreg

POINTS = ABLATED.tasks["points"]


def tiny(count=3):
    conv = TINY.train.model_copy(
        update={"group": 4, "loss": TINY.train.loss.model_copy(update={"within": 0.5, "inverse": 1.0})}
    )
    disc = RoomsConfig(other=True)
    changed = {"rooms": disc, "train": conv, "gate": None, "name": "tiny-ablation"}
    points = TINY_SIGHTED.model_copy(update={"gate": None, "name": "tiny-ablation-points"})
    return AblationConfig(
        tasks={
            "points": AblationTask(rooms=RANDOM, recipe=points, by="imagined", budget=3, vicreg=0.1),
            "conv": AblationTask(
                rooms=disc, recipe=TINY.model_copy(update=changed), by="temporal", budget=3, vicreg=1.0
            ),
        },
        count=count, rounds=1, timed=1,
    )  # fmt: skip


def test_arms_differ_in_what_they_are_called_for_alone():
    usual = WITH_DISC.train.loss.model_dump()
    for kind in KINDS:
        loss = POINTS.of(kind, 500).train.loss.model_dump()
        changed = {name for name in loss if loss[name] != usual[name]}
        way, remedies = kind.removesuffix("_remedies"), kind.endswith("_remedies")
        allowed = {"sigreg": set(), "vicreg": {"regulariser", "regular"}, "none": {"regulariser"}}
        own = allowed.get(way, {"regulariser", "reconstruct"})
        assert changed == own if remedies else changed >= own | {"within", "inverse"}
        assert changed - own <= {"within", "inverse", "move", "slow"}
        assert POINTS.of(kind, 500).train.fit.steps == 500 and POINTS.of(kind, 500).train.model == WITH_DISC.train.model
    assert POINTS.of(HEADLINE, WITH_DISC.train.fit.steps) == WITH_DISC


@pytest.mark.parametrize("task", ABLATED.tasks.values(), ids=ABLATED.tasks)
def test_a_collapsed_latent_costs_as_much_by_either_regulariser(task):
    nothing = torch.zeros(task.recipe.train.clips, task.recipe.train.model.width)
    by_sigreg = task.recipe.train.loss.regular * float(sigreg(nothing))
    assert task.vicreg * float(vicreg(nothing)[0]) == pytest.approx(by_sigreg, rel=0.05)


def test_an_arm_whose_step_costs_more_makes_fewer(tmp_path, monkeypatch):
    monkeypatch.setenv("FOREWORLD_RUNS", str(tmp_path))
    asked = []

    def timed(store, config, steps):
        asked.append(config.loss.reconstruct)
        return Trained(0.2 if config.loss.reconstruct else 0.1, 0.1, {})

    monkeypatch.setattr(ablation, "train_some", timed)
    config = ABLATED.model_copy(update={"rounds": 1, "share": 0.5})
    steps = steps_of(POINTS, config, tmp_path, 3)
    whole = WITH_DISC.train.fit.steps // 2
    assert steps[HEADLINE] == whole == steps["none"] and steps["reconstruct"] == whole // 2
    assert steps_of(POINTS, config, tmp_path, 3) == steps and len(asked) == len(KINDS)


@pytest.fixture(scope="module")
def evidence(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FOREWORLD_RUNS", str(tmp_path_factory.mktemp("runs")))
        arms = (
            "points_sigreg_remedies", "points_none", "conv_vicreg", "conv_reconstruct_remedies", "points_nothing",
            "conv_clone",
        )  # fmt: skip
        protocol = ablation.ablation(tiny())
        return protocol.evaluate(Request(seeds=(3,), arms=arms))


def test_every_kind_of_arm_is_trained_on_the_headlines_scenes(evidence):
    found = {(row.arm, row.metric): row for row in evidence.rows}
    for arm in ("points_sigreg_remedies", "points_none", "conv_vicreg", "conv_reconstruct_remedies"):
        assert found[arm, "success"].n <= 3 and found[arm, "train_cpu_seconds"].value > 0
        assert np.isfinite([found[arm, name].value for name in ("probe_linear", "rank", "error_1", "variance")]).all()
    assert found["points_sigreg_remedies", "steps_trained"].value == 6


def test_floors_stand_beside_them(evidence):
    found = {(row.arm, row.metric): row for row in evidence.rows}
    assert found["points_nothing", "success"].value == 0.0 and found["conv_clone", "success"].n == 3
    assert ("conv_clone", "rank") not in found and found["conv_clone", "solved_at_start"].n == 3


def test_success_stands_beside_what_a_probe_reads(evidence):
    assert draw(evidence).startswith(b"\x89PNG")
    assert [picture.alt for picture in pictures(evidence)]
    empty = Evidence.model_validate({**evidence.to_dict(), "rows": (), "names": evidence.names})
    with pytest.raises(InputError, match="no arm whose success"):
        draw(empty)


def test_the_protocol_has_eight_arms_and_the_floors_a_task():
    protocol = PROTOCOLS["rooms/ablation"]
    assert len(protocol.arms) == 24 and protocol.pictures is pictures and protocol.keeps
