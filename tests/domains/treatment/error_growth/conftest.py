import itertools
from types import SimpleNamespace

import pytest
import torch

from foreworld.domains.treatment.error_growth import budget
from foreworld.domains.treatment.error_growth.budget import seeded
from foreworld.domains.treatment.error_growth.gpt import GPT, Autoregressive, GPTConfig, train_gpt
from foreworld.domains.treatment.error_growth.logs import Log
from foreworld.domains.treatment.error_growth.recursive import Recursive
from foreworld.domains.treatment.error_growth.stepwise import StepConfig, StepNetwork, train_steps
from foreworld.domains.treatment.error_growth.two_rate import HOUR, TwoRate
from foreworld.domains.treatment.forecasting import ForecastConfig, record_therapy
from foreworld.domains.treatment.tables import load_patients
from foreworld.model.dynamics import HorizonGrid

GRID = HorizonGrid(points=(1, 2, 3, 6, 12, 18, 24))
CONFIG = ForecastConfig(days=4, fit_days=2, stride=12)
GPT_CONFIG = GPTConfig(context=30, horizon=24, width=16, heads=2, layers=2, samples=4, batch=4)
STEP = StepConfig(readings=6, steps=12, hidden=16, batch=64)


@pytest.fixture(scope="package")
def record():
    return record_therapy(load_patients(("adult#001", "adolescent#002", "child#002")), CONFIG, seed=0)


@pytest.fixture(scope="package")
def log(record):
    return Log.of([record.history])


@pytest.fixture(scope="package")
def steady():
    """A clock by which a step takes a hundredth of a second, so that tests do not depend on who else is computing."""
    ticks = itertools.count()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(budget, "time", SimpleNamespace(process_time=lambda: next(ticks) / 100))
        yield


@pytest.fixture(scope="package")
def gpt(log, steady):
    network = seeded(lambda: GPT(GPT_CONFIG), 0)
    train_gpt(network, log, 0.3)
    return network


@pytest.fixture(scope="package")
def arms(log, gpt, steady):
    fine, coarse = (
        seeded(lambda ahead=ahead: StepNetwork(STEP.model_copy(update={"ahead": ahead})), 0) for ahead in (1, HOUR)
    )
    for network in (fine, coarse):
        train_steps(network, log, 0.6)
    return {"token": Autoregressive(gpt), "recursive": Recursive(fine), "two_rate": TwoRate(coarse, fine)}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
