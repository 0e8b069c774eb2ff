"""Which code figures come from: our own, and that of strangers as it was imported.

Kept results are known by it. A digest is taken when a file is read, not when a result is kept: by
then the file may be another.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import sys
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from brsolver.errors import ParameterError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

OURS = frozenset({"brsolver", "baselines", "classifiers", "integration"})
"""Packages that are no stranger's."""
COMPUTING = ("baselines", "brsolver", "classifiers")
"""Those of them that figures come from."""
SHOWING = ("brsolver/cli/", "brsolver/report/")
"""What shows figures, or asks for them: nothing that computes imports it."""
MODULE = "module "
"""How a class's source file is called among `prints_of`: it may lie elsewhere on another node."""
_LENGTH = 12


@cache
def own_code() -> str:
    """Return a digest of our own sources, the same wherever the same code is installed.

    Of a release the version says as much; whoever edits the code has another one at once.
    """
    digest = hashlib.sha256()
    for package in COMPUTING:
        spec = find_spec(package)
        for place in () if spec is None else spec.submodule_search_locations or ():
            for name, text in sources_in(Path(place)):
                if not f"{package}/{name}".startswith(SHOWING):
                    digest.update(f"{package}/{name} {len(text)}\0".encode() + text)
    return digest.hexdigest()[:_LENGTH]


def sources_in(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the source files of a package by name, each with its content, in one order everywhere.

    Parameters
    ----------
    folder : Path
    """
    found: dict[str, Path] = {}
    # Faster than `Path.rglob`: every process that computes goes through it.
    for place, _, names in os.walk(folder):
        within = place[len(str(folder)) + 1 :].replace(os.sep, "/")
        # Editors leave links and copies with a dot before their names, which nothing imports.
        sources = [name for name in names if name.endswith(".py") and not name.startswith(".")]
        found |= {f"{within}/{name}".lstrip("/"): Path(place, name) for name in sources}
    for name, path in sorted(found.items()):
        yield name, path.read_bytes()


@cache
def imported(kind: type) -> str:
    """Return a digest of the source file of a stranger's class, as it was when first asked for.

    Empty if the class is ours, or of no file. `brsolver.registry` asks as soon as it has imported
    a class.
    """
    return "" if is_ours(kind.__module__) else _print_of_module(kind.__module__)


@cache
def of_function(function: Callable[..., object]) -> str:
    """Return a digest of the source of a stranger's function, as it was when first asked for.

    Of all of its module; of a script that was started, which says as well what is asked for, of
    the function alone. Empty if it is ours, or has no source.
    """
    module = getattr(function, "__module__", None) or ""
    if is_ours(module):
        return ""
    if module != "__main__":
        return _print_of_module(module)
    with suppress(OSError, TypeError):
        return hashlib.sha256(inspect.getsource(function).encode()).hexdigest()[:_LENGTH]
    return ""


def is_ours(module: str) -> bool:
    """Tell whether a module is of one of our packages."""
    return module.partition(".")[0] in OURS


def not_yet_imported(module: str) -> str:
    """Return a digest of the source file that a stranger's module would be imported from now.

    Empty if it has been imported already.
    """
    if is_ours(module) or module in sys.modules:
        return ""
    spec = find_spec(module)
    return "" if spec is None else _print_of(spec.origin or "")


def prints_of(kind: type, given: Mapping[str, object]) -> dict[str, str]:
    """Tell apart what a name stands for: a stranger's code, and files that parameters name.

    Parameters
    ----------
    kind : type
    given : mapping of str to object
        Its parameters, as written.

    Returns
    -------
    dict of str to str
        Digests by name of the file. Nothing where there is neither: the version says all.
    """
    own = {f"{MODULE}{kind.__module__}": imported(kind)}
    files = {each: _print_of(each) for each in given.values() if isinstance(each, str)}
    return {name: code for name, code in (own | files).items() if code}


def is_code(name: str) -> bool:
    """Tell whether a name among `prints_of` is that of a class's source file."""
    return name.startswith(MODULE)


def without_script(prints: Mapping[str, str]) -> dict[str, str]:
    """Leave out what the calling script itself defines, which may travel by value."""
    return {name: code for name, code in prints.items() if name != f"{MODULE}__main__"}


def as_now(prints: Mapping[str, str]) -> dict[str, str]:
    """Return what `prints_of` would give if everything were read again now."""
    return {
        name: _print_of_module(name.removeprefix(MODULE)) if is_code(name) else _print_of(name)
        for name in prints
    }


def joined(prints: Mapping[str, str]) -> str:
    """Return one digest of all; empty if there is none."""
    if len(prints) < 2:
        return "".join(prints.values())
    text = "\0".join(code for _, code in sorted(prints.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:_LENGTH]


def require_same(what: str, first: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Raise `ParameterError` where a file is another than it was.

    Parameters
    ----------
    what : str
        What is made from it.
    first, now : mapping of str to str
        As of `prints_of`. What `now` does not have is not looked at: on another node it may come
        from elsewhere.
    """
    for name, code in first.items():
        if now.get(name, code) != code:
            raise ParameterError(
                f"{what}: {name} is not what it was when it was read first, must stay as it is "
                "until all is computed: start again"
            )


def _print_of_module(name: str) -> str:
    return _print_of(getattr(sys.modules.get(name), "__file__", None) or "")


def _print_of(file: str) -> str:
    with suppress(OSError, ValueError):
        if file and Path(file).is_file():
            return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:_LENGTH]
    return ""
