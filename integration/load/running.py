"""A load from beginning to end: the endpoint is asked, warmed up, loaded, and measured."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from integration.load.asking import Asker
from integration.load.bodies import Bodies
from integration.load.driving import Drive, Watch
from integration.load.figures import Figures, figures_of
from integration.load.http import open_session
from integration.load.notes import notes_on, notes_on_warm_up
from integration.load.params import MAX_STREAMS, LoadError
from integration.load.prompts import Prompts
from integration.load.schedule import schedule_of
from integration.load.target import Served, served, tls_of, warm_up
from integration.load.vocabulary import Numbers, Words, words_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from brsolver.traces.trace import Trace
    from integration.load.params import ContentParams, LoadParams
    from integration.load.replies import Reply
    from integration.load.vocabulary import Vocabulary

    Progress = Callable[[Drive], None]

RESERVE = 64
"""File descriptors besides connections."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Loaded:
    """What a load gave.

    Attributes
    ----------
    trace : Trace
        What was sent, without what was left out.
    replies : tuple of Reply
        In the trace's order; requests that were not sent are not among them.
    figures : Figures
    served : Served
    began_s : float
        Monotonic time at which the schedule began.
    interrupted : bool
        Whether it was ended before its end.
    notes : tuple of str
        What a reader of the figures must know.
    """

    trace: Trace
    replies: tuple[Reply, ...]
    figures: Figures
    served: Served
    began_s: float
    interrupted: bool
    notes: tuple[str, ...]


def run_load(
    trace: Trace,
    params: LoadParams,
    *,
    tell: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> Loaded:
    """Load an endpoint with a trace; SIGINT ends it with what is there.

    Parameters
    ----------
    trace : Trace
    params : LoadParams
    tell : callable, optional
        Called with each line that the user should know at once.
    progress : callable, optional
        Called with the `Drive` about twice a second.

    Raises
    ------
    LoadError
        The endpoint cannot be reached, or does not do what a load needs.
    BrsolverError
        The trace cannot be sent so.
    """
    # The trace and what is made of it stay: the collector need not look at them again and again.
    gc.collect()
    gc.freeze()
    try:
        return asyncio.run(load(trace, params, tell=tell, progress=progress))
    finally:
        gc.unfreeze()


async def load(
    trace: Trace,
    params: LoadParams,
    *,
    tell: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> Loaded:
    """As `run_load`, within an event loop."""
    target = params.target
    schedule_of(trace, params.pace)
    vocabulary = vocabulary_of(params.content, chat=target.chat)
    key = {"Authorization": f"Bearer {target.key}"} if target.key else {}
    session = open_session(
        timeout_s=target.timeout_s, headers={**key, **target.headers}, tls=tls_of(target)
    )
    async with session as client:
        found = await served(client, target)
        trace, notes = fitting(trace, found, leave_out=params.fit)
        for note in notes:
            _tell(tell, note)
        prompts = Prompts(trace, vocabulary, block=params.content.block, seed=params.content.seed)
        bodies = Bodies(
            trace,
            prompts,
            model=found.model,
            chat=target.chat,
            exact=params.content.ignore_eos,
            more=params.content.more,
        )
        asker = Asker(client, target)
        warmed = await warm_up(asker, bodies, target.endpoint, params.warm_up, found.longest)
        for note in notes_on_warm_up(warmed, params.content):
            _tell(tell, note)
        schedule = schedule_of(trace, params.pace, params.content.seed)
        drive = Drive(schedule, bodies, asker)
        watch, interrupted = await _driven(drive, progress)
    return _loaded(trace, drive, watch, params, found, notes, interrupted=interrupted)


def _tell(tell: Callable[[str], None] | None, line: str) -> None:
    if tell is not None:
        tell(line)


def vocabulary_of(content: ContentParams, *, chat: bool) -> Vocabulary:
    """Return what prompts are made of."""
    if content.prompts == "ids":
        return Numbers()
    return Words() if content.tokenizer is None else words_of(content.tokenizer, chat=chat)


def fitting(trace: Trace, found: Served, *, leave_out: bool) -> tuple[Trace, list[str]]:
    """Say what of a trace is longer than a model's context, or leave it out.

    Raises
    ------
    LoadError
        All of it is.
    """
    if found.longest is None:
        return trace, []
    fits = trace.prompt_tokens + trace.output_tokens <= found.longest
    over = int(fits.size - fits.sum())
    if not over:
        return trace, []
    context = f"the context of {found.model}, {found.longest} tokens"
    if over == fits.size:
        raise LoadError(f"{trace.name}: all {over} requests are longer than {context}")
    said = f"{over} of {fits.size} requests are longer than {context}"
    if leave_out:
        return trace.take(np.flatnonzero(fits)), [f"{said}: left out"]
    return trace, [f"{said}, and will fail; --drop-oversized leaves them out"]


async def _driven(drive: Drive, progress: Progress | None) -> tuple[Watch, bool]:
    """Drive to the end or to an interruption; return what was seen, and whether it was one."""
    _allow_files()
    watch = Watch(lambda: progress(drive) if progress is not None else None)
    task, watching = asyncio.ensure_future(drive.run()), asyncio.ensure_future(watch.run())
    interrupted = False

    def stop() -> None:
        nonlocal interrupted
        interrupted = True
        task.cancel()

    with _on_interrupt(stop):
        try:
            await task
        except asyncio.CancelledError:
            if not interrupted:
                raise
        finally:
            watching.cancel()
            await asyncio.gather(watching, task, return_exceptions=True)
    return watch, interrupted


@contextlib.contextmanager
def _on_interrupt(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` on SIGINT, where this thread may say so."""
    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(signal.SIGINT, stop)
    except (ValueError, RuntimeError, NotImplementedError):
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)


def _allow_files() -> None:
    """Let this process have as many connections as the system allows it."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_STREAMS + RESERVE if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _loaded(
    trace: Trace,
    drive: Drive,
    watch: Watch,
    params: LoadParams,
    found: Served,
    notes: Sequence[str],
    *,
    interrupted: bool,
) -> Loaded:
    replies = tuple(sorted(drive.replies, key=lambda reply: reply.row))
    figures = figures_of(replies, requests=len(trace), objectives=params.objectives, watch=watch)
    return Loaded(
        trace=trace,
        replies=replies,
        figures=figures,
        served=found,
        began_s=drive.began_s,
        interrupted=interrupted,
        notes=(*notes, *notes_on(figures, params)),
    )
