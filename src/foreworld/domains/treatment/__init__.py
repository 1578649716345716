"""Type-1 diabetes: insulin planned inside guardrails, on the UVA/Padova 2008 virtual patients."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foreworld.evidence.domain import Domain


def domain() -> Domain:
    """This domain, for `foreworld.evidence.domain.load_domain`; parts are imported when it is asked for."""
    from foreworld.domains.treatment.closed_loop import linear_forecaster
    from foreworld.domains.treatment.collect import collect
    from foreworld.domains.treatment.controllers import BasalBolus, BasalBolusCap, BasalOnly
    from foreworld.domains.treatment.demo import demo
    from foreworld.domains.treatment.fallback import Fallback
    from foreworld.domains.treatment.pid import PID
    from foreworld.domains.treatment.protocols import PROTOCOLS
    from foreworld.domains.treatment.rules import insulin_rules
    from foreworld.domains.treatment.safety import REQUIREMENTS
    from foreworld.domains.treatment.schema import SCHEMA
    from foreworld.domains.treatment.task import PROFILES, InsulinTask
    from foreworld.evidence.domain import Domain

    return Domain(
        name="treatment",
        schema=SCHEMA,
        task=InsulinTask(),
        rules=insulin_rules(),
        profiles=PROFILES,
        protocols={name.split("/", 1)[1]: protocol for name, protocol in PROTOCOLS.items()},
        baselines={
            "nothing": BasalOnly,
            "bb_error": BasalBolus,
            "bb_cap": BasalBolusCap,
            "pid": PID,
            "fallback": Fallback,
            "arx": linear_forecaster,
        },
        collect=collect,
        demo=demo,
        description="Insulin for type-1 diabetes on virtual patients; research software, not a medical device.",
        requirements=REQUIREMENTS,
    )
