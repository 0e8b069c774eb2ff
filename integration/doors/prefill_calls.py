"""The calls by which prompts are computed: what is asked, and what comes back."""

from __future__ import annotations

import json
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from brsolver.errors import MissingExtraError
from integration.doors.trust import trusting
from integration.picker import Refused

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

TRANSFER: Final = "kv_transfer_params"
"""Field of requests and responses by which vLLM's connectors find what was computed."""
LIMITS: Final = ("max_tokens", "max_completion_tokens", "max_output_tokens")
MOST_TOLD = 48 * 1024
"""Bytes of an engine's error that are passed on: engines may quote all of a request."""
SHOWN = 200
"""Letters of an error that is none of OpenAI's format."""
_BUSY: Final = frozenset({408, 429})
_DROPPED: Final = ("stream_options", "min_tokens", "n", "best_of")
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
                content=in_ascii(prefill_body(original)),
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
    # Names may be written with escapes.
    if TRANSFER.encode() not in body and b"\\u" not in body:
        return None
    values = json.loads(body)
    if TRANSFER not in values:
        return None
    return in_ascii({name: value for name, value in values.items() if name != TRANSFER})


def prefill_body(original: dict[str, Any]) -> dict[str, Any]:
    """Return a request that computes a prompt, and generates the one token that this takes.

    Parameters
    ----------
    original : dict
        The client's; it stays as it is, since decode gets its sampling parameters.
    """
    body = {name: value for name, value in original.items() if name not in _DROPPED}
    limits = [name for name in LIMITS if name in original] or ["max_tokens"]
    body |= dict.fromkeys(limits, 1)
    body["stream"] = False
    body[TRANSFER] = {
        "do_remote_decode": True,
        "do_remote_prefill": False,
        "remote_engine_id": None,
        "remote_block_ids": None,
        "remote_host": None,
        "remote_port": None,
    }
    return body


def in_ascii(values: dict[str, Any]) -> bytes:
    """Return a body in ASCII: a text of JSON may hold what UTF-8 may not."""
    return json.dumps(values, separators=(",", ":")).encode()


def _httpx() -> Any:
    try:
        return import_module("httpx")
    except ImportError as error:
        raise MissingExtraError.for_extra("httpx", "proxy") from error
