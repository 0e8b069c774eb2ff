"""Qwen-Bailian usage traces: JSON lines with seconds, chat turns and prefix-block hashes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from brsolver.traces.fields import LENGTH, Field, IntList, Number, Whole
from brsolver.traces.readers.seam import TableReader

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from brsolver.traces.collector import Columns


def _with_sessions(columns: Columns) -> Columns:
    """Replace the chain of parents by the first chat of each conversation."""
    rest = dict(columns)
    rest["session"] = _roots(rest.pop("chat_id"), rest.pop("parent_chat_id"))
    return rest


def _roots(chats: NDArray[np.int64], parents: NDArray[np.int64]) -> NDArray[np.int64]:
    root: dict[int, int] = {}
    for chat, parent in zip(chats.tolist(), parents.tolist(), strict=True):
        # A parent that the trace does not hold still names the conversation.
        root[chat] = chat if parent < 0 else root.get(parent, parent)
    return np.array([root[chat] for chat in chats.tolist()], dtype=np.int64)


READER = TableReader(
    name="bailian",
    summary="Qwen-Bailian usage traces with chat turns (JSON lines)",
    fields=(
        Field(source="timestamp", target="arrival", parser=Number()),
        Field(source="input_length", target="prompt_tokens", parser=LENGTH),
        Field(source="output_length", target="output_tokens", parser=LENGTH),
        Field(source="chat_id", target="chat_id", parser=Whole(minimum=0, unit="")),
        Field(
            source="parent_chat_id",
            target="parent_chat_id",
            # First turns have -1, or null where a data frame wrote the file.
            parser=Whole(minimum=-1, unit="", missing=-1),
        ),
        Field(source="hash_ids", target="hash_ids", parser=IntList(), required=False),
    ),
    derive=_with_sessions,
)
