"""Length pairs without times, as tokenised ShareGPT and other data sets are passed around.

Besides ``num_prefill_tokens,num_decode_tokens`` (Etalon, Vidur) the pairs that benchmark scripts
use are known, among them ``input_length,output_length`` of ServeGen's offline traces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from brsolver.errors import TraceError
from brsolver.traces.fields import LENGTH, Field, IntList
from brsolver.traces.readers.seam import TableReader

if TYPE_CHECKING:
    from brsolver.traces.read_options import ReadOptions
    from brsolver.traces.source import Source
    from brsolver.traces.trace import Trace

_PAIRS = (
    ("num_prefill_tokens", "num_decode_tokens"),
    ("input_len", "output_len"),
    ("input_length", "output_length"),
    ("prompt_len", "output_len"),
    ("input_tokens", "output_tokens"),
    ("prompt_tokens", "completion_tokens"),
)
_TIME_WORDS = ("time", "arriv", "start_at")


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthsReader:
    """Reader of files with two length columns and no times."""

    name: str = "sharegpt-lengths"
    summary: str = "prompt and output lengths without times, such as ShareGPT's (CSV, JSON lines)"
    random: bool = False

    def sniff(self, source: Source) -> bool:
        """Tell whether there is a known pair, and nothing that looks like a time."""
        timed = any(word in name.lower() for name in source.names for word in _TIME_WORDS)
        return not timed and self._pair(source) is not None

    def read(self, source: Source, options: ReadOptions) -> Trace:
        """Read the pairs."""
        source.require_file()
        pair = self._pair(source)
        if pair is None:
            known = "; ".join(",".join(names) for names in _PAIRS)
            raise TraceError(
                f"{source.label}: format {self.name} needs one of these pairs: {known}"
            )
        return self._table(*pair).read(source, options)

    @staticmethod
    def _pair(source: Source) -> tuple[str, str] | None:
        return next((pair for pair in _PAIRS if set(pair) <= set(source.names)), None)

    def _table(self, prompt: str, output: str) -> TableReader:
        return TableReader(
            name=self.name,
            summary=self.summary,
            fields=(
                Field(source=prompt, target="prompt_tokens", parser=LENGTH),
                Field(source=output, target="output_tokens", parser=LENGTH),
                Field(source="hash_ids", target="hash_ids", parser=IntList(), required=False),
            ),
        )


READER = LengthsReader()
