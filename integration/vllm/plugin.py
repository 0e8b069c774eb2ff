"""What vLLM calls, in each of its processes, when it loads its plug-ins."""

from __future__ import annotations

import multiprocessing
import os
import re
from importlib import import_module
from typing import TYPE_CHECKING, Any

from brsolver.errors import BrsolverError
from integration.routing.failsafe import in_a_line
from integration.vllm.deployment import describe, identities
from integration.vllm.log import logger

if TYPE_CHECKING:
    from integration.vllm.config import AdapterConfig
    from integration.vllm.deployment import Deployment
    from integration.vllm.sharing import Board
    from integration.vllm.wrapping import Originals

RUST_FRONTEND = "VLLM_USE_RUST_FRONTEND"
_CHILDREN = re.compile(r"EngineCore|VllmWorker|Worker|ApiServer|VLLM_DP_Coordinator", re.IGNORECASE)
"""What the names of the processes begin with that vLLM starts; each loads plug-ins as well."""


def register() -> None:
    """Wrap vLLM's load balancer, if `BRSOLVER_ROUTER` says so and this vLLM is as expected.

    Never raises: whatever is wrong is logged, and vLLM goes on by itself.
    """
    try:
        _register()
    except Exception as error:  # noqa: BLE001 # vLLM must start, whatever it is
        _say_once(in_a_line(error))


def _register() -> None:
    from integration.vllm.config import ROUTER, STEPS, from_environment, misspelt

    strays = misspelt(os.environ)
    if strays and _is_ours_to_say():
        logger.warning("brsolver: %s", "; ".join(strays))
    if folder := os.environ.get(STEPS, "").strip():
        _log_steps(folder)
    if not os.environ.get(ROUTER, "").strip():
        return
    if bypassed(os.environ):
        _say_once(f"{RUST_FRONTEND}=1: the Rust front end routes, past all Python")
        return
    config = from_environment(os.environ)
    if config is None:
        return
    from integration.vllm.capability import CLIENTS, MESSAGES, mismatches
    from integration.vllm.shapes import live

    missing = mismatches(live())
    if missing:
        _say_once(f"this vLLM is not as expected: {'; '.join(missing)}")
        return
    from integration.vllm.wrapping import wrap

    wrap(import_module(CLIENTS), import_module(MESSAGES), _Attach(config))


def _log_steps(folder: str) -> None:
    from integration.vllm.step_log import install

    try:
        install(folder)
    except Exception as error:  # noqa: BLE001 # vLLM must start, whatever it is
        if _is_ours_to_say():
            logger.warning("brsolver: no steps are logged (%s)", in_a_line(error))


def bypassed(environ: Any) -> bool:
    """Tell whether vLLM's Rust front end is asked for."""
    return str(environ.get(RUST_FRONTEND, "0")).strip() not in {"", "0"}


def _say_once(reason: str) -> None:
    if _is_ours_to_say():
        _warn_of(reason)


def _is_ours_to_say() -> bool:
    # Nobody wants to read it from each of vLLM's children; who starts them has said it.
    return _CHILDREN.match(multiprocessing.current_process().name) is None


class _Attach:
    """Gives each client that vLLM makes its adapter."""

    def __init__(self, config: AdapterConfig) -> None:
        self._config = config

    def __call__(self, client: Any, originals: Originals) -> None:
        try:
            self._attach(client, originals)
        except BrsolverError as error:
            # All API servers are told the same, and make the same of it.
            if _is_first(client):
                _warn_of(f"{self._config.source}: {in_a_line(error)}")
        except Exception as error:  # noqa: BLE001 # vLLM must start, whatever it is
            _warn_of(in_a_line(error))

    def _attach(self, client: Any, originals: Originals) -> None:
        name = type(client).__name__
        if not hasattr(client, "reqs_in_flight"):
            logger.warning(
                "brsolver: not active: %s leaves nothing to route (%s)",
                name,
                "external load balancing"
                if name == "DPAsyncMPClient"
                else "a single data-parallel rank",
            )
            return
        known = describe(client)
        if known.moe is False and _is_first(client):
            logger.warning(
                "brsolver: the model has no experts, so ranks do not wait for each other: "
                "routing can change tail latency only, not throughput"
            )
        _make(self._config, client, known, originals)


def _is_first(client: Any) -> bool:
    return int(getattr(client, "client_index", 0)) == 0


def _warn_of(reason: str) -> None:
    logger.warning("brsolver: not active (%s); vLLM routes by itself", reason)


def _make(config: AdapterConfig, client: Any, known: Deployment, originals: Originals) -> None:
    from integration.vllm.adapter import Adapter
    from integration.vllm.recorder import Recorder, path_of
    from integration.vllm.reload import watch
    from integration.vllm.router import made_ready
    from integration.vllm.wrapping import ATTRIBUTE

    def board_for(horizon: int) -> Board | None:
        return _board(client, known, horizon) if known.clients > 1 else None

    router = made_ready(config, known, known.ranks, board_for)
    recorder = None
    if config.params.record is not None:
        try:
            recorder = Recorder(
                path_of(config.params.record, known.clients, known.index),
                rotate_bytes=config.params.record_bytes,
            )
        except OSError:
            # The other servers see who has a board.
            if router.board is not None:
                router.board.close()
            raise
    adapter = Adapter(config, known, router, originals, recorder=recorder)
    setattr(client, ATTRIBUTE, adapter)
    watch(adapter)
    logger.info("brsolver: attached: policy %s, %s", config.params.policy, config.params.mode)


def _board(client: Any, known: Deployment, horizon: int) -> Board:
    from integration.vllm.sharing import Board, board_path

    first = identities(client)[0]
    try:
        return Board(
            board_path(str(client.stats_update_address), first),
            servers=known.clients,
            index=known.index,
            ranks=known.ranks,
            horizon=horizon,
        )
    except OSError as error:
        raise RuntimeError(
            f"{known.clients} API servers cannot share what they know: {error}; "
            "set --api-server-count 1"
        ) from error
