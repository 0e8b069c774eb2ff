"""Mooncake traces: milliseconds, lengths, and one hash id per 512-token prompt block.

Later turns of a session may have a ``delay`` in place of their timestamp: such a turn
comes so many milliseconds after the one before it has ended.
"""

from __future__ import annotations

from brsolver.traces.fields import LENGTH, Field, IntList, Label, Number
from brsolver.traces.readers.turning import TurnReader
from brsolver.traces.turn_collector import NumberOrNothing

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
    ticks_per_s=1e3,
    delay_in_ticks=True,
    distinct_from=frozenset({"chat_id"}),
)
