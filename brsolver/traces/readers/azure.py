"""Azure LLM inference traces of 2023, 2024 and 2025: CSV with a clock time per request."""

from __future__ import annotations

from brsolver.traces.clock import Clock
from brsolver.traces.fields import LENGTH, Field
from brsolver.traces.readers.seam import TableReader

READER = TableReader(
    name="azure",
    summary="Azure LLM inference traces 2023, 2024, 2025 (CSV)",
    fields=(
        Field(source="TIMESTAMP", target="arrival", parser=Clock()),
        Field(source="ContextTokens", target="prompt_tokens", parser=LENGTH),
        Field(source="GeneratedTokens", target="output_tokens", parser=LENGTH),
    ),
    ticks_per_s=1e9,
)
