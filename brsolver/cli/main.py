"""The command ``brsolver``.

A command's module is imported when it is asked for, and everything heavy inside the commands, so
that ``brsolver --help`` answers at once.
"""

from __future__ import annotations

import contextlib
import os
import sys
from functools import cache
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from brsolver._version import __version__
from brsolver.cli import plugins
from brsolver.errors import BrsolverError

if TYPE_CHECKING:
    from collections.abc import Sequence

BAD_INPUT = 2
INTERRUPTED = 130

COMMANDS = MappingProxyType(
    {
        "simulate": "Replay a trace through a cluster under one routing policy.",
        "compare": "Compare policies over numbers of workers and seeds, and write a report.",
        "gap": "Hold policies against certified bounds or the best run in hindsight.",
        "tune": "Search the router and engine settings that serve a trace best, and validate them.",
        "explain": "Say where a run's time goes, and what better routing would buy.",
        "policies": "List the installed routing policies with their parameters and sources.",
        "oracle": "Solve saved states by every solver, and search for the best runs.",
        "board": "Run every policy on the same traces, at the same loads, beside certified bounds.",
        "hardware": "What a step costs on which hardware: list, show, fit to measurements.",
        "trace": "Look at traces, convert them, take samples.",
    }
)
"""Built-in commands, each in a module of its name, and what the overview says of them."""


@cache
def _built_in(name: str) -> Any:
    """Return a built-in command: its module's `app`, or the function of the module's name."""
    module = import_module(f"brsolver.cli.{name}")
    app = getattr(module, "app", None)
    if app is None:
        app = typer.Typer(add_completion=False)
        app.command(name)(getattr(module, name))
    command = get_command(app)
    command.name = name
    return command


class OneLineErrors(TyperGroup):
    """A command group that reports bad input as one line on standard error, exit code 2."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Rich's help takes half a second to import; commands may take it, the overview not.
        super().__init__(*args, **(kwargs | {"rich_markup_mode": None}))

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        *_: Any,
        **extra: Any,
    ) -> Any:
        """Run the command line and exit."""
        extra["standalone_mode"] = False
        try:
            code = super().main(
                args=args,
                prog_name=prog_name or "brsolver",
                complete_var=complete_var,
                **extra,
            )
            sys.stdout.flush()
        except BrsolverError as error:
            _fail(str(error))
        except BrokenPipeError:
            _leave_quietly()
        except OSError as error:
            _drop_output()
            _fail(f"{error.filename or 'output'}: {error.strerror or error}")
        except MemoryError as error:
            _fail(f"not enough memory: {str(error) or 'use a smaller trace or fewer workers'}")
        except OverflowError as error:
            _fail(f"a number is too large: {error}")
        except Exception as error:
            # Typer carries its own copy of click or uses the installed one, by version; the
            # classes differ, these two members do not.
            if not hasattr(error, "format_message") or not hasattr(error, "exit_code"):
                raise
            _refuse_usage(error.format_message())
        sys.exit(code if isinstance(code, int) else 0)

    def list_commands(self, ctx: Any) -> list[str]:
        """List the built-in commands, then those of other packages."""
        del ctx
        return [*COMMANDS, *(name for name in plugins.names() if name not in COMMANDS)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command by name; it is imported only now."""
        del ctx
        return _built_in(cmd_name) if cmd_name in COMMANDS else plugins.load(cmd_name)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List what the commands do; the built-in ones are not imported for that."""
        overview = _Overview(name=self.name)
        overview.format_commands(ctx, formatter)

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command; an interruption ends it without a traceback."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)


class _Overview(OneLineErrors):
    """The commands as far as their overview needs them."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in COMMANDS:
            return TyperCommand(name=cmd_name, help=COMMANDS[cmd_name])
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        TyperGroup.format_commands(self, ctx, formatter)


def _refuse_usage(message: str) -> NoReturn:
    # A group without a command has printed its help already and has nothing to add.
    if not message:
        sys.exit(BAD_INPUT)
    _fail(f"{message.rstrip('.')}; see brsolver --help")


def _fail(message: str) -> NoReturn:
    line = " ".join(message.split())
    sys.stderr.write(f"brsolver: error: {line}\n")
    sys.exit(BAD_INPUT)


def _leave_quietly() -> NoReturn:
    # Whoever read the output has gone.
    _drop_output()
    sys.exit(1)


def _drop_output() -> None:
    """Keep what could not be written from being flushed at exit, which would complain again."""
    # A stream that a test put in place of standard output has no descriptor.
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


app = typer.Typer(
    cls=OneLineErrors,
    help="Route requests over data-parallel LLM decode workers, and measure how well it is done.",
    no_args_is_help=False,
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"brsolver {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    del version
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(BAD_INPUT)


def run() -> None:
    """Run ``brsolver`` with the arguments of this process."""
    app()
