"""The command `plan`: one decision about one person, from a file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from foreworld.cli.output import note, say, working
from foreworld.errors import InputError

if TYPE_CHECKING:
    from foreworld.agent.agent import Step
    from foreworld.domains.treatment.plan_file import PlanFile
    from foreworld.forecast.forecaster import Forecast, Forecaster
    from foreworld.planning.pack import Pack
    from foreworld.planning.plan import Plan, Refusal

FORMAT = 1
NOTICE = "Research software, not a medical device. Not for diagnosis or treatment of anybody."


def plan(
    *,
    model: Path,
    input: Path,  # the option's name
    profile: str = "standard",
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
    audit: Path | None = None,
    seed: int = 0,
    pack: Path | None = None,
    override: str | None = None,
) -> int:
    """Plan insulin for one recorded person inside the guardrails, or refuse and say why (exit code 3).

    Example: `foreworld plan --model runs/model --input docs/examples/person.json --audit runs/audit`

    Args:
        model: Folder of a trained and calibrated model.
        input: What was measured and done, and who it is; the format is in docs/treatment.md.
        profile: What is preferred among safe plans: standard, hypo-averse, unannounced (for people who announce
            nothing) or tight. It cannot touch a guardrail.
        as_json: Print JSON instead of sentences.
        audit: Record the decision, with all that it was made from, in the audit log of this folder.
        seed: Of the planner's candidates.
        pack: Guardrail pack (TOML) instead of the built-in one; refused if it is weaker anywhere.
        override: Why a weaker pack is let through; recorded with the decision and told with it.
    """
    import torch

    from foreworld.domains.treatment.loop import insulin_agent
    from foreworld.domains.treatment.pack import insulin_limits
    from foreworld.domains.treatment.plan_file import decide, read_plan_file
    from foreworld.domains.treatment.task import PROFILES

    if profile not in PROFILES:
        raise InputError(f"there is no profile {profile!r}; choose one of {', '.join(PROFILES)}")
    rails = load_rails(pack, override)
    person = read_plan_file(input, minutes=insulin_limits(rails).dia)
    torch.set_num_threads(1)  # a second one costs small tensors more in barriers than it gives
    with working("planning"):
        forecaster = load_model(model)
        recorder = None
        if audit is not None:
            from foreworld.agent.record import Recorder

            recorder = Recorder(audit, model_hash(model))
        try:
            agent = insulin_agent(forecaster, profile=PROFILES[profile], recorder=recorder, seed=seed, pack=rails)
            step = decide(agent, person)
        finally:
            if recorder is not None:
                recorder.close()
    answer = step.answer(0)
    if as_json:
        say(json.dumps(_content(person, step, answer), indent=1, allow_nan=False))
    else:
        say(answer.explain())
    if step.head:
        note(f"recorded in {audit}; head {step.head}")
    return 0 if step.reasons[0] is None else 3


def load_model(folder: Path) -> Forecaster:
    """A calibrated forecaster of the domain treatment.

    Raises:
        InputError: The model was never calibrated: nothing would be known of its errors.
        SchemaError: It is of another domain.
    """
    from foreworld.domains.treatment.calibrate import load_forecaster
    from foreworld.domains.treatment.schema import SCHEMA
    from foreworld.model.checkpoint import load

    load(folder, SCHEMA)
    forecaster = load_forecaster(folder)
    if not forecaster.calibration.trajectory:
        raise InputError(f"model {folder} is not calibrated; run: foreworld calibrate {folder}")
    return forecaster


def load_rails(pack: Path | None, override: str | None) -> Pack:
    """The guardrail pack of the options `--pack` and `--override`; the built-in one without them.

    Raises:
        InputError: The pack is wrong, or weaker than the floor without a reason; or there is a reason and no pack.
    """
    from foreworld.domains.treatment.pack import floor, load_pack

    if pack is not None:
        return load_pack(pack, override=override)
    if override is not None:
        raise InputError("--override gives the reason for a weaker --pack, and there is no --pack")
    return floor()


def model_hash(folder: Path) -> str:
    """The digest of everything in a checkpoint, calibration included."""
    from foreworld.episodes.files import read_json

    return str(read_json(folder / "config.json")["digest"])


def _content(person: PlanFile, step: Step, answer: Plan | Refusal) -> dict[str, Any]:
    """What `--json` prints; docs/treatment.md explains it."""
    from foreworld.agent.agent import ACTORS
    from foreworld.domains.treatment.schema import SCHEMA
    from foreworld.planning.plan import Plan

    units = {name: SCHEMA[name].unit for name in answer.channels}
    bounds = {g.name: g for g in answer.guardrails}
    content: dict[str, Any] = {
        "format": FORMAT,
        "notice": NOTICE,
        "subject": person.subject,
        "time": person.now,
        "refused": not isinstance(answer, Plan),
        "actor": str(ACTORS[int(step.actors[0])]),
        "now": {
            name: {"value": float(step.actions[0, i]), "unit": unit} for i, (name, unit) in enumerate(units.items())
        },
        "guardrails": {
            name: {"margin": finite(margin), "unit": bounds[name].unit, "holds": margin >= 0}
            for name, margin in answer.margins.items()
        },
        "explanation": answer.explain(),
        "provenance": dict(answer.provenance),
        "audit_head": step.head or None,
    }
    if isinstance(answer, Plan):
        steps = answer.forecast.points.tolist()
        content["plan"] = {
            "minutes": [float(SCHEMA.step * point) for point in steps],
            **{name: answer.actions[:, i].tolist() for i, name in enumerate(answer.channels)},
        }
        content["forecast"] = _forecast(answer.forecast, SCHEMA.step)
        content["cost"] = answer.cost
        content["rejected"] = [
            {"guardrail": other.guardrail, "margin": finite(other.margin), "cost": finite(other.cost)}
            for other in answer.rejected
        ]
    else:
        content["reason"], content["detail"] = str(answer.reason), answer.detail
    return content


def _forecast(forecast: Forecast, step: float) -> dict[str, Any]:
    from foreworld.domains.treatment.schema import SCHEMA

    return {
        name: {
            "unit": SCHEMA[name].unit,
            "minutes": [step * point for point in forecast.points.tolist()],
            "mean": mean[0, 0].tolist(),
            "lower": forecast.lower[name][0, 0].tolist(),
            "upper": forecast.upper[name][0, 0].tolist(),
            "coverage": forecast.calibration.coverage,
        }
        for name, mean in forecast.mean.items()
    }


def finite(value: float) -> float | None:
    """A number as JSON knows it; null for NaN and infinities."""
    return value if math.isfinite(value) else None
