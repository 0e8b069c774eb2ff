"""Simulated against measured servers: the tables of docs/silicon.md.

Run ``python -m benchmarks.bench_silicon FILE.csv [--labelled] [--without NAME]``. Coefficients are
fitted on one half of the rows of each system and configuration, the simulator predicts the other
half, and the same the other way round. A row that is slower than one of fewer clients, in requests
per second, is called irregular: it is not fitted, and errors are told with and without it.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import _silicon_fit as fits
from benchmarks import _silicon_server as servers
from benchmarks._silicon import DATA_PARALLEL, halves, irregular, read_rows
from benchmarks._table import show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks._silicon import Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A row, what the simulator says of it, and whether it is overloaded."""

    row: Row
    tpot_s: float
    ttft_s: float
    overloaded: bool

    @property
    def errors(self) -> tuple[float, float]:
        """Relative errors of TPOT and TTFT."""
        return self.tpot_s / self.row.tpot_s - 1, self.ttft_s / self.row.ttft_s - 1


def predict(
    fitted: Sequence[Row], asked: Sequence[Row], reading: fits.Reading
) -> tuple[list[Prediction], dict[tuple[str, str], fits.Costs]]:
    """Fit each family on some rows, and predict others."""
    costs = {
        family: fits.Fit([row for row in fitted if fits.family_of(row) == family], reading).costs()
        for family in sorted({fits.family_of(row) for row in asked})
    }
    return [_predict(row, costs[fits.family_of(row)], reading) for row in asked], costs


def main(arguments: Sequence[str] | None = None) -> None:
    """Print all tables; arguments None are those of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="measured rows, e.g. silicon_dp_minimax.csv")
    parser.add_argument(
        "--labelled",
        action="store_true",
        help="take each row's attention for data parallel, as the file has it",
    )
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        choices=fits.NAMES[1:],
        help="leave out a coefficient, to see what it is needed for",
    )
    options = parser.parse_args(arguments)
    rows = read_rows(options.file)
    odd = irregular(rows)
    reading = fits.Reading(
        None if options.labelled else DATA_PARALLEL, without=frozenset(options.without)
    )
    first, second = halves(rows)
    for title, fitted, asked in (
        ("first half fitted, second predicted", first, second),
        ("second half fitted, first predicted", second, first),
    ):
        predictions, costs = predict([row for row in fitted if row not in odd], asked, reading)
        _show_costs(title, costs)
        _show_rows(title, predictions, odd)
        _show_errors(title, predictions, odd)


def _predict(row: Row, costs: fits.Costs, reading: fits.Reading) -> Prediction:
    tpot, ttft = reading.predict(row, costs).tolist()
    over = servers.overloaded(row, reading.server(row, costs))
    return Prediction(row=row, tpot_s=tpot, ttft_s=ttft, overloaded=over)


def _show_costs(title: str, costs: dict[tuple[str, str], fits.Costs]) -> None:
    show(
        f"Coefficients, {title}: of one GPU, in ms, KV tokens in thousands",
        ("family", "base", "experts", *fits.NAMES[2:], "in front", "reserve GB"),
        [
            (
                " ".join(family),
                " ".join(f"{layout} {1e3 * value:.2f}" for layout, value in each.base.items()),
                f"{1e3 * each.experts:.1f}",
                *(f"{1e3 * getattr(each, name):.4f}" for name in ("token", "decoded")),
                f"{1e6 * each.kv:.4f}",
                f"{1e3 * each.prefill:.4f}",
                f"{1e3 * each.context:.2g}",
                f"{1e3 * each.front:.0f}",
                f"{each.reserve / 1e9:g}",
            )
            for family, each in costs.items()
        ],
    )


def _show_rows(title: str, predictions: Sequence[Prediction], odd: Sequence[Row]) -> None:
    show(
        f"Rows, {title}: ms simulated, measured and error",
        ("system", "", "configuration", "in/out", "clients", "TPOT", "", "", "TTFT", "", "", ""),
        [
            (
                each.row.system,
                each.row.precision,
                each.row.configuration,
                f"{each.row.isl}/{each.row.osl}",
                str(each.row.concurrency),
                *_against(each.tpot_s, each.row.tpot_s),
                *_against(each.ttft_s, each.row.ttft_s),
                "overloaded" * each.overloaded + "irregular" * (each.row in odd),
            )
            for each in sorted(predictions, key=lambda each: (each.row.group, each.row.load))
        ],
    )


def _against(simulated: float, measured: float) -> tuple[str, str, str]:
    return (
        f"{1e3 * simulated:.1f}",
        f"{1e3 * measured:.1f}",
        f"{100 * (simulated / measured - 1):+.1f} %",
    )


def _show_errors(title: str, predictions: Sequence[Prediction], odd: Sequence[Row]) -> None:
    regular = [each for each in predictions if each.row not in odd]
    groups = sorted({each.row.group for each in predictions})
    show(
        f"Errors, {title}",
        ("rows", "", "TPOT median", "worst", "TTFT median", "worst", "of rows"),
        [
            *(
                (" ".join(group), *_errors([e for e in regular if e.row.group == group]))
                for group in groups
            ),
            ("all", *_errors(regular)),
            ("all and irregular", *_errors(predictions)),
        ],
    )


def _errors(predictions: Sequence[Prediction]) -> tuple[str, ...]:
    tpot = np.abs([each.errors[0] for each in predictions])
    ttft = np.abs([each.errors[1] for each in predictions if not each.overloaded])
    return (str(len(tpot)), *_spread(tpot), *_spread(ttft), str(len(ttft)))


def _spread(errors: np.ndarray) -> tuple[str, str]:
    if not errors.size:
        return "-", "-"
    return f"{100 * np.median(errors):.1f} %", f"{100 * errors.max():.1f} %"


if __name__ == "__main__":
    main()
