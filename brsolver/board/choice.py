"""Parts of a board: which of its traces, regimes and so on are computed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from brsolver.board.definition import PARTS
from brsolver.errors import ParameterError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from brsolver.board.definition import BoardDefinition

_WHAT = {"trace": "traces", "prefill": "prefill", "regime": "regimes", "hardware": "hardware"}
"""What can be chosen, and the part of the definition that has it."""


def read_choice(texts: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Read ``WHAT=NAME,NAME,...`` texts; several of one kind add up.

    Raises
    ------
    ParameterError
        A text is not of this form.
    UnknownNameError
        There is nothing of that kind.
    """
    chosen: dict[str, tuple[str, ...]] = {}
    for text in texts:
        what, equals, names = (part.strip() for part in text.partition("="))
        listed = tuple(name.strip() for name in names.split(",") if name.strip())
        if not equals or not listed:
            raise ParameterError(
                f"only is {text!r}, must be WHAT=NAME,... with {', '.join(_WHAT)} for WHAT"
            )
        if what not in _WHAT:
            raise UnknownNameError.suggest("part of a board", what, _WHAT)
        chosen[what] = (*chosen.get(what, ()), *listed)
    return chosen


def narrowed(definition: BoardDefinition, chosen: Mapping[str, tuple[str, ...]]) -> BoardDefinition:
    """Return the definition with the chosen parts alone, in its own order.

    Raises
    ------
    UnknownNameError
        It has no part of that name.
    """
    kept = {part: getattr(definition, part) for part in PARTS}
    for what, names in chosen.items():
        part = _WHAT[what]
        for name in names:
            if name not in kept[part]:
                raise UnknownNameError.suggest(
                    f"{what} of board {definition.name}", name, kept[part]
                )
        kept[part] = {name: one for name, one in kept[part].items() if name in names}
    return replace(definition, **kept)
