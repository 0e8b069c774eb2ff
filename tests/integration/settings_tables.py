"""The settings' reference of docs/serve.md, from the dataclasses; as a program it prints it."""

from __future__ import annotations

import dataclasses
import json
import re
import sys

from brsolver.options import alternatives, parameters
from integration.settings import ServeConfig

_ENTRY = re.compile(r"^    (?P<names>\w+(?:, \w+)*) : ", re.MULTILINE)


def tables() -> dict[str, type]:
    """Return the dataclass of each table, by name."""
    found = {}
    for field in parameters(ServeConfig):
        kind = next((k for k in alternatives(field.hint) if dataclasses.is_dataclass(k)), None)
        if kind is not None:
            found[field.name] = kind
    return found


def said(kind: type) -> dict[str, str]:
    """Return what a docstring says of each field."""
    attributes = (kind.__doc__ or "").partition("Attributes\n    ----------\n")[2]
    starts = list(_ENTRY.finditer(attributes))
    ends = [*(start.start() for start in starts[1:]), len(attributes)]
    texts = {}
    for start, end in zip(starts, ends, strict=True):
        lines = attributes[start.end() : end].splitlines()[1:]
        text = " ".join(line.strip() for line in lines).strip()
        for name in start["names"].split(", "):
            texts[name] = text.replace("``", "`").replace("|", "\\|").replace("None", "left out")
    return texts


def shown(value: object) -> str:
    if value is None or value is dataclasses.MISSING:
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, str):
        return f'`"{value}"`'
    if isinstance(value, tuple):
        return f"`{json.dumps(list(value))}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def reference() -> str:
    """Return Markdown: a table of settings for each table of the file."""
    lines = []
    for name, kind in tables().items():
        texts = said(kind)
        lines += [f"### `[{name}]`", "", "| key | default | |", "|---|---|---|"]
        for field in dataclasses.fields(kind):
            if field.init:
                lines.append(
                    f"| `{field.name}` | {shown(field.default)} | {texts.get(field.name, '')} |"
                )
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(reference())
