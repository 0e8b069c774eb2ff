"""How page templates are filled: strictly, escaped, and with what stands in files beside them."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def fill(
    template: str, filters: Mapping[str, Callable[..., Any]] | None = None, **values: Any
) -> str:
    """Fill the template of that file name; a value that it lacks is an error, never empty."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(_text),
    )
    environment.filters |= filters or {}
    return environment.get_template(template).render(**values)


def _text(name: str) -> str:
    return files("brsolver.report").joinpath(f"templates/{name}").read_text("utf-8")
