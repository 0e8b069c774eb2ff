"""The calls by which prompts are computed: what is asked, and what comes back."""

from __future__ import annotations

import json
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from brsolver.errors import MissingExtraError
from integration.doors.trust import trusting
from integration.picker import Refused
from integration.picker.bodies import CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES, kind_of

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

TRANSFER: Final = "kv_transfer_params"
"""Field of requests and responses by which vLLM's connectors find what was computed."""
UNDIVIDED: Final = "undivided"
"""What becomes of a prompt that can only be computed where it is decoded."""
MOST_TOLD = 48 * 1024
"""Bytes of an engine's error that are passed on: engines may quote all of a request."""
SHOWN = 200
"""Letters of an error that is none of OpenAI's format."""
_BUSY: Final = frozenset({408, 429})
_LIMITS: Final = {
    RESPONSES: ("max_output_tokens",),
    CHAT: ("max_tokens", "max_completion_tokens"),
    COMPLETIONS: ("max_tokens",),
}
"""By which requests bound what is generated; the first does where none is given."""
_DROPPED: Final = ("stream_options", "min_tokens", "n", "best_of", "store", "background")
_BEFORE: Final = ("previous_response_id", "conversation")
"""By which a request begins with what only the worker of an earlier one has."""
_CLIENTS_TOOLS: Final = (None, "function", "custom", "namespace")
"""Types of tools that the client runs; of any other the engine may, and goes on after it."""
_PASSED_ON: Final = ("authorization", "x-request-id")


class PrefillError(Exception):
    """A prefill worker did not answer, or not with success."""


class PrefillRejected(Exception):  # noqa: N818 # the client's error, not the worker's
    """A prefill worker says that a request cannot be served, whoever is asked.

    Parameters
    ----------
    refused : Refused
        What the client is to be told.
    """

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.message)
        self.refused = refused


class PrefillCalls:
    """Makes prefill calls over connections that it keeps.

    Parameters
    ----------
    scheme : str
        ``"http"`` or ``"https"``.
    ca : Path or None
        PEM file of who signs prefill workers' certificates; None takes the system's.
    timeout_s : float
        Seconds that a call may take.
    retry_statuses : collection of int
        With which a worker says that it has not begun, whatever they are.
    """

    def __init__(
        self, *, scheme: str, ca: Path | None, timeout_s: float, retry_statuses: Collection[int]
    ) -> None:
        self._scheme, self._timeout_s = scheme, timeout_s
        self._trust = trusting(ca) if scheme == "https" else False
        self._workers = _BUSY | frozenset(retry_statuses)
        self._client: Any = None

    async def make(self, where: str, original: dict[str, Any], headers: dict[str, str]) -> Any:
        """Have a prompt computed; return what the worker hands over, None if nothing.

        Parameters
        ----------
        where : str
            Address and path.
        original : dict
            The client's request.
        headers : dict of str to str
            The client's.

        Raises
        ------
        PrefillError
            The worker does not answer, or not with success.
        PrefillRejected
            It is the request that it does not take.
        """
        httpx = _httpx()
        passed = {name: headers[name] for name in _PASSED_ON if name in headers}
        try:
            response = await self._connected(httpx).post(
                f"{self._scheme}://{where}",
                content=as_body(prefill_body(where, original)),
                headers=passed | {"content-type": "application/json"},
            )
            self._check(response.status_code, response.content)
            return response.json().get(TRANSFER)
        except httpx.HTTPError as error:
            raise PrefillError(f"it does not answer: {type(error).__name__}") from error
        except (ValueError, AttributeError, RecursionError) as error:
            raise PrefillError("what it answers is no JSON object") from error

    def _connected(self, httpx: Any) -> Any:
        if self._client is None:
            limits = httpx.Limits(max_connections=None)
            self._client = httpx.AsyncClient(
                limits=limits, timeout=self._timeout_s, verify=self._trust
            )
        return self._client

    def _check(self, status: int, body: bytes) -> None:
        if status == 200:
            return
        if 400 <= status < 500 and status not in self._workers:
            raise PrefillRejected(rejection(status, body))
        raise PrefillError(f"it answers {status}")

    async def close(self) -> None:
        """Close the connections to prefill workers."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None


def rejection(status: int, body: bytes) -> Refused:
    """Return an engine's own answer to a request that it does not take, for the client.

    Parameters
    ----------
    status : int
    body : bytes
        Passed on as it is if it is a JSON object, of whatever format engines have. Else its
        beginning becomes the message of an error in OpenAI's.
    """
    if len(body) <= MOST_TOLD and _is_object(body):
        return Refused(status, f"the engine answers {status}", body=body)
    text = " ".join(body[: 4 * SHOWN].decode("utf-8", "replace").split())[:SHOWN]
    return Refused(status, f"the engine answers {status}{': ' if text else ''}{text}")


def _is_object(body: bytes) -> bool:
    try:
        return isinstance(json.loads(body), dict)
    except (ValueError, RecursionError):
        return False


def without_transfer(body: bytes) -> bytes | None:
    """Return a body without what clients may not say: where engines are to fetch a KV cache.

    Returns
    -------
    bytes or None
        None if it says nothing of that.
    """
    if not may_transfer(body):
        return None
    values = json.loads(body)
    if not isinstance(values, dict) or TRANSFER not in values:
        return None
    return as_body({name: value for name, value in values.items() if name != TRANSFER})


def may_transfer(body: bytes) -> bool:
    """Tell, without reading it, whether a body may say where a KV cache is to be fetched."""
    # Names may be written with escapes, and in any encoding that engines read JSON in.
    return TRANSFER.encode() in body or b"\\u" in body or json.detect_encoding(body) != "utf-8"


def is_divisible(path: str, original: dict[str, Any]) -> bool:
    """Tell whether a request's prompt can be computed elsewhere than it is decoded.

    Engines hand over the KV cache of one prompt, to be fetched once: of several prompts all would
    be decoded on the first one's, and of several choices all but one on what is gone. An engine
    that runs tools itself prompts itself anew with what they say. Fields of other types than the
    API says are taken for what they may come to mean to an engine.

    Parameters
    ----------
    path : str
    original : dict
        The client's request.
    """
    return (
        kind_of(path) != EMBEDDINGS
        and all(original.get(name) in (None, 1) for name in ("n", "best_of"))
        and not any(original.get(name) for name in ("use_beam_search", "prompt_embeds", *_BEFORE))
        and _is_one(original.get("prompt"))
        and not _runs_tools(original.get("tools"))
    )


def _is_one(prompt: object) -> bool:
    return not isinstance(prompt, list) or len(prompt) == 1 or set(map(type, prompt)) == {int}


def _runs_tools(tools: object) -> bool:
    return isinstance(tools, list) and any(
        isinstance(tool, dict) and tool.get("type") not in _CLIENTS_TOOLS for tool in tools
    )


def prefill_body(path: str, original: dict[str, Any]) -> dict[str, Any]:
    """Return a request that computes a prompt, and generates the one token that this takes.

    Parameters
    ----------
    path : str
        It says what the limit on tokens is called.
    original : dict
        The client's; it stays as it is, since decode gets its sampling parameters.
    """
    body = {name: value for name, value in original.items() if name not in _DROPPED}
    kind = kind_of(path) or COMPLETIONS
    names = _LIMITS.get(kind, _LIMITS[COMPLETIONS])
    body |= dict.fromkeys([name for name in names if name in original] or names[:1], 1)
    body["stream"] = False
    if kind == RESPONSES:
        # Else it would be kept, for nobody to ask for.
        body["store"] = False
    body[TRANSFER] = {
        "do_remote_decode": True,
        "do_remote_prefill": False,
        "remote_engine_id": None,
        "remote_block_ids": None,
        "remote_host": None,
        "remote_port": None,
    }
    return body


def as_body(values: dict[str, Any]) -> bytes:
    """Return values as JSON, about as long as the client wrote them."""
    try:
        return json.dumps(values, separators=(",", ":"), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        # A text of JSON may hold what UTF-8 may not.
        return json.dumps(values, separators=(",", ":")).encode()


def _httpx() -> Any:
    try:
        return import_module("httpx")
    except ImportError as error:
        raise MissingExtraError.for_extra("httpx", "proxy") from error
