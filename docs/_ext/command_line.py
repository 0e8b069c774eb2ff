"""The directive `command-line`: every command with its options, as `--help` says them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sphinx.util.docutils import SphinxDirective
from typer.main import get_command

from brsolver.cli.main import app as brsolver

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docutils import nodes
    from sphinx.application import Sphinx


class CommandLine(SphinxDirective):
    """A section for each command, a list of options for each panel of its help."""

    def run(self) -> list[nodes.Node]:
        """Return the sections."""
        group = get_command(brsolver)
        context = group.make_context("brsolver", [], resilient_parsing=True)
        text = "\n".join(_group(group, context))
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def _group(group: Any, context: Any) -> Iterator[str]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        inner = command.context_class(command, info_name=name, parent=context)
        if hasattr(command, "list_commands"):
            yield from _group(command, inner)
        else:
            yield from _command(command, inner)


def _command(command: Any, context: Any) -> Iterator[str]:
    title = context.command_path
    yield from (title, "-" * len(title), "", _escaped(command.help or ""), "")
    yield from ("::", "", f"    {title} {' '.join(command.collect_usage_pieces(context))}", "")
    panels: dict[str, list[Any]] = {}
    for option in command.get_params(context):
        if not getattr(option, "hidden", False) and option.name != "help":
            panel = getattr(option, "rich_help_panel", None)
            panels.setdefault(panel or _kind(option), []).append(option)
    for panel, options in panels.items():
        yield from (f"**{_escaped(panel)}**", "")
        for option in options:
            yield from _option(option, context)


def _kind(option: Any) -> str:
    return "Arguments" if option.param_type_name == "argument" else "Options"


def _option(option: Any, context: Any) -> Iterator[str]:
    name, text = option.get_help_record(context) or (option.name, "")
    yield f"``{name}``"
    yield (f"    {_escaped(' '.join(text.split()) or 'No more to say.')}")
    yield ""


def _escaped(text: str) -> str:
    return "".join(f"\\{char}" if char in "\\*`_|@" else char for char in text)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("command-line", CommandLine)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
