"""Envoy's access log: starts, and ends of every kind, each in the books exactly once."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace

import grpc
import pytest
from door_support import house, refusing, to, until, workers
from hypothesis import given, settings
from hypothesis import strategies as st

from integration.doors import ends
from integration.doors.access_log import AccessLog
from integration.doors.grpc_server import GrpcServer
from integration.messages import names, services
from integration.messages.accesslog import TYPES, HTTPAccessLogEntry, StreamAccessLogsMessage
from integration.picker import End, Seen, Usage
from integration.picker.events import Ended
from integration.picker.resuming import Live


def entry(
    name=None,
    kind="DownstreamEnd",
    *,
    code=200,
    flags=(),
    usage=None,
    worker=None,
    path="/v1/completions",
    span=(0.0, 0.0),
    sent_s=None,
):
    """An entry as Envoy writes it."""
    made = HTTPAccessLogEntry()
    made.request.path = path
    common = made.common_properties
    common.start_time.FromNanoseconds(int(span[0] * 1e9))
    common.duration.FromNanoseconds(int((span[1] - span[0]) * 1e9))
    if sent_s is not None:
        common.time_to_first_upstream_tx_byte.FromNanoseconds(int(sent_s * 1e9))
    common.access_log_type = TYPES[kind]
    if name is not None:
        space = common.metadata.filter_metadata[names.AUTHZ]
        space.fields[names.ID].string_value = name
    for flag in flags:
        if flag == "unauthorized_details":
            common.response_flags.unauthorized_details.reason = 1
        else:
            setattr(common.response_flags, flag, True)
    for key, value in (usage or {}).items():
        common.metadata.filter_metadata[names.USAGE].fields[key].number_value = value
    if worker is not None:
        host, port = worker.rsplit(":", 1)
        common.upstream_remote_address.socket_address.address = host.strip("[]")
        common.upstream_remote_address.socket_address.port_value = int(port)
    made.response.response_code.value = code
    return made


def batch(*entries):
    message = StreamAccessLogsMessage()
    message.http_logs.log_entry.extend(entries)
    return message


@contextlib.asynccontextmanager
async def served(home, **more):
    """A gRPC server with the log, and a channel to it."""
    log = AccessLog(home.ledger, **more)
    server = GrpcServer([log.handler()])
    port = await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield log, services.call(channel, services.ACCESS_LOG, "StreamAccessLogs")
    finally:
        await server.stop()


ENDS = {
    "finished": (200, (), End.FINISHED),
    "client gone": (0, ("downstream_connection_termination",), End.DISCONNECTED),
    "client reset": (200, ("downstream_remote_reset",), End.DISCONNECTED),
    "client gone, upstream reset by it": (
        200,
        ("downstream_connection_termination", "local_reset"),
        End.DISCONNECTED,
    ),
    "upstream reset": (200, ("upstream_remote_reset",), End.RESET),
    "garbage": (502, ("upstream_protocol_error",), End.RESET),
    "breaker": (503, ("upstream_overflow",), End.RESET),
    "timeout": (504, ("upstream_request_timeout",), End.TIMEOUT),
    "silent too long": (200, ("stream_idle_timeout",), End.TIMEOUT),
    "too long": (504, ("duration_timeout",), End.TIMEOUT),
    "worker closed": (200, ("upstream_connection_termination",), End.WORKER_DIED),
    "worker not reached": (
        503,
        ("upstream_connection_failure", "upstream_retry_limit_exceeded"),
        End.WORKER_DIED,
    ),
    "no worker": (503, ("no_healthy_upstream",), End.WORKER_DIED),
    "5xx": (500, (), End.REJECTED),
    "5xx, tried again": (503, ("upstream_retry_limit_exceeded",), End.REJECTED),
    "4xx": (400, (), End.REJECTED),
    "refused": (403, ("unauthorized_details",), End.REFUSED),
    "limited": (429, ("rate_limited",), End.REFUSED),
}


@pytest.mark.parametrize("kind", ENDS)
def test_every_end_reaches_the_books_exactly_once(kind):
    code, flags, expected = ENDS[kind]

    async def scenario():
        home = house(to(1))
        for ask in ("r0", "r1"):
            read = home.reception.read("POST", "/v1/completions", b"{}", None)
            assert read.name == ask
            await home.reception.place(read)
        ended = entry("r0", code=code, flags=flags)
        async with served(home) as (_, stream):
            call = stream()
            ready = entry("r0", "UpstreamPoolReady", worker="10.0.0.2:8000")
            await call.write(batch(ready, ended))
            # Envoy logs once; a log that is sent again must change nothing.
            await call.write(batch(ended, entry(), entry("r0", "DownstreamStart")))
            await call.done_writing()
            await call
        assert home.pump.starts == [("r0", 1)]
        assert home.pump.ends == [("r0", expected, None)]
        assert list(home.ledger.places) == ["r1"]
        assert home.ledger.running[1] == 1
        assert home.ledger.unknown == 1

    asyncio.run(scenario())


def test_usage_that_envoy_read_goes_into_the_books():
    made = entry("r0", usage={names.PROMPT: 12.0, names.COMPLETION: 34.0})
    assert ends.usage(made) == Usage(12, 34)
    assert ends.usage(entry("r0", usage={names.PROMPT: 12.0})) == Usage(12, None)
    assert ends.usage(entry("r0", usage={names.PROMPT: -1.0})) == Usage(None, None)
    assert ends.usage(entry("r0")) is None


def test_entries_of_streams_that_go_on_end_nothing():
    async def scenario():
        home = house(to(1))
        await home.reception.place(home.reception.read("POST", "/v1/completions", b"{}", None))
        log = AccessLog(home.ledger)
        goes_on = entry("r0", "DownstreamPeriodic", flags=("upstream_remote_reset",), code=500)
        # Envoy gives what goes on no duration.
        goes_on.common_properties.custom_tags[names.SO_FAR] = "250"
        goes_on.response.response_body_bytes = 4321
        goes_on.request.path = "/v1/chat/completions?a=b"
        log.take(batch(goes_on, goes_on, entry("unknown", "DownstreamPeriodic")))
        assert home.pump.samples == [("r0", Seen(at_s=0.25, sent=4321, kind="chat"))] * 2
        assert log.samples == 3
        assert not home.pump.ends
        assert not home.pump.starts
        assert list(home.ledger.places) == ["r0"]
        assert home.ledger.unknown == 0
        log.take(batch(entry("r0"), goes_on))
        assert [end for _, end, _ in home.pump.ends] == [End.FINISHED]
        assert len(home.pump.samples) == 2

    asyncio.run(scenario())


def test_times_of_an_answer_go_with_its_end():
    async def scenario():
        home = house(to(1))
        await home.reception.place(home.reception.read("POST", "/v1/completions", b"{}", None))
        done = entry("r0")
        common = done.common_properties
        common.duration.seconds = 3
        common.time_to_first_upstream_tx_byte.nanos = 500_000_000
        common.time_to_last_upstream_rx_byte.seconds = 2
        common.custom_tags[names.FIRST] = "750000"
        done.response.response_body_bytes = 1000
        done.request.path = "/v1/completions"
        AccessLog(home.ledger).take(batch(done))
        assert home.pump.seen["r0"] == Seen(
            at_s=3.0, sent=1000, kind="completions", asked_s=0.5, first_s=0.75, last_s=2.0
        )

    asyncio.run(scenario())


@pytest.mark.parametrize("text", ["-", "", "1.5", "-3", "९", "9" * 30])
def test_no_number_is_no_first_byte(text):
    made = entry("r0")
    made.common_properties.custom_tags[names.FIRST] = text
    assert ends.seen(made).first_s is None


def test_retry_moves_a_request_to_the_worker_that_took_it():
    async def scenario():
        home = house(to(0, 2))
        await home.reception.place(home.reception.read("POST", "/", b"{}", None))
        log = AccessLog(home.ledger)
        log.take(batch(entry("r0", "UpstreamPoolReady", worker="10.0.0.1:8000")))
        log.take(batch(entry("r0", "UpstreamPoolReady", worker="10.0.0.3:8000")))
        log.take(batch(entry("r0", "UpstreamPoolReady", worker="10.0.0.3:8000")))
        assert home.pump.starts == [("r0", 0), ("r0", 2)]
        assert (home.ledger.running[0], home.ledger.running[2]) == (0, 1)

    asyncio.run(scenario())


def test_rank_is_kept_where_all_ranks_have_one_address():
    async def scenario():
        home = house(to(2), workers(4, ranks=True))
        await home.reception.place(home.reception.read("POST", "/", b"{}", None))
        log = AccessLog(home.ledger)
        log.take(batch(entry("r0", "UpstreamPoolReady", worker="10.0.0.1:8000")))
        assert home.pump.starts == [("r0", 2)]

    asyncio.run(scenario())


def test_address_of_either_family():
    assert ends.address(entry(worker="[fd00::1]:80")) == "[fd00::1]:80"
    assert ends.address(entry(worker="10.0.0.1:80")) == "10.0.0.1:80"
    assert ends.address(entry()) is None


def test_entry_that_trips_the_door_costs_no_other_its_place():
    async def scenario():
        home = house(to(0))
        await home.reception.place(home.reception.read("POST", "/", b"{}", None))
        log = AccessLog(home.ledger)
        entries = [object(), entry("r0")]
        log.take(SimpleNamespace(http_logs=SimpleNamespace(log_entry=entries)))
        assert log.faults == 1
        assert [kind for kind, _ in home.pump.faults] == ["access-log"]
        assert [name for name, *_ in home.pump.ends] == ["r0"]

    asyncio.run(scenario())


def test_unknown_names_are_counted_and_nothing_else():
    async def scenario():
        home = house(refusing(429, "full"))
        log = AccessLog(home.ledger)
        log.take(batch(entry("before-this-picker"), entry("x", "UpstreamPoolReady", worker="a:1")))
        assert home.ledger.unknown == 1
        assert not home.pump.ends
        assert log.faults == 0

    asyncio.run(scenario())


def test_what_the_core_gave_up_is_forgotten():
    async def scenario():
        home = house(to(1))
        await home.reception.place(home.reception.read("POST", "/", b"{}", None))
        home.ledger.event(Ended("r0", 1, End.WORKER_DIED, None, 0.0, None, None))
        assert not home.ledger.places
        assert home.ledger.running[1] == 0

    asyncio.run(scenario())


def test_broken_stream_is_told():
    async def scenario():
        home = house(to(1))
        heard = []
        async with served(home, broken=lambda: heard.append(1)) as (log, stream):
            call = stream()
            await call.write(batch())
            await until(lambda: log.streams)
            call.cancel()
            await until(lambda: heard)
            assert log.streams == 0

    asyncio.run(scenario())


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_entries_of_any_content_do_no_harm(raw):
    home = house(to(1))
    log = AccessLog(home.ledger)
    message = batch(entry("r9"))
    with contextlib.suppress(Exception):
        message.http_logs.log_entry.add().ParseFromString(raw)
    log.take(message)
    assert log.entries == len(message.http_logs.log_entry)


USED = {names.PROMPT: 12, names.COMPLETION: 34}


BY_OTHERS = {"by a picker before": "gone-1", "by Envoy": None}
OF_NONE = {
    "came too late": {"span": (100.5, 120.0)},
    "came before, was sent on too late": {"span": (90.0, 120.0), "sent_s": 10.5},
    "ended meanwhile": {"span": (90.0, 100.5)},
    "ended before": {"span": (80.0, 90.0)},
}


@pytest.mark.parametrize("placed", BY_OTHERS)
@pytest.mark.parametrize("case", OF_NONE)
def test_what_was_not_there_when_others_were_counted_releases_none_of_them(case, placed):
    home = house(to(1))
    home.ledger.take_over([Live("before-1-0", 1, 10, 1)], counted=(100.0, 101.0))
    log = AccessLog(home.ledger, ours=lambda _: False)
    name, worker = BY_OTHERS[placed], "10.0.0.2:8000"
    log.take(batch(entry(name, worker=worker, **OF_NONE[case])))
    assert (home.pump.ends, home.ledger.before) == ([], 1)
    log.take(batch(entry(name, worker=worker, span=(90.0, 120.0), sent_s=5.0)))
    assert (len(home.pump.ends), home.ledger.before) == (1, 0)


@pytest.mark.parametrize(
    ("more", "end"),
    [
        ({"usage": USED}, (End.FINISHED, Usage(12, 34))),
        ({"flags": ["downstream_remote_reset"]}, (End.DISCONNECTED, None)),
        ({"flags": ["upstream_remote_reset"]}, (End.RESET, None)),
        ({"path": "/v1/chat/completions?a=b"}, (End.FINISHED, None)),
        # What cannot have been there when requests were counted, or took no slot.
        ({"path": "/v1/models"}, None),
        ({"worker": "10.0.0.9:8000"}, None),
        ({"kind": "DownstreamStart"}, None),
    ],
)
def test_what_envoy_routed_by_itself_ends_as_what_it_was(more, end):
    home = house(to(1))
    home.ledger.take_over([Live("before-1-0", 1, 10, 1)], counted=(100.0, 101.0))
    log = AccessLog(home.ledger, ours=lambda _: False)
    log.take(batch(entry(**{"worker": "10.0.0.2:8000", "span": (90.0, 120.0), **more})))
    assert home.pump.ends == ([] if end is None else [("before-1-0", *end)])
    assert home.ledger.before == (end is None)
    # Once all of them have ended, such entries are of nobody.
    log.take(batch(entry(worker="10.0.0.2:8000", span=(90.0, 120.0))))
    log.take(batch(entry(worker="10.0.0.2:8000", span=(90.0, 120.0))))
    assert len(home.pump.ends) == 1
