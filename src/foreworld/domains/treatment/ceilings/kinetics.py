"""Insulin from the skin to its action: the linear third of the patient's equations, solved exactly over a step.

Seven states of `physiology`: 5 plasma insulin, 6 action on use, 7 and 8 delayed insulin, 9 liver insulin, 10 and 11
subcutaneous insulin. They know nothing of glucose or meals, so one path of a dose serves every imagined meal.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from foreworld.domains.treatment.physiology import PMOL_PER_UNIT
from foreworld.domains.treatment.tables import COLUMN

FloatArray = npt.NDArray[np.float64]

KINETIC = (5, 6, 7, 8, 9, 10, 11)
ACTION, DELAYED = KINETIC.index(6), KINETIC.index(8)
CONSTANT, DOSE = len(KINETIC), len(KINETIC) + 1


def generator(params: FloatArray) -> FloatArray:
    """The rates as a matrix.

    Args:
        params: [B, P], columns as `tables.PARAMS`.

    Returns:
        [B, 9, 9] per minute: d/dt of the seven states, a constant 1, and a delivery in U/min that stays.
    """
    value = {name: params[:, column] for name, column in COLUMN.items()}
    place = {state: row for row, state in enumerate(KINETIC)}
    rates = np.zeros((len(params), len(KINETIC) + 2, len(KINETIC) + 2))

    def flows(into: int, source: int, rate: FloatArray) -> None:
        rates[:, place[into], place[source]] += rate

    flows(5, 9, value["m1"])
    flows(5, 10, value["ka1"])
    flows(5, 11, value["ka2"])
    flows(5, 5, -(value["m2"] + value["m4"]))
    flows(6, 5, value["p2u"] / value["Vi"])
    flows(6, 6, -value["p2u"])
    rates[:, place[6], CONSTANT] = -value["p2u"] * value["Ib"]
    flows(7, 5, value["ki"] / value["Vi"])
    flows(7, 7, -value["ki"])
    flows(8, 7, value["ki"])
    flows(8, 8, -value["ki"])
    flows(9, 5, value["m2"])
    flows(9, 9, -(value["m1"] + value["m30"]))
    flows(10, 10, -(value["ka1"] + value["kd"]))
    rates[:, place[10], DOSE] = PMOL_PER_UNIT / value["BW"]
    flows(11, 10, value["kd"])
    flows(11, 11, -value["ka2"])
    return rates


def transition(params: FloatArray, minutes: float) -> FloatArray:
    """What `minutes` of a constant delivery do.

    Args:
        params: [B, P].
        minutes: Length of the step.

    Returns:
        [B, 7, 9]: the states after it from the states before, 1, and the delivery in U/min.
    """
    exponent = torch.from_numpy(generator(params) * minutes)
    matrix: FloatArray = torch.linalg.matrix_exp(exponent).numpy()[:, : len(KINETIC)]
    return np.ascontiguousarray(matrix)


def after(matrix: FloatArray, state: FloatArray, rate: FloatArray) -> FloatArray:
    """One step of the insulin states.

    Args:
        matrix: [B, 7, 9] from `transition`.
        state: [B, 7].
        rate: [B] U/min.

    Returns:
        [B, 7].
    """
    full = np.concatenate([state, np.ones((len(state), 1)), rate[:, None]], axis=1)
    # Not a matrix product: BLAS may add up in another order when the batch has another size.
    result: FloatArray = (matrix * full[:, None, :]).sum(-1)
    return result
