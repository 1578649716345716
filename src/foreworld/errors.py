"""The few error classes of foreworld. Every message says what was wrong and what to do next."""


class ForeworldError(Exception):
    """Base of every error that foreworld raises on purpose; the command line prints it without a traceback."""


class InputError(ForeworldError, ValueError):
    """A value, channel, unit, time stamp or option given by the user is wrong; nothing was changed."""


class SchemaError(InputError):
    """Data, a store or a checkpoint does not fit the schema it is used with."""


class FormatError(ForeworldError):
    """A file on disk is truncated, damaged, or written by a newer format than this version reads."""


class MissingExtraError(ForeworldError, ImportError):
    """An optional dependency is not installed; the message gives the command that installs it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; run: pip install 'foreworld[{extra}]'")
        self.package = package
        self.extra = extra


class MissingDataError(ForeworldError, FileNotFoundError):
    """Data that the project reads by path is absent; the message says how to get it."""


class ModelError(ForeworldError):
    """The model gave NaN or infinite values, or was asked for something it was not trained for."""


class AuditError(ForeworldError):
    """An audit log is broken, was altered, or a replay differs from what it records."""


class ConformanceError(ForeworldError):
    """A part does not keep its contract; `findings` says what was expected, what was seen, and how to repair it."""

    def __init__(self, part: str, findings: tuple[str, ...]) -> None:
        listed = "".join(f"\n  {number}. {finding}" for number, finding in enumerate(findings, 1))
        super().__init__(f"{part} does not conform; {len(findings)} finding(s):{listed}")
        self.part = part
        self.findings = findings
