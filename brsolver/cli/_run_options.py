"""The options of a run, made from the parameters themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from brsolver.cli import _options as o
from brsolver.cli._input import input_flags
from brsolver.cli._offered import argument_of, offered
from brsolver.cli._params import RunOptions, knob_flags, run_flags

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

_OTHERS = (
    ("predictor", o.PredictorOption, None),
    ("config", o.ConfigOption, None),
)
"""What `RunOptions` has besides parameters of run and policies."""


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
    reading = input_flags(capacity=not bounded)
    others = [each for each in _OTHERS if not (bounded and each[0] == "config")]
    added = [*map(argument_of, (*run, *knobs, *reading)), *others]
    names = {flag.argument: flag.name for flag in (*run, *knobs, *reading)}

    def gather(given: Mapping[str, Any]) -> RunOptions:
        return RunOptions.of({names.get(k, k): v for k, v in given.items()}, run, knobs)

    return offered(added, gather)
