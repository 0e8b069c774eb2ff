"""Mooncake (FAST'25): JSON lines with milliseconds and a chain of prefix-block hashes."""

from __future__ import annotations

from brsolver.traces.fields import LENGTH, Field, IntList, Label, Number
from brsolver.traces.readers.seam import TableReader

READER = TableReader(
    name="mooncake",
    summary="Mooncake traces with prefix-hash chains (JSON lines)",
    fields=(
        Field(source="timestamp", target="arrival", parser=Number()),
        Field(source="input_length", target="prompt_tokens", parser=LENGTH),
        Field(source="output_length", target="output_tokens", parser=LENGTH),
        Field(source="hash_ids", target="hash_ids", parser=IntList(), required=False),
        Field(source="session_id", target="session", parser=Label(), required=False),
    ),
    ticks_per_s=1e3,
    distinct_from=frozenset({"chat_id"}),
)
