"""Mooncake (FAST'25): JSON lines with milliseconds and a chain of prefix-block hashes.

Of the form that aiperf gave it ``session_id`` and ``delay`` are read as well: a row with a delay
has no timestamp, and comes so many milliseconds after the end of the row before it of its session.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from brsolver.traces.fields import LENGTH, Field, IntList, Label, Number
from brsolver.traces.readers.turning import TurnReader
from brsolver.traces.turn_collector import NumberOrNothing

if TYPE_CHECKING:
    from brsolver.traces.collector import Columns

_MS_PER_S = 1e3


def _in_seconds(columns: Columns) -> Columns:
    return {
        name: column / _MS_PER_S if name == "delay_s" else column
        for name, column in columns.items()
    }


READER = TurnReader(
    name="mooncake",
    summary="Mooncake traces with prefix-hash chains, sessions with delays (JSON lines)",
    fields=(
        Field(source="timestamp", target="arrival", parser=Number()),
        Field(source="input_length", target="prompt_tokens", parser=LENGTH),
        Field(source="output_length", target="output_tokens", parser=LENGTH),
        Field(source="hash_ids", target="hash_ids", parser=IntList(), required=False),
        Field(source="session_id", target="session", parser=Label(), required=False),
        Field(source="delay", target="delay_s", parser=NumberOrNothing(minimum=0), required=False),
    ),
    ticks_per_s=_MS_PER_S,
    distinct_from=frozenset({"chat_id"}),
    derive=_in_seconds,
)
