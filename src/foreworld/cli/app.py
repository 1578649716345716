"""The command line as a whole: its commands, its exit codes, and errors in one line instead of a traceback.

Nothing heavy is imported before a command needs it, so that help answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError

from foreworld import __version__
from foreworld.cli import data, evidence, learn, log, plan, probe, whatif
from foreworld.cli.output import note
from foreworld.errors import (
    AuditError,
    ConformanceError,
    ForeworldError,
    FormatError,
    MissingDataError,
    MissingExtraError,
    ModelError,
)

# 1 is left to Python: an error that nobody foresaw.
DONE, BUG, INPUT, REFUSED, UNFIT, AUDIT, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130

EPILOGUE = """\
Exit codes: 0 done; 1 a bug; 2 wrong input or option; 3 `plan` refused to plan, or everything that `whatif` was asked
about would be refused, a valid answer; 4 something stored or installed is missing, damaged, newer or invalid; 5 the
audit log does not hold; 130 interrupted. Every command takes --debug, which shows the traceback of an error.

Research software, not a medical device.
"""

app = App(
    name="foreworld",
    help="World models that plan inside guardrails. Start with `foreworld demo`; docs/index.md has a page a job.",
    help_format="markdown",
    help_epilogue=EPILOGUE,
    version=__version__,
    result_action="return_value",
    suppress_keyboard_interrupt=False,
    print_error=False,
    exit_on_error=False,
)
importers = App(name="import", help="Bring your own data into a store of episodes.")
importers.command(data.csv)
audit = App(name="audit", help="Check the record of every decision, or compute it again.")
audit.command(log.verify)
audit.command(log.replay)

app.command(evidence.demo)
app.command(data.collect)
app.command(importers)
app.command(data.inspect)
app.command(learn.train)
app.command(learn.calibrate)
app.command(evidence.evaluate)
app.command(evidence.safety)
app.command(plan.plan)
app.command(probe.probe)
app.command(whatif.whatif)
app.command(audit)


def main(tokens: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code.

    Args:
        tokens: The command line without the program's name; that of this process if None.
    """
    given = list(sys.argv[1:] if tokens is None else tokens)
    debug = "--debug" in given
    given = [token for token in given if token != "--debug"]
    try:
        code = app(given)
        sys.stdout.flush()
        return code if isinstance(code, int) else DONE
    except KeyboardInterrupt:
        note("interrupted; what was stored is whole, and the same command goes on or begins anew")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe left, as `head` does; Python must not complain again on closing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except Exception as error:
        if debug:
            raise
        note(f"error: {_words(error)}")
        return exit_code(error)


def exit_code(error: Exception) -> int:
    """The exit code of an error; see `EPILOGUE`."""
    if isinstance(error, AuditError):
        return AUDIT
    if isinstance(error, (FormatError, MissingDataError, MissingExtraError, ModelError, ConformanceError, OSError)):
        return UNFIT
    return INPUT if isinstance(error, (ForeworldError, CycloptsError)) else BUG


def _words(error: Exception) -> str:
    """The error in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, CycloptsError):
        return f"{text} See: foreworld --help"
    if isinstance(error, OSError) and error.strerror and not isinstance(error, ForeworldError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}; check the path, its rights and the space on the disk"
    if exit_code(error) == BUG:
        return f"{type(error).__name__}: {text}; this is a bug: run again with --debug and report it"
    return text
