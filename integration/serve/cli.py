"""``brsolver serve`` and ``brsolver picker``.

Imported for the overview of commands: nothing heavy at the top.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

ConfigOption = Annotated[
    Path,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Settings, TOML (docs/serve.md lists them), or what brsolver tune wrote.",
    ),
]
WorkersOption = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT,...|FILE.toml",
        help="Engines, or a file of them, in place of those that the settings name.",
    ),
]


def serve(
    *,
    config: ConfigOption = Path("serve.toml"),
    workers: WorkersOption = None,
    envoy: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="An Envoy of your own instead of the one that the extra brings; docs/serve.md "
            "says which can be.",
        ),
    ] = None,
    no_envoy: Annotated[
        bool,
        typer.Option(
            "--no-envoy",
            help="Start none: one that was started with what --print-bootstrap prints is there, or "
            "will be.",
        ),
    ] = False,
    print_bootstrap: Annotated[
        bool,
        typer.Option(
            "--print-bootstrap", help="Print the bootstrap that Envoy would get, and end."
        ),
    ] = False,
    with_keys: Annotated[
        bool, typer.Option("--with-keys", help="Print it with the API keys in it.")
    ] = False,
) -> None:
    """Serve in front of engines: Envoy, and a router beside it.

    SIGTERM ends it when all streams have, a second one at once. SIGHUP reads FILE again: workers
    come and go without a stream lost.
    """
    from brsolver.errors import ParameterError
    from integration.serve.run import bootstrap_text, run_serve

    if print_bootstrap:
        sys.stdout.write(bootstrap_text(config, workers=workers, keys=with_keys))
        return
    if with_keys:
        raise ParameterError("--with-keys is given, must be beside --print-bootstrap")
    raise typer.Exit(run_serve(config, envoy=envoy, workers=workers, apart=no_envoy))


def picker(*, config: ConfigOption = Path("serve.toml"), workers: WorkersOption = None) -> None:
    """Pick endpoints for gateways of Kubernetes, without Envoy.

    It speaks the protocol of the Gateway API Inference Extension (ext_proc over gRPC) and answers
    gRPC health checks; no Envoy is started.
    """
    from integration.serve.run import run_picker

    raise typer.Exit(run_picker(config, workers=workers))
