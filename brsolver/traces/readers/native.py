"""brsolver's own schema, as CSV, JSON lines or Parquet.

===================  ========  ==========================================================
column               needed    content
===================  ========  ==========================================================
``prompt_tokens``    yes       prompt length in tokens, at least 1
``output_tokens``    yes       output length in tokens, at least 1
``arrival_s``        no        arrival time in seconds, not decreasing
``delay_s``          no        seconds from the end of the session's previous turn to the
                               arrival, at least 0, in place of ``arrival_s``
``max_tokens``       no        the request's own bound on its output, in tokens, at least 1
``cached_tokens``    no        tokens of the prompt that are in a prefix cache, at least 0
``session``          no        number or text, the same for all turns of a conversation
``model``            no        number or text
``tenant``           no        number or text
``prompt_hash``      no        number or text, the same for equal prompts
``hash_ids``         no        list of numbers, one per prefix block (not in CSV)
``surrogate``        no        1 in every row if the trace imitates a published one
===================  ========  ==========================================================
"""

from __future__ import annotations

from brsolver.traces.fields import LENGTH, Field, IntList, Label, Number, Whole
from brsolver.traces.readers.turning import TurnReader
from brsolver.traces.turn_collector import NumberOrNothing

LABELS = ("session", "model", "tenant", "prompt_hash")

READER = TurnReader(
    name="brsolver",
    summary="brsolver's own columns (CSV, JSON lines, Parquet)",
    fields=(
        Field(source="prompt_tokens", target="prompt_tokens", parser=LENGTH),
        Field(source="output_tokens", target="output_tokens", parser=LENGTH),
        Field(source="arrival_s", target="arrival", parser=Number(), required=False),
        Field(
            source="delay_s", target="delay_s", parser=NumberOrNothing(minimum=0), required=False
        ),
        Field(source="max_tokens", target="max_tokens", parser=Whole(), required=False),
        Field(
            source="cached_tokens",
            target="cached_tokens",
            parser=Whole(minimum=0),
            required=False,
        ),
        *(Field(source=name, target=name, parser=Label(), required=False) for name in LABELS),
        Field(source="hash_ids", target="hash_ids", parser=IntList(), required=False),
        Field(
            source="surrogate",
            target="surrogate",
            parser=Whole(minimum=0, unit=""),
            required=False,
        ),
    ),
    times_by_name=True,
)
