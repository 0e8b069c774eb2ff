"""The picker: where each request goes, decided outside of the engines and of the proxy.

`Core` decides and keeps the books, and does nothing by itself; `Pump` drives it from an event loop.
Neither knows a transport: doors tell them what comes, starts and ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from brsolver._lazy import lazy
from integration.picker.asks import Answer, Ask, End, Gauges, Placed, Refused, Seen, Usage

if TYPE_CHECKING:
    from integration.picker.auditing import Audit, WorkerAudit
    from integration.picker.core import Core
    from integration.picker.params import PickerParams, WorkerSpec
    from integration.picker.pump import Pump
    from integration.picker.reading import Reader

_HOMES = {
    "integration.picker.auditing": ("Audit", "WorkerAudit"),
    "integration.picker.core": ("Core",),
    "integration.picker.params": ("PickerParams", "WorkerSpec"),
    "integration.picker.pump": ("Pump",),
    "integration.picker.reading": ("Reader",),
}

__all__ = [
    "Answer",
    "Ask",
    "Audit",
    "Core",
    "End",
    "Gauges",
    "PickerParams",
    "Placed",
    "Pump",
    "Reader",
    "Refused",
    "Seen",
    "Usage",
    "WorkerAudit",
    "WorkerSpec",
]

__getattr__, __dir__ = lazy(__name__, _HOMES)
