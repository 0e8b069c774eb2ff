"""The options of a run, as Typer annotations made from the parameters themselves."""

from __future__ import annotations

import inspect
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from brsolver.cli import _options as o
from brsolver.cli._params import Flag, RunOptions, knob_flags, run_flags
from brsolver.options import ARRIVALS, CLUSTER, FORECASTS, POLICY, RUN

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

PANELS = (CLUSTER, o.ORACLE, ARRIVALS, POLICY, FORECASTS, RUN, o.INPUT, o.OUTPUT)
_OTHERS = (
    ("predictor", o.PredictorOption, None),
    ("config", o.ConfigOption, None),
    ("limit", o.LimitOption, None),
    ("format", o.FormatOption, None),
    ("skip_bad_rows", o.SkipOption, False),
)
"""What `RunOptions` has besides parameters of run and policies."""
_KINDS: Mapping[str, Any] = MappingProxyType(
    {
        "text": str | None,
        "named": str | None,
        "switch": bool | None,
        "choice": bool,
        "repeated": list[str] | None,
    }
)


def takes_run_options(
    *, bounded: bool = False, own: Collection[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of a run in place of its argument `options`, a `RunOptions`.

    Parameters
    ----------
    bounded : bool
        Whether to offer only what bounds of the best run allow, and so no file of parameters.
    own : collection of str
        Names of options that the command has in its own way.
    """
    run = [flag for flag in run_flags(bounded=bounded) if flag.name not in own]
    knobs = [flag for flag in knob_flags() if flag.name not in own]
    added = [
        *((f.name, _annotation(f), False if f.kind == "choice" else None) for f in (*run, *knobs)),
        *(each for each in _OTHERS if not (bounded and each[0] == "config")),
    ]

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
            command(**given, options=RunOptions.of(mine, run, knobs))

        started.__name__, started.__doc__ = command.__name__, command.__doc__
        started.__module__ = command.__module__
        started.__annotations__ = {each.name: each.annotation for each in parameters}
        started.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined] # read by inspect
        return started

    return decorate


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
