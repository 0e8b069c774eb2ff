"""Result of ``vllm bench serve --save-result --save-detailed``: one JSON object of lists.

``input_lens`` and ``output_lens`` have an entry per request; ``start_times``, in seconds of a
clock that starts anywhere, came later. A request that failed has an output length of 0 and is a
bad row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from brsolver.errors import TraceError
from brsolver.traces.batches import Batch
from brsolver.traces.collector import Collector
from brsolver.traces.fields import LENGTH, Field, Number

if TYPE_CHECKING:
    from brsolver.traces.read_options import ReadOptions
    from brsolver.traces.source import Source
    from brsolver.traces.trace import Trace

_FIELDS = (
    Field(source="input_lens", target="prompt_tokens", parser=LENGTH),
    Field(source="output_lens", target="output_tokens", parser=LENGTH),
    Field(source="start_times", target="arrival", parser=Number(), required=False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmBenchReader:
    """Reader of vLLM's serving benchmark results."""

    name: str = "vllm-bench"
    summary: str = "result of vllm bench serve --save-detailed (JSON)"
    random: bool = False

    def sniff(self, source: Source) -> bool:
        """Tell whether the first JSON value has the two lists of lengths."""
        return source.container in ("json", "jsonl") and {"input_lens", "output_lens"} <= set(
            source.names
        )

    def read(self, source: Source, options: ReadOptions) -> Trace:
        """Read the requests; rows are counted by their index in the lists."""
        document = source.document
        fields = [field for field in _FIELDS if self._list(source, document, field) is not None]
        columns = {field.source: document[field.source] for field in fields}
        sizes = {len(values) for values in columns.values()}
        if len(sizes) != 1:
            counts = ", ".join(f"{len(values)} {name}" for name, values in columns.items())
            raise TraceError(f"{source.label}: lists differ in length: {counts}")
        collector = Collector(source, fields, options)
        rows = np.arange(sizes.pop(), dtype=np.int64)
        collector.add(Batch(rows=rows, counted="index", columns=columns))
        return collector.trace(source_format=self.name)

    def _list(self, source: Source, document: object, field: Field) -> list[object] | None:
        values = document.get(field.source) if isinstance(document, dict) else None
        if isinstance(values, list):
            return values
        if field.required or values is not None:
            raise TraceError(
                f"{source.label}: format {self.name} needs a list under {field.source!r}"
            )
        return None


READER = VllmBenchReader()
