"""What fronts have in common that stand inside libraries which route in Python themselves.

A library's own router (`integration.ray_serve`, `integration.verl`) asks a `Front` for a replica
and tells it of ends; behind it are the picker's core and pump, as behind the doors of a proxy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from brsolver._lazy import lazy
from integration.fronts.settings import FrontSettings

if TYPE_CHECKING:
    from integration.fronts.calls import prompt_body, request_body
    from integration.fronts.front import Front, Room, Seat, open_front

_HOMES = {
    "integration.fronts.calls": ("prompt_body", "request_body"),
    "integration.fronts.front": ("Front", "Room", "Seat", "open_front"),
}

__all__ = [
    "Front",
    "FrontSettings",
    "Room",
    "Seat",
    "open_front",
    "prompt_body",
    "request_body",
]

__getattr__, __dir__ = lazy(__name__, _HOMES)
