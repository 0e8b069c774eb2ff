"""What a routing policy is.

A policy is any object with one method, ``route(cluster, waiting)``. It is called in *pooled*
routing once per step with all waiting requests while some worker has room, and in *immediate*
routing once per arrival with that one request. What else a policy may have, callers find in
`BasePolicy`, where it does nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from brsolver.errors import ParameterError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from brsolver.cluster.view import ClusterView, Decision, Waiting


@runtime_checkable
class Policy(Protocol):
    """A routing policy: all that is asked of one.

    Derive from `BasePolicy` for more: a horizon of projected loads, parameters, notes. Constructor
    keywords ``rng`` (numpy.random.Generator) and ``predictor`` are filled in when the policy is
    made by name.
    """

    def route(self, cluster: ClusterView, waiting: Waiting) -> Decision:
        """Decide which waiting requests go where.

        Parameters
        ----------
        cluster : ClusterView
            The cluster as this policy may see it.
        waiting : Waiting
            At least one request; exactly one in immediate routing.

        Returns
        -------
        ndarray of int64, shape (k, 2), or sequence of (int, int)
            Pairs (index into `waiting`, worker). Requests not named keep waiting, which
            immediate routing does not allow.
        """
        ...


class BasePolicy(ABC):
    """A policy with everything that callers may ask of one, each with a default that does nothing.

    Attributes
    ----------
    Params : type or None
        Frozen dataclass of its parameters; the first constructor argument is an instance.
    source : str
        The paper or project it comes from; empty says its module.
    horizon : int
        Steps of load projection it asks for; forecasts are kept for it if positive.
    holds_s : float
        Longest time, in seconds, for which it may leave slots free that waiting requests would fit
        into, while something runs. The vLLM adapter counts a policy that does so for longer as
        failed.
    asks_cached : bool
        Whether it looks at `ClusterView.cached_tokens`: fronts hash prompts only for those that do.
    params : object or None
        Its parameters.
    """

    __slots__ = ()

    Params: ClassVar[type | None] = None
    source: ClassVar[str] = ""
    horizon: int = 0
    holds_s: float = 0.0
    asks_cached: bool = False
    params: object | None = None

    @abstractmethod
    def route(self, cluster: ClusterView, waiting: Waiting) -> Decision:
        """Decide which waiting requests go where; see `Policy`."""

    def notes(self) -> Sequence[str]:
        """Return lines that readers of a run's result must know; called after it."""
        return ()

    def tally(self) -> Mapping[str, float]:
        """Return what it has counted since it was made, by name, for metrics while serving."""
        return {}

    @property
    def label(self) -> str:
        """What messages call it."""
        return type(self).__name__

    def settings(self) -> Mapping[str, object]:
        """Return its parameters by name, for results."""
        if is_dataclass(self.params) and not isinstance(self.params, type):
            return asdict(self.params)
        return {}


class PlainPolicy(BasePolicy):
    """An object with `route`, and whichever of `BasePolicy`'s members it happens to have.

    Parameters
    ----------
    plain : Policy
    """

    def __init__(self, plain: Policy) -> None:
        self.plain = plain
        # Below 0 as 0: it has never looked ahead.
        self.horizon = max(0, int(getattr(plain, "horizon", BasePolicy.horizon)))
        self.holds_s = max(0.0, float(getattr(plain, "holds_s", BasePolicy.holds_s)))
        # One that does not say may look at anything.
        self.asks_cached = bool(getattr(plain, "asks_cached", True))

    def route(self, cluster: ClusterView, waiting: Waiting) -> Decision:
        """Ask the object; see `Policy`."""
        return self.plain.route(cluster, waiting)

    @property
    def params(self) -> object | None:  # type: ignore[override] # read when asked for: it may be set late
        """The object's parameters, if it tells them."""
        found: object | None = getattr(self.plain, "params", None)
        return found

    def notes(self) -> Sequence[str]:
        """Return the object's own notes, if it has any to give."""
        own = getattr(self.plain, "notes", None)
        return tuple(own()) if callable(own) else ()

    def tally(self) -> Mapping[str, float]:
        """Return the object's own counts, if it has any to give."""
        own = getattr(self.plain, "tally", None)
        return dict(own()) if callable(own) else {}

    @property
    def label(self) -> str:
        """What messages call it."""
        return type(self.plain).__name__


def as_policy(policy: object) -> BasePolicy:
    """Return a policy with all members that callers may ask for.

    Raises
    ------
    ParameterError
        It has no method ``route``.
    """
    if isinstance(policy, BasePolicy):
        return policy
    if isinstance(policy, Policy) and not isinstance(policy, type):
        return PlainPolicy(policy)
    raise ParameterError(
        f"policy is {type(policy).__name__}, must be a name or an object with route()"
    )
