"""Commands on the audit log: `audit verify` and `audit replay`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from foreworld.cli.output import note, say, working
from foreworld.errors import AuditError


def verify(folder: Path, *, head: str | None = None) -> None:
    """Check every record and input of an audit log.

    Example: `foreworld audit verify runs/audit`

    Args:
        folder: The audit log.
        head: The hash that was printed last; without it, records removed from the end go unnoticed.
    """
    from foreworld.agent.audit import read
    from foreworld.agent.audit import verify as check

    _exists(folder)
    with working(f"verifying {folder}"):
        found = check(folder, head)
        reasons = Counter(reason for entry in read(folder) if (reason := reason_of(entry.record)) is not None)
    say(f"{found.records} records and {found.inputs} inputs hold; head {found.head}")
    for reason, count in reasons.items():
        say(f"{count} of them were made with a weakened guardrail pack; reason given: {reason}")
    if head is None:
        note("give --head with the hash printed last, or records removed from the end go unnoticed")


def replay(folder: Path, *, model: Path, head: str | None = None, pack: Path | None = None) -> None:
    """Verify an audit log and compute every decision again, bit for bit.

    Example: `foreworld audit replay runs/audit --model runs/model`

    Args:
        folder: The audit log.
        model: The model that decided, as it was.
        head: As in verify.
        pack: The guardrail pack that was decided with, if it was not the built-in one; a weaker one's reason is in the
            log.
    """
    from foreworld.agent.audit import read
    from foreworld.agent.record import replay as repeat
    from foreworld.cli.plan import load_model, load_rails, model_hash
    from foreworld.domains.treatment.loop import insulin_agent
    from foreworld.planning.profile import Profile

    _exists(folder)
    forecaster = load_model(model)
    with working(f"replaying {folder}"):
        settings = {
            (record["profile"]["name"], record["seed"], reason_of(record)): record["profile"]
            for record in (entry.record for entry in read(folder))
        }
        if len(settings) > 1:
            told = ", ".join(
                f"{name} with seed {seed}{f' and a weakened pack ({why})' if why else ''}"
                for name, seed, why in settings
            )
            raise AuditError(f"the log holds decisions under {told}; replay a log of one of them at a time")
        (_, seed, reason), profile = next(iter(settings.items()), (("", 0, None), {"name": "standard"}))
        if reason is not None and pack is None:
            raise AuditError(f"the log holds decisions with a weakened guardrail pack ({reason}); give it with --pack")
        rails = load_rails(pack, reason)
        agent = insulin_agent(forecaster, profile=Profile.model_validate(profile), seed=seed, pack=rails)
        found = repeat(folder, agent, model_hash(model), head=head)
    say(f"{found.replayed} of {found.records} decisions came out the same, bit for bit; head {found.head}")


def reason_of(record: dict[str, Any]) -> str | None:
    """Why a recorded decision was made with a weakened guardrail pack; None where it was not."""
    pack = record.get("pack") or {}
    return str(pack["override"]) if pack.get("override") else None


def _exists(folder: Path) -> None:
    if not (folder / "log.jsonl").is_file():
        raise AuditError(f"there is no audit log in {folder}; check the path")
