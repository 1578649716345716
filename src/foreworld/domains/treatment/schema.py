"""What the type-1 diabetes domain observes, does and knows."""

from __future__ import annotations

from foreworld.episodes.schema import Channel, Kind, Role, Schema

STEP_MINUTES = 5

SCHEMA = Schema(
    name="treatment",
    step=STEP_MINUTES,
    time_unit="min",
    periods=(1440.0,),
    channels=(
        Channel(
            name="cgm",
            role=Role.observation,
            unit="mg/dL",
            low=20.0,
            high=600.0,
            description="Sensor glucose.",
        ),
        Channel(
            name="insulin",
            role=Role.action,
            unit="U",
            low=0.0,
            high=60.0,
            per="basal",
            lowers=("cgm",),
            description="Rapid-acting insulin delivered over the coming 5 minutes, basal and bolus together.",
        ),
        Channel(
            name="carbs",
            role=Role.exogenous,
            kind=Kind.event,
            unit="g",
            low=0.0,
            high=500.0,
            per="weight",
            raises=("cgm",),
            description="Carbohydrate announced at this decision, as counted by the patient.",
        ),
        Channel(name="weight", role=Role.static, unit="kg", low=5.0, high=300.0, log=True),
        Channel(
            name="basal", role=Role.static, unit="U/h", low=0.01, high=10.0, log=True, description="Profile basal."
        ),
        Channel(name="cr", role=Role.static, unit="g/U", low=0.5, high=150.0, log=True, description="Carb ratio."),
        Channel(
            name="cf", role=Role.static, unit="mg/dL/U", low=0.5, high=400.0, log=True, description="Correction factor."
        ),
        Channel(name="age_group", role=Role.static, dtype="int32", categories=("child", "adolescent", "adult")),
    ),
)
