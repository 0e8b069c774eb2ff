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
from typing import TYPE_CHECKING, Any

from brsolver.errors import ParameterError
from integration.doors.prefill_calls import (
    TRANSFER,
    PrefillCalls,
    PrefillError,
    PrefillRejected,
    in_ascii,
    without_transfer,
)
from integration.doors.prefill_figures import PrefillTier
from integration.doors.prefill_pool import COMPUTED, FAILED, NAMED, REJECTED, WITHDRAWN
from integration.doors.reception import Routed
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
    retry_statuses : tuple of int
        With which a worker says that it has not begun, whatever they are.
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
    retry_statuses: tuple[int, ...] = ()

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
        self._calls = PrefillCalls(
            scheme=self._params.scheme,
            ca=self._params.ca,
            timeout_s=self._params.timeout_s,
            retry_statuses=self._params.retry_statuses,
        )
        self._placing: set[str] = set()
        self.prompts: Counter[str] = Counter()
        self.failed = 0
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
        self._settle()
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
        self._placing.add(ask.name)
        try:
            if self.names_workers:
                return await self._named(ask, subset, clean)
            handed = await self._computed(ask, path, body if clean is None else clean, headers)
            if isinstance(handed, Refused):
                return Routed(handed)
            whole = clean if handed is None else handed
            return Routed(await self._reception.place(ask, subset), whole)
        finally:
            self._placing.discard(ask.name)

    async def _named(self, ask: Ask, subset: Collection[str] | None, clean: bytes | None) -> Routed:
        """Name a prefill worker in a header; it counts as busy until the response begins."""
        self._settle()
        chosen = await self._chosen(ask, set(), _Patience(self._params.wait_max_s))
        if isinstance(chosen, Refused):
            return Routed(chosen)
        if chosen is None:
            self.prompts["decode"] += 1
            return Routed(await self._reception.place(ask, subset), clean)
        return Routed(
            await self._placed(ask, subset, chosen), clean, {PREFILLER: chosen.spec.address}
        )

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
        for worker in self._pool.workers:
            worker.kept -= {name for name in worker.kept if self._is_done(name)}
            if self.names_workers:
                for name in [name for name in worker.tokens if self._is_done(name)]:
                    self._pool.take_back(worker, name, NAMED)

    def _is_done(self, name: str) -> bool:
        place = self._reception.ledger.places.get(name)
        return name not in self._placing and (place is None or place.answering)

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
            except PrefillRejected as rejected:
                # Every other worker would say the same.
                self.prompts[REJECTED] += 1
                return rejected.refused
            except PrefillError as error:
                self.failed += 1
                self._pool.failed(chosen, str(error))
                continue
            self.prompts[COMPUTED] += 1
            return None if handed is None else in_ascii(original | {TRANSFER: handed})
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
            handed = await self._calls.make(f"{chosen.spec.address}{path}", original, headers)
            result = COMPUTED
        except PrefillRejected:
            result = REJECTED
            raise
        except PrefillError:
            result = FAILED
            raise
        finally:
            self._pool.take_back(chosen, ask.name, result)
        return handed

    async def close(self) -> None:
        """Close the connections to prefill workers."""
        await self._calls.close()
