"""Length pairs as the public simulator of [BFIO] ships them: a JSON object with ``data``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from brsolver.errors import TraceError
from brsolver.traces.batches import json_batch
from brsolver.traces.collector import Collector
from brsolver.traces.fields import LENGTH, Field

if TYPE_CHECKING:
    from brsolver.traces.read_options import ReadOptions
    from brsolver.traces.source import Source
    from brsolver.traces.trace import Trace

_FIELDS = (
    Field(source="input_length", target="prompt_tokens", parser=LENGTH),
    Field(source="output_length", target="output_tokens", parser=LENGTH),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BfioReader:
    """Reader of ``{"data": [{"input_length": ..., "output_length": ...}, ...]}``."""

    name: str = "bfio"
    summary: str = "length pairs of the BF-IO simulator (JSON)"
    random: bool = False

    def sniff(self, source: Source) -> bool:
        """Tell whether the first JSON value is an object with ``data``."""
        return source.container in ("json", "jsonl") and "data" in source.names

    def read(self, source: Source, options: ReadOptions) -> Trace:
        """Read the pairs; rows are counted by their index in ``data``."""
        document = source.document
        records = document.get("data") if isinstance(document, dict) else None
        if not isinstance(records, list):
            raise TraceError(f"{source.label}: format {self.name} needs a list under 'data'")
        collector = Collector(source, _FIELDS, options)
        collector.add(json_batch(records, _FIELDS))
        return collector.trace(source_format=self.name)


READER = BfioReader()
