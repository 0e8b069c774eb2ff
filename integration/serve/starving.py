"""Whether a silent process is frozen or only gets no processor.

On a machine with more to run than processors, a healthy process may be silent for seconds. To end
it would make that worse: its successor starts on the same machine, and knows less. Linux says of
each process how long it has waited for a processor, so that silence is only what is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

_NANOSECOND = 1e-9


@dataclass(frozen=True, slots=True)
class Spent:
    """What the first thread of a process, that of its event loop, has done so far.

    Attributes
    ----------
    computing_s : float
        Seconds on a processor.
    waiting_s : float
        Seconds ready to run without one. A wait that is not over is not in it.
    ready : bool
        Whether it could run now, or does.
    """

    computing_s: float
    waiting_s: float
    ready: bool

    @classmethod
    def of(cls, pid: int, proc: Path = Path("/proc")) -> Self | None:
        """Return what a process has done; None where the system does not say."""
        try:
            computing, waiting, _ = map(int, (proc / str(pid) / "schedstat").read_text().split())
            # Its name, in brackets, may hold anything.
            state = (proc / str(pid) / "stat").read_text().rpartition(") ")[2][:1]
        except (OSError, ValueError):
            return None
        if not computing:
            # Nobody gets as far without a processor: some systems do not count.
            return None
        return cls(computing * _NANOSECOND, waiting * _NANOSECOND, state == "R")

    def waited_since(self, before: Self, elapsed_s: float) -> float:
        """Return the seconds since `before` for which it got no processor.

        Parameters
        ----------
        before : Spent
        elapsed_s : float
            Seconds since then. What of them it neither computed nor waited, it slept, or was
            stopped; of one that could run now they are a wait that is not over.
        """
        waited = self.waiting_s - before.waiting_s
        if self.ready:
            waited = max(waited, elapsed_s - (self.computing_s - before.computing_s))
        return min(max(waited, 0.0), elapsed_s)
