"""Prompts computed by one engine and decoded by another, as vLLM's KV connectors have it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aiohttp

if TYPE_CHECKING:
    from collections.abc import Mapping

BLOCK = 16
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
