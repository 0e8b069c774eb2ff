"""BurstGPT: CSV with seconds, in two column orders.

Requests that failed have no response tokens. They are bad rows: strict reading stops at the
first, ``skip_bad_rows`` leaves them out and counts them.
"""

from __future__ import annotations

from brsolver.traces.fields import LENGTH, Field, Label, Number
from brsolver.traces.readers.seam import TableReader

READER = TableReader(
    name="burstgpt",
    summary="BurstGPT, with or without session columns (CSV)",
    fields=(
        Field(source="Timestamp", target="arrival", parser=Number()),
        Field(source="Request tokens", target="prompt_tokens", parser=LENGTH),
        Field(source="Response tokens", target="output_tokens", parser=LENGTH),
        Field(source="Session ID", target="session", parser=Label(), required=False),
    ),
)
