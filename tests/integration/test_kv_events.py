"""What engines publish of their prefix caches, as vLLM has it, reaches the picker's books."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys

import msgpack
import pytest
import zmq
import zmq.asyncio
from door_support import until
from hypothesis import given
from hypothesis import strategies as st
from picking import Picking

from brsolver.errors import MissingExtraError, ParameterError
from integration.doors.fleet import Fleet
from integration.doors.kv_blocks import Blocks
from integration.doors.kv_events import KvEvents, KvEventsParams
from integration.doors.kv_messages import KvMessageError, Stored, read_batch, unpacker
from integration.picker import End, Pump, WorkerSpec
from integration.picker.events import Fault
from integration.picker.params import PickerParams
from integration.picker.reading import Reader
from integration.routing.prefixes import block_hashes

BLOCK = 4
END = (-1).to_bytes(8, "big", signed=True)
PROMPT = list(range(10, 10 + 3 * BLOCK))
_FIELDS = ("block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium")


def stored(names, ids, parent=None, *, array=False, size=BLOCK, **more):
    """An event as vLLM packs it: a map, or of older versions an array."""
    values = (names, parent, ids, size, None, "GPU")
    if array:
        return ["BlockStored", *values]
    return {"type": "BlockStored", **dict(zip(_FIELDS, values, strict=True)), **more}


def removed(names, *, array=False):
    if array:
        return ["BlockRemoved", names, "GPU"]
    return {"type": "BlockRemoved", "block_hashes": names, "medium": "GPU"}


def cleared(*, array=False):
    return ["AllBlocksCleared"] if array else {"type": "AllBlocksCleared"}


class Publisher:
    """Numbers what it publishes, and sends again what it still has."""

    def __init__(self, context, *, keeps=100):
        # XPUB is PUB that tells who subscribes.
        self._pub, self._router = context.socket(zmq.XPUB), context.socket(zmq.ROUTER)
        self.port = self._pub.bind_to_random_port("tcp://127.0.0.1")
        self.replay_port = self._router.bind_to_random_port("tcp://127.0.0.1")
        self._keeps, self._sent = keeps, []
        self.number, self.at_s = itertools.count(), itertools.count(1.0)
        self.asked = []

    async def serve(self):
        while True:
            client, _, first = await self._router.recv_multipart()
            self.asked.append(int.from_bytes(first, "big"))
            for number, payload in self._sent[-self._keeps :]:
                if number >= self.asked[-1]:
                    head = (client, b"", b"", number.to_bytes(8, "big"))
                    await self._router.send_multipart((*head, payload))
            await self._router.send_multipart((client, b"", b"", END, b""))

    async def subscribed(self):
        assert (await self._pub.recv()).startswith(b"\x01")

    async def publish(self, *events, lost=False):
        payload = msgpack.packb([next(self.at_s), list(events), 0])
        number = next(self.number)
        self._sent.append((number, payload))
        if not lost:
            await self.raw(number.to_bytes(8, "big"), payload)

    async def raw(self, number, payload):
        await self._pub.send_multipart((b"", number, payload))

    def begin_anew(self):
        self._sent, self.number = [], itertools.count()


class Followed:
    """A core whose first worker's engine publishes; the second one's publishes nothing."""

    def __init__(self, publisher, *, replay=True):
        specs = [WorkerSpec(name=f"w{n}", address=f"127.0.0.1:{n + 1}") for n in (0, 1)]
        self.picking = Picking(specs=specs, block_tokens=BLOCK, cached_blocks=100)
        self.core = self.picking.core
        params = KvEventsParams(
            port=publisher.port,
            replay_port=publisher.replay_port if replay else None,
            block_tokens=BLOCK,
        )
        self.events = KvEvents(self.core, Fleet(Pump(self.core), specs[:1]), params)

    def cached(self, prompt=PROMPT):
        """Tokens of a prompt that each worker is taken to have."""
        return self.core._history.cached_tokens(block_hashes(prompt, BLOCK)).tolist()

    def faults(self):
        return [each.text for each in self.picking.log.of(Fault)]

    async def until_cached(self, tokens, prompt=PROMPT):
        await until(lambda: self.cached(prompt) == [tokens, 0])


def follow(scenario, *, replay=True, before=None, keeps=100):
    """Run a scenario while the engine is followed."""

    async def run():
        context = zmq.asyncio.Context()
        publisher = Publisher(context, keeps=keeps)
        serving = asyncio.ensure_future(publisher.serve())
        if before is not None:
            await before(publisher)
        followed = Followed(publisher, replay=replay)
        following = asyncio.ensure_future(followed.events.run())
        try:
            await publisher.subscribed()
            await scenario(publisher, followed)
        finally:
            for task in (serving, following):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            context.destroy(linger=0)

    asyncio.run(run())


@pytest.mark.parametrize("array", [False, True])
def test_what_an_engine_stores_and_lets_go_is_known(array):
    async def scenario(publisher, followed):
        await publisher.publish(stored([b"a", b"b"], PROMPT[: 2 * BLOCK], array=array))
        await followed.until_cached(2 * BLOCK)
        await publisher.publish(stored([b"c"], PROMPT[2 * BLOCK :], b"b", array=array))
        await followed.until_cached(3 * BLOCK)
        assert followed.core.audit().workers[0].cached_blocks == 3
        await publisher.publish(removed([b"b"], array=array))
        await followed.until_cached(BLOCK)
        await publisher.publish(cleared(array=array))
        await followed.until_cached(0)
        assert followed.core.audit().workers[0].cached_blocks == 0
        assert followed.faults() == []

    follow(scenario)


def test_a_prompt_sent_there_is_cached_only_while_its_engine_says_so():
    async def scenario(publisher, followed):
        p = followed.picking
        await publisher.publish()
        p.request("one", len(PROMPT), blocks=block_hashes(PROMPT, BLOCK))
        p.run()
        worker = p.worker_of("one")
        assert followed.cached()[worker] == len(PROMPT)
        await publisher.publish(stored([1], [7] * BLOCK))
        await followed.until_cached(BLOCK, [7] * BLOCK)
        p.core.ended("one", End.FINISHED)
        # The engine never said that it stored it; of the other worker nothing is told.
        expected = [0, len(PROMPT)] if worker else [0, 0]
        assert followed.cached() == expected

    follow(scenario)


def test_texts_are_known_by_what_was_sent():
    text = "x" * 64

    async def scenario(publisher, followed):
        blocks = block_hashes(text, BLOCK)
        followed.core._history.used(0, blocks)
        await publisher.publish(stored([b"a"], PROMPT[:BLOCK]))
        await followed.until_cached(BLOCK)
        followed.core._history.ended(0, blocks)
        assert followed.cached(text) == [64 // 4, 0]

    follow(scenario)


def test_what_was_missed_is_asked_for_again():
    async def scenario(publisher, followed):
        await publisher.publish(stored([b"a"], PROMPT[:BLOCK]))
        await publisher.publish()
        await until(lambda: followed.events.following[0].batches == 2)
        await publisher.publish(stored([b"b"], PROMPT[BLOCK:][:BLOCK], b"a"), lost=True)
        await publisher.publish(stored([b"c"], PROMPT[2 * BLOCK :], b"b"))
        await followed.until_cached(3 * BLOCK)
        assert publisher.asked == [0, 2]
        assert followed.events.following[0].lost == 0

    follow(scenario)


def test_what_was_published_before_is_asked_for():
    async def before(publisher):
        await publisher.publish(stored([b"a", b"b", b"c"], PROMPT))

    async def scenario(publisher, followed):
        await followed.until_cached(3 * BLOCK)

    follow(scenario, before=before)


@pytest.mark.parametrize("replay", [False, True])
def test_what_is_lost_for_good_leaves_nothing_of_before(replay):
    async def scenario(publisher, followed):
        await publisher.publish(stored([b"a"], PROMPT[:BLOCK]))
        await followed.until_cached(BLOCK)
        await publisher.publish(removed([b"a"]), lost=True)
        # Too much for what the publisher keeps.
        await publisher.publish(stored([b"z"], [9] * BLOCK))
        await followed.until_cached(BLOCK, [9] * BLOCK)
        assert followed.cached() == [0, 0]
        assert followed.events.following[0].lost == 1
        assert ["lost" in text for text in followed.faults()] == [True]

    follow(scenario, replay=replay, keeps=1)


def test_an_engine_that_begins_anew_has_nothing():
    async def scenario(publisher, followed):
        await publisher.publish(stored([b"a", b"b", b"c"], PROMPT))
        await publisher.publish()
        await followed.until_cached(3 * BLOCK)
        publisher.begin_anew()
        await publisher.publish(stored([b"z"], [9] * BLOCK))
        await followed.until_cached(BLOCK, [9] * BLOCK)
        assert followed.cached() == [0, 0]

    follow(scenario)


def test_blocks_of_another_size_are_told_of_and_not_used():
    async def scenario(publisher, followed):
        followed.core._history.used(0, block_hashes(PROMPT, BLOCK))
        await publisher.publish(stored([b"a"], list(range(2 * BLOCK)), size=2 * BLOCK))
        await until(followed.faults)
        assert "8 tokens, block_tokens is 4" in followed.faults()[0]
        assert followed.cached() == [3 * BLOCK, 0]

    follow(scenario)


def test_nonsense_is_told_of_once_and_left_out():
    async def scenario(publisher, followed):
        for payload in (b"\x01", msgpack.packb([1.0, [["BlockStored"]]]), b"\x01"):
            await publisher.raw(bytes(8), payload)
        await publisher.publish(stored([b"a"], PROMPT[:BLOCK]))
        await followed.until_cached(BLOCK)
        assert len(followed.faults()) == 2

    follow(scenario)


@given(
    ids=st.lists(st.integers(0, 5), max_size=40), cuts=st.lists(st.integers(0, 10)), salt=st.text()
)
def test_blocks_of_engines_are_those_of_prompts(ids, cuts, salt):
    blocks, adapters = Blocks(BLOCK, set()), []
    whole = len(ids) // BLOCK
    places = sorted({0, whole, *(cut for cut in cuts if cut < whole)})
    found = []
    for begin, end in itertools.pairwise(places):
        found += blocks.stored(
            Stored(
                names=tuple(range(begin, end)),
                parent=begin - 1 if begin else None,
                tokens=tuple(ids[begin * BLOCK : end * BLOCK]),
                block_tokens=BLOCK,
                adapter=salt,
                plain=(True,) * (end - begin),
                group=None,
            )
        )
    assert tuple(found) == block_hashes(ids, BLOCK, salt=salt)
    assert len(blocks) == whole
    assert not adapters


@pytest.mark.parametrize(
    ("more", "known"),
    [
        ({}, 2),
        ({"extra_keys": [None, None]}, 2),
        ({"extra_keys": [None, ["a salt"]]}, 1),
        ({"extra_keys": [[["image", 3]], None]}, 0),
        ({"medium": "CPU"}, None),
        ({"locality": "REMOTE"}, None),
        ({"kv_cache_spec_kind": "sliding_window"}, None),
        ({"kv_cache_spec_kind": "full_attention", "group_idx": 1}, 2),
        ({"lora_id": 3}, 0),
        ({"lora_id": 3, "lora_name": "x", "extra_keys": [["x"], ["x"]]}, 2),
    ],
)
def test_only_what_tokens_tell_apart_is_taken(more, known):
    event = stored([b"a", b"b"], PROMPT[: 2 * BLOCK], **more)
    batch = read_batch(msgpack.packb([0.5, [event]]), unpacker())
    found = [Blocks(BLOCK, set()).stored(each) for each in batch.events]
    assert [len(each) for each in found] == ([] if known is None else [known])
    for each in found:
        hashes = block_hashes(PROMPT[: 2 * BLOCK], BLOCK, salt=more.get("lora_name", ""))
        assert tuple(each) == hashes[:known]


@given(payload=st.binary(max_size=30))
def test_any_bytes_are_a_batch_or_told_to_be_none(payload):
    try:
        batch = read_batch(payload, unpacker())
    except KvMessageError:
        return
    assert isinstance(batch.at_s, float)


def test_prompts_are_told_apart_by_adapter_where_engines_tell():
    adapters = set()
    params = PickerParams(block_tokens=BLOCK)
    reader = Reader(params, adapters=adapters)
    ids = b'{"model": "%b", "prompt": [1, 2, 3, 4]}'
    plain = reader.read("POST", "/v1/completions", ids % b"base").blocks
    assert plain == reader.read("POST", "/v1/completions", ids % b"alias").blocks
    assert plain == block_hashes([1, 2, 3, 4], BLOCK)
    adapters.add("alias")
    assert plain != reader.read("POST", "/v1/completions", ids % b"alias").blocks
    other = Reader(params)
    assert plain != other.read("POST", "/v1/completions", ids % b"base").blocks


def test_ports_are_those_of_ranks():
    params = KvEventsParams(port=100, replay_port=200)
    rank = WorkerSpec(name="w", address="h:1", rank=3)
    assert params.endpoints(0, rank) == ("tcp://h:103", "tcp://h:203")
    alone = WorkerSpec(name="w", address="h:1")
    assert params.endpoints(2, alone) == ("tcp://h:100", "tcp://h:200")
    placed = KvEventsParams(port=100, add_place=True)
    assert placed.endpoints(2, alone) == ("tcp://h:102", None)
    # Whichever number it has by now, having been left out at first, or moved.
    named = KvEventsParams(port=100, add_place=True, places={"h:1": 0, "g:1": 1})
    for name in ("g:1", "g:1~2"):
        moved = WorkerSpec(name=name, address="10.0.0.7:1")
        assert named.endpoints(5, moved) == ("tcp://10.0.0.7:101", None)
    assert named.endpoints(5, alone) == ("tcp://h:105", None)
    with pytest.raises(ParameterError, match="block_tokens is 0"):
        KvEventsParams(port=1, block_tokens=0)


@pytest.mark.parametrize("package", ["zmq", "msgpack"])
def test_missing_packages_are_named_with_their_extra(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "zmq.asyncio")
    core = Picking().core
    with pytest.raises(MissingExtraError, match=r"brsolver\[kv-events\]"):
        KvEvents(core, Fleet(Pump(core), []), KvEventsParams(port=1))
