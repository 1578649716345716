"""What shapes a kept run besides its protocol and foreworld's own source: patients, packages, and what was trained."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from foreworld.domains.treatment.tables import tables_digest
from foreworld.evidence.kept import folder_digest

# What figures depend on to the last digit besides foreworld's own source: random numbers, compiled equations, fits.
COMPUTES = ("torch", "numpy", "numba", "scipy", "simglucose")


def run_identity(protocol: str, seed: int, subjects: tuple[str, ...], model: Path | None) -> dict[str, Any]:
    """The part of an identity that all protocols share, as JSON values.

    Args:
        protocol: Its name and version.
        seed: Of the run.
        subjects: Names of table patients.
        model: Checkpoint folder; None where no model is used.

    Raises:
        InputError: There is no such folder.
    """
    return {
        "protocol": protocol,
        "seed": seed,
        "subjects": list(subjects),
        "model": folder_digest(model),
        "tables": tables_digest(),
        "versions": {name: _version(name) for name in COMPUTES},
    }


def _version(package: str) -> str | None:
    """Of an installed package, without importing it; None where it is not known."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
