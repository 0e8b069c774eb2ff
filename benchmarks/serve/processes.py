"""Processor time and memory of a process and all that it started, from ``/proc``."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import NamedTuple

TICKS = os.sysconf("SC_CLK_TCK")
SAMPLE_S = 0.5


class Memory(NamedTuple):
    """MiB in memory: what each process has, and with what they share counted once."""

    rss: float
    pss: float


NOTHING = Memory(0.0, 0.0)


def tree(root: int) -> list[int]:
    """Return a process and its descendants."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int(_fields(int(entry.name))[1])
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def cpu_seconds(pids: list[int]) -> float:
    """Return the processor time that processes have had, in seconds."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += sum(map(int, _fields(pid)[11:13]))
    return total / TICKS


def memory(pids: list[int]) -> Memory:
    """Return the memory of processes."""
    rss = pss = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
            kib = {line.split(":")[0]: float(line.split()[1]) for line in lines}
            rss, pss = rss + kib["Rss"] / 1024, pss + kib["Pss"] / 1024
    return Memory(rss, pss)


def program(pid: int) -> str:
    """Return what a process runs: a program's name, or a Python module's."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return ""
    return words[words.index("-m") + 1] if "-m" in words[:-1] else Path(words[0]).name


class Peak:
    """The most memory that processes have while it is open: together, and each program."""

    def __init__(self, pids: list[int]) -> None:
        self._pids = pids
        self.most = NOTHING
        self.apart: dict[str, Memory] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            total = NOTHING
            for pid in self._pids:
                one, name = memory([pid]), program(pid)
                total = Memory(*map(sum, zip(total, one, strict=True)))
                self.apart[name] = Memory(*map(max, self.apart.get(name, NOTHING), one))
            self.most = Memory(*map(max, self.most, total))
            if self._over.wait(SAMPLE_S):
                return


def _fields(pid: int) -> list[str]:
    """Return the fields of a process's ``stat`` after its name, which may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
