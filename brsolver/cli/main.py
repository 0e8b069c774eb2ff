"""The command ``brsolver``.

Everything heavy is imported inside the commands, so that ``brsolver --help`` answers at once.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from brsolver._version import __version__
from brsolver.cli import compare, gap, oracle, plugins, policies, simulate, trace
from brsolver.errors import BrsolverError

if TYPE_CHECKING:
    from collections.abc import Sequence

BAD_INPUT = 2
INTERRUPTED = 130


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
        built_in = super().list_commands(ctx)
        return built_in + [name for name in plugins.names() if name not in built_in]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command by name; another package's is imported only now."""
        found = super().get_command(ctx, cmd_name)
        return plugins.load(cmd_name) if found is None else found

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command; an interruption ends it without a traceback."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)


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
app.command("simulate")(simulate.simulate)
app.command("compare")(compare.compare)
app.command("gap")(gap.gap)
app.add_typer(oracle.app, name="oracle")
app.command("policies")(policies.policies)
app.add_typer(trace.app, name="trace")


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
