"""Commands on the audit log: `audit verify` and `audit replay`."""

from __future__ import annotations

from pathlib import Path

from foreworld.cli.output import note, say, working
from foreworld.errors import AuditError


def verify(folder: Path, *, head: str | None = None) -> None:
    """Check every record and input of an audit log.

    Example: `foreworld audit verify runs/audit`

    Args:
        folder: The audit log.
        head: The hash that was printed last; without it, records removed from the end go unnoticed.
    """
    from foreworld.agent.audit import verify as check

    _exists(folder)
    with working(f"verifying {folder}"):
        found = check(folder, head)
    say(f"{found.records} records and {found.inputs} inputs hold; head {found.head}")
    if head is None:
        note("give --head with the hash printed last, or records removed from the end go unnoticed")


def replay(folder: Path, *, model: Path, head: str | None = None) -> None:
    """Verify an audit log and compute every decision again, bit for bit.

    Example: `foreworld audit replay runs/audit --model runs/model`

    Args:
        folder: The audit log.
        model: The model that decided, as it was.
        head: As in verify.
    """
    from foreworld.agent.audit import read
    from foreworld.agent.record import replay as repeat
    from foreworld.cli.plan import load_model, model_hash
    from foreworld.domains.treatment.loop import insulin_agent
    from foreworld.planning.profile import Profile

    _exists(folder)
    forecaster = load_model(model)
    with working(f"replaying {folder}"):
        settings = {
            (entry.record["profile"]["name"], entry.record["seed"]): entry.record["profile"] for entry in read(folder)
        }
        if len(settings) > 1:
            told = ", ".join(f"{name} with seed {seed}" for name, seed in settings)
            raise AuditError(f"the log holds decisions under {told}; replay a log of one profile and seed at a time")
        (_, seed), profile = next(iter(settings.items()), (("", 0), {"name": "standard"}))
        agent = insulin_agent(forecaster, profile=Profile.model_validate(profile), seed=seed)
        found = repeat(folder, agent, model_hash(model), head=head)
    say(f"{found.replayed} of {found.records} decisions came out the same, bit for bit; head {found.head}")


def _exists(folder: Path) -> None:
    if not (folder / "log.jsonl").is_file():
        raise AuditError(f"there is no audit log in {folder}; check the path")
