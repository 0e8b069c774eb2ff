"""Requests and answers as they pass the loopback device, by the kernel's own clock.

Neither a client that is held up nor a server that gets to a request late can shift these times.
Linux alone has such sockets, and lets only root open them.
"""

from __future__ import annotations

import re
import socket
import struct
import sys
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

DEVICE = "lo"
ALL_PROTOCOLS = 3
LARGEST = 2**16 + 64
BUFFER = 2**26
RCVBUFFORCE, TIMESTAMPNS = 33, 35
ETHERNET = 14
IPV4, TCP, OUTGOING = 0x0800, 6, 4
WAIT_S = 0.2
_ASKS = re.compile(rb"^POST \S*/completions ")
_TOKEN = re.compile(rb'"choices": ?\[\{')
_PROMPT = re.compile(rb'"prompt_tokens": ?(\d+)')
_OUTPUT = re.compile(rb'"completion_tokens": ?(\d+)')


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """What passed at once: `at_s` by the system's clock, `client` the client's port."""

    at_s: float
    client: int
    asks: bool
    payload: bytes


@dataclass(slots=True, kw_only=True)
class Exchange:
    """A request and its answer."""

    came_s: float
    tokens_s: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    output_tokens: int = 0

    def take(self, packet: Packet) -> None:
        """Take in a part of the answer."""
        if _TOKEN.search(packet.payload):
            self.tokens_s.append(packet.at_s)
        for name, pattern in (("prompt_tokens", _PROMPT), ("output_tokens", _OUTPUT)):
            if told := pattern.findall(packet.payload):
                setattr(self, name, int(told[-1]))


class Wire:
    """What passes between a server's port and its clients while the context is entered.

    Parameters
    ----------
    port : int
        Of the server, on this machine.
    """

    def __init__(self, port: int) -> None:
        self._port, self._packets = port, list[Packet]()
        self._over = Event()
        self._thread = Thread(target=self._listen)

    def __enter__(self) -> Self:
        if sys.platform != "linux":
            sys.exit("bench_load: --wire needs Linux")
        try:
            self._socket = socket.socket(
                socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_PROTOCOLS)
            )
        except PermissionError:
            sys.exit("bench_load: --wire needs the right to listen to the loopback device: root")
        self._socket.bind((DEVICE, 0))
        self._socket.setsockopt(socket.SOL_SOCKET, RCVBUFFORCE, BUFFER)
        self._socket.setsockopt(socket.SOL_SOCKET, TIMESTAMPNS, 1)
        self._socket.settimeout(WAIT_S)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        self._socket.close()

    def skip(self) -> None:
        """Forget what has passed so far."""
        self._packets.clear()

    def rows(self) -> list[dict[str, float]]:
        """Return what has passed since, of requests that are complete."""
        return rows_of(list(self._packets))

    def _listen(self) -> None:
        while not self._over.is_set():
            try:
                data, told, _, address = self._socket.recvmsg(LARGEST, 64)
            except TimeoutError:
                continue
            # What goes out comes in again on this device.
            if address[2] != OUTGOING and (found := self._read(data, told)) is not None:
                self._packets.append(found)

    def _read(self, data: bytes, told: list[tuple[int, int, bytes]]) -> Packet | None:
        parts = read_tcp(data)
        if parts is None or self._port not in parts[:2] or not parts[2]:
            return None
        source, target, payload = parts
        seconds, nanoseconds = struct.unpack("qq", told[0][2])
        return Packet(
            at_s=seconds + 1e-9 * nanoseconds,
            client=source if target == self._port else target,
            asks=target == self._port,
            payload=payload,
        )


def read_tcp(data: bytes) -> tuple[int, int, bytes] | None:
    """Return ports and payload of an Ethernet frame; None if it is no TCP over IPv4."""
    if struct.unpack_from("!H", data, 12)[0] != IPV4 or data[ETHERNET + 9] != TCP:
        return None
    begin = ETHERNET + 4 * (data[ETHERNET] & 15)
    end = ETHERNET + struct.unpack_from("!H", data, ETHERNET + 2)[0]
    source, target = struct.unpack_from("!HH", data, begin)
    return source, target, data[begin + 4 * (data[begin + 12] >> 4) : end]


def rows_of(packets: Iterable[Packet]) -> list[dict[str, float]]:
    """Return exchanges as a fake engine's log would have them."""
    found: list[Exchange] = []
    open_: dict[int, Exchange] = {}
    for packet in sorted(packets, key=lambda packet: packet.at_s):
        if packet.asks and _ASKS.match(packet.payload):
            open_[packet.client] = Exchange(came_s=packet.at_s)
            found.append(open_[packet.client])
        elif not packet.asks and packet.client in open_:
            open_[packet.client].take(packet)
    return [
        {
            "prompt_tokens": each.prompt_tokens,
            "output_tokens": each.output_tokens,
            "came_s": each.came_s,
            "first_s": each.tokens_s[0],
            "last_s": each.tokens_s[-1],
            "complete": True,
        }
        for each in found
        if each.tokens_s and each.output_tokens
    ]
