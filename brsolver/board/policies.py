"""Policies of a board, each with the routing that it is made for.

``SPEC@immediate`` decides once per arrival, as routers of engines and gateways do. ``SPEC@pooled``
is asked once per step with all that wait. Which of the two a policy runs in is part of what it is:
a rule that cannot choose among waiting requests is not run as if it could, and the other way round.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from brsolver.errors import ParameterError
from brsolver.registry import PolicySpec
from brsolver.specs import parse_policy, split_policies

if TYPE_CHECKING:
    from collections.abc import Iterable

    from brsolver.board.definition import BoardDefinition

Routing = Literal["pooled", "immediate"]
ROUTINGS: tuple[Routing, ...] = ("pooled", "immediate")
_SIGN = "@"


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardPolicy:
    """A policy of a board.

    Attributes
    ----------
    spec : PolicySpec
    routing : {"pooled", "immediate"}
    cached_only : bool
        Whether it runs only where ranks have prefix caches.
    """

    spec: PolicySpec
    routing: Routing
    cached_only: bool = False

    @property
    def text(self) -> str:
        """What tables call it."""
        return f"{self.spec.text}{_SIGN}{self.routing}"

    def same_as(self, other: BoardPolicy) -> bool:
        """Tell whether both would do the same."""
        return (self.spec.meaning, self.routing) == (other.spec.meaning, other.routing)


def policies_of(
    definition: BoardDefinition, *, more: Iterable[str] = (), only: Iterable[str] = ()
) -> tuple[BoardPolicy, ...]:
    """Read the policies of a board; the baseline is always among them, and comes first.

    Parameters
    ----------
    definition : BoardDefinition
    more : iterable of str
        Added to those of the definition.
    only : iterable of str
        Lists in place of those of the definition.

    Raises
    ------
    BrsolverError
        A name, a parameter or a routing is unknown, or a policy is named twice.
    """
    listed = [one for text in only for one in split_policies(text)]
    found: list[BoardPolicy] = [read_policy(definition, definition.baseline)]
    for text in listed or definition.policies:
        _add(found, read_policy(definition, text))
    for text in () if listed else definition.cache_policies:
        _add(found, read_policy(definition, text))
    for text in more:
        _add(found, read_policy(definition, text))
    return tuple(found)


def read_policy(definition: BoardDefinition, text: str) -> BoardPolicy:
    """Read ``SPEC`` or ``SPEC@ROUTING``.

    Without a routing it is that of the definition's policy of the same name, and ``pooled`` for
    names that it does not have.
    """
    written, routing = _take_apart(text)
    spec = PolicySpec.parse(written)
    if routing is None:
        routing = _usual(definition, spec.name)
    return BoardPolicy(spec=spec, routing=routing, cached_only=_cached_only(definition, spec.name))


def _add(found: list[BoardPolicy], one: BoardPolicy) -> None:
    if any(one.same_as(other) for other in found[1:]):
        raise ParameterError(f"policies has {one.text!r} twice, must name each policy once")
    if not found[0].same_as(one):
        found.append(one)


def _take_apart(text: str) -> tuple[str, Routing | None]:
    written, sign, routing = text.rpartition(_SIGN)
    if not sign:
        return text, None
    for known in ROUTINGS:
        if routing.strip() == known:
            return written, known
    raise ParameterError(
        f"routing of {text!r} is {routing!r}, must be {' or '.join(ROUTINGS)}: "
        "NAME[:KEY=VALUE,...]@ROUTING"
    )


def _usual(definition: BoardDefinition, name: str) -> Routing:
    for text in (*definition.policies, *definition.cache_policies):
        written, routing = _take_apart(text)
        if routing is not None and _name(written) == name:
            return routing
    return "pooled"


def _cached_only(definition: BoardDefinition, name: str) -> bool:
    return any(_name(_take_apart(text)[0]) == name for text in definition.cache_policies)


def _name(written: str) -> str:
    return parse_policy(written)[0]
