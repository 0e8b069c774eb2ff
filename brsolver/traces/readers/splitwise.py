"""Splitwise simulator: CSV with seconds, prompt sizes and token sizes."""

from __future__ import annotations

from brsolver.traces.fields import LENGTH, Field, Number
from brsolver.traces.readers.seam import TableReader

READER = TableReader(
    name="splitwise",
    summary="Splitwise simulator request traces (CSV)",
    fields=(
        Field(source="arrival_timestamp", target="arrival", parser=Number()),
        Field(source="prompt_size", target="prompt_tokens", parser=LENGTH),
        Field(source="token_size", target="output_tokens", parser=LENGTH),
    ),
)
