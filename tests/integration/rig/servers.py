"""Servers of the rig: the tiny model on two ranks, behind a real expert-parallel barrier."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from integration.bench.server import Server, ServerParams
from integration.bench.steps import STEPS
from rig import tiny_model

if TYPE_CHECKING:
    from collections.abc import Mapping

MODEL = "tiny"
SKIP_PREFILL = (
    "--kv-transfer-config",
    json.dumps({"kv_connector": "DecodeBenchConnector", "kv_role": "kv_both"}),
)


def rig_environment() -> dict[str, str]:
    """Variables that let vLLM run as one thread per rank, offline."""
    folder = Path(sys.prefix)
    return {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "BRSOLVER_RIG_FORK": "1",
        # The kernels of another numba release must not share a folder with ours.
        "NUMBA_CACHE_DIR": str(folder / "numba"),
    }


def rig_server(
    *,
    router: str | None = None,
    mode: str | None = None,
    slots: int = 16,
    ranks: int = 2,
    api_servers: int = 1,
    kv_mib: int = 1024,
    max_model_len: int = 8192,
    skip_prefill: bool = False,
    weights: bool = False,
    arguments: tuple[str, ...] = (),
    environment: Mapping[str, str] | None = None,
    steps: Path | None = None,
    log: Path | None = None,
) -> Server:
    """A server that is not started yet; use it in a ``with`` statement.

    Parameters
    ----------
    router, mode : str, optional
        ``BRSOLVER_ROUTER`` and ``BRSOLVER_MODE``; None leaves them unset.
    slots, ranks, api_servers : int
        See `ServerParams`.
    kv_mib : int
        KV cache of each rank in MiB; a token takes 32 KiB.
    max_model_len : int
        Longest sequence in tokens.
    skip_prefill : bool
        Fill the KV cache with constants instead of computing prompts.
    weights : bool
        Load generated weights, with which outputs depend on the whole prompt; vLLM's dummy
        weights, which load faster, are so small that only the last token counts.
    arguments, environment
        Added to the rig's own.
    steps : Path, optional
        Folder for the step log of each rank; see `integration.bench.steps`.
    log : Path, optional
        File for the server's output.
    """
    variables = rig_environment()
    named = {"BRSOLVER_ROUTER": router, "BRSOLVER_MODE": mode}
    variables |= {name: value for name, value in named.items() if value is not None}
    if steps is not None:
        steps.mkdir(parents=True, exist_ok=True)
        variables[STEPS] = str(steps)
    fixed = (
        *("--dtype", "float32", "--enforce-eager", "--max-model-len", str(max_model_len)),
        *("--kv-cache-memory-bytes", str(kv_mib * 2**20)),
        *(() if weights else ("--load-format", "dummy")),
        *(SKIP_PREFILL if skip_prefill else ()),
    )
    return Server(
        ServerParams(
            model=str(model_folder(weights=weights)),
            name=MODEL,
            ranks=ranks,
            slots=slots,
            api_servers=api_servers,
            arguments=(*fixed, *arguments),
            environment=variables | dict(environment or {}),
            log=log,
        )
    )


def model_folder(*, weights: bool = False) -> Path:
    """The generated model's folder, written when it is first asked for."""
    kind = "model-with-weights" if weights else "model"
    folder = Path(sys.prefix) / "generated" / kind
    if not (folder / "complete").exists():
        with tempfile.TemporaryDirectory(dir=sys.prefix) as scratch:
            made = tiny_model.write_model(Path(scratch) / kind, weights=weights)
            (made / "complete").touch()
            folder.parent.mkdir(exist_ok=True)
            made.replace(folder)
    return folder
