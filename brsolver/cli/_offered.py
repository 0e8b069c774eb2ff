"""Options that a command is given in place of one argument, as Typer annotations."""

from __future__ import annotations

import inspect
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from brsolver.cli import _options as o
from brsolver.cli._input import InputOptions, input_flags
from brsolver.options import ARRIVALS, CLUSTER, FORECASTS, POLICY, RUN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from brsolver.cli._flags import Flag

PANELS = (CLUSTER, o.ORACLE, ARRIVALS, POLICY, FORECASTS, RUN, o.INPUT, o.OUTPUT)
_KINDS: Mapping[str, Any] = MappingProxyType(
    {
        "text": str | None,
        "named": str | None,
        "switch": bool | None,
        "choice": bool,
        "repeated": list[str] | None,
    }
)


def takes_input_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of reading a trace in place of its `options`, `InputOptions`."""
    flags = input_flags()
    names = {flag.argument: flag.name for flag in flags}

    def gather(given: Mapping[str, Any]) -> InputOptions:
        return InputOptions.of({names[argument]: value for argument, value in given.items()})

    return offered([argument_of(flag) for flag in flags], gather)(command)


def offered(
    added: Sequence[tuple[str, Any, Any]], gather: Callable[[Mapping[str, Any]], object]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Put arguments (name, annotation, default) in place of `options`, made from them."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        kept = (each for each in signature.parameters.values() if each.name != "options")
        more = (
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=unset)
            for name, kind, unset in added
        )
        parameters = sorted((*kept, *more), key=_place)

        def started(**given: Any) -> None:
            mine = {name: given.pop(name) for name, _, _ in added}
            command(**given, options=gather(mine))

        started.__name__, started.__doc__ = command.__name__, command.__doc__
        started.__module__ = command.__module__
        started.__annotations__ = {each.name: each.annotation for each in parameters}
        started.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined] # read by inspect
        return started

    return decorate


def argument_of(flag: Flag) -> tuple[str, Any, Any]:
    """Return a flag's argument: name, annotation and default."""
    return flag.argument, _annotation(flag), False if flag.kind == "choice" else None


def _place(parameter: inspect.Parameter) -> tuple[int, int]:
    """Order the command's arguments first, then its options by panel."""
    panel = getattr(get_args(parameter.annotation)[1], "rich_help_panel", None)
    return parameter.kind, PANELS.index(panel) if panel in PANELS else -1


def _annotation(flag: Flag) -> Any:
    """Return the Typer annotation of an option."""
    off = f"/--no-{flag.option.removeprefix('--')}" if flag.kind == "switch" else ""
    info = typer.Option(
        f"{flag.option}{off}",
        *((f"--{flag.says.alias}",) if flag.says.alias else ()),
        metavar=flag.metavar if flag.kind in {"text", "repeated", "named"} else None,
        rich_help_panel=flag.says.panel or None,
        help=flag.help,
        show_default=False,
    )
    return Annotated[_KINDS[flag.kind], info]
