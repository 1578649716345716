"""The arms `oref0` and `oref0_smb`: the open-source artificial pancreas algorithm itself, version 0.7.1 from npm.

    with Oref0(smb=True) as controller:
        controller.reset(patients)
        trajectory = simulator.run(controller.act)

Its own modules (`determine-basal`, `iob`, `meal`) decide, in one Node process for the whole batch: insulin and carbs on
board, predictions, temporary basal rates, micro-boluses. `oref0_bridge` says how it is installed, `oref0_profile` what
it is told about a patient.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

import numpy as np

from foreworld.domains.treatment.dosing import LIMITS, FloatArray, dose_cap
from foreworld.domains.treatment.oref0_bridge import Bridge
from foreworld.domains.treatment.oref0_profile import Oref0Config, Response, measure_response, oref0_profiles
from foreworld.domains.treatment.simulator import Observation, SimulatorConfig
from foreworld.domains.treatment.tables import Patients
from foreworld.errors import InputError

__all__ = ["Oref0", "Oref0Config"]


class Oref0:
    """oref0 as a person uses it: an entry is bolused for by CR and told to the algorithm, which does all the rest.

    Where nothing is entered the algorithm is alone, and recognises meals by itself (its "unannounced meals").

    Attributes:
        smb: whether it may give micro-boluses; temporary basal rates alone otherwise.
        config: common to all patients.
        simulator: the one whose patients are tested for their profiles; its defaults if None.
        cpu_seconds: what the Node process has used since it started, s; `time.process_time` does not see it.
    """

    def __init__(
        self, *, smb: bool, config: Oref0Config | None = None, simulator: SimulatorConfig | None = None
    ) -> None:
        self.smb = smb
        self.config = config or Oref0Config()
        self.simulator = simulator
        self.cpu_seconds = 0.0
        self._bridge: Bridge | None = None
        self._patients: Patients | None = None

    def reset(self, patients: Patients) -> None:
        """See `Controller`; measures the patients' response, and starts the Node process where none runs.

        Raises:
            MissingDataError: node or oref0 is not installed; the message gives the command.
        """
        if self._bridge is None or not self._bridge.running:
            self.close()
            self._bridge = Bridge()
        self._response: Response = measure_response(patients, self.config.test_hours, self.simulator)
        profiles = oref0_profiles(patients, self._response, self.config, smb=self.smb)
        self._bridge.ask({"do": "reset", "smb": self.smb, "profiles": profiles})
        self._patients = patients

    def act(self, seen: Observation) -> FloatArray:
        """See `Controller`.

        Raises:
            InputError: `reset` was not called, or the observation is of another number of patients.
            ForeworldError: the Node process ended; `reset` starts another.
        """
        patients, bridge = self._patients, self._bridge
        if patients is None or bridge is None:
            raise InputError("oref0 serves nobody yet; call reset(patients) first")
        for name, values in (("cgm", seen.cgm), ("announced", seen.announced)):
            if values.shape != (len(patients),):
                raise InputError(f"{name} has shape {values.shape}; oref0 was reset for {len(patients)} patients")
        answer = bridge.ask(
            {
                "do": "decide",
                "minute": int(seen.minute),
                "cgm": [value if np.isfinite(value) else None for value in seen.cgm.tolist()],
                "carbs": seen.announced.tolist(),
                "bolus": self._bolus(patients, seen.announced).tolist(),
            }
        )
        self.cpu_seconds = float(answer["cpu_seconds"])
        # Every part is within the protocol's cap before oref0 hears of it; this is for the last bit of a sum.
        dose: FloatArray = np.minimum(np.array(answer["dose"], dtype=np.float64), dose_cap(patients))
        return dose

    def close(self) -> None:
        """End the Node process; it also ends with this object."""
        if self._bridge is not None:
            self._bridge.close()
        self._bridge = self._patients = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _bolus(self, patients: Patients, announced: FloatArray) -> FloatArray:
        """The person's bolus for an entry, `[B]` U, within what the protocol leaves beside a temporary basal.

        There is no correction in it: oref0 corrects by itself.
        """
        allowed = np.minimum(LIMITS.step_bolus, LIMITS.step_bolus_carbs / patients.cr)
        result: FloatArray = np.minimum(announced / self._response.ratio, allowed)
        return result
