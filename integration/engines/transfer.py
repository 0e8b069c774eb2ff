"""Prompts computed by one engine and decoded by another, as vLLM's KV connectors have it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aiohttp

from integration.engines.figures import BLOCK

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFILLER = "x-prefiller-host-port"
"""Header by which llm-d names the engine that computes the prompt; its side-car asks that one."""
_OF_OUTPUT = ("max_completion_tokens", "min_tokens", "stream_options", "n")
FETCH_S = 5.0
"""How long an engine waits for another to hand out a prompt's KV."""


def offer(name: str, engine: str, host: str, port: int, tokens: int) -> dict[str, Any]:
    """Return the ``kv_transfer_params`` by which another engine finds a computed prompt.

    Parameters
    ----------
    name : str
        The request's identity.
    engine : str
        The engine's.
    host, port : str, int
        Where it listens.
    tokens : int
        Of the prompt.
    """
    return {
        "do_remote_prefill": True,
        "do_remote_decode": False,
        "remote_block_ids": list(range(-(-tokens // BLOCK))),
        "remote_engine_id": engine,
        "remote_request_id": name,
        "remote_host": host,
        "remote_port": port,
        "tp_size": 1,
    }


async def fetch(client: aiohttp.ClientSession, kv: Mapping[str, Any]) -> bool:
    """Fetch a prompt's KV from the engine that computed it; tell whether it was there."""
    url = f"http://{kv.get('remote_host')}:{kv.get('remote_port')}/kv/fetch"
    body = {"request": kv.get("remote_request_id")}
    limit = aiohttp.ClientTimeout(total=FETCH_S)
    try:
        async with client.post(url, json=body, timeout=limit) as answer:
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return False


async def prefill(
    client: aiohttp.ClientSession, where: str, path: str, body: Mapping[str, Any]
) -> dict[str, Any]:
    """Let another engine compute a prompt, as llm-d's side-car does.

    Parameters
    ----------
    client : aiohttp.ClientSession
    where : str
        ``host:port`` of that engine.
    path : str
        That the request came by.
    body : mapping
        Of the request.

    Returns
    -------
    dict
        Its ``kv_transfer_params``, empty if there is no such engine or it failed.
    """
    asked = {name: value for name, value in body.items() if name not in _OF_OUTPUT}
    asked |= {"max_tokens": 1, "stream": False, "kv_transfer_params": {"do_remote_decode": True}}
    try:
        async with client.post(f"http://{where}{path}", json=asked) as answer:
            found = (await answer.json()).get("kv_transfer_params") if answer.ok else None
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
