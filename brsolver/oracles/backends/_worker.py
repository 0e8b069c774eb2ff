"""The process that solves apart: reads calls from its standard input, answers on its output.

Run as ``python -m brsolver.oracles.backends._worker`` by `Isolation`; see there.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import queue
import sys
import threading
import traceback
from typing import IO, TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

PREPARE, CALL = "prepare", "call"
READY, REPORT, DONE, RAISED = "ready", "report", "done", "raised"


class Call(NamedTuple):
    """What to call."""

    module: str
    function: str
    arguments: tuple[Any, ...]


def send(stream: IO[bytes], kind: str, value: object = None) -> None:
    """Write one message."""
    data = pickle.dumps((kind, value), protocol=pickle.HIGHEST_PROTOCOL)
    stream.write(len(data).to_bytes(8, "little") + data)
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[str, Any] | None:
    """Read one message; None at the end."""
    head = stream.read(8)
    if len(head) < 8:
        return None
    size = int.from_bytes(head, "little")
    data = stream.read(size)
    if len(data) < size:
        return None
    # Both ends are this package's own, connected by a pipe that nothing else can reach.
    message: tuple[str, Any] = pickle.loads(data)  # noqa: S301 - see above
    return message


def prepare(modules: tuple[str, ...], out: IO[bytes]) -> None:
    """Import what the next call needs, before its clock starts."""
    for module in modules:
        # Whoever needs it says what to do about a missing one.
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    send(out, READY)


def answer(call: Call, out: IO[bytes]) -> None:
    """Carry out one call; every outcome is a message."""
    try:
        function: Callable[..., object] = getattr(
            importlib.import_module(call.module), call.function
        )
        found = function(*call.arguments, report=lambda value: send(out, REPORT, value))
        send(out, DONE, found)
    except Exception as error:  # noqa: BLE001 - raised again in the caller's process
        traceback.print_exc()
        send(out, RAISED, error)


def main() -> None:
    """Answer calls until there are no more."""
    out = os.fdopen(os.dup(1), "wb")
    # Whatever solvers print must not get between the messages.
    os.dup2(2, 1)
    messages: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(messages,), daemon=True).start()
    while True:
        kind, value = messages.get()
        if kind == PREPARE:
            prepare(value, out)
        else:
            answer(value, out)


def _listen(messages: queue.SimpleQueue[tuple[str, Any]]) -> None:
    while (message := receive(sys.stdin.buffer)) is not None:
        messages.put(message)
    # Whoever asked has gone, and may have been killed: what is being solved is for nobody.
    os._exit(0)


if __name__ == "__main__":
    main()
