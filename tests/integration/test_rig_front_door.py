"""`brsolver serve` before a real vLLM: ranks of one server, a server for each, and two tiers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from rig.servers import MODEL, rig_server
from serve_stack import toml
from serving import complete, complete_all, prompts, session

from integration.envoy.program import EnvoyMissingError, find_envoy
from integration.free_ports import free_port
from integration.serve.demo import FrontDoor
from integration.serve.processes import fetch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from integration.bench.server import Server

    Audit = dict[str, Any]

pytestmark = pytest.mark.vllm

PATIENCE_S = 120
SLOTS, BLOCK = 16, 32
ASKED = prompts(24, seed=7)
_SUCCESSES = re.compile(
    r'^vllm:request_success_total\{.*?engine="(\d+)".*?\} ([\d.e+]+)', re.MULTILINE
)
_ENDS = re.compile(
    r'^brsolver_ended_requests_total\{end="finished",worker="([^"]+)"\} ([\d.e+]+)', re.MULTILINE
)
_SOURCES = re.compile(
    r'^vllm:prompt_tokens_by_source_total\{.*?source="(\w+)".*?\} ([\d.e+]+)', re.MULTILINE
)

_MIRRORED = [
    (
        [f"vllm:time_to_first_token_seconds_{part}" for part in ("sum", "count")],
        [f"brsolver_ttft_seconds_{part}" for part in ("sum", "count")],
    ),
    (
        [f"vllm:inter_token_latency_seconds_{part}" for part in ("sum", "count")],
        [f"brsolver_tpot_seconds_{part}" for part in ("sum", "count")],
    ),
]
"""What ranks publish of their own, and what is to be said of it."""


@pytest.fixture(scope="module", autouse=True)
def envoy() -> None:
    try:
        find_envoy()
    except EnvoyMissingError as missing:
        pytest.skip(str(missing))


@contextlib.contextmanager
def front_door(folder: Path, workers: dict[str, Any], **tables: Any) -> Iterator[FrontDoor]:
    config = folder / "serve.toml"
    config.write_text(
        toml(
            listen={"port": 0},
            admin={"port": 0, "shadows": []},
            workers={"health_interval_s": 0.2, **workers},
            router={"slots": SLOTS, "block_tokens": BLOCK},
            # Engines of this machine leave others no processor for seconds.
            picker={"watchdog_s": PATIENCE_S, **tables.pop("picker", {})},
            envoy={"watchdog_s": PATIENCE_S},
            **tables,
        )
    )
    with FrontDoor(config) as running:
        yield running


def address(server: Server) -> str:
    return server.url.removeprefix("http://")


def two_ports() -> int:
    """A free port before another: each rank adds its number to the first."""
    while True:
        port = free_port()
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port + 1))
            return port


def events_on(port: int, replay: int) -> tuple[str, str]:
    """The option by which a server publishes what its caches hold."""
    events = {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": f"tcp://*:{port}",
        "replay_endpoint": f"tcp://*:{replay}",
    }
    return "--kv-events-config", json.dumps(events)


@pytest.fixture(scope="module")
def ranked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, FrontDoor]]:
    """A server of two ranks, whose router is ours by the header that pins requests."""
    port, replay = two_ports(), two_ports()
    more = ("--block-size", str(BLOCK), *events_on(port, replay))
    with rig_server(weights=True, slots=SLOTS, arguments=more) as server:
        folder = tmp_path_factory.mktemp("ranked")
        workers = {"addresses": [address(server)], "ranks": 2}
        events = {"port": port, "replay_port": replay}
        with front_door(folder, workers, kv_events=events) as door:
            yield server, door


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[Server], FrontDoor]]:
    """A server for each of two ranks, which share an expert-parallel barrier."""
    rpc = str(free_port())
    servers = [rig_server(ranks=1, weights=True, slots=SLOTS, arguments=of(r, rpc)) for r in (0, 1)]
    with contextlib.ExitStack() as stack:
        with ThreadPoolExecutor() as pool:
            # Neither answers before the other is there.
            list(pool.map(stack.enter_context, servers))
        folder = tmp_path_factory.mktemp("apart")
        addresses = [address(server) for server in servers]
        yield servers, stack.enter_context(front_door(folder, {"addresses": addresses}))


@pytest.fixture(scope="module")
def tiers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[Server], FrontDoor]]:
    """A server that computes prompts, and one that decodes; NIXL carries KV blocks over TCP."""
    pytest.importorskip("nixl", reason="NIXL could not be had when the rig was made")
    connector = {
        "kv_connector": "NixlConnector",
        "kv_role": "kv_both",
        "kv_buffer_device": "cpu",
    }
    servers = [
        rig_server(
            ranks=1,
            weights=True,
            slots=SLOTS,
            arguments=("--kv-transfer-config", json.dumps(connector), "--block-size", str(BLOCK)),
            environment={
                "VLLM_NIXL_SIDE_CHANNEL_HOST": "127.0.0.1",
                "VLLM_NIXL_SIDE_CHANNEL_PORT": str(free_port()),
                "UCX_TLS": "tcp,self,sm",
            },
        )
        for _ in range(2)
    ]
    with contextlib.ExitStack() as stack:
        with ThreadPoolExecutor() as pool:
            list(pool.map(stack.enter_context, servers))
        folder = tmp_path_factory.mktemp("tiers")
        prefill, decode = map(address, servers)
        tables = {
            "tiers": {"prefill": [prefill], "decode": [decode]},
            "picker": {"door": "ext_proc"},
        }
        yield servers, stack.enter_context(front_door(folder, {}, **tables))


def of(rank: int, rpc_port: str) -> tuple[str, ...]:
    return (
        *("--data-parallel-size", "2", "--data-parallel-rank", str(rank)),
        *("--data-parallel-address", "127.0.0.1", "--data-parallel-rpc-port", rpc_port),
        *("--data-parallel-external-lb", "--enable-expert-parallel"),
    )


def audit(door: FrontDoor) -> Audit:
    found: Audit = json.loads(fetch(f"{door.page}/admin/audit"))
    return found


async def until(door: FrontDoor, holds: Callable[[Audit], bool]) -> Audit:
    """Wait until the audit is as it should be."""
    async with asyncio.timeout(PATIENCE_S):
        while not holds(found := await asyncio.to_thread(audit, door)):
            pass
    return found


def idle(found: Audit) -> bool:
    return bool(found["balanced"]) and found["reserved"] == found["held"] == 0


def by_worker(door: FrontDoor) -> list[int]:
    """Requests that have finished, by worker."""
    named = {name: int(float(n)) for name, n in _ENDS.findall(fetch(f"{door.page}/metrics"))}
    return [named.get(worker["name"], 0) for worker in audit(door)["workers"]]


def by_rank(server: Server) -> list[int]:
    """Requests that ranks of a server say they have finished."""
    counts: Counter[int] = Counter()
    for rank, count in _SUCCESSES.findall(server.get("/metrics")):
        counts[int(rank)] += int(float(count))
    return [counts[rank] for rank in sorted(counts)]


def less(after: list[int], before: list[int]) -> list[int]:
    return [a - b for a, b in zip(after, before, strict=True)]


def test_ranks_of_a_server_answer_as_when_asked_directly(ranked) -> None:
    server, door = ranked
    direct = complete_all(server, ASKED)
    asyncio.run(until(door, lambda found: all(w["foreign"] == 0 for w in found["workers"])))
    engines, books = by_rank(server), by_worker(door)
    assert complete_all(door, ASKED) == direct
    after = asyncio.run(until(door, idle))
    # Where the books have them is where the engine ran them.
    placed = less(by_worker(door), books)
    assert less(by_rank(server), engines) == placed
    assert sum(placed) == len(ASKED)
    assert min(placed) > 0
    assert after["ended"] == {"finished": len(ASKED)}
    assert "pin-ignored" not in fetch(f"{door.page}/metrics")


def test_usage_of_a_stream_reaches_client_and_books(ranked) -> None:
    server, door = ranked
    before = figure(door, "output_tokens")

    async def scenario() -> list[dict[str, Any]]:
        async with session(door) as client:
            body = {"model": MODEL, "prompt": ASKED[0], "max_tokens": 9, "temperature": 0}
            more = {"ignore_eos": True, "stream_options": {"include_usage": True}}
            answer = await client.post("/v1/completions", json=body | more | {"stream": True})
            lines = answer.text.split("\n\n")
            return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]

    parts = asyncio.run(scenario())
    assert parts[-1]["usage"]["completion_tokens"] == 9
    assert parts[-1]["usage"]["prompt_tokens"] == len(ASKED[0])
    text = "".join(part["choices"][0]["text"] for part in parts if part["choices"])
    assert [[text]] == complete_all(server, [ASKED[0]], max_tokens=9, ignore_eos=True)
    asyncio.run(until(door, idle))
    assert figure(door, "output_tokens") - before == 9


def test_times_that_ranks_measure_are_shown_as_theirs(ranked) -> None:
    server, door = ranked
    complete_all(door, ASKED)
    asyncio.run(until(door, idle))

    def agree(_: Audit) -> bool:
        theirs, ours = server.get("/metrics"), fetch(f"{door.page}/metrics")
        return all(
            [figures(theirs, name, "engine") for name in engines]
            == [figures(ours, name, "worker") for name in mirrored]
            for engines, mirrored in _MIRRORED
        )

    # Ranks tell of theirs a little after the last token, and are asked now and then.
    asyncio.run(until(door, agree))
    assert all(figures(server.get("/metrics"), _MIRRORED[0][0][0], "engine"))


def test_who_leaves_gives_back_what_was_reserved(ranked) -> None:
    _, door = ranked

    async def scenario() -> Audit:
        async with session(door) as client:
            left = complete(client, ASKED[1], max_tokens=2000, ignore_eos=True)
            asked = asyncio.ensure_future(left)
            await until(door, lambda found: found["started"] == 1)
            asked.cancel()
            return await until(door, idle)

    assert asyncio.run(scenario())["ended"]["disconnected"] == 1


def test_what_a_rank_has_cached_is_known_from_its_own_events(ranked) -> None:
    server, door = ranked
    before = [worker["cached_blocks"] for worker in audit(door)["workers"]]
    prompt = list(range(5, 5 + 4 * BLOCK))

    async def scenario() -> Audit:
        # Past the front door: by its own history it could not know.
        async with session(server) as client:
            await complete(client, prompt, rank=1)
        return await until(door, lambda found: found["workers"][1]["cached_blocks"] > before[1])

    after = asyncio.run(scenario())
    assert after["workers"][1]["cached_blocks"] - before[1] == 4
    assert after["workers"][0]["cached_blocks"] == before[0]


def test_a_server_for_each_rank_answers_as_when_asked_directly(apart) -> None:
    servers, door = apart
    direct = complete_all(servers[0], ASKED)
    asyncio.run(until(door, lambda found: all(w["foreign"] == 0 for w in found["workers"])))
    engines = [sum(by_rank(server)) for server in servers]
    books = by_worker(door)
    assert complete_all(door, ASKED) == direct
    after = asyncio.run(until(door, idle))
    placed = less(by_worker(door), books)
    assert less([sum(by_rank(server)) for server in servers], engines) == placed
    assert sum(placed) == len(ASKED)
    assert min(placed) > 0
    assert after["ended"] == {"finished": len(ASKED)}


def test_tiers_answer_as_one_server_does(tiers) -> None:
    (prefill, decode), door = tiers
    asked = [list(range(first, first + 3 * BLOCK + 5)) for first in range(5, 5 + len(ASKED))]
    through = complete_all(door, asked)
    after = asyncio.run(until(door, idle))
    # Its own cache would have them next time; nothing is computed twice.
    assert sources(decode)["local_compute"] <= BLOCK * len(asked)
    assert sources(decode)["external_kv_transfer"] >= 3 * BLOCK * len(asked)
    assert sources(prefill)["local_compute"] > 0
    assert through == complete_all(decode, asked) == complete_all(prefill, asked)
    assert after["ended"] == {"finished": len(asked)}


def sources(server: Server) -> dict[str, int]:
    """Prompt tokens of a server by where they came from."""
    found = _SOURCES.findall(server.get("/metrics"))
    return {source: int(float(count)) for source, count in found}


def figures(page: str, name: str, label: str) -> list[float]:
    """A metric's values, by a label in order; the engines' own where it is said whose they are."""
    lines = re.findall(rf"^{name}{{(.*?)}} ([\d.e+-]+)$", page, re.MULTILINE)
    ours = [(labels, value) for labels, value in lines if 'source="envoy"' not in labels]
    values = {re.search(rf'{label}="([^"]*)"', labels)[1]: float(value) for labels, value in ours}
    return [values[key] for key in sorted(values)]


def figure(door: FrontDoor, name: str) -> int:
    found = re.search(
        rf"^brsolver_{name}_total ([\d.e+]+)", fetch(f"{door.page}/metrics"), re.MULTILINE
    )
    assert found is not None
    return int(float(found[1]))
