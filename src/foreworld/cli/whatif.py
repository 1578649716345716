"""The command `whatif`: doses of one's own choice beside each other, imagined and judged but never done."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from foreworld.cli.output import note, say, working
from foreworld.cli.plan import FORMAT, NOTICE, finite, load_model, load_rails
from foreworld.errors import InputError

if TYPE_CHECKING:
    from foreworld.agent.whatif import Course, WhatIf
    from foreworld.domains.treatment.plan_file import PlanFile


def whatif(
    *,
    model: Path,
    input: Path,  # the option's name
    actions: Annotated[list[float], Parameter(consume_multiple=True)],
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
    png: Path | None = None,
    pack: Path | None = None,
    override: str | None = None,
) -> int:
    """Compare doses from one state: what each would lead to, and whether it would be refused and by what.

    Exits with 3 if every one would be refused. Nothing is done or recorded.

    Example: `foreworld whatif --model runs/model --input docs/examples/person.json --actions 2.0 0.5`

    Args:
        model: Folder of a trained and calibrated model.
        input: What was measured and done, and who it is; the format is in docs/treatment.md.
        actions: Two doses or more, in U for the coming 5 minutes; the profile basal follows.
        as_json: Print JSON instead of sentences.
        png: Also draw the courses and their differences into this file.
        pack: Guardrail pack (TOML) instead of the built-in one; refused if it is weaker anywhere.
        override: Why a weaker pack is let through.
    """
    import torch

    from foreworld.domains.treatment.loop import insulin_agent
    from foreworld.domains.treatment.pack import insulin_limits
    from foreworld.domains.treatment.plan_file import read_plan_file
    from foreworld.domains.treatment.whatif import what_if

    if png is not None and (png.is_dir() or not png.absolute().parent.is_dir()):
        raise InputError(f"cannot draw into {png}; give a file in a folder that exists")
    rails = load_rails(pack, override)
    person = read_plan_file(input, minutes=insulin_limits(rails).dia)
    torch.set_num_threads(1)  # a second one costs small tensors more in barriers than it gives
    with working("imagining"):
        answer = what_if(insulin_agent(load_model(model), pack=rails), person, actions)
    if png is not None:
        from foreworld.domains.treatment.figure_style import save_png
        from foreworld.domains.treatment.figure_whatif import whatif_figure

        save_png(whatif_figure(answer, person), png)
        note(f"picture in {png}")
    say(json.dumps(_content(person, answer), indent=1, allow_nan=False) if as_json else answer.explain())
    return 3 if all(option.refused for option in answer.options) else 0


def _content(person: PlanFile, answer: WhatIf) -> dict[str, Any]:
    """What `--json` prints; docs/treatment.md explains it."""
    units = {guardrail.name: guardrail.unit for guardrail in answer.guardrails}
    return {
        "format": FORMAT,
        "notice": NOTICE,
        "subject": person.subject,
        "time": person.now,
        "then": answer.then,
        "coverage": answer.forecast.calibration.coverage,
        "scenarios": answer.scenarios,
        "options": [
            {
                "now": _action(option.action, answer.units),
                "refused": option.refused,
                "refused_by": [{"by": o.by, "name": o.name or None, "words": o.words} for o in option.objections],
                "forecast": {course.quantity: _course(course, "mean", "lower", "upper") for course in option.courses},
                "against_first": {
                    course.quantity: _course(course, "mean", "least", "greatest") for course in option.against
                },
                "guardrails": {
                    name: {"margin": finite(margin), "unit": units[name], "holds": margin >= 0}
                    for name, margin in option.margins.items()
                },
                "novelty": finite(option.novelty),
            }
            for option in answer.options
        ],
        "agent": {"now": _action(answer.proposed, answer.units), "actor": answer.actor},
        "provenance": dict(answer.provenance),
        "explanation": answer.explain(),
    }


def _action(action: Mapping[str, float], units: Mapping[str, str]) -> dict[str, Any]:
    return {name: {"value": value, "unit": units[name]} for name, value in action.items()}


def _course(course: Course, *names: str) -> dict[str, Any]:
    figures = zip(names, (course.mean, course.lower, course.upper), strict=True)
    return {
        "unit": course.unit,
        "minutes": list(course.times),
        **{name: [finite(value) for value in values] for name, values in figures},
    }
