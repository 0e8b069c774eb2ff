"""Readers of measured step times, behind one function; files are told apart by content."""

from __future__ import annotations

from typing import TYPE_CHECKING

from brsolver.errors import ParameterError
from brsolver.hardware.readers import aiconfigurator, llmservingsim, step_log
from brsolver.hardware.readers.columns import csv_header, header_of_parquet
from brsolver.hardware.readers.selection import Selection

if TYPE_CHECKING:
    from pathlib import Path

    from brsolver.hardware.measurements import Measurements

LAYOUTS = (
    "AIConfigurator/AISimulate Parquet (batch_size, total_prefill_tokens, total_kv_read_tokens, "
    "latency_ms), LLMServingSim attention CSV (prefill_chunk, kv_prefill, n_decode, kv_decode, "
    "time_us), step logs (a folder of rank-R.csv with step, end_s, kv_tokens, running, scheduled, "
    "and decoding, decode_kv, prefill_tokens, prefill_context where there is prefill)"
)
"""What can be read, for messages."""


def read_measurements(path: Path, selection: Selection | None = None) -> Measurements:
    """Read measured steps.

    Parameters
    ----------
    path : Path
        A Parquet file in the AIConfigurator/AISimulate layout, an attention table of
        LLMServingSim, or a step log of ours: a folder of ``rank-R.csv``, or one of these.
    selection : Selection, optional
        Which of several measured servers.

    Raises
    ------
    ParameterError
        The file cannot be read, has none of these layouts, has a bad row, or holds several
        servers of which none was chosen; names file, row, value and what would be accepted.
    """
    selection = selection or Selection()
    if path.is_dir():
        return step_log.read(path)
    if (names := header_of_parquet(path)) is not None:
        aiconfigurator.require(path, names)
        return aiconfigurator.read(path, selection)
    names = csv_header(path)
    if step_log.recognises(names):
        return step_log.read(path)
    if llmservingsim.recognises(names):
        return llmservingsim.read(path, selection)
    shown = ", ".join(names)
    raise ParameterError(
        f"{path}: columns are {shown if len(shown) <= 100 else shown[:97] + '...'}, must be those "
        f"of a known layout: {LAYOUTS}"
    )


__all__ = ["LAYOUTS", "Selection", "read_measurements"]
