"""How a conformance check speaks: what was expected, what was seen, and how to repair it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from foreworld.errors import ConformanceError


@dataclass(frozen=True)
class Report:
    """A part that keeps its contract.

    Attributes:
        part: What was checked.
        passed: Names of the checks, in the order in which they ran.
        warnings: What is allowed, and yet deserves a look.
    """

    part: str
    passed: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.part}: {len(self.passed)} checks passed ({', '.join(self.passed)})"]
        return "\n".join([*lines, *(f"  warning: {warning}" for warning in self.warnings)])


class Review:
    """Collects findings, so that one run tells everything that is wrong.

    Args:
        part: What is checked, in words.
    """

    def __init__(self, part: str) -> None:
        self.part = part
        self.findings: list[str] = []
        self.passed: list[str] = []
        self.warnings: list[str] = []
        self._name = ""

    @contextmanager
    def check(self, name: str) -> Iterator[None]:
        """One check; it passes if nothing is found in it. An exception is a finding, too."""
        before, self._name = len(self.findings), name
        try:
            yield
        except Exception as error:  # a part that raises must not hide what else is wrong with it
            self.findings.append(
                f"{name}: expected an answer, saw {type(error).__name__}: {error}; repair: do not raise on legal input"
            )
        if len(self.findings) == before:
            self.passed.append(name)

    def expect(self, true: object, expected: str, seen: str, repair: str) -> bool:
        """Note a finding unless `true`; returns whether it was."""
        fine = bool(true)
        if not fine:
            self.findings.append(f"{self._name}: expected {expected}, saw {seen}; repair: {repair}")
        return fine

    def warn(self, sentence: str) -> None:
        """Note what is allowed, and yet deserves a look."""
        self.warnings.append(sentence)

    def close(self) -> Report:
        """The report.

        Raises:
            ConformanceError: With every finding, if there is one.
        """
        if self.findings:
            raise ConformanceError(self.part, tuple(self.findings))
        return Report(self.part, tuple(self.passed), tuple(self.warnings))
