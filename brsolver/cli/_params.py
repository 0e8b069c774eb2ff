"""What the options of a run are, and how they become parameters, policies and a trace.

The options follow from the parameter dataclasses (`brsolver.options`): a field is an option, a
component one option (``--prefill MODE:KEY=VALUE,...``) or one for each of its fields. Nothing
heavy is imported here: ``brsolver --help`` imports this module.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from brsolver.cli._flags import Flag, given_value
from brsolver.cli._input import InputOptions
from brsolver.errors import ParameterError
from brsolver.options import (
    Choices,
    Named,
    Option,
    Parameter,
    alternatives,
    choices_of,
    parameter,
    parameters,
    shown,
)
from brsolver.routers.params import BR0Params, BRHParams, BRRampParams
from brsolver.simulator.config import component_from, component_parse
from brsolver.simulator.params import SimulationParams
from brsolver.specs import convert
from brsolver.tuned import read_tuned

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from brsolver.compare import TraceSource
    from brsolver.registry import PolicySpec, PredictorSpec
    from brsolver.tuned import Tuned

ROUTERS = {"br-h": BRHParams, "br-0": BR0Params, "br-ramp": BRRampParams}
"""Policies whose parameters are options."""

_METAVARS = {int: "N", float: "X", str: "TEXT"}


@cache
def run_flags(*, bounded: bool = False) -> tuple[Flag, ...]:
    """Return the options that set `SimulationParams`; `bounded` leaves out those without bounds."""
    flags = (flag for each in parameters(SimulationParams) for flag in _flags(each))
    return tuple(flag for flag in flags if flag.says.bounded or not bounded)


@cache
def knob_flags() -> tuple[Flag, ...]:
    """Return the options that set parameters of the project's routers."""
    flags: dict[str, Flag] = {}
    for router, params in ROUTERS.items():
        for each in parameters(params):
            flag = _leaf(each, each.name)
            flags.setdefault(flag.name, replace(flag, default=f"{flag.default} in {router}"))
    return tuple(flags.values())


def _flags(each: Parameter) -> Iterator[Flag]:
    choices = choices_of(each.component)
    if each.component is None:
        yield _leaf(each, each.name)
    elif each.option is not None and not each.many:
        yield _spec_flag(each, each.option)
        if each.option.named is not None:
            yield _named_flag(each, each.option, each.option.named)
    elif each.many:
        yield from _choice_flags(each, "repeated")
    else:
        for part in parameters(each.component):
            if choices is None or part.name != choices.selector:
                yield _leaf(part, each.name, part.name)
        yield from _choice_flags(each, "choice")


def _choice_flags(each: Parameter, kind: Literal["choice", "repeated"]) -> Iterator[Flag]:
    choices = choices_of(each.component)
    for choice, says in (choices.options if choices else {}).items():
        yield Flag(
            name=choice, says=says, kind=kind, field=each.name, choice=choice, metavar=says.metavar
        )


def _leaf(each: Parameter, field: str, part: str = "") -> Flag:
    says = each.option
    if says is None:
        raise TypeError(f"field {each.name} has no Option")
    unset = each.default in (None, (), MISSING)
    default = says.unset if unset else _brief(each.default)
    name = says.flag.replace("-", "_") or each.name
    switch = says.switch is not None or each.hint is bool
    if switch:
        on = each.default in (True, says.switch and says.switch[0])
        default = name.replace("_", "-") if on else "no-" + name.replace("_", "-")
    return Flag(
        name=name,
        says=says,
        kind="switch" if switch else "text",
        field=field,
        part=part,
        metavar=says.metavar or "|".join(_metavars(each.hint)),
        default=default,
    )


def _named_flag(each: Parameter, says: Option, named: Named) -> Flag:
    return Flag(
        name=named.name,
        says=replace(says, help=named.help),
        kind="named",
        field=each.name,
        metavar=named.metavar,
    )


def _brief(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else shown(value)


def _metavars(hint: Any) -> Iterator[str]:
    for kind in alternatives(hint):
        if get_origin(kind) is Literal:
            yield from map(str, get_args(kind))
        elif kind in _METAVARS:
            yield _METAVARS[kind]


def _spec_flag(each: Parameter, says: Option) -> Flag:
    choices = choices_of(each.component)
    if choices is None:
        raise TypeError(f"{each.name} has an Option and its class no CHOICES")
    spellings = [_spelling(each.component, choices, choice) for choice in choices.uses]
    listed = f"{', '.join(spellings[:-1])} or {spellings[-1]}."
    chosen = getattr(each.default, choices.selector)
    values = {name: getattr(each.default, name) for name in choices.uses[chosen]}
    settings = ",".join(f"{name}={_brief(value)}" for name, value in values.items())
    return Flag(
        name=each.name,
        says=replace(says, help=f"{says.help} {listed}"),
        field=each.name,
        metavar=says.metavar,
        default=f"{chosen}:{settings}" if settings else chosen,
    )


def _spelling(component: Any, choices: Choices, choice: str) -> str:
    files = {name: file for name, file in choices.files.items() if file.choice == choice}
    taken = {name: file.metavar for name, file in files.items()} or {
        name: _leaf(parameter(component, name), name).metavar for name in choices.uses[choice]
    }
    settings = ",".join(f"{name}={metavar}" for name, metavar in taken.items())
    return f"{choice}:{settings}" if settings else choice


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """The options of a run as given on the command line.

    Attributes
    ----------
    run : mapping of Flag to object
        Those given of `run_flags`: a text, a list of texts, or whether a switch is on.
    knobs : mapping of str to object
        Those given of `knob_flags`, by parameter.
    trace : InputOptions
        How the trace is read.
    predictor, config : str or None
    """

    run: Mapping[Flag, Any]
    knobs: Mapping[str, Any]
    trace: InputOptions
    predictor: str | None = None
    config: str | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any], run: Iterable[Flag], knobs: Iterable[Flag]) -> RunOptions:
        """Take apart a command's arguments; what was not given is None, False or empty."""
        values = {flag: given_value(flag, given[flag.name]) for flag in (*run, *knobs)}
        known = set(run)
        return cls(
            run={f: value for f, value in values.items() if f in known and value is not None},
            knobs={
                f.field: value
                for f, value in values.items()
                if f not in known and value is not None
            },
            trace=InputOptions.of(given),
            predictor=given.get("predictor"),
            config=given.get("config"),
        )

    def source(self, trace: str, params: SimulationParams) -> TraceSource:
        """Say where the trace comes from, and what of it the workers of `params` can hold."""
        return self.trace.source(trace, capacities=params.capacity_each())

    def params(self, **more: Any) -> SimulationParams:
        """Combine the configuration file, if any, with the options, which take precedence."""
        base = SimulationParams.from_toml(self.config) if self.config else SimulationParams()
        changes = {}
        for each in parameters(SimulationParams):
            given = {flag: value for flag, value in self.run.items() if flag.field == each.name}
            if given:
                changes[each.name] = _value(each, getattr(base, each.name), given)
        return replace(base, **(changes | more))

    def policies(self, asked: Sequence[PolicySpec]) -> tuple[PolicySpec, ...]:
        """Give every policy the parameters that are options, where its specification is silent.

        Raises
        ------
        ParameterError
            No policy has a parameter of that name.
        """
        for knob in self.knobs:
            if not any(knob in spec.parameters for spec in asked):
                raise ParameterError(_refusal(knob, asked))
        return tuple(spec.set_where_free(self.knobs) for spec in asked)

    def predictor_spec(self) -> PredictorSpec | None:
        """Read the predictor, if one was given, or is named by a file that was tuned."""
        from brsolver.registry import PredictorSpec

        tuned = self._tuned()
        named = self.predictor or (tuned.predictor if tuned is not None else None)
        return None if named is None else PredictorSpec.parse(named)

    def tuned_policy(self) -> str | None:
        """Return the policy that the configuration names: only one that was tuned does."""
        tuned = self._tuned()
        return None if tuned is None else tuned.policy

    def _tuned(self) -> Tuned | None:
        return None if self.config is None else read_tuned(self.config)


def _value(each: Parameter, base: Any, given: Mapping[Flag, Any]) -> Any:
    first, text = next(iter(given.items()))
    if each.component is None:
        return convert(text, each.hint, each.name)
    if each.many:
        return tuple(
            each.component.parse(flag.choice, one) for flag, texts in given.items() for one in texts
        )
    if not (first.part or first.choice):
        return _whole(each, given)
    choices = choices_of(each.component)
    parts = {flag.part: value for flag, value in given.items() if flag.part}
    if choices is None:
        return _replaced(each, base, parts)
    if len(given) > 1:
        first, second, *_ = given
        raise ParameterError(f"{first.option} and {second.option} exclude each other; give one")
    chosen = first.choice or _choice_using(choices, first.part)
    values = {choices.selector: chosen, **parts}
    return component_from(each.component, values, each.name, convert_texts=True)


def _whole(each: Parameter, given: Mapping[Flag, Any]) -> Any:
    """Read a component from the one option that gives all of it."""
    (flag, text), *others = given.items()
    if others:
        raise ParameterError(
            f"{flag.option} and {others[0][0].option} exclude each other; give one"
        )
    named = each.option.named if each.option else None
    if flag.kind == "named" and named is not None:
        return named.read(text, None)
    return component_parse(each.component, text, each.name)


def _replaced(each: Parameter, base: Any, parts: Mapping[str, Any]) -> Any:
    """Change some fields of a component, and reset those that they exclude."""
    values = {}
    for name, text in parts.items():
        part = parameter(each.component, name)
        values[name] = convert(text, part.hint, name, each.name)
        other = part.option.instead_of if part.option else ""
        if other and other not in parts:
            # A configured age in the other unit would contradict the one given here.
            values[other] = parameter(each.component, other).default
    try:
        return replace(base, **values)
    except ParameterError as error:
        raise ParameterError(f"{each.name}: {error}") from error


def _choice_using(choices: Choices, field: str) -> str:
    (chosen,) = (choice for choice, used in choices.uses.items() if field in used)
    return chosen


def _refusal(knob: str, asked: Sequence[PolicySpec]) -> str:
    option = "--" + knob.replace("_", "-")
    if len(asked) > 1:
        return f"{option}: none of {', '.join(s.text for s in asked)} has a parameter {knob}"
    (spec,) = asked
    return (
        f"{option}: {spec.text} has no parameter {knob}; it has "
        f"{', '.join(spec.parameters) or 'none'}"
    )


def parse_workers(text: str) -> tuple[int, ...]:
    """Read ``"4,8,16"``."""
    found: tuple[int, ...] = convert(text, tuple[int, ...], "workers")
    return found
