"""Tables of parameters, labelled by what the parameters say of themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from brsolver.options import choices_of, parameter, parameters, shown

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from brsolver.options import Option, Parameter


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A parameter of a run.

    Attributes
    ----------
    name : str
        As in TOML: ``"step_time.base"``.
    label : str
        What it is.
    value : str
        With its unit.
    says : Option or None
        What it says of itself.
    """

    name: str
    label: str
    value: str
    says: Option | None


def parameter_rows(params: Any, *, leave_out: Collection[str] = ()) -> Iterator[Row]:
    """Yield the parameters that a run made use of, in order.

    Parameters
    ----------
    params : SimulationParams
    leave_out : collection of str
        Names that the table has elsewhere.
    """
    for each in parameters(type(params)):
        value = getattr(params, each.name)
        if each.name in leave_out:
            continue
        if each.component is None or each.many:
            yield _row(each, each.name, value)
        else:
            yield from _rows_of(each, value)


def label_of(params: type, name: str) -> str:
    """Return what reports call a parameter."""
    return parameter(params, name).label


def _rows_of(whole: Parameter, component: Any) -> Iterator[Row]:
    choices = choices_of(type(component))
    for each in parameters(type(component)):
        chooses = choices is not None and each.name == choices.selector
        if choices is not None and not chooses and not choices.used(component, each.name):
            continue
        row = _row(each, f"{whole.name}.{each.name}", getattr(component, each.name))
        if whole.option is None:
            yield row
        else:
            label = whole.label if chooses else f"{whole.label}, {each.label}"
            yield Row(name=row.name, label=label, value=row.value, says=whole.option)


def _row(each: Parameter, name: str, value: Any) -> Row:
    unset = value is None or value == ()
    unit = each.option.unit if each.option else ""
    if unset:
        text = (each.option and each.option.unset) or "none"
    elif each.many:
        text = "; ".join(map(str, value))
    else:
        text = f"{shown(value)} {unit}" if unit else shown(value)
    return Row(name=name, label=each.label, value=text, says=each.option)
