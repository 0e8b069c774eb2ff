"""Requests and answers found in what passes the loopback device."""

from __future__ import annotations

import struct

import pytest

from benchmarks._load_wire import Packet, read_tcp, rows_of


def packet(at, client, payload, *, asks=False):
    return Packet(at_s=at, client=client, asks=asks, payload=payload)


def asked(at, client):
    return packet(at, client, b"POST /v1/completions HTTP/1.1\r\n\r\n{}", asks=True)


def token(at, client, spaced=False):
    gap = b" " if spaced else b""
    return packet(at, client, b'data: {"choices":' + gap + b'[{"text":"a"}]}\n\n')


def usage(at, client, prompt, output):
    told = b'data: {"choices":[],"usage":{"prompt_tokens":%d,"completion_tokens":%d}}\n\n'
    return packet(at, client, told % (prompt, output))


def test_exchanges_of_a_connection_follow_one_another_and_others_go_on_beside():
    packets = [
        packet(0.0, 7, b"GET /v1/models HTTP/1.1\r\n\r\n", asks=True),
        packet(0.1, 7, b'{"data": []}'),
        asked(1.0, 7),
        asked(1.5, 8),
        packet(1.6, 7, b"HTTP/1.1 200 OK\r\n\r\n"),
        token(2.0, 7),
        token(2.5, 8, spaced=True),
        token(3.0, 7),
        usage(3.1, 7, 5, 2),
        asked(4.0, 7),
        token(4.5, 7),
        usage(4.6, 7, 9, 1),
    ]
    first, second = rows_of(reversed(packets))
    assert (first["prompt_tokens"], first["output_tokens"]) == (5, 2)
    assert [first[name] for name in ("came_s", "first_s", "last_s")] == [1.0, 2.0, 3.0]
    assert (second["came_s"], second["first_s"], second["last_s"]) == (4.0, 4.5, 4.5)


def test_a_token_and_usage_may_pass_at_once():
    whole = token(2.0, 7).payload + usage(2.0, 7, 4, 1).payload
    (row,) = rows_of([asked(1.0, 7), packet(2.0, 7, whole)])
    assert (row["prompt_tokens"], row["output_tokens"], row["last_s"]) == (4, 1, 2.0)


@pytest.mark.parametrize("options", [0, 12])
def test_a_frame_is_read_to_its_end(options):
    payload = b"POST /v1/completions HTTP/1.1\r\n"
    tcp = struct.pack("!HHIIBBHHH", 40000, 8000, 1, 1, (20 + options) // 4 << 4, 24, 0, 0, 0)
    tcp += bytes(options) + payload
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(tcp), 0, 0, 64, 6, 0, bytes(4), bytes(4))
    frame = bytes(12) + struct.pack("!H", 0x0800) + ip + tcp + b"padding"
    assert read_tcp(frame) == (40000, 8000, payload)
    assert read_tcp(bytes(12) + struct.pack("!H", 0x86DD) + ip + tcp) is None
