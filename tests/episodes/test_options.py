"""A configuration that gains a field writes what it wrote before, until the field is used."""

import pytest
from pydantic import ValidationError

from foreworld.episodes.options import Options
from foreworld.learning.train import TrainConfig
from foreworld.model.loss import LossConfig
from foreworld.model.world_model import WorldModelConfig


class Grown(Options):
    later = frozenset({"new"})
    old: int = 1
    new: int = 0


def test_a_later_field_is_written_only_where_it_is_used():
    assert Grown().model_dump() == {"old": 1}
    assert Grown().model_dump_json() == '{"old":1}'
    assert Grown(new=3).model_dump() == {"old": 1, "new": 3}


@pytest.mark.parametrize("config", [Grown(old=2), Grown(new=5)])
def test_what_was_written_is_read_back(config):
    assert Grown.model_validate(config.model_dump(mode="json")) == config


def test_unknown_fields_and_changes_are_refused():
    with pytest.raises(ValidationError):
        Grown(other=1)
    with pytest.raises(ValidationError):
        Grown().old = 5


def test_the_fields_that_came_later_exist():
    for config in (WorldModelConfig(), LossConfig(), TrainConfig()):
        assert config.later <= set(type(config).model_fields)
        assert not config.later & set(config.model_dump())
