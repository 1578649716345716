"""The Node process that runs oref0, the open-source artificial pancreas algorithm: JSON lines out, JSON lines in.

    npm install --ignore-scripts --no-audit --no-fund --prefix runs/peers/oref0 oref0@0.7.1

installs it, once; nothing is downloaded unless somebody runs that. `FOREWORLD_OREF0` names another folder.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import threading
import weakref
from functools import cache
from pathlib import Path
from typing import IO, Any

from foreworld.errors import ForeworldError, MissingDataError

VERSION = "0.7.1"
FOLDER_VARIABLE = "FOREWORLD_OREF0"
DEFAULT_FOLDER = Path("runs/peers/oref0")
SCRIPT = Path(__file__).with_name("oref0_bridge.js")
TIMEOUT = 300.0  # s; a decision for 30 patients takes well under one


def oref0_folder() -> Path:
    """Where oref0 is looked for: the folder that npm was given as `--prefix`."""
    return Path(os.environ.get(FOLDER_VARIABLE) or DEFAULT_FOLDER)


def install_command(folder: Path | None = None) -> str:
    """The command that installs oref0 where it is looked for; its dependencies' install scripts are not run."""
    where = oref0_folder() if folder is None else folder
    return f"npm install --ignore-scripts --no-audit --no-fund --prefix {where} oref0@{VERSION}"


def require_oref0() -> tuple[str, Path]:
    """The node program and the folder that oref0 is installed in.

    Raises:
        MissingDataError: node or the package is absent, or the package has another version.
    """
    node, folder = shutil.which("node"), oref0_folder()
    if node is None:
        raise MissingDataError(
            f"oref0 runs on node, which is not on the path; install Node.js 18 or newer, then: {install_command()}"
        )
    package = folder / "node_modules" / "oref0" / "package.json"
    if not package.is_file():
        raise MissingDataError(
            f"oref0 is not installed in {folder}; run: {install_command()} (or name its folder in {FOLDER_VARIABLE})"
        )
    found = json.loads(package.read_text(encoding="utf-8")).get("version")
    if found != VERSION:
        raise MissingDataError(f"oref0 in {folder} is version {found}, not {VERSION}; run: {install_command()}")
    return node, folder


@cache
def oref0_versions() -> dict[str, str]:
    """Of `oref0` and `node`, as installed; empty where one is missing or of another version."""
    try:
        node, _ = require_oref0()
        told = subprocess.run([node, "--version"], capture_output=True, text=True, check=True, timeout=TIMEOUT)
    except (MissingDataError, OSError, subprocess.SubprocessError):
        return {}
    return {"oref0": VERSION, "node": told.stdout.strip()}


class Bridge:
    """One running process. It ends with `close`, with this object, and when its input ends.

    Attributes:
        timeout: s that an answer may take; then the process is killed.
        versions: of `oref0` and `node`.
    """

    def __init__(self, timeout: float = TIMEOUT) -> None:
        node, folder = require_oref0()
        self.timeout = timeout
        self._errors: IO[bytes] = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [node, str(SCRIPT), str(folder.resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            # No option of the user's own node reaches it, and a day has the same midnight on every machine.
            env={"PATH": os.environ.get("PATH", ""), "TZ": "UTC"},
        )
        self._finalizer = weakref.finalize(self, _end, self._process, self._errors)
        self.versions: dict[str, str] = self.ask({"do": "hello"})

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Send one message and return the answer to it.

        Raises:
            ForeworldError: oref0 could not answer, or its process ended or hung; the process is closed then.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        watchdog = threading.Timer(self.timeout, self._process.kill)
        watchdog.start()
        try:
            stdin.write(json.dumps(message, allow_nan=False) + "\n")
            stdin.flush()
            line = stdout.readline()
        except (OSError, ValueError):
            # A pipe that broke and one that we closed: either way nobody answers.
            line = ""
        finally:
            watchdog.cancel()
        if not line.endswith("\n"):
            raise ForeworldError(self._post_mortem(str(message.get("do"))))
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            self.close()
            raise ForeworldError(f"oref0 could not answer {message.get('do')!r}: {answer['error']}")
        return answer

    def close(self) -> None:
        """End the process."""
        self._finalizer()

    def _post_mortem(self, asked: str) -> str:
        if not self._finalizer.alive:
            return f"oref0's node process was closed before {asked!r}; call reset to start another"
        try:
            code: int | str = self._process.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            code = "none"
        self._errors.seek(0)
        said = self._errors.read()[-2000:].decode("utf-8", "replace").strip() or "nothing"
        self.close()
        return (
            f"oref0's node process ended while it was asked {asked!r} (exit status {code}; a kill after "
            f"{self.timeout:g} s without an answer is -9); it said: {said}. Call reset to start another; "
            f"if it happens again, run: {install_command()}"
        )


def _end(process: subprocess.Popen[str], errors: IO[bytes]) -> None:
    """Close the pipes, which ends the process by itself, and kill it where it does not."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except OSError:
                pass  # what it was still to be told, nobody will hear
    try:
        process.wait(timeout=2.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    errors.close()
