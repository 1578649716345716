"""What if somebody were given this much insulin now? Doses of one's own choice beside each other, from one state.

answer = what_if(forecaster, read_plan_file("person.json"), [2.0, 0.5])
print(answer.explain())
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import numpy as np

from foreworld.agent.agent import Agent
from foreworld.agent.whatif import WhatIf, compare_actions
from foreworld.domains.treatment.loop import insulin_agent
from foreworld.domains.treatment.plan_file import PlanFile, decide
from foreworld.domains.treatment.schema import SCHEMA, STEP_MINUTES
from foreworld.errors import InputError
from foreworld.forecast.forecaster import Forecaster

MINUTES = (30.0, 60.0, 120.0, 240.0)
THEN = "then the profile basal"


def what_if(
    agent: Agent | Forecaster, person: PlanFile, actions: Sequence[float], *, minutes: Sequence[float] = MINUTES
) -> WhatIf:
    """Compare doses of the coming 5 minutes, each followed by the profile basal.

    Nothing is done or recorded, and an agent that is given stays as it was.

    Args:
        agent: With its guardrails, or a calibrated forecaster for the standard one.
        person: Their record up to now.
        actions: At least two doses, U.
        minutes: Times ahead at which the courses are read off; those beyond the model's horizon are left out.

    Raises:
        InputError: There are fewer than two doses, or one is no dose.
    """
    insulin = SCHEMA["insulin"]
    if len(actions) < 2:
        raise InputError(f"{len(actions)} dose is nothing to compare; give two or more, in U for the coming 5 min")
    for dose in actions:
        if not math.isfinite(dose) or not float(insulin.low or 0.0) <= dose <= float(insulin.high or math.inf):
            raise InputError(
                f"{dose:g} U is no dose of {STEP_MINUTES} min; give {insulin.low:g} to {insulin.high:g} {insulin.unit}"
            )
    # A shallow copy: starting it replaces its memory and belief and leaves those of the original alone.
    asked = copy.copy(agent) if isinstance(agent, Agent) else insulin_agent(agent)
    asked.recorder = None
    step = decide(asked, person)
    basal = float(person.statics["basal"][0]) * STEP_MINUTES / 60.0
    doses = np.array(actions, dtype=np.float64)[:, None]
    return compare_actions(step, asked.checker, doses, np.array([basal]), at=minutes, then=THEN)
