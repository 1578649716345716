import pytest

from foreworld.domains.rooms.prepare import prepare
from foreworld.domains.rooms.protocols import TASKS


@pytest.fixture(scope="session")
def quick(tmp_path_factory):
    """Runs folder, and what the smoke recipe of `rooms/cross-room` gives: a minute's worth, made once for all."""
    folder = tmp_path_factory.mktemp("runs")
    recipe = TASKS["cross-room"][1].recipe.quick()
    return folder, prepare(folder / "models" / recipe.key(0), recipe, seed=0, progress="none")
