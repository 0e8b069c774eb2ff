"""Measured rows of servers under closed loops, their halves, and how those servers were started.

Files hold one row per measurement: ``system``, ``precision``, ``isl``, ``osl``, ``batch_size``,
``attention_dp_size``, ``silicon_ttft_ms`` and ``silicon_tpot_ms``, beside ``id`` and
``backend_version`` (the layout of AISimulate's ``silicon_sample.csv``).
"""

from __future__ import annotations

import csv
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks._silicon_server import EXPERT_BYTES, GPUS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

SAME = 0.02
"""Figures of the same load on the same hardware that differ by less are one measurement, told
twice: runs of one recipe repeat within a per cent, and two recipes differ by more."""

DATA_PARALLEL = ("cfg707", "cfg727")
"""Configurations whose attention was data parallel, see docs/silicon.md."""

WORDS = ("id", "system", "precision")
NUMBERS = (
    "isl",
    "osl",
    "batch_size",
    "attention_dp_size",
    "silicon_ttft_ms",
    "silicon_tpot_ms",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measurement.

    Attributes
    ----------
    id, system, precision : str
        As the file has them, e.g. ``h100_sxm`` and ``fp8``.
    configuration : str
        ``cfg`` and a number if the id ends so, else the id's ``tp`` and ``ep``, else empty.
    isl, osl : int
        Nominal tokens of prompts and outputs.
    gpus : int
        GPUs of the server, the file's ``attention_dp_size``.
    concurrency : int
        Requests in flight, ``batch_size × attention_dp_size``.
    ttft_s, tpot_s : float
        Mean seconds to the first token, and mean seconds per token after it.
    """

    id: str
    system: str
    precision: str
    configuration: str
    isl: int
    osl: int
    gpus: int
    concurrency: int
    ttft_s: float
    tpot_s: float

    @property
    def group(self) -> tuple[str, str, str]:
        """System and configuration."""
        return self.system, self.precision, self.configuration

    @property
    def rate(self) -> float:
        """Requests per second, by Little's law of the clients."""
        return self.concurrency / (self.ttft_s + self.tpot_s * self.osl * 0.9)

    @property
    def load(self) -> tuple[int, int, int]:
        """What clients ask for."""
        return self.isl, self.osl, self.concurrency


def read_rows(path: str | Path) -> list[Row]:
    """Read a file of measurements, each of them once.

    Raises
    ------
    ValueError
        The file has no rows, or a row lacks a column or holds something that is no positive
        number.
    """
    with Path(path).open(encoding="utf-8", newline="") as file:
        rows = [_row(path, number, fields) for number, fields in enumerate(csv.DictReader(file), 2)]
    if not rows:
        raise ValueError(f"{path}: has no rows, must have at least one")
    return distinct(rows)


def distinct(rows: Iterable[Row]) -> list[Row]:
    """Return rows without those that tell a measurement again, in the order of the first.

    Rows of the same hardware, precision and load are the same measurement if both figures are
    within `SAME`, whatever they are called: one of them in each half would tell the answer.
    """
    kept: list[Row] = []
    for row in rows:
        if not any(_told_again(row, other) for other in kept):
            kept.append(row)
    return kept


def halves(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Return every other row of each system and configuration, by load, and the others.

    The alternation goes on from one configuration to the next, so that halves are equal.
    """
    ordered = sorted(rows, key=lambda row: (row.group, row.load))
    return ordered[::2], ordered[1::2]


def irregular(rows: Sequence[Row]) -> list[Row]:
    """Return rows whose server finishes fewer requests per second than with fewer clients.

    A server that is given more of the same requests does not serve fewer of them: such a row
    holds something else than its load.
    """
    return [
        row
        for row in rows
        if any(
            other.group == row.group
            and other.load[:2] == row.load[:2]
            and other.concurrency < row.concurrency
            and other.rate > row.rate
            for other in rows
        )
    ]


def _row(path: str | Path, number: int, fields: dict[str, str | None]) -> Row:
    where = f"{path}: line {number}"
    words = {name: fields.get(name) or "" for name in WORDS}
    for name, value in words.items():
        if not value:
            raise ValueError(f"{where}: {name} is missing, must be there")
    _one_of(where, "system", words["system"], GPUS)
    known = EXPERT_BYTES.keys() & GPUS[words["system"]].flops
    _one_of(where, "precision", words["precision"], known)
    values = {name: _positive(where, name, fields.get(name)) for name in NUMBERS}
    gpus = int(values["attention_dp_size"])
    return Row(
        **words,
        configuration=_configuration(words["id"]),
        isl=int(values["isl"]),
        osl=int(values["osl"]),
        gpus=gpus,
        concurrency=round(values["batch_size"] * gpus),
        ttft_s=values["silicon_ttft_ms"] / 1000,
        tpot_s=values["silicon_tpot_ms"] / 1000,
    )


def _positive(where: str, name: str, text: str | None) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ValueError(f"{where}: {name} is {text!r}, must be a positive number")
    return value


def _one_of(where: str, name: str, value: str, known: Collection[str]) -> None:
    if value not in known:
        raise ValueError(f"{where}: {name} is {value!r}, must be one of {', '.join(sorted(known))}")


def _configuration(name: str) -> str:
    found = re.search(r"_(cfg\d+)$", name) or re.search(r"_(tp\d+_ep\d+)_", name)
    return found[1] if found else ""


def _told_again(row: Row, other: Row) -> bool:
    return (
        (row.system, row.precision, row.gpus, row.load)
        == (other.system, other.precision, other.gpus, other.load)
        and _near(row.ttft_s, other.ttft_s)
        and _near(row.tpot_s, other.tpot_s)
    )


def _near(a: float, b: float) -> bool:
    return abs(a - b) <= SAME * max(a, b)
