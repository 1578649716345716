"""The virtual patients: simglucose's parameter tables, read where pip put them, and new patients jittered from them.

The tables come from a commercial simulator, so they are used through the installed package and never copied.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from foreworld.errors import InputError, MissingDataError

FloatArray = npt.NDArray[np.float64]

# Independent quantities first, those that follow from them last; names and units as in Dalla Man et al. 2007.
INDEPENDENT = (
    "BW", "EGPb", "Gb", "Ib", "kabs", "kmax", "kmin", "b", "d", "Vg", "Vi", "Vmx", "Km0", "k2", "k1", "p2u", "m1", "m5",
    "CL", "HEb", "ki", "kp2", "kp3", "f", "ke1", "ke2", "Fsnc", "kd", "ksc", "ka1", "ka2",
)  # fmt: skip
DERIVED = ("Ipb", "Gpb", "Gtb", "Vm0", "m2", "m4", "m30", "Ilb", "kp1", "u2ss", "isc1ss", "isc2ss")
PARAMS = INDEPENDENT + DERIVED
COLUMN = {name: index for index, name in enumerate(PARAMS)}
TABLES = ("vpatient_params.csv", "Quest.csv")  # parameters and states; what the patients' records say
GROUPS = ("adolescent", "adult", "child")
TRAINING = tuple(f"{group}#{number:03d}" for group in GROUPS for number in range(1, 4))
UNSEEN = tuple(f"{group}#{number:03d}" for group in GROUPS for number in range(4, 11))

# Standard deviation of the logarithm (of the odds for b and d) relative to `spread`. Body weight, distribution volumes
# and basal levels vary little within an age group; what insulin and meals do varies much. The rest stays fixed.
_JITTER = {
    "BW": 0.3, "EGPb": 0.4, "Gb": 0.12, "Ib": 0.5, "kabs": 1.0, "kmax": 0.8, "kmin": 0.8, "b": 1.0, "d": 1.0, "Vg": 0.2,
    "Vi": 0.5, "Vmx": 1.4, "Km0": 0.3, "k2": 0.8, "k1": 0.6, "p2u": 1.0, "m1": 0.6, "m5": 0.5, "CL": 0.4, "ki": 0.8,
    "kp2": 1.0, "kp3": 1.2, "kd": 0.4, "ksc": 0.8, "ka1": 0.8, "ka2": 0.6,
}  # fmt: skip
_SHARES = ("b", "d")
# Which parameter each state rests at; the gut and the insulin action on use rest at zero.
_STEADY = {
    3: "Gpb", 4: "Gtb", 5: "Ipb", 7: "Ib", 8: "Ib", 9: "Ilb", 10: "isc1ss", 11: "isc2ss", 12: "Gpb",
}  # fmt: skip
_WIDEN = 1.5  # a jittered parameter stays within the parents' range widened by this factor


@dataclass(frozen=True)
class Patients:
    """A batch of virtual patients.

    Attributes:
        names: one name a patient, such as `adult#002`, or `adult#002~0017` for a jittered one.
        group: `adult`, `adolescent` or `child`, one a patient.
        params: `[N, P]` model parameters, columns as `PARAMS`.
        x0: `[N, 13]` the basal steady state.
        weight: `[N]` kg.
        basal: `[N]` U/h that holds the basal steady state.
        cr: `[N]` carbohydrate ratio in g/U, as the patient's record states it (not exact).
        cf: `[N]` correction factor in mg/dL/U, likewise.
    """

    names: tuple[str, ...]
    group: tuple[str, ...]
    params: FloatArray
    x0: FloatArray
    weight: FloatArray
    basal: FloatArray
    cr: FloatArray
    cf: FloatArray

    def __len__(self) -> int:
        return len(self.names)

    def __add__(self, other: Patients) -> Patients:
        return concatenate([self, other])

    def select(self, which: Sequence[str] | Sequence[int] | npt.NDArray[np.integer]) -> Patients:
        """The patients with these names or indices, in this order; a patient may appear more than once.

        Raises:
            InputError: a name or an index is not in this batch.
        """
        position = {name: index for index, name in enumerate(self.names)}
        rows: list[int] = []
        for item in which:
            row = position.get(item, -1) if isinstance(item, str) else int(item)
            if not 0 <= row < len(self):
                raise InputError(
                    f"no patient {item!r} among {len(self)}; names are {self.names[0]} ... {self.names[-1]}"
                )
            rows.append(row)
        return Patients(
            names=tuple(self.names[row] for row in rows),
            group=tuple(self.group[row] for row in rows),
            params=self.params[rows],
            x0=self.x0[rows],
            weight=self.weight[rows],
            basal=self.basal[rows],
            cr=self.cr[rows],
            cf=self.cf[rows],
        )


def concatenate(batches: Sequence[Patients]) -> Patients:
    """One batch from several, in order."""
    if not batches:
        raise InputError("no patients to concatenate; give at least one batch")
    return Patients(
        names=tuple(name for batch in batches for name in batch.names),
        group=tuple(group for batch in batches for group in batch.group),
        params=np.concatenate([batch.params for batch in batches]),
        x0=np.concatenate([batch.x0 for batch in batches]),
        weight=np.concatenate([batch.weight for batch in batches]),
        basal=np.concatenate([batch.basal for batch in batches]),
        cr=np.concatenate([batch.cr for batch in batches]),
        cf=np.concatenate([batch.cf for batch in batches]),
    )


def table_folder() -> Path:
    """The folder of the installed simglucose's tables, found without executing the package (it needs gym to import).

    Raises:
        MissingDataError: simglucose is not installed.
    """
    spec = importlib.util.find_spec("simglucose")
    for location in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(location) / "params"
        if all((folder / name).is_file() for name in TABLES):
            return folder
    raise MissingDataError(
        "the virtual patients' tables are not installed; run: pip install --no-deps simglucose==0.2.11"
    )


def tables_digest() -> str:
    """SHA-256 of the tables that the patients are read from: other tables, other patients; raises as `table_folder`."""
    folder, digest = table_folder(), hashlib.sha256()
    for name in TABLES:
        digest.update(hashlib.sha256((folder / name).read_bytes()).digest())
    return digest.hexdigest()


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@cache
def _all_patients(folder: Path) -> Patients:
    rows, records = (_rows(folder / name) for name in TABLES)
    quest = {row["Name"]: row for row in records}
    names = tuple(row["Name"] for row in rows)
    params = np.array([[float(row[name]) for name in PARAMS] for row in rows])
    weight = params[:, COLUMN["BW"]]
    return Patients(
        names=names,
        group=tuple(name.split("#")[0] for name in names),
        params=params,
        x0=np.array([[float(row[f"x0_{state:2d}"]) for state in range(1, 14)] for row in rows]),
        weight=weight.copy(),
        basal=params[:, COLUMN["u2ss"]] * weight / 6000.0 * 60.0,
        cr=np.array([float(quest[name]["CR"]) for name in names]),
        cf=np.array([float(quest[name]["CF"]) for name in names]),
    )


def load_patients(names: Sequence[str] | None = None) -> Patients:
    """The 30 patients of simglucose 0.2.11, or those named.

    Raises:
        MissingDataError: simglucose is not installed; the message gives the command.
        InputError: a name is unknown.
    """
    patients = _all_patients(table_folder())
    return patients.select(patients.names if names is None else names)


def derive(params: FloatArray) -> FloatArray:
    """Recompute every derived column from the independent ones so that the basal state is an exact steady state.

    Liver balance (Dalla Man et al. 2007, eqs. 7-10): `m30 = m1 HEb / (1 - HEb)`, `m2 = 3/5 CL / (HEb Vi BW)`,
    `m4 = 2/5 CL / (Vi BW)`; the others are the model's equations at rest.

    Args:
        params: `[N, P]`; not changed.

    Returns:
        `[N, P]`, equal in the columns of `INDEPENDENT`.
    """
    result = params.copy()
    value = {name: result[:, index] for name, index in COLUMN.items()}  # views: writing changes `result`
    value["Ipb"][:] = value["Ib"] * value["Vi"]
    value["Gpb"][:] = value["Gb"] * value["Vg"]
    value["Gtb"][:] = (value["Fsnc"] - value["EGPb"] + value["k1"] * value["Gpb"]) / value["k2"]
    value["Vm0"][:] = (value["EGPb"] - value["Fsnc"]) * (value["Km0"] + value["Gtb"]) / value["Gtb"]
    clearance = value["CL"] / (value["Vi"] * value["BW"])
    value["m2"][:] = 0.6 * clearance / value["HEb"]
    value["m4"][:] = 0.4 * clearance
    value["m30"][:] = value["m1"] * value["HEb"] / (1.0 - value["HEb"])
    value["Ilb"][:] = value["m2"] * value["Ipb"] / (value["m1"] + value["m30"])
    value["kp1"][:] = value["EGPb"] + value["kp2"] * value["Gpb"] + value["kp3"] * value["Ib"]
    value["u2ss"][:] = (value["m2"] + value["m4"]) * value["Ipb"] - value["m1"] * value["Ilb"]
    value["isc1ss"][:] = value["u2ss"] / (value["ka1"] + value["kd"])
    value["isc2ss"][:] = value["kd"] * value["isc1ss"] / value["ka2"]
    return result


def steady_state(params: FloatArray) -> FloatArray:
    """The basal steady state `[N, 13]` that belongs to these parameters `[N, P]`."""
    x0 = np.zeros((len(params), 13))
    for state, name in _STEADY.items():
        x0[:, state] = params[:, COLUMN[name]]
    return x0


def jitter(
    patients: Patients, count: int, seed: int, spread: float = 0.25, mix: bool = True, records: float = 0.15
) -> Patients:
    """Draw new virtual patients around given ones.

    Each child takes a parent, uniformly; with `mix` it is moved up to half way (on the logarithmic scale) towards a
    second parent of the same age group. Its independent parameters are then jittered lognormally, more where people
    differ more, and everything else is recomputed so that its basal state is an exact steady state. Its records (`cr`,
    `cf`) keep the parent's mismatch: parent's value x measured response of the child / of the parent, with lognormal
    noise of `records`, within 0.4 ... 2.5 of the parent's. Child `i` depends on `seed` and `i` alone, not on `count`.

    Args:
        patients: the parents; nothing of other patients is used.
        count: number of children.
        seed: the same seed gives the same children.
        spread: standard deviation of the logarithm for a typical parameter.
        mix: whether to interpolate between parents first.
        records: standard deviation of the logarithm of what the clinic's records miss a child's response by.

    Returns:
        `count` patients, named after the first parent: `adult#002~0017`.

    Raises:
        InputError: no parents, a negative option, or no plausible child in 1000 draws.
    """
    if not len(patients) or count < 1 or seed < 0 or min(spread, records) < 0.0:
        raise InputError(f"cannot jitter {len(patients)} parents with count={count}, seed={seed}, spread={spread}")
    low, high = patients.params.min(axis=0) / _WIDEN, patients.params.max(axis=0) * _WIDEN
    for name in _SHARES:
        high[COLUMN[name]] = min(high[COLUMN[name]], 0.995)
    parents = np.zeros((count, 2), dtype=np.int64)
    share = np.ones(count)
    noise = np.zeros((count, 2))
    params = np.zeros((count, len(PARAMS)))
    for child in range(count):
        generator = np.random.default_rng(np.random.SeedSequence([seed, child]))
        first = int(generator.integers(len(patients)))
        peers = [row for row in range(len(patients)) if patients.group[row] == patients.group[first]]
        parents[child] = first, peers[int(generator.integers(len(peers)))]
        share[child] = generator.uniform(0.5, 1.0) if mix else 1.0
        noise[child] = records * generator.normal(size=2)
        center = _blend(patients.params[parents[child, 0]], patients.params[parents[child, 1]], share[child])
        params[child] = _plausible_child(generator, center, low, high, spread)
    ratio, factor = _records(patients, params, parents, share)
    blended_cr, blended_cf = (
        record[parents[:, 0]] ** share * record[parents[:, 1]] ** (1.0 - share) for record in (patients.cr, patients.cf)
    )
    weight = params[:, COLUMN["BW"]].copy()
    return Patients(
        names=tuple(f"{patients.names[row]}~{child:04d}" for child, row in enumerate(parents[:, 0])),
        group=tuple(patients.group[row] for row in parents[:, 0]),
        params=params,
        x0=steady_state(params),
        weight=weight,
        basal=params[:, COLUMN["u2ss"]] * weight / 6000.0 * 60.0,
        cr=blended_cr * np.clip(ratio * np.exp(noise[:, 0]), 0.4, 2.5),
        cf=blended_cf * np.clip(factor * np.exp(noise[:, 1]), 0.4, 2.5),
    )


def _blend(first: FloatArray, second: FloatArray, share: float) -> FloatArray:
    """The geometric mean of two parents' parameters `[P]`, of the odds for shares; `share` is the first's weight."""
    result: FloatArray = np.exp(share * np.log(first) + (1.0 - share) * np.log(second))
    for name in _SHARES:
        index = COLUMN[name]
        odds = (first[index] / (1.0 - first[index])) ** share * (second[index] / (1.0 - second[index])) ** (1.0 - share)
        result[index] = odds / (1.0 + odds)
    return result


def _plausible_child(
    generator: np.random.Generator, center: FloatArray, low: FloatArray, high: FloatArray, spread: float
) -> FloatArray:
    """Jitter until the parameters `[P]` make a person; the bounds are those of the model's meaning."""
    for _ in range(1000):
        drawn = center.copy()
        for name, scale in _JITTER.items():
            index, factor = COLUMN[name], math.exp(spread * scale * generator.normal())
            if name in _SHARES:
                odds = center[index] / (1.0 - center[index]) * factor
                drawn[index] = odds / (1.0 + odds)
            else:
                drawn[index] = center[index] * factor
        drawn[: len(INDEPENDENT)] = np.clip(drawn, low, high)[: len(INDEPENDENT)]
        child: FloatArray = derive(drawn[None])[0]
        value = dict(zip(PARAMS, child.tolist(), strict=True))
        if (
            value["Gtb"] > 10.0  # mg/kg; the tissue pool must exist
            and value["EGPb"] > value["Fsnc"]  # the liver feeds more than the brain
            and value["Gpb"] < 0.95 * value["ke2"]  # no sugar in the urine at rest
            and value["kmin"] < 0.9 * value["kmax"]
            and value["d"] < value["b"] < 1.0
        ):
            return child
    raise InputError(f"no plausible patient in 1000 draws at spread={spread}; use a smaller spread")


def _records(
    patients: Patients, params: FloatArray, parents: npt.NDArray[np.int64], share: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """How much more carbohydrate a unit covers, and how much further it lowers, in each child than in its parents."""
    ratio, drop = measured_response(params)
    parent_ratio, parent_drop = measured_response(patients.params)
    first, second = parents[:, 0], parents[:, 1]
    return (
        ratio / (parent_ratio[first] ** share * parent_ratio[second] ** (1.0 - share)),
        drop / (parent_drop[first] ** share * parent_drop[second] ** (1.0 - share)),
    )


def measured_response(params: FloatArray) -> tuple[FloatArray, FloatArray]:
    """What a small bolus and a small meal do in six hours from the basal steady state.

    The bolus is one hour of the patient's basal insulin, the meal 0.2 g/kg: small enough for the response to be near
    proportional and to stay clear of the kidney's threshold.

    Returns:
        Grams whose area above baseline one unit's area below it makes up for, `[N]` g/U; and the deepest fall for each
        unit, `[N]` mg/dL/U.
    """
    from foreworld.domains.treatment.physiology import ALIVE, STATES, advance  # it imports this module

    subjects, minutes = len(params), 360
    weight = params[:, COLUMN["BW"]]
    rest = params[:, COLUMN["u2ss"]] * weight / 6000.0
    state = np.zeros((2 * subjects, STATES))
    state[:, :13] = np.tile(steady_state(params), (2, 1))
    state[:, ALIVE] = 1.0
    bolus, grams = rest * 60.0, 0.2 * weight
    insulin = np.repeat(np.tile(rest, 2)[:, None], minutes, axis=1)
    insulin[:subjects, 0] += bolus
    meals = np.zeros_like(insulin)
    meals[subjects:, 0] = grams
    glucose = advance(state, np.tile(params, (2, 1)), meals, insulin, floor=0.0)
    change = glucose - np.tile(params[:, COLUMN["Gb"]], 2)[:, None]
    fall, rise = -change[:subjects], change[subjects:]
    per_unit, per_gram = fall.sum(axis=1) / bolus, rise.sum(axis=1) / grams
    return per_unit / per_gram, fall.max(axis=1) / bolus
