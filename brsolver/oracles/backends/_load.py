"""Loading solvers: on first use, and with one clear line where that fails."""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING

from brsolver.errors import MissingExtraError
from brsolver.oracles.result import SolverLoadError

if TYPE_CHECKING:
    from types import ModuleType

CLASH = "undefined symbol"


def load(module: str) -> ModuleType:
    """Import a solver's module.

    Raises
    ------
    MissingExtraError
        Its package is not installed.
    SolverLoadError
        It is installed and cannot be loaded: highspy 1.15 and ortools 9.15 both carry
        ``libhighs.so.1``, of different versions, and whichever comes second in a process fails
        with an undefined symbol.
    """
    package = module.split(".", 1)[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".", 1)[0] != package:
            raise SolverLoadError(f"{package} cannot be loaded: {_line(error)}") from error
        raise MissingExtraError.for_extra(package, "oracles") from error
    except ImportError as error:
        raise SolverLoadError(_explain(package, error)) from error


def installed(package: str) -> str:
    """Return a package and its version, or that it is not there, without loading it."""
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return f"no {package}"


def _explain(package: str, error: ImportError) -> str:
    if CLASH in str(error):
        return (
            f"{package} cannot be loaded beside the solver that was loaded before it: highspy "
            "1.15 and ortools 9.15 carry different versions of libhighs.so.1; install a pair that "
            "works: pip install 'highspy>=1.11,<1.15' 'ortools==9.15.*'"
        )
    return (
        f"{package} cannot be loaded: {_line(error)}; try another back end, or reinstall it: "
        "pip install 'brsolver[oracles]'"
    )


def _line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
