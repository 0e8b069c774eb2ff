"""What is measured while serving: with a real Envoy, and engines that tell more or less."""

from __future__ import annotations

import asyncio
import contextlib
import json
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families
from serve_stack import DEADLINE_S, Stack, ask

from integration.serve.processes import fetch

HIDDEN = {"metrics_path": "/nothing"}
LONG = 5000
"""Tokens of a stream that goes on for as long as anybody looks."""


def samples(url):
    """All that a ``/metrics`` says: by name, a list of labels and value."""
    found = {}
    for family in text_string_to_metric_families(fetch(f"{url}/metrics")):
        for each in family.samples:
            found.setdefault(each.name, []).append((each.labels, each.value))
    return found


def by_worker(found, name, source):
    """Values of a metric by worker, of one source."""
    there = found.get(name, ())
    return {has["worker"]: value for has, value in there if has["source"] == source}


def engines_own(stack, name):
    """Sums of what the engines themselves publish, by worker: their rank's own port is asked."""
    found = {}
    for relay, address in zip(stack.addresses, stack.engines.addresses, strict=True):
        there = samples(f"http://{address}")[f"vllm:{name}"]
        found[relay] = sum(value for _, value in there)
    return found


def total(found, name):
    return sum(value for _, value in found.get(name, ()))


def engines_idle(stack):
    """Tell whether no engine runs anything: what has left Envoy may be there for a moment."""
    own = [samples(f"http://{address}") for address in stack.engines.addresses]
    return not any(
        total(each, f"vllm:num_requests_{what}") for each in own for what in ("running", "waiting")
    )


async def until(holds, what):
    """Look until it is so; return what was seen."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not (found := await asyncio.to_thread(holds)):
                pass
            return found
    except TimeoutError:
        raise AssertionError(f"not so: {what}") from None


def slow_down(stack, factor):
    """Let steps last so many times as long: any rank's port speaks for all."""
    body = json.dumps({"kind": "slow", "factor": factor}).encode()
    headers = {"content-type": "application/json"}
    asked = urllib.request.Request(f"http://{stack.engines.addresses[0]}/fault", body, headers)
    with urllib.request.urlopen(asked, timeout=DEADLINE_S) as answer:  # noqa: S310 # of this machine
        assert answer.status == 200


@pytest.fixture(scope="module")
def silent(tmp_path_factory):
    """A front door before engines of which it does not get to see any figures."""
    picker = {"sample_streams": 4, "sample_s": 0.25}
    more = {"workers": HIDDEN, "picker": picker}
    with Stack(tmp_path_factory.mktemp("silent"), slots=4, speed=1.0, **more) as running:
        yield running


class Steps:
    """How long steps lasted since the last look, by the engines' own word and by the picker's."""

    def __init__(self, stack):
        self._stack = stack
        self._last = self._sums()

    def _sums(self):
        own = [samples(f"http://{address}") for address in self._stack.engines.addresses]
        name = "vllm:inter_token_latency_seconds"
        page = samples(self._stack.page)
        return (
            sum(total(each, f"{name}_sum") for each in own),
            sum(total(each, f"{name}_count") for each in own),
            total(page, "brsolver_step_seconds_total"),
            total(page, "brsolver_steps_total"),
        )

    def agree(self, within):
        """Tell both, once steps enough have been done since, if they agree."""
        now = self._sums()
        real_s, tokens, model_s, steps = (b - a for a, b in zip(self._last, now, strict=True))
        if min(tokens, steps) < 10:
            return None
        self._last = now
        found = real_s / tokens, model_s / steps
        return found if abs(found[1] / found[0] - 1) < within else None


def test_pace_of_streams_that_go_on_is_seen_where_engines_tell_nothing(silent):
    async def scenario():
        await silent.until_idle()
        # So many bytes a token: from streams that end, and say how many they had.
        await ask(silent, [20, 30, 40, 50])
        before = await silent.until_idle()
        slow_down(silent, 4.0)
        streams = asyncio.create_task(ask(silent, [LONG] * 6))
        try:
            await silent.until(lambda audit: audit["started"] == 6, what="all under way")
            steps = Steps(silent)
            real_s, model_s = await until(lambda: steps.agree(0.15), "the model's steps as long")
            # Nothing has ended, by which that could have been learned; nor do looks end anything.
            now = await asyncio.to_thread(silent.audit)
            assert now["balanced"]
            assert (now["started"], now["ended"]) == (6, before["ended"])
            assert now["scale"] > before["scale"], (real_s, model_s)
        finally:
            streams.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await streams
            slow_down(silent, 1.0)
        after = await silent.until_idle()
        assert sum(after["ended"].values()) == sum(before["ended"].values()) + 6

    asyncio.run(scenario())


def test_times_are_envoys_where_engines_publish_none(silent):
    outputs = [40, 60, 80, 100, 40, 60]

    async def scenario():
        await silent.until_idle()
        await until(lambda: engines_idle(silent), "nothing runs at engines")
        first = engines_own(silent, "time_to_first_token_seconds_sum")
        gaps = engines_own(silent, "inter_token_latency_seconds_sum")
        then = samples(silent.page)
        replies = await ask(silent, outputs)
        await silent.until_idle()
        now = samples(silent.page)

        def more(name, source="envoy"):
            old = by_worker(then, name, source)
            return {w: v - old.get(w, 0.0) for w, v in by_worker(now, name, source).items()}

        def grown(name, before):
            return {w: v - before[w] for w, v in engines_own(silent, name).items()}

        assert not by_worker(now, "brsolver_ttft_seconds_count", "engine")
        assert sum(more("brsolver_ttft_seconds_count").values()) == len(outputs)
        assert sum(more("brsolver_tpot_seconds_count").values()) == sum(outputs) - len(outputs)
        # Headers come long before: what is seen begins with the engine's own first token, and has
        # come before the client sees it.
        own, seen = (
            grown("time_to_first_token_seconds_sum", first),
            more("brsolver_ttft_seconds_sum"),
        )
        assert all(own[worker] <= seen[worker] for worker in seen)
        waited = total(now, "brsolver_stream_ttft_seconds_sum")
        waited -= total(then, "brsolver_stream_ttft_seconds_sum")
        assert sum(seen.values()) <= waited <= sum(reply.ttft_s for reply in replies)
        between, told = (
            more("brsolver_tpot_seconds_sum"),
            grown("inter_token_latency_seconds_sum", gaps),
        )
        # To the last token it is the same: within what is seen, however slow the machine is. Envoy
        # has read the end of a stream, which is after its last token, when its client may have it.
        assert all(own[worker] + told[worker] <= seen[worker] + between[worker] for worker in seen)
        to_last = waited + sum(between.values())
        assert to_last <= 1.25 * sum(reply.e2e_s for reply in replies)

    asyncio.run(scenario())


def test_times_are_the_engines_own_where_they_publish_them(tmp_path):
    with Stack(tmp_path) as stack:

        async def scenario():
            await ask(stack, [5, 10, 20, 40])
            await stack.until_idle()

            def passed_on():
                now = samples(stack.page)
                pairs = [
                    (
                        engines_own(stack, f"{engines}_seconds_{part}"),
                        by_worker(now, f"brsolver_{ours}_seconds_{part}", "engine"),
                    )
                    for engines, ours in (
                        ("time_to_first_token", "ttft"),
                        ("inter_token_latency", "tpot"),
                    )
                    for part in ("sum", "count")
                ]
                return pairs if all(own == ours for own, ours in pairs) else None

            pairs = await until(passed_on, "engines' figures on the picker's page")
            assert sum(pairs[1][0].values()) == 4
            assert sum(pairs[3][0].values()) == 5 + 10 + 20 + 40 - 4
            assert not by_worker(samples(stack.page), "brsolver_ttft_seconds_count", "envoy")

        asyncio.run(scenario())
