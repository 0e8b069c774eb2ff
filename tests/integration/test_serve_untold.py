"""Streams whose clients do not ask for usage, which is what the API does by itself."""

from __future__ import annotations

import asyncio
import contextlib
import json
import urllib.request

import pytest
from serve_stack import DEADLINE_S, Stack, ask

from brsolver.traces import load_trace
from integration.load.answers import Answer
from integration.load.bodies import exact_body
from integration.load.http import exchange, open_session

TOLD, UNTOLD = [20, 30, 40, 50], [35, 70, 12, 120, 55, 90]
RIGHT = {"abs": 2, "rel": 0.04}
"""How far a count by bytes may be off: texts of tokens are numbers of one digit to three."""


class Page:
    """What an open page is told.

    Attributes
    ----------
    told : dict
        All of it, but for what is over.
    """

    def __init__(self, stack):
        self._stream = urllib.request.urlopen(f"{stack.page}/events", timeout=DEADLINE_S)  # noqa: S310 # of this machine
        self.told, self._counts = {}, {}

    def close(self):
        self._stream.close()

    def hear(self):
        """Wait until it is told something."""
        line = next(line for line in self._stream if line.startswith(b"data: "))
        self.told |= json.loads(line.removeprefix(b"data: "))
        history = self.told["history"]
        for at, counts in enumerate(zip(*history["counts"], strict=True)):
            self._counts[history["first"] + at] = counts

    def shown(self, what):
        """Sum of a count over all that is over."""
        row = self.told["counts"].index(what)
        return sum(counts[row] for counts in self._counts.values())

    def replayed(self):
        """Requests that each shadow has had."""
        return {each["requests"] for each in self.told["shadows"]}

    async def until(self, holds):
        """Wait until it shows what it should."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                while True:
                    await asyncio.to_thread(self.hear)
                    if holds():
                        return
        except TimeoutError:
            raise AssertionError(f"not so: {self.told}") from None


async def untold(stack, outputs, **more):
    """Have streams that do not tell usage; return how many tokens came of each."""
    async with open_session(timeout_s=DEADLINE_S, extra="proxy") as session:

        async def one(tokens):
            answer = Answer()
            options = {"include_usage": False}
            body = exact_body("fake", [1, 2, 3], tokens, stream_options=options, **more)
            await exchange(session, f"{stack.url}/v1/completions", body, answer)
            assert not answer.usage
            return answer.chunks

        return await asyncio.gather(*map(one, outputs))


def test_streams_that_do_not_tell_are_recorded_and_replayed_and_shown(tmp_path):
    tables = {"admin": {"shadows": ["vllm"]}, "trace": {"record": "served.jsonl"}}

    async def scenario(stack, page):
        await ask(stack, TOLD)
        await stack.until_idle()
        # Of one kind: what a token has is known now.
        await page.until(lambda: page.shown("ended") == len(TOLD))
        assert await untold(stack, UNTOLD) == UNTOLD
        await stack.until_idle()
        await page.until(
            lambda: (
                page.shown("ended") == len(TOLD) + len(UNTOLD)
                and page.replayed() == {len(TOLD) + len(UNTOLD)}
            )
        )
        seen = page.shown("tokens") - sum(TOLD)
        assert seen == pytest.approx(sum(UNTOLD), **RIGHT)

    with Stack(tmp_path, slots=4, **tables) as stack, contextlib.closing(Page(stack)) as page:
        page.hear()
        asyncio.run(scenario(stack, page))
    recorded = sorted(load_trace(tmp_path / "served.jsonl").output_tokens.tolist())
    assert recorded == pytest.approx(sorted(TOLD + UNTOLD), **RIGHT)


def test_each_sequence_of_a_stream_is_recorded_with_its_share(tmp_path):
    async def scenario(stack):
        await ask(stack, TOLD)
        await stack.until_idle()
        assert await untold(stack, [35, 90], n=3) == [3 * 35, 3 * 90]
        await stack.until_idle()

    with Stack(tmp_path, slots=4, trace={"record": "served.jsonl"}) as stack:
        asyncio.run(scenario(stack))
    trace = load_trace(tmp_path / "served.jsonl")
    assert len(trace) == len(TOLD) + 2 * 3
    recorded = sorted(trace.output_tokens.tolist())
    assert recorded == pytest.approx(sorted(TOLD + 3 * [35, 90]), **RIGHT)
    assert set(trace.prompt_tokens.tolist()[-6:]) == {3}


def test_streams_are_recorded_before_any_has_told_what_a_token_has(tmp_path):
    async def scenario(stack):
        assert await untold(stack, [400] * 4) == [400] * 4
        await stack.until_idle()

    with Stack(tmp_path, slots=4, trace={"record": "served.jsonl"}) as stack:
        asyncio.run(scenario(stack))
    # How many there were is the model's word alone.
    recorded = load_trace(tmp_path / "served.jsonl").output_tokens
    assert len(recorded) == 4
    assert recorded.min() > 40
    assert recorded.max() <= 400
