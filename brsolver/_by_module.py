"""Classes that are named by where they stand, ``MODULE:CLASS``, instead of by an entry point."""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from pathlib import Path

from brsolver.errors import ParameterError


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
