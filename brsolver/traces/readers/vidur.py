"""Vidur: CSV with seconds and token counts of the two phases."""

from __future__ import annotations

from brsolver.traces.fields import LENGTH, Field, Number
from brsolver.traces.readers.seam import TableReader

READER = TableReader(
    name="vidur",
    summary="Vidur request traces (CSV)",
    fields=(
        Field(source="arrived_at", target="arrival", parser=Number()),
        Field(source="num_prefill_tokens", target="prompt_tokens", parser=LENGTH),
        Field(source="num_decode_tokens", target="output_tokens", parser=LENGTH),
    ),
)
