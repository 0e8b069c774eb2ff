"""Classes by where they stand: of entry points, and named ``MODULE:CLASS`` without one."""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brsolver._code import imported, not_yet_imported
from brsolver.errors import ParameterError

if TYPE_CHECKING:
    from types import ModuleType


def entry_of(group: str, name: str) -> EntryPoint | None:
    """Return an entry point for ``MODULE:CLASS``; None if `name` is not of this form.

    From then on modules are found in the working directory as well, by other processes of this
    command too. What is installed takes precedence: a file there must not stand in for a library.

    Parameters
    ----------
    group : str
        Of the entry points that it is as good as.
    name : str

    Raises
    ------
    ParameterError
        There is no such module.
    """
    module, colon, _ = name.partition(":")
    if not colon:
        return None
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    top = module.partition(".")[0]
    if top not in sys.modules:
        # A file that was written since another was looked for.
        importlib.invalidate_caches()
        if find_spec(top) is None:
            raise ParameterError(
                f"{name!r} names a class of module {top!r}, which is neither installed nor here, "
                f"must be MODULE:CLASS: go to the folder of {top}.py, or set PYTHONPATH to it"
            )
    return EntryPoint(name=name, value=name, group=group)


def loaded(entry: EntryPoint, kind: str, method: str) -> type:
    """Import the class that an entry point names.

    Parameters
    ----------
    entry : EntryPoint
    kind : str
        What it is of, for messages.
    method : str
        What such a class must have.

    Raises
    ------
    ParameterError
        It cannot be imported, or is none.
    """
    what = f"{kind} {entry.name!r}" + (f" ({entry.value})" if entry.value != entry.name else "")
    try:
        found = _imported(entry)
    except (Exception, SystemExit) as error:  # a stranger's module may raise anything
        raise ParameterError(f"{what} cannot be loaded: {why_not(error, entry.value)}") from error
    if not isinstance(found, type) or not callable(getattr(found, method, None)):
        is_a = found.__name__ if isinstance(found, type) else f"a {type(found).__name__}"
        raise ParameterError(f"{what} is {is_a}, must be a class with a method {method}")
    return found


def _imported(entry: EntryPoint) -> Any:
    """Import it, and see to it that it is known what was imported."""
    before = not_yet_imported(entry.module)
    found = entry.load()
    if not isinstance(found, type):
        return found
    after = imported(found)
    if before and found.__module__ == entry.module and after != before:
        raise ParameterError("its file was changed while it was imported: start again")
    return found


def why_not(error: BaseException, place: str) -> str:
    """Say in one line why a class cannot be loaded.

    Parameters
    ----------
    error : BaseException
        What its import raised.
    place : str
        ``MODULE:CLASS``.
    """
    cause = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, SystemExit):
        return (
            f"its module ends the process when it is imported ({cause}), must do so behind "
            'if __name__ == "__main__": alone'
        )
    top = place.partition(":")[0].partition(".")[0]
    file, module = Path(f"{top}.py").resolve(), sys.modules.get(top)
    if module is None or not file.is_file() or _file_of(module) == file:
        return cause
    return f"{cause}; what is installed takes precedence over {file.name} here: rename the file"


def _file_of(module: ModuleType) -> Path | None:
    file = getattr(module, "__file__", None)
    return None if file is None else Path(file).resolve()
