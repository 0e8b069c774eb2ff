"""What an endpoint is asked before it is loaded: which model it has, and whether it answers."""

from __future__ import annotations

import json
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from brsolver.errors import ParameterError
from integration.load.http import read_some, require_aiohttp
from integration.load.kinds import Kind, excused
from integration.load.params import LoadError
from integration.load.replies import Reply

if TYPE_CHECKING:
    from integration.load.bodies import Bodies
    from integration.load.driving import Asks
    from integration.load.params import TargetParams

MODELS_SHOWN = 8
TRUST = "; --ca-file FILE says which certificates to trust, --insecure trusts any"
KEY_WANTED = "put a key into the variable that --api-key-env names"


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A model, as an endpoint tells of it.

    Attributes
    ----------
    model : str
    longest : int or None
        Prompt and output together, in tokens; None if it does not say.
    """

    model: str
    longest: int | None = None


def tls_of(params: TargetParams) -> ssl.SSLContext | bool:
    """Return how a server shows who it is.

    Raises
    ------
    ParameterError
        The file of certificates is none.
    """
    if params.insecure:
        return False
    if params.ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=str(Path(params.ca_file)))
    except (OSError, ssl.SSLError) as error:
        raise ParameterError(
            f"ca_file is {params.ca_file!r}, must be a file of certificates (PEM): "
            f"{error.strerror or error}"
        ) from error


async def served(session: Any, params: TargetParams) -> Served:
    """Ask an endpoint for its models; return the one that was asked for, or the only one.

    An endpoint that does not tell of models is believed where a model is given.

    Raises
    ------
    LoadError
        It cannot be reached, refuses, or does not serve the model.
    """
    url = f"{params.base}/v1/models"
    status, text = await _get(session, url)
    cards = _cards(text) if status == 200 else None
    if status in {401, 403}:
        raise LoadError(f"{url}: not authorised (status {status}), {KEY_WANTED}")
    if cards is None and params.model is not None:
        return Served(model=params.model)
    if not cards:
        told = f"status {status}" if status != 200 else "no list of models"
        raise LoadError(f"{url}: answered with {told}; name the model with --model")
    return _chosen(cards, params, url)


async def _get(session: Any, url: str) -> tuple[int, str]:
    http = require_aiohttp()
    try:
        async with session.get(url) as answer:
            return answer.status, await read_some(answer)
    except (http.ClientError, OSError, TimeoutError, ValueError) as error:
        kind, why = excused(error)
        hint = TRUST if kind is Kind.INSECURE else ""
        raise LoadError(f"{url}: cannot be reached: {why}{hint}") from error


def _cards(text: str) -> dict[str, int | None] | None:
    """Return the longest sequence by model, None where it is not told; None for no list at all."""
    try:
        return {
            str(card["id"]): _whole(card.get("max_model_len")) for card in json.loads(text)["data"]
        }
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _chosen(cards: dict[str, int | None], params: TargetParams, url: str) -> Served:
    names = ", ".join(list(cards)[:MODELS_SHOWN])
    if params.model is None and len(cards) > 1:
        raise LoadError(f"{url}: serves {names}; say which with --model")
    model = params.model or next(iter(cards))
    if model not in cards:
        raise LoadError(f"{url}: model {model!r} is not served, must be one of {names}")
    return Served(model=model, longest=cards[model])


async def warm_up(
    asker: Asks, bodies: Bodies, url: str, requests: int, longest: int | None = None
) -> list[Reply]:
    """Send requests one after another whose prompts no other request shares; return the answers.

    They are as long as the first ones of the trace that the model can hold.

    Parameters
    ----------
    asker : Asks
    bodies : Bodies
    url : str
        For messages.
    requests : int
    longest : int, optional
        Prompt and output together, in tokens.

    Raises
    ------
    LoadError
        One of them failed: a load of such would measure nothing.
    """
    lengths = bodies.trace.prompt_tokens + bodies.trace.output_tokens
    rows = np.flatnonzero(lengths <= (lengths.max() if longest is None else longest)).tolist()
    replies = []
    for number in range(requests):
        row = rows[number % len(rows)]
        wanted = int(bodies.trace.output_tokens[row])
        reply = Reply(row=row, wanted=wanted, due_s=time.monotonic())
        await asker.ask(bodies.warm(number, row), reply)
        if not reply.complete:
            raise LoadError(_failed(reply, url))
        replies.append(reply)
    return replies


def _failed(reply: Reply, url: str) -> str:
    hints = {
        Kind.UNAUTHORISED: f"; {KEY_WANTED}",
        Kind.NOT_STREAMED: "; a load needs streams, to see when tokens come",
        Kind.TIMEOUT: "; --timeout may be longer",
    }
    return f"{url}: the first request was {reply.kind}: {reply.why}{hints.get(reply.kind, '')}"
