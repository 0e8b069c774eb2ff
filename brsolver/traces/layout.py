"""Which fields of a file hold what, found by their names or named by the user."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from brsolver.errors import TraceError
from brsolver.traces.fields import LENGTH, Field, Label, Whole, whole_number
from brsolver.traces.paths import Path, dotted, parts
from brsolver.traces.times import Times, find_times, times_at
from brsolver.traces.vocabulary import CACHED_NAMES, LENGTH_PAIRS, SESSION_NAMES, ends_with

if TYPE_CHECKING:
    from collections.abc import Sequence

    from brsolver.traces.read_options import ReadOptions
    from brsolver.traces.sample import Sample

_OWN_LABELS = ("model", "tenant", "prompt_hash")
_PART = Whole(minimum=0, missing=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where the fields of a request stand.

    Attributes
    ----------
    prompt, output : Path
        Lengths in tokens.
    prompt_rest : tuple of Path
        Lengths of further parts of the prompt, which `prompt` leaves out.
    times : Times or None
        When requests arrive.
    labels : dict of str to Path
        Optional columns of the trace by their names there.
    sample : Sample
        The start of the file.
    """

    prompt: Path
    output: Path
    prompt_rest: tuple[Path, ...]
    times: Times | None
    labels: dict[str, Path]
    sample: Sample

    @property
    def fields(self) -> list[Field]:
        """The columns of the trace."""
        fields = [
            _field("prompt_tokens", self.prompt, LENGTH),
            _field("output_tokens", self.output, LENGTH),
        ]
        if self.times is not None:
            fields.append(_field("arrival", self.times.path, self.times.parser))
        for name, path in self.labels.items():
            fields.append(_field(name, path, _label_parser(name, self.sample.columns[path])))
        return fields

    @property
    def rest_of_prompt(self) -> list[Field]:
        """The columns that are added to the prompt's."""
        return [_field(dotted(path), path, _PART) for path in self.prompt_rest]

    @property
    def words(self) -> str:
        """Say which fields were taken for what."""
        prompt = " + ".join(map(dotted, (self.prompt, *self.prompt_rest)))
        return f"prompt tokens from {prompt}, output tokens from {dotted(self.output)}"


def find_layout(sample: Sample, options: ReadOptions) -> Layout | None:
    """Find the fields of requests; None if prompt and output lengths are not both there.

    Raises
    ------
    TraceError
        If `options` name a column that is not there, or a unit for dates.
    """
    given = {what: _path(sample, what, name) for what, name in options.columns.items()}
    prompt, output = given.pop("prompt_tokens", None), given.pop("output_tokens", None)
    if prompt is None or output is None:
        pair = find_lengths(sample)
        prompt = prompt or (pair[0] if pair else None)
        output = output or (pair[1] if pair else None)
    if prompt is None or output is None:
        return None
    arrival = given.pop("arrival", None)
    if arrival is None:
        times = find_times(sample, time_unit=options.time_unit)
    else:
        times = times_at(sample, arrival, time_unit=options.time_unit)
    return Layout(
        prompt=prompt,
        output=output,
        prompt_rest=() if "prompt_tokens" in options.columns else _rest(sample, prompt),
        times=times,
        labels={**_labels(sample), **given},
        sample=sample,
    )


def find_lengths(sample: Sample) -> tuple[Path, Path] | None:
    """Return the fields with the lengths of prompt and output; None if there is no such pair."""
    found = []
    for order, (prompt, output) in enumerate(LENGTH_PAIRS):
        for path in _numbers_at(sample, prompt):
            above = parts(path)[: -len(parts((prompt,)))]
            partner = next(
                (
                    other
                    for other in _numbers_at(sample, output)
                    if parts(other)[: -len(parts((output,)))] == above
                ),
                None,
            )
            if partner is not None:
                found.append((len(above), order, path, partner))
    return min(found)[2:] if found else None


def arrow_type(values: Sequence[Any]) -> pa.DataType | None:
    """Return the Arrow type of JSON values like these; None if they are of several kinds."""
    kinds = {type(value) for value in values}
    if kinds <= {str}:
        return pa.string()
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int}:
        return pa.int64()
    if kinds == {dict}:
        with suppress(pa.ArrowException):
            return pa.infer_type(values)
    return pa.float64() if kinds <= {int, float} else None


def given_field(sample: Sample, what: str, name: str, like: Field | None) -> Field:
    """Return the column that the user names for `what`.

    Parameters
    ----------
    sample : Sample
        The start of the file.
    what, name : str
        As in `ReadOptions.columns`.
    like : Field or None
        The format's own column for it.

    Raises
    ------
    TraceError
        If there is no such column.
    """
    path = _path(sample, what, name)
    parser = like.parser if like is not None else _label_parser(what, sample.columns[path])
    return _field(what, path, parser)


def raw_field(path: Path, sample: Sample) -> Field:
    """Return a column that is read as it is."""
    return _field(dotted(path), path, Label(arrow_type=arrow_type(sample.columns[path])))


def _field(target: str, path: Path, parser: Any) -> Field:
    return Field(source=dotted(path), target=target, parser=parser, path=path)


def _path(sample: Sample, what: str, name: str) -> Path:
    path = sample.find(name)
    if path is None:
        has = ", ".join(map(dotted, sample.columns)) or "none"
        raise TraceError(
            f"{sample.label}: columns gives {name!r} for {what}, must be one of: {has}"
        )
    return path


def _numbers_at(sample: Sample, name: str) -> list[Path]:
    return [
        path
        for path, values in sample.columns.items()
        if ends_with(path, name) and (not values or any(map(_is_number, values)))
    ]


def _is_number(value: object) -> bool:
    return whole_number(value) is not None


def _rest(sample: Sample, prompt: Path) -> tuple[Path, ...]:
    """Return the cached parts of a prompt whose name says that they are not in it."""
    if not ends_with(prompt, "input_tokens"):
        return ()
    above = parts(prompt)[:-1]
    beside = [path for path in sample.columns if parts(path)[:-1] == above]
    return tuple(path for path in beside for name in CACHED_NAMES if ends_with(path, name))


def _labels(sample: Sample) -> dict[str, Path]:
    labels: dict[str, Path] = {name: (name,) for name in _OWN_LABELS if (name,) in sample.columns}
    for name in SESSION_NAMES:
        found = sorted((len(path), path) for path in sample.columns if ends_with(path, name))
        if found:
            return {**labels, "session": found[0][1]}
    return labels


def _label_parser(name: str, values: Sequence[Any]) -> Any:
    if name in ("max_tokens", "cached_tokens"):
        return Whole(minimum=0 if name == "cached_tokens" else 1)
    return Label(arrow_type=arrow_type(values))
