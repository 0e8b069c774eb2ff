"""A picker's core under a clock of the test's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from integration.picker import Ask, Core, PickerParams, Placed, Refused, WorkerSpec

if TYPE_CHECKING:
    from integration.picker.events import Event

HARDWARE = "minimax-m2.7-h200-dp4"


class Clock:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Log:
    """Keeps all events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def event(self, event: Event) -> None:
        self.events.append(event)

    def of(self, kind: type) -> list[Any]:
        return [each for each in self.events if type(each) is kind]


def spec(
    index: int, *, rank: int | None = None, port: int | None = None, **more: Any
) -> WorkerSpec:
    return WorkerSpec(name=f"w{index}", address=f"host:{port or 1 + index}", rank=rank, **more)


class Picking:
    """A core, its answers and its events."""

    def __init__(self, *, workers: int = 2, specs: list[WorkerSpec] | None = None, **params: Any):
        self.clock = Clock()
        self.log = Log()
        given = {"slots": 4, "budget": 64, "hardware": HARDWARE, "budget_ms": 60_000.0, **params}
        self.params = PickerParams(**given)
        specs = [spec(index) for index in range(workers)] if specs is None else specs
        self.core = Core(self.params, specs, clock=self.clock)
        self.core.listeners.append(self.log)
        self.answers: dict[str, list[Placed | Refused]] = {}

    def request(self, name: str, prompt_tokens: int = 10, **more: Any) -> None:
        self.answers[name] = []
        self.core.request(Ask(name, prompt_tokens, **more), self.answers[name].append)

    def answer(self, name: str) -> Placed | Refused | None:
        found = self.answers[name]
        assert len(found) <= 1
        return found[0] if found else None

    def worker_of(self, name: str) -> int:
        found = self.answer(name)
        assert isinstance(found, Placed)
        return found.worker

    def run(self, seconds: float = 0.0) -> None:
        """Let time pass, the core being called whenever it wants to be."""
        end = self.clock.now + seconds
        while True:
            delay = self.core.advance()
            if delay is None or self.clock.now + delay > end:
                break
            assert delay > 0 or self.clock.now <= end
            # A call that is due at once must have something to do, and not for ever.
            self.clock.now += max(delay, 1e-9)
        self.clock.now = end
        self.core.advance()
