"""Runs a command in a session of its own and takes all of it down when standard input ends.

``python -m integration.bench.supervise COMMAND ...``

The pipe on standard input belongs to whoever wants the command to run. When it is closed, by
intent or because its owner died, every process of the session is ended: first kindly, then,
after `GRACE_S`, for good. The exit status is the command's.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

GRACE_S = 10.0
"""Seconds between the kind and the final signal."""


def main(command: list[str]) -> int:
    """Run `command` until it ends by itself or standard input does."""
    # Its own handlers end the server in order; this process has to outlive them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen(  # noqa: S603 # running the given command is this program's purpose
        command, stdin=subprocess.DEVNULL, start_new_session=True
    )
    threading.Thread(target=_end_with_input, args=(child,), daemon=True).start()
    status = child.wait()
    _signal_group(child.pid, signal.SIGKILL)
    return status if status >= 0 else 128 - status


def _end_with_input(child: subprocess.Popen[bytes]) -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    # The leader alone first: vLLM's own shutdown ends its engines in order.
    with contextlib.suppress(ProcessLookupError):
        child.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + GRACE_S
    while child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    _signal_group(child.pid, signal.SIGKILL)


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
