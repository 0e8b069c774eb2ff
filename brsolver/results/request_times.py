"""Times of every request of a run, and the files they go to."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from brsolver.errors import OutputError, ParameterError
from brsolver.results.logs import RequestStatus
from brsolver.results.plain import finite_only

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from brsolver.results.comparison import Run
    from brsolver.results.result import SimulationResult
    from brsolver.traces.trace import Trace

ENDINGS = (".csv", ".jsonl", ".parquet")
_STATUS = np.array([status.name.lower() for status in RequestStatus])


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RequestTimes:
    """What a file of request times has of one run: columns of equal length, by name.

    Attributes
    ----------
    columns : mapping of str to ndarray, shape (n,)
        `row` of the trace that was given, counted from 0; `prompt_tokens`, `output_tokens`,
        `cached_tokens`; `worker`, -1 if none; `status` at the end; `preemptions`; `arrival_s`,
        `ready_s`, `start_s`, `first_token_s` and `finish_s` on the run's clock; and `queue_s`,
        `ttft_s`, `tpot_s` and `e2e_s`, durations. In seconds; NaN where something never happened.
    """

    columns: Mapping[str, NDArray[Any]]


def request_times(result: SimulationResult, trace: Trace, *, first_row: int = 0) -> RequestTimes:
    """Collect the times of every request.

    Parameters
    ----------
    result : SimulationResult
    trace : Trace
        What was run, without requests that trained a predictor.
    first_row : int
        Row of its first request in the trace that was given.
    """
    log = result.requests
    first_row += result.training_rows
    return RequestTimes(
        columns={
            "row": np.arange(first_row, first_row + len(trace)),
            "prompt_tokens": trace.prompt_tokens,
            "output_tokens": trace.output_tokens,
            "cached_tokens": log.cached_tokens,
            "worker": log.worker,
            "status": _STATUS[log.status],
            "preemptions": log.preemptions,
            "arrival_s": log.arrival_s,
            "ready_s": log.ready_s,
            "start_s": log.start_s,
            "first_token_s": log.first_token_s,
            "finish_s": log.finish_s,
            "queue_s": log.queue_s(),
            "ttft_s": log.ttft_s(),
            "tpot_s": log.tpot_s(trace.output_tokens),
            "e2e_s": log.e2e_s(),
        }
    )


def check_times_file(path: str | Path) -> Path:
    """Return `path` if times can be written there; call it before long runs.

    Raises
    ------
    ParameterError
        Its ending names no format.
    OutputError
        It is a folder, or its folder does not exist.
    """
    file = Path(path)
    if file.suffix.lower() not in ENDINGS:
        raise ParameterError(
            f"requests-out is {os.fspath(path)!r}, must end in {', '.join(ENDINGS[:-1])} "
            f"or {ENDINGS[-1]}"
        )
    if file.is_dir():
        raise OutputError(f"{file}: is a folder, must be a file or not exist yet")
    if not file.parent.is_dir():
        raise OutputError(f"{file}: the folder {file.parent} does not exist, make it first")
    return file


def write_times(runs: Sequence[Run], path: str | Path) -> Path:
    """Write the times of all requests of runs, a row each, in the format of the file's ending.

    Each row begins with the run's `policy`, `workers` and `seed`. CSV has empty cells and JSONL
    nulls where something never happened.

    Raises
    ------
    OutputError
        The file cannot be written; an earlier one of its name is as it was.
    """
    file = check_times_file(path)
    beside = file.with_name(f".{file.name}.part")
    write = _WRITERS[file.suffix.lower()]
    try:
        write(_columns(runs), beside)
        beside.replace(file)
    except OSError as error:
        raise OutputError(f"{file}: cannot be written: {error.strerror or error}") from error
    finally:
        beside.unlink(missing_ok=True)
    return file


def _columns(runs: Sequence[Run]) -> dict[str, NDArray[Any]]:
    kept = [(run, run.times.columns) for run in runs if run.times is not None]
    sizes = [columns["row"].size for _, columns in kept]
    of_runs = {
        "policy": np.repeat([run.policy for run, _ in kept], sizes),
        "workers": np.repeat([run.workers for run, _ in kept], sizes),
        "seed": np.repeat([run.seed for run, _ in kept], sizes),
    }
    names = kept[0][1] if kept else ()
    return of_runs | {name: np.concatenate([c[name] for _, c in kept]) for name in names}


def _write_csv(columns: Mapping[str, NDArray[Any]], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(_rows(columns, ""))


def _write_jsonl(columns: Mapping[str, NDArray[Any]], path: Path) -> None:
    with path.open("w", encoding="utf-8") as stream:
        for row in _rows(columns, None):
            values = dict(zip(columns, row, strict=True))
            stream.write(json.dumps(finite_only(values), allow_nan=False) + "\n")


def _write_parquet(columns: Mapping[str, NDArray[Any]], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # NaN is a number to Parquet's readers; what never happened is a null.
    table = {name: pa.array(values, from_pandas=True) for name, values in columns.items()}
    pq.write_table(pa.table(table), path)


def _rows(columns: Mapping[str, NDArray[Any]], missing: str | None) -> Iterator[tuple[Any, ...]]:
    plain = [_plain(values, missing) for values in columns.values()]
    return zip(*plain, strict=True)


def _plain(values: NDArray[Any], missing: str | None) -> list[Any]:
    listed: list[Any] = values.tolist()
    if values.dtype.kind != "f":
        return listed
    return [missing if value != value else value for value in listed]  # noqa: PLR0124 # NaN


_WRITERS: dict[str, Callable[[Mapping[str, NDArray[Any]], Path], None]] = {
    ".csv": _write_csv,
    ".jsonl": _write_jsonl,
    ".parquet": _write_parquet,
}
