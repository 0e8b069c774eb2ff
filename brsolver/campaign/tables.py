"""Rows as tables, and back again as they were."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from brsolver.campaign.cells import FAILED, WALL_S

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import pyarrow as pa

IDENTITY, NAMES = "cell", "columns"
"""Columns that parts have besides: the cell's identity, and which columns its own row has."""


def as_table(rows: Sequence[Mapping[str, Any]], keys: Iterable[str]) -> pa.Table:
    """Make a table of rows.

    Parameters
    ----------
    rows : sequence of mapping
    keys : iterable of str
        The first columns. Figures follow in the order in which rows have them, and then what the
        campaign says of each row.

    Raises
    ------
    ParameterError
        Values of one column are of kinds that no column can have together.
    """
    import pyarrow as pa

    last = dict.fromkeys((FAILED, WALL_S))
    figures = (name for row in rows for name in row if name not in last)
    names = list(dict.fromkeys((*keys, *figures, *last)))
    return pa.table({name: _column(name, [row.get(name) for row in rows]) for name in names})


def _column(name: str, values: list[Any]) -> pa.Array:
    import pyarrow as pa

    from brsolver.errors import ParameterError

    # An empty column of these two is not to take its kind from what it happens to hold.
    kind = {FAILED: pa.string(), WALL_S: pa.float64()}.get(name)
    try:
        return pa.array(values, kind)
    except (pa.ArrowException, OverflowError) as error:
        kinds = sorted({type(value).__name__ for value in values if value is not None})
        raise ParameterError(
            f"figure {name!r} is of {', '.join(kinds)}, must be of one kind that a column can "
            f"hold: {str(error).partition(chr(10))[0]}"
        ) from error


def part_of(rows: Mapping[str, Mapping[str, Any]], keys: Iterable[str]) -> pa.Table:
    """Make the table of some rows by identity that `rows_of` reads."""
    import pyarrow as pa

    table = as_table(list(rows.values()), keys)
    table = table.append_column(IDENTITY, pa.array(list(rows)))
    return table.append_column(NAMES, pa.array([list(row) for row in rows.values()]))


def rows_of(part: pa.Table) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give back rows and their identities, each with the columns that were its own."""
    for row in part.to_pylist():
        yield row[IDENTITY], {name: row[name] for name in row[NAMES]}
