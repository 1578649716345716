"""A learned policy as a controller: what was seen goes in, a dose within the protocol's cap comes out."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from foreworld.domains.treatment.dosing import FloatArray, basal_step, dose_cap
from foreworld.domains.treatment.policies.network import Policy
from foreworld.domains.treatment.policies.state import States
from foreworld.domains.treatment.simulator import Observation
from foreworld.domains.treatment.tables import Patients


class PolicyController(ABC):
    """A `Controller`; subclasses say what the network's output means."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._states = States(policy.state)

    @abstractmethod
    def steps(self, output: Tensor) -> FloatArray:
        """[B] dose in profile basals of five minutes, from the network's output [B, ...]."""

    def reset(self, patients: Patients) -> None:
        """See `Controller`."""
        self._states.reset(patients)
        self._basal, self._cap = basal_step(patients), dose_cap(patients)

    def act(self, seen: Observation) -> FloatArray:
        """See `Controller`."""
        with torch.no_grad():
            steps = self.steps(self.policy.network(self._states.see(seen)))
        dose: FloatArray = np.minimum(self._basal * steps, self._cap)
        self._states.done(dose)
        return dose
