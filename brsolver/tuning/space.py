"""All settings that are tried: policies, their parameters, and what engines are started with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from brsolver.errors import UnknownNameError
from brsolver.options import Search, parameter, parameters
from brsolver.registry import PolicySpec
from brsolver.simulator.params import SimulationParams
from brsolver.simulator.prefill import Prefill
from brsolver.tuning.asked import check_asked
from brsolver.tuning.candidate import Candidate
from brsolver.tuning.dimensions import Dimension, policy_dimensions, with_range

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from brsolver.options import Parameter
    from brsolver.tuning.layouts import Layout

    Choose = Callable[[Dimension], Any]

PUBLISHED = "vllm"
"""Policy that servers route with where nobody says otherwise."""
PROJECT = "br-t"
"""Policy that this project's picker routes with by default."""
DEFAULT_POLICIES = ("vllm", "jsq-load", "br-0", "br-h", "br-ramp", "br-t")
SLOTS_DOWN = 8
"""Factor below the given slots down to which they are tried."""
SLOTS_UP = 4
"""Factor above, where KV tokens are limited: elsewhere nothing says that more fit."""
_OF_RUN = ("routing", "slots")


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """What there is to choose.

    Attributes
    ----------
    base : SimulationParams
        What holds for all.
    layouts : tuple of Layout
    policies : tuple of PolicySpec
    layout, policy : Dimension
    engine : tuple of Dimension
        In the order in which they are chosen.
    routers : mapping of str to tuple of Dimension
        By policy.
    given : frozenset of str
        Settings that were asked for, and are kept.
    left_out : tuple of str
        Why some settings are not searched.
    """

    base: SimulationParams
    layouts: tuple[Layout, ...]
    policies: tuple[PolicySpec, ...]
    layout: Dimension
    policy: Dimension
    engine: tuple[Dimension, ...]
    routers: Mapping[str, tuple[Dimension, ...]]
    given: frozenset[str]
    left_out: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        base: SimulationParams,
        layouts: Sequence[Layout],
        policies: Sequence[PolicySpec],
        *,
        given: Collection[str] = (),
        search: Mapping[str, Search | None] | None = None,
        most_slots: int,
    ) -> Space:
        """Make it of parameters.

        Parameters
        ----------
        base : SimulationParams
        layouts : sequence of Layout
        policies : sequence of PolicySpec
        given : collection of str
            Settings that were asked for, and are kept unless `search` names them.
        search : mapping of str to Search or None, optional
            Settings that are searched whatever is given.
        most_slots : int
            Slots, of all workers together, beyond which the trace is too short to tell.

        Raises
        ------
        UnknownNameError
            `search` names something that cannot be searched.
        ParameterError
            What it names has no effect on these engines, or a value is not taken.
        """
        search = dict(search or {})
        _check_names(search)
        kept = frozenset(given) - search.keys()
        layout = _named("hardware", [each.name for each in layouts])
        engine = tuple(_engine(base, layouts, kept, search, most_slots))
        check_asked(base, search, engine)
        return cls(
            base=base,
            layouts=tuple(layouts),
            policies=tuple(policies),
            layout=layout,
            policy=_named("policy", [spec.text for spec in policies]),
            engine=engine,
            routers={spec.text: policy_dimensions(spec) for spec in policies},
            given=kept,
            left_out=tuple(_left_out(base, layouts, kept, search, most_slots)),
        )

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        """All that there is to choose, but for what has one value."""
        routers = (each for dimensions in self.routers.values() for each in dimensions)
        every = (self.layout, self.policy, *self.engine, *routers)
        return tuple(each for each in every if not each.single)

    def candidate(self, choose: Choose) -> Candidate:
        """Return a setting, of what `choose` answers for each thing that there is to choose."""
        names = [each.name for each in self.layouts]
        layout = self.layouts[names.index(_chosen(self.layout, choose))]
        text = _chosen(self.policy, choose)
        spec = next(each for each in self.policies if each.text == text)
        chosen: dict[str, Any] = {
            "layout": layout.name,
            "routing": self.base.routing,
            "slots": layout.slots,
            **_prefill_of(self.base),
        }
        _fill(chosen, self.engine, choose)
        router: dict[str, Any] = {}
        _fill(router, self.routers[spec.text], choose)
        if router:
            spec = PolicySpec.of(spec.name, {**spec.given, **router})
        return Candidate(policy=spec, params=self._params(layout, chosen), layout=layout)

    def default(self, spec: PolicySpec, *, routing: str) -> Candidate:
        """Return a policy as it is, on the first hardware, engines as given."""
        layout = self.layouts[0]
        chosen = {"slots": layout.slots, "routing": routing, **_prefill_of(self.base)}
        if "routing" in self.given:
            chosen["routing"] = self.base.routing
        return Candidate(policy=spec, params=self._params(layout, chosen), layout=layout)

    def published(self) -> Candidate:
        """Return vLLM's rule, which sends every request as it comes, engines as given."""
        return self.default(PolicySpec.parse(PUBLISHED), routing="immediate")

    def project(self) -> Candidate:
        """Return this project's default, or the first policy that is to be searched instead."""
        ours = (spec for spec in self.policies if spec.name == PROJECT)
        return self.default(next(ours, self.policies[0]), routing="pooled")

    def values_of(self, candidate: Candidate) -> dict[str, Any] | None:
        """Return what to choose for a default to come out; None if it is not in the space."""
        values: dict[str, Any] = {}
        wanted = {
            **candidate.engine,
            "policy": candidate.policy.text,
            "hardware": candidate.layout.name,
        }

        def choose(dimension: Dimension) -> Any:
            # A router may call a parameter as engines do.
            own = dimension in self.routers[candidate.policy.text]
            value = dimension.default if own else wanted.get(dimension.field, dimension.default)
            values[dimension.name] = value
            return value

        if candidate.policy.text not in self.routers:
            return None
        return values if self.candidate(choose).params == candidate.params else None

    def _params(self, layout: Layout, chosen: dict[str, Any]) -> SimulationParams:
        prefill = self.base.prefill
        if prefill.colocated:
            changes = {name: chosen[name] for name in _prefill_of(self.base)}
            if changes["delayer"] != "none":
                # Both say when the ranks prefill.
                changes["interval"] = 1
            if prefill.scheduler == "v1":
                # Each running request takes a token of it.
                changes["budget"] = max(changes["budget"], chosen["slots"])
            prefill = replace(prefill, **_used(prefill, changes))
        return replace(
            self.base,
            workers=layout.workers,
            slots=chosen["slots"],
            capacity=layout.capacity,
            step_time=layout.hardware.step_time,
            routing=chosen["routing"],
            prefill=prefill,
        )


def _named(field: str, names: Sequence[str]) -> Dimension:
    return Dimension(name=field, field=field, default=names[0], choices=tuple(names))


def _chosen(dimension: Dimension, choose: Choose) -> Any:
    return dimension.default if dimension.single else choose(dimension)


def _fill(chosen: dict[str, Any], dimensions: Sequence[Dimension], choose: Choose) -> None:
    for each in dimensions:
        if each.applies(chosen) and not each.single:
            chosen[each.field] = choose(each)


def _searchable(cls: Any) -> dict[str, Parameter]:
    return {each.name: each for each in parameters(cls) if each.option and each.option.search}


def _prefill_of(base: SimulationParams) -> dict[str, Any]:
    """Return what of prefill can be searched, as it is given."""
    return {name: getattr(base.prefill, name) for name in _searchable(Prefill)}


def _used(prefill: Prefill, changes: dict[str, Any]) -> dict[str, Any]:
    """Reset what the chosen scheduler or delayer has not."""
    chosen = {"scheduler": prefill.scheduler, **changes}
    unused = {
        name: parameter(Prefill, name).default
        for name, (chooser, values) in Prefill.CHOICES.within.items()
        if chosen[chooser] not in values
    }
    return {**changes, **unused}


def _check_names(search: Mapping[str, object]) -> None:
    known = (*_OF_RUN, *_searchable(Prefill))
    for name in search:
        if name not in known:
            raise UnknownNameError.suggest("setting to search", name, known)


def _engine(
    base: SimulationParams,
    layouts: Sequence[Layout],
    kept: frozenset[str],
    search: Mapping[str, Search | None],
    most_slots: int,
) -> Iterator[Dimension]:
    says = _says(SimulationParams, "routing")
    if "routing" not in kept:
        yield Dimension.of(
            "routing", "routing", base.routing, with_range(says, search.get("routing"))
        )
    if "slots" not in kept:
        for layout in layouts:
            if "slots" in search or not layout.fixed:
                most = max(layout.slots, most_slots // layout.workers)
                if "budget" in kept and base.prefill.colocated and base.prefill.scheduler == "v1":
                    # Each running request takes a token of it.
                    most = min(most, base.prefill.budget)
                slots = _slots(layout, search.get("slots"), alone=len(layouts) == 1)
                yield replace(slots, high=min(slots.high, most))
    if base.prefill.colocated:
        yield from _of_prefill(base.prefill, kept, search)


def _says(cls: Any, name: str) -> Search:
    found = _searchable(cls)[name].option
    if found is None or found.search is None:
        raise TypeError(f"{name} has no Search")
    return found.search


def _slots(layout: Layout, asked: Search | None, *, alone: bool) -> Dimension:
    says = _says(SimulationParams, "slots")
    low = max(1, min(layout.slots, max(int(says.low), layout.slots // SLOTS_DOWN)))
    high = layout.slots if layout.capacity is None else SLOTS_UP * layout.slots
    own = replace(says, low=low, high=min(high, int(says.high)))
    made = Dimension.of(
        "slots" if alone else f"slots on {layout.name}",
        "slots",
        layout.slots,
        with_range(own, asked),
    )
    within = None if alone else ("layout", (layout.name,))
    return replace(made, within=within)


def _of_prefill(
    prefill: Prefill, kept: frozenset[str], search: Mapping[str, Search | None]
) -> Iterator[Dimension]:
    possible = _delayers(prefill, kept, search)
    # What others hang on is chosen before them.
    for name in sorted(_searchable(Prefill), key=lambda name: name != "delayer"):
        says = _prefill_search(name, prefill, possible)
        if name not in kept and says is not None:
            says = with_range(says, search.get(name))
            yield Dimension.of(name, name, getattr(prefill, name), says)


def _delayers(
    prefill: Prefill, kept: frozenset[str], search: Mapping[str, Search | None]
) -> set[object]:
    """Return the rules of holding prefill back that may be chosen."""
    asked = search.get("delayer")
    if asked is not None:
        return {prefill.delayer, *asked.choices}
    own = prefill.scheduler == "sglang" and "delayer" not in kept
    return {prefill.delayer, "sglang"} if own else {prefill.delayer}


def _prefill_search(name: str, prefill: Prefill, possible: set[object]) -> Search | None:
    """Return what to try of a parameter of prefill; None if it does not matter there."""
    says = _says(Prefill, name)
    chooser, values = Prefill.CHOICES.within.get(name, ("", ()))
    if name == "delayer":
        return replace(says, within=None) if len(possible) > 1 else None
    if chooser == "scheduler" and prefill.scheduler not in values:
        return None
    if name == "interval":
        return replace(says, within=("delayer", ("none",)))
    if chooser == "delayer":
        return replace(says, within=("delayer", values)) if possible & set(values) else None
    return says


def _left_out(
    base: SimulationParams,
    layouts: Sequence[Layout],
    kept: frozenset[str],
    search: Mapping[str, Search | None],
    most_slots: int,
) -> Iterator[str]:
    if kept:
        yield f"as given, and not searched: {', '.join(sorted(kept))}"
    unlimited = any(each.capacity is None for each in layouts)
    if "slots" not in kept and "slots" not in search and unlimited:
        yield (
            "slots are tried up to those of the server as it is: no capacity is given, so that "
            "nothing says whether more would fit (--capacity K, or --search slots=LOW..HIGH)"
        )
    for layout in layouts:
        most = max(layout.slots, most_slots // layout.workers)
        wanted = "slots" not in kept and ("slots" in search or not layout.fixed)
        if wanted and _slots(layout, search.get("slots"), alone=True).high > most:
            yield (
                f"slots on {layout.name} are tried up to {most:,}: more would hardly be filled by "
                "a part of this trace (a longer one, or fewer --starts)"
            )
    if not base.prefill.colocated:
        yield (
            "prompts are computed elsewhere: no budget and no interval are searched (workers that "
            "compute their own: --prefill colocated)"
        )
