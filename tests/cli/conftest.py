"""A model for commands that need one."""

import pytest


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """An untrained model whose guardrails are calibrated so that they always hold: what counts here is the command."""
    import torch

    from foreworld.domains.treatment.calibrate import save_calibration
    from foreworld.domains.treatment.schema import SCHEMA
    from foreworld.domains.treatment.settings import MODEL
    from foreworld.domains.treatment.task import guardrails
    from foreworld.episodes import Statistics
    from foreworld.forecast.forecaster import Calibration
    from foreworld.model.checkpoint import save
    from foreworld.model.world_model import WorldModel
    from foreworld.planning.guardrail import StateGuardrail

    torch.manual_seed(0)
    centres = {"cgm": (140.0, 60.0), "insulin": (0.1, 0.6), "carbs": (0.01, 0.1)}
    statistics = {
        c.name: Statistics(mean=m, std=s, count=1000)
        for c in SCHEMA.channels
        if not c.discrete
        for m, s in [centres.get(c.name, (2.0, 1.0))]
    }
    folder = tmp_path_factory.mktemp("model") / "model"
    save(WorldModel(SCHEMA.with_statistics(statistics), MODEL), folder)
    rails = [g for g in guardrails() if isinstance(g, StateGuardrail)]
    levels = {"0.05": -1000.0, "0.1": -1000.0, "0.2": -1000.0}
    save_calibration(folder, Calibration(trajectory={g.name: levels for g in rails}, subjects=8))
    return folder
