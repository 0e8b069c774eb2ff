"""Puts the points of a sweep on a running server, and reads the steps that it logged."""

from __future__ import annotations

import asyncio
import json
import re
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from brsolver.errors import ParameterError
from brsolver.traces.trace import Trace
from integration.bench.client import Load
from integration.bench.kinds import is_scant
from integration.bench.server import ServerError
from integration.bench.steps import STEPS, joined, read_steps
from integration.bench.sweep import ALONE, TOGETHER, Room
from integration.bench.workload import Workload, random_prompts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from integration.bench.steps import Steps
    from integration.bench.sweep import Point, SweepParams

    BoolArray = NDArray[np.bool_]

TRIES = 5
"""At a point, each longer than the last, until all of its sequences have decoded together."""
TIMEOUT_S = 900.0
WAIT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A server that answers, and what it says of itself.

    Attributes
    ----------
    url, model : str
        Where it answers, and the name that it serves.
    title : str
        What the model is called elsewhere: on a hub, or its folder.
    version : str
        vLLM's; empty if it does not say.
    longest, capacity : int or None
        See `Room`.
    """

    url: str
    model: str
    title: str
    version: str
    longest: int | None
    capacity: int | None

    def room(self, slots: int) -> Room:
        """Return what it can take, its ``--max-num-seqs`` being known."""
        return Room(slots=slots, longest=self.longest, capacity=self.capacity)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Measured:
    """A point, and the steps of it.

    Attributes
    ----------
    point : Point
    steps : Steps
    """

    point: Point
    steps: Steps


def ask(url: str) -> Served:
    """Return what the server at `url` says of itself.

    Raises
    ------
    ParameterError
        Nobody answers there, or not as vLLM does.
    """
    url = url.rstrip("/")
    try:
        card = json.loads(_get(f"{url}/v1/models"))["data"][0]
        name = str(card["id"])
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise ParameterError(
            f"--url is {url!r}, must be a server that answers: {reason}"
        ) from error
    except (LookupError, TypeError) as error:
        raise ParameterError(f"--url is {url!r}, must be vLLM's OpenAI server") from error
    return Served(
        url=url,
        model=name,
        title=_title(str(card.get("root") or name)),
        version=_version(url),
        longest=card.get("max_model_len"),
        capacity=_capacity(_get(f"{url}/metrics")),
    )


def measure(
    served: Served,
    points: Sequence[Point],
    params: SweepParams,
    folder: Path,
    *,
    report: Callable[[str], None],
) -> list[Measured]:
    """Put every point on the server, in random order, and return the steps that it logged.

    Parameters
    ----------
    served : Served
    points : sequence of Point
    params : SweepParams
    folder : Path
        Where its engines log their steps.
    report : callable
        Takes lines about progress.

    Raises
    ------
    BrsolverError
        The server breaks requests off, or logs no steps.
    """
    sweep = _Sweep(served, params, folder, report)
    sweep.warm_up(points)
    for again in range(1, params.rounds + 1):
        sweep.visit(points, f"round {again}")
    if not any(len(each.steps) for each in sweep.measured()):
        raise ParameterError(
            f"{folder} holds steps, none of them of this sweep; must be the folder of "
            "this server's steps, and on the server's own machine, whose clock they go by"
        )
    for again in range(1, params.rounds + 1):
        # Where a server is slow to answer, few chunks are sent before a point's sequences end.
        if scant := [point for point in points if sweep.is_scant(point)]:
            sweep.visit(scant, f"again {again}")
    return sweep.measured()


class _Sweep:
    """Visits points, and keeps when."""

    def __init__(
        self, served: Served, params: SweepParams, folder: Path, report: Callable[[str], None]
    ) -> None:
        self._served, self._params, self._folder, self._report = served, params, folder, report
        self._rng = np.random.default_rng(params.seed)
        self._spans: list[tuple[Point, float, float]] = []

    def warm_up(self, points: Sequence[Point]) -> None:
        """Have everything done once."""
        largest = max(points, key=lambda point: sum(point.sequences))
        asyncio.run(_run(self._served, warming(largest), self._params.steps, self._rng))

    def visit(self, points: Sequence[Point], title: str) -> None:
        """Put each point on the server, in random order."""
        for done, at in enumerate(self._rng.permutation(len(points)).tolist(), start=1):
            together = self._decode(points[at])
            missed = f"; its sequences never decoded together in {TRIES} tries"
            told = label(points[at]) + ("" if together else missed)
            self._report(f"{title}, {done}/{len(points)}: {told}")

    def is_scant(self, point: Point) -> bool:
        """Tell whether too few steps of some kind have been seen at a point."""
        seen = [each.steps for each in self.measured() if each.point == point]
        return is_scant(point, joined(seen))

    def measured(self) -> list[Measured]:
        """Return the steps of every visit."""
        steps = _logged(self._folder, len(self._spans[0][0].sequences))
        return [Measured(point=p, steps=steps.between(*span)) for p, *span in self._spans]

    def _decode(self, point: Point) -> bool:
        """Let a point decode, longer each time until all of its sequences do so together."""
        for attempt in range(TRIES):
            began = time.monotonic()
            asked = longer(point, self._params.steps, attempt, self._served)
            asyncio.run(_run(self._served, point, asked, self._rng))
            self._spans.append((point, began, time.monotonic()))
            if _decoded_together(self._folder, *self._spans[-1]):
                return True
        return False


def _decoded_together(folder: Path, point: Point, began_s: float, end_s: float) -> bool:
    """Tell whether all of a point's sequences decoded in some step.

    On a fast rank a sequence can end before its server has handed over the next one.
    """
    steps = _logged(folder, len(point.sequences)).between(began_s, end_s)
    return bool((steps.decoding == np.array(point.sequences)).all(axis=1).any())


def longer(point: Point, steps: int, attempt: int, served: Served) -> int:
    """Return the decode steps to ask for: twice as many with every attempt that was too short.

    Sequences decode together once they last for longer than a server takes to hand them to their
    rank, however fast that is. No more than the server takes.
    """
    asked = steps << attempt
    while asked > steps and not _takes(point, asked, served):
        asked = max(steps, asked * 3 // 4)
    return asked


def _takes(point: Point, steps: int, served: Served) -> bool:
    longest, capacity = served.longest, served.capacity
    return (longest is None or point.longest(steps) <= longest) and (
        capacity is None or point.kv_tokens(steps) < capacity
    )


def label(point: Point) -> str:
    """Describe a point in a few words."""
    sequences = "+".join(map(str, point.sequences))
    held_out = ", held out" if point.held_out else ""
    return f"{sequences} sequences of {point.context} tokens, chunks of {point.chunk}{held_out}"


def warming(point: Point) -> Point:
    """Return a short version of a point, so that nothing is done for the first time later.

    With as many sequences: the server takes longest over its first ones.
    """
    return replace(point, context=16, chunk=16)


async def _run(served: Served, point: Point, steps: int, rng: np.random.Generator) -> None:
    """Let all ranks decode, and send chunks between."""
    ranks = [rank for rank, count in enumerate(point.sequences) for _ in range(count)]
    output = point.output_tokens(steps)
    waiting, all_decode = set(range(len(ranks))), asyncio.Event()

    def began(index: int) -> None:
        waiting.discard(index)
        if not waiting:
            all_decode.set()

    async def chunks() -> None:
        await all_decode.wait()
        count = len(point.sequences)
        for at in range(ALONE + TOGETHER):
            where = [0] if at % 2 == 0 else list(range(count))
            load = _load(served, rng, point.chunk, 1, where, count)
            await load.all(len(where))

    load = _load(served, rng, point.context, output, ranks, len(point.sequences), began)
    between = asyncio.create_task(chunks())
    try:
        await load.all(len(ranks))
    finally:
        between.cancel()
    (failure,) = await asyncio.gather(between, return_exceptions=True)
    if isinstance(failure, ServerError):
        raise failure


def _load(
    served: Served,
    rng: np.random.Generator,
    prompt: int,
    output: int,
    where: list[int],
    ranks: int,
    began: Callable[[int], None] | None = None,
) -> Load:
    lengths, outputs = (np.full(len(where), tokens) for tokens in (prompt, output))
    workload = Workload(
        prompts=random_prompts(rng, lengths),
        output_tokens=outputs,
        trace=Trace(prompt_tokens=lengths, output_tokens=outputs, name="sweep"),
    )
    # A server of one rank does not know the header.
    pinned = where if ranks > 1 else None
    return Load(served.url, served.model, workload, ranks=pinned, timeout_s=TIMEOUT_S, began=began)


def _logged(folder: Path, ranks: int) -> Steps:
    if not any(folder.glob("rank-*.csv")):
        raise ParameterError(
            f"{folder} holds no step logs, must be the folder that the server was started with "
            f"as {STEPS}, brsolver being installed beside vLLM"
        )
    # A folder that was used before holds other servers' steps too.
    steps = read_steps(folder).latest()
    found = steps.running.shape[1]
    if found != ranks:
        raise ParameterError(f"--ranks is {ranks}, must be {found}: so many log their steps")
    return steps


def _get(url: str) -> str:
    # The address is the user's own server.
    with urllib.request.urlopen(url, timeout=WAIT_S) as answer:  # noqa: S310 # as above
        return str(answer.read().decode())


def _title(root: str) -> str:
    return Path(root).name if root.startswith(("/", ".", "~")) else root


def _version(url: str) -> str:
    try:
        found: Any = json.loads(_get(f"{url}/version"))
        return str(found["version"])
    except (OSError, ValueError, LookupError, TypeError):
        return ""


def _capacity(metrics: str) -> int | None:
    """Return the KV tokens of a rank, from vLLM's metrics."""
    info = next((x for x in metrics.splitlines() if x.startswith("vllm:cache_config_info{")), "")
    labels = dict(re.findall(r'(\w+)="([^"]*)"', info))
    tokens = labels.get("kv_cache_size_tokens", "")
    if tokens.isdecimal():
        return int(tokens)
    blocks, size = labels.get("num_gpu_blocks", ""), labels.get("block_size", "")
    return int(blocks) * int(size) if blocks.isdecimal() and size.isdecimal() else None
