"""Whether what is to be searched, by the user's own words, can be searched at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from brsolver.errors import ParameterError
from brsolver.simulator.params import SimulationParams
from brsolver.simulator.prefill import Prefill

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from brsolver.options import Search
    from brsolver.tuning.dimensions import Dimension


def check_asked(
    base: SimulationParams, search: Mapping[str, Search | None], engine: Sequence[Dimension]
) -> None:
    """Refuse what has no effect on these engines, and values that no engine takes.

    Parameters
    ----------
    base : SimulationParams
        The server as it is given.
    search : mapping of str to Search or None
        What was asked for, by setting.
    engine : sequence of Dimension
        What became of it.

    Raises
    ------
    ParameterError
        A setting has no effect, or one of its values, or an end of its range, is not taken.
    """
    found = {each.field: each for each in engine}
    for name, asked in search.items():
        if name not in found:
            raise ParameterError(f"search names {name!r}, must have an effect: {_why_none(base)}")
        if asked is not None:
            for value in asked.choices or (asked.low, asked.high):
                _check_value(base, name, value, whole=isinstance(found[name].default, int))


def _why_none(base: SimulationParams) -> str:
    prefill = base.prefill
    if not prefill.colocated:
        return (
            "prompts are computed elsewhere (workers that compute their own: --prefill colocated)"
        )
    return (
        f"prefill has scheduler {prefill.scheduler!r} and delayer {prefill.delayer!r}, and no "
        "other is searched"
    )


def _check_value(base: SimulationParams, name: str, value: Any, *, whole: bool) -> None:
    """Make parameters with the value, which check it."""
    if whole:
        if isinstance(value, str) or value != int(value):
            raise ParameterError(f"search has {name}={value}, must be a whole number")
        value = int(value)
    if name in Prefill.__dataclass_fields__:
        _probe(base.prefill, name, value)
    else:
        # Alone: a budget that holds too few running requests is raised with the slots.
        SimulationParams(**{name: value})


def _probe(prefill: Prefill, name: str, value: Any) -> Prefill:
    chooser, values = Prefill.CHOICES.within.get(name, ("", ()))
    needed = {chooser: values[0]} if chooser == "delayer" else {}
    known: dict[str, Any] = {"scheduler": prefill.scheduler, **needed, name: value}
    return Prefill(mode="colocated", **known)
