"""The directive `public-names`: a table of what a package lists in `__all__`, then each in full."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import TYPE_CHECKING, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType
    from typing import Any

    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment


class PublicNames(SphinxDirective):
    """Documents the public names of a package, once each.

    The option ``elsewhere`` names packages whose own pages document what they share with this one.
    """

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {
        "elsewhere": directives.unchanged,
        "names": directives.unchanged,
    }

    def run(self) -> list[nodes.Node]:
        """Return the table and the descriptions."""
        package = import_module(self.arguments[0])
        lines = StringList(list(self._lines(package)), source=self.get_source_info()[0])
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=False)

    def _lines(self, package: ModuleType) -> Iterator[str]:
        listed = self.options.get("names", "").split() or package.__all__
        names = [name for name in listed if not name.startswith("__")]
        homes = self._homes(names, package)
        yield from (".. autosummary::", "   :nosignatures:", "")
        yield from (f"   ~{homes[name]}.{name}" for name in names)
        yield from ("", f".. py:module:: {package.__name__}")
        for name in names:
            if homes[name] == package.__name__:
                yield from ("", *_described(package, name))
        yield from ("", ".. py:currentmodule:: None")

    def _homes(self, names: list[str], package: ModuleType) -> dict[str, str]:
        """Return the package on whose page each name is documented."""
        homes = dict.fromkeys(names, package.__name__)
        for other in self.options.get("elsewhere", "").split():
            homes |= {name: other for name in import_module(other).__all__ if name in homes}
        return homes


def _described(package: ModuleType, name: str) -> list[str]:
    value = getattr(package, name)
    full = f"{package.__name__}.{name}"
    if inspect.isclass(value):
        error = issubclass(value, BaseException)
        return [f".. auto{'exception' if error else 'class'}:: {full}"]
    return [f".. auto{'function' if callable(value) else 'data'}:: {full}"]


def _resolved(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Element
) -> nodes.Node | None:
    """Link a class named in single backticks to its page; leave all else there as it is.

    Docstrings also write parameters, methods and modules in single backticks.
    """
    if node["refdomain"] != "py" or node["reftype"] != "obj":
        return None
    objects = env.domains.python_domain.objects
    found = [
        entry
        for name, entry in objects.items()
        if entry.objtype in {"class", "exception"}
        and name.rpartition(".")[2] == node["reftarget"].rpartition(".")[2]
    ]
    if len(found) != 1:
        return content
    page = app.builder.get_relative_uri(node["refdoc"], found[0].docname)
    address = f"{page}#{found[0].node_id}"
    return nodes.reference("", "", content, refuri=address, internal=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive, and how single backticks are resolved."""
    app.add_directive("public-names", PublicNames)
    app.connect("missing-reference", _resolved)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
