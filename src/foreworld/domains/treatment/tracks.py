"""The closed-loop tracks: what is the same for every arm of a comparison."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from foreworld.domains.treatment.scenario import ScenarioConfig
from foreworld.domains.treatment.simulator import SimulatorConfig

AGES = ("adult", "adolescent", "child")


class LoopConfig(BaseModel):
    """A closed-loop protocol.

    Attributes:
        days: Scored days.
        burn_in: Days before them, run by the arm itself.
        scenario: Meals, errors, sensor; `days` is set from the two above.
        simulator: How the equations are solved.
        episodes: How often each patient lives through it, each time from the start, with days of its own.
        groups: Age groups of the patients.
        profile: Preference profile of the planning arms but the ceilings, which plan by `standard`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    days: int = Field(default=14, ge=1)
    burn_in: int = Field(default=1, ge=0)
    scenario: ScenarioConfig = ScenarioConfig()
    simulator: SimulatorConfig = SimulatorConfig()
    episodes: int = Field(default=1, ge=1)
    groups: tuple[str, ...] = AGES
    profile: str = "standard"


@dataclass(frozen=True)
class Track:
    """A protocol of the closed loop.

    Attributes:
        name: Behind `treatment/`.
        description: One or two sentences.
        config: What happens.
        arms: Who is compared.
    """

    name: str
    description: str
    config: LoopConfig
    arms: tuple[str, ...]


ANNOUNCED = (
    "foreworld",
    "fallback",
    "bb_error",
    "bb_cap",
    "bb",
    "pid",
    "oref0",
    "oref0_smb",
    "arx",
    "arx_signed",
    "unguarded",
    "clone",
    "offline_rl",
    "nothing",
    "filter",
    "oracle",
)
# Boluses for meals need to be told of them.
UNANNOUNCED = tuple(arm for arm in ANNOUNCED if arm not in ("bb", "bb_error", "bb_cap"))
# The filter takes the sensor to be sound and sensitivity to be constant: it is no ceiling where they are not.
FAULTY = tuple(arm for arm in ANNOUNCED if arm != "filter")

FAULTS = ScenarioConfig(
    sensitivity_drift=0.3,
    circadian=0.2,
    missed_bolus=0.1,
    dropout_per_day=1.0,
    dropout_minutes=(120.0, 120.0),
    stuck_per_day=0.5,
    stuck_minutes=(60.0, 60.0),
    bias_per_day=1.0 / 7.0,
    bias_minutes=(1440.0, 1440.0),
    compression_per_night=0.5,
    regular_faults=True,
)

TRACKS = (
    Track(
        "t1d-announced",
        "Track A: meals announced with 30 % carb error at the first decision after the first bite; 14 days after one "
        "of burn-in; scored on true glucose.",
        LoopConfig(),
        ANNOUNCED,
    ),
    Track(
        "t1d-unannounced",
        "Track B: as track A with nothing announced.",
        LoopConfig(scenario=ScenarioConfig(announced=False), profile="unannounced"),
        UNANNOUNCED,
    ),
    Track(
        "t1d-faults",
        "Track C: track A with drifting and circadian insulin sensitivity and, at fixed rates, a two-hour sensor "
        "dropout a day, a compression low every second night, 20 % bias one day in seven, a stuck hour every second "
        "day, and one meal in ten neither announced nor bolused.",
        LoopConfig(scenario=FAULTS),
        FAULTY,
    ),
    Track(
        "t1d-announced-g2p2c",
        "Track A with the larger meals of the G2P2C study, 45/85/80 g whatever the weight.",
        LoopConfig(scenario=ScenarioConfig(meals="g2p2c")),
        ANNOUNCED,
    ),
    Track(
        "t1d-unannounced-g2p2c",
        "Track B with the larger meals of the G2P2C study, 45/85/80 g whatever the weight.",
        LoopConfig(scenario=ScenarioConfig(meals="g2p2c", announced=False), profile="unannounced"),
        UNANNOUNCED,
    ),
    Track(
        "t1d-legacy",
        "Track L: the faulty meal units of simglucose <= 0.2.2, G2P2C meals unannounced, episodes of 24 hours, adults "
        "and adolescents; only to stand beside figures published on that simulator.",
        LoopConfig(
            days=1,
            burn_in=0,
            episodes=10,
            groups=("adult", "adolescent"),
            profile="unannounced",
            scenario=ScenarioConfig(meals="g2p2c", announced=False),
            simulator=SimulatorConfig(meal_units="legacy"),
        ),
        UNANNOUNCED,
    ),
)
