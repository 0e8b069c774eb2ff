"""One setting of a server: how it routes, and what its engines are started with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from brsolver.options import shown

if TYPE_CHECKING:
    from brsolver.registry import PolicySpec
    from brsolver.simulator.params import SimulationParams
    from brsolver.tuning.layouts import Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A setting to be tried.

    Attributes
    ----------
    policy : PolicySpec
    params : SimulationParams
    layout : Layout
    """

    policy: PolicySpec
    params: SimulationParams
    layout: Layout

    @property
    def engine(self) -> dict[str, str | int]:
        """What its engines are started with, by the names of parameters."""
        params, prefill = self.params, self.params.prefill
        settings: dict[str, str | int] = {
            "hardware": self.layout.hardware.name,
            "workers": params.workers,
            "slots": self.layout.slots if isinstance(params.slots, tuple) else params.slots,
            "routing": params.routing,
        }
        if prefill.colocated:
            settings["budget"] = prefill.budget
            settings |= {
                name: getattr(prefill, name)
                for name in ("interval", *prefill.CHOICES.within)
                if prefill.CHOICES.used(prefill, name) and name != "threshold"
            }
            settings["delayer"] = prefill.delayer
        return settings

    @property
    def settings(self) -> dict[str, str | int]:
        """All that was chosen, the policy first."""
        return {"policy": self.policy.text, **self.engine}

    def __str__(self) -> str:
        """Say what it is, as far as it is not plain from what runs it."""
        left = {k: v for k, v in self.engine.items() if (k, v) != ("delayer", "none")}
        return f"{self.policy.text} ({', '.join(f'{k}={shown(v)}' for k, v in left.items())})"
