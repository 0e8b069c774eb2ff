"""Prefill and decode on different workers: the prompt is computed first, then decode is decided.

Either the picker makes the prefill call itself, with one token to generate and the note that
decode happens elsewhere, and hands what comes back to the decode worker as it is, whatever the
connector (`Tiers.mode` ``"call"``). Or it only names the prefill worker in a header, and the
decode worker's sidecar makes the call, as llm-d has it (``"header"``).
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from brsolver.errors import MissingExtraError, ParameterError
from integration.doors.prefill_figures import PrefillTier
from integration.doors.prefill_pool import COMPUTED, FAILED, NAMED, WITHDRAWN
from integration.doors.reception import Routed
from integration.doors.trust import trusting
from integration.messages.names import PREFILLER
from integration.picker import Refused
from integration.picker.asks import POOL_FULL
from integration.picker.bodies import is_readable

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from integration.doors.prefill_pool import Prefiller, PrefillPool
    from integration.doors.reception import Destination, Reception
    from integration.picker import Ask

TRANSFER: Final = "kv_transfer_params"
"""Field of requests and responses by which vLLM's connectors find what was computed."""
LIMITS: Final = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_DROPPED: Final = ("stream_options", "min_tokens", "n", "best_of")
_PASSED_ON: Final = ("authorization", "x-request-id")
_MANY = "too many requests are waiting for a prefill worker"
_TOO_MANY_VALUES = Refused(status=413, message="the body has too many values to be read")


@dataclass(frozen=True, slots=True, kw_only=True)
class TiersParams:
    """How prompts are computed elsewhere.

    Attributes
    ----------
    mode : str
        ``"call"`` or ``"header"``.
    min_prompt_tokens : int
        Shorter prompts are computed where they are decoded.
    kv_limit : float
        Share of its KV cache above which a prefill worker gets no prompt: what it holds has yet
        to be fetched by decode workers.
    wait_max_s : float
        Seconds that a request waits for prefill workers below their limit, all tries together.
    pool_max : int
        Requests that wait for one at most; further ones are refused.
    retry_after_s : float
        When a refused client is told to try again.
    timeout_s : float
        Seconds that a prefill call may take.
    attempts : int
        Workers that are asked before the decode worker computes the prompt itself.
    scheme : str
        ``"http"`` or ``"https"``.
    ca : Path or None
        PEM file of who signs prefill workers' certificates; None takes the system's.
    """

    mode: str = "call"
    min_prompt_tokens: int = 0
    kv_limit: float = 0.9
    wait_max_s: float = 30.0
    pool_max: int = 4096
    retry_after_s: float = 1.0
    timeout_s: float = 300.0
    attempts: int = 2
    scheme: str = "http"
    ca: Path | None = None

    def __post_init__(self) -> None:
        if self.mode not in {"call", "header"}:
            raise ParameterError(f"mode is {self.mode!r}, must be 'call' or 'header'")
        if self.min_prompt_tokens < 0:
            raise ParameterError(
                f"min_prompt_tokens is {self.min_prompt_tokens}, must be at least 0"
            )
        if not 0.0 < self.kv_limit <= 1.0:
            raise ParameterError(f"kv_limit is {self.kv_limit}, must be in (0, 1]")
        for name in ("pool_max", "timeout_s", "attempts"):
            if not getattr(self, name) > 0:
                raise ParameterError(f"{name} is {getattr(self, name)}, must be above 0")
        for name in ("wait_max_s", "retry_after_s"):
            if not getattr(self, name) >= 0:
                raise ParameterError(f"{name} is {getattr(self, name)}, must be at least 0")


class PrefillError(Exception):
    """A prefill worker did not answer, or not with success."""


@dataclass(slots=True)
class _Patience:
    """How long a request may wait yet."""

    left_s: float


class Tiers:
    """Has prompts computed, then places requests for decode.

    Parameters
    ----------
    reception : Reception
        Of the decode workers.
    pool : PrefillPool
    params : TiersParams, optional

    Attributes
    ----------
    prompts : Counter of str
        What became of prompts; see `PrefillTier`.
    failed : int
        Prefill calls that failed.
    """

    def __init__(
        self, reception: Reception, pool: PrefillPool, params: TiersParams | None = None
    ) -> None:
        self._reception = reception
        self._pool = pool
        self._params = TiersParams() if params is None else params
        secure = self._params.scheme == "https"
        self._trust = trusting(self._params.ca) if secure else False
        self._client: Any = None
        self._placing: set[str] = set()
        self.prompts: Counter[str] = Counter()
        self.failed = 0
        if self.names_workers:
            pool.settle = self._settle

    @property
    def names_workers(self) -> bool:
        """Whether prefill workers are named in a header: then it matters when answers begin."""
        return self._params.mode == "header"

    @property
    def prefilled(self) -> int:
        """Requests whose prompt was computed elsewhere, or is to be."""
        return self.prompts[COMPUTED] + self.prompts[NAMED]

    def figures(self) -> PrefillTier:
        """Return how the tier stands."""
        calls: dict[str, dict[str, int]] = {}
        for (name, result), count in self._pool.calls.items():
            calls.setdefault(name, {})[result] = count
        workers = self._pool.figures()
        return PrefillTier(
            waiting=self._pool.waiting,
            under_way=sum(each.prompts for each in workers),
            prompts=dict(self.prompts),
            calls=calls,
            workers=workers,
        )

    async def route(
        self,
        ask: Ask,
        path: str,
        body: bytes,
        headers: dict[str, str],
        subset: Collection[str] | None = None,
    ) -> Routed:
        """Have a prompt computed, and place its request.

        Parameters
        ----------
        ask : Ask
        path : str
            Of the client's request.
        body : bytes
        headers : dict of str to str
        subset : collection of str, optional
            Addresses that may decode.

        Returns
        -------
        Routed
        """
        if not is_readable(body):
            return Routed(_TOO_MANY_VALUES)
        clean = without_transfer(body)
        if ask.prompt_tokens < self._params.min_prompt_tokens:
            return Routed(await self._reception.place(ask, subset), clean)
        if self.names_workers:
            return await self._named(ask, subset, clean)
        handed = await self._computed(ask, path, body if clean is None else clean, headers)
        if isinstance(handed, Refused):
            return Routed(handed)
        return Routed(await self._reception.place(ask, subset), clean if handed is None else handed)

    async def _named(self, ask: Ask, subset: Collection[str] | None, clean: bytes | None) -> Routed:
        """Name a prefill worker in a header; it counts as busy until the response begins."""
        self._settle()
        self._placing.add(ask.name)
        try:
            chosen = await self._chosen(ask, set(), _Patience(self._params.wait_max_s))
            if isinstance(chosen, Refused):
                return Routed(chosen)
            if chosen is None:
                self.prompts["decode"] += 1
                return Routed(await self._reception.place(ask, subset), clean)
            return Routed(
                await self._placed(ask, subset, chosen), clean, {PREFILLER: chosen.spec.address}
            )
        finally:
            self._placing.discard(ask.name)

    async def _placed(
        self, ask: Ask, subset: Collection[str] | None, chosen: Prefiller
    ) -> Destination | Refused:
        """Place a request for which a prefill worker has been chosen."""
        destination: Destination | Refused | None = None
        try:
            destination = await self._reception.place(ask, subset)
        finally:
            if destination is None or isinstance(destination, Refused):
                self._pool.take_back(chosen, ask.name, WITHDRAWN)
        self.prompts[NAMED] += not isinstance(destination, Refused)
        return destination

    def _settle(self) -> None:
        """Forget prompts whose decode worker was seen to answer, or whose request is gone."""
        places = self._reception.ledger.places
        for worker in self._pool.workers:
            for name in list(worker.tokens):
                place = places.get(name)
                if name not in self._placing and (place is None or place.answering):
                    self._pool.take_back(worker, name, NAMED)

    async def _computed(
        self, ask: Ask, path: str, body: bytes, headers: dict[str, str]
    ) -> bytes | Refused | None:
        """Return the body for the decode worker; None leaves the client's as it is."""
        original = json.loads(body)
        tried: set[str] = set()
        patience = _Patience(self._params.wait_max_s)
        for _ in range(self._params.attempts):
            chosen = await self._chosen(ask, tried, patience)
            if isinstance(chosen, Refused):
                return chosen
            if chosen is None:
                break
            tried.add(chosen.spec.address)
            try:
                handed = await self._call(chosen, ask, path, original, headers)
            except PrefillError as error:
                self.failed += 1
                self._pool.failed(chosen, str(error))
                continue
            self.prompts[COMPUTED] += 1
            return None if handed is None else _body(original | {TRANSFER: handed})
        self.prompts["decode"] += 1
        return None

    async def _chosen(
        self, ask: Ask, tried: set[str], patience: _Patience
    ) -> Prefiller | Refused | None:
        """Have a worker below its limit given the prompt; None if none is left to ask."""
        pool = self._pool
        chosen = pool.give(ask, tried)
        if chosen is not None or not pool.is_left(tried):
            return chosen
        if pool.waiting >= self._params.pool_max:
            return self._refused(_MANY)
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        try:
            async with asyncio.timeout(patience.left_s):
                return await pool.wait(ask, tried)
        except TimeoutError:
            return self._refused(f"no prefill worker had room for {self._params.wait_max_s:g} s")
        finally:
            patience.left_s -= loop.time() - began_s

    def _refused(self, why: str) -> Refused:
        self.prompts["refused"] += 1
        return Refused(POOL_FULL, why, self._params.retry_after_s)

    async def _call(
        self,
        chosen: Prefiller,
        ask: Ask,
        path: str,
        original: dict[str, Any],
        headers: dict[str, str],
    ) -> Any:
        """Make the prefill call; return what it hands over, None if nothing."""
        result = WITHDRAWN
        try:
            handed = await self._handed(f"{chosen.spec.address}{path}", original, headers)
            result = COMPUTED
        except PrefillError:
            result = FAILED
            raise
        finally:
            self._pool.take_back(chosen, ask.name, result)
        return handed

    async def _handed(self, where: str, original: dict[str, Any], headers: dict[str, str]) -> Any:
        httpx = _httpx()
        if self._client is None:
            limits = httpx.Limits(max_connections=None)
            self._client = httpx.AsyncClient(
                limits=limits, timeout=self._params.timeout_s, verify=self._trust
            )
        passed = {name: headers[name] for name in _PASSED_ON if name in headers}
        try:
            response = await self._client.post(
                f"{self._params.scheme}://{where}",
                content=_body(prefill_body(original)),
                headers=passed | {"content-type": "application/json"},
            )
            if response.status_code != 200:
                raise PrefillError(f"it answers {response.status_code}")
            return response.json().get(TRANSFER)
        except httpx.HTTPError as error:
            raise PrefillError(f"it does not answer: {type(error).__name__}") from error
        except (ValueError, AttributeError) as error:
            raise PrefillError("what it answers is no JSON object") from error

    async def close(self) -> None:
        """Close the connections to prefill workers."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None


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
    return _body({name: value for name, value in values.items() if name != TRANSFER})


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


def _body(values: dict[str, Any]) -> bytes:
    # In ASCII: a text of JSON may hold what UTF-8 may not.
    return json.dumps(values, separators=(",", ":")).encode()


def _httpx() -> Any:
    try:
        return import_module("httpx")
    except ImportError as error:
        raise MissingExtraError.for_extra("httpx", "proxy") from error
