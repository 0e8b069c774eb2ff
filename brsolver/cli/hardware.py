"""``brsolver hardware``: what a step costs, by name or fitted to measurements."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from brsolver.cli import _options as o  # noqa: TC001 # typer evaluates annotations

if TYPE_CHECKING:
    from brsolver.hardware.fit import Fit, Limits
    from brsolver.hardware.measurements import Measurements, Origin
    from brsolver.hardware.model import Hardware
    from brsolver.hardware.operators import Operators

app = typer.Typer(
    help="What a step costs on which hardware: list, show, fit to measurements.",
    no_args_is_help=True,
    add_completion=False,
)


@app.command(name="list")
def list_(
    *, json: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False
) -> None:
    """List the hardware that has a name."""
    from brsolver.hardware import preset_names, read_hardware

    known = [read_hardware(name) for name in preset_names()]
    if json:
        _print_json([_facts(each) for each in known])
    else:
        _print_list(known)


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME|FILE.toml", help="Preset, or a file.")],
    *,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print coefficients, source, licence, conditions and error."""
    from brsolver.hardware import read_hardware

    hardware = read_hardware(name)
    if json:
        _print_json(_facts(hardware))
    else:
        _print_hardware(hardware)


@app.command()
def fit(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="AIConfigurator/AISimulate Parquet, LLMServingSim attention table, or a folder "
            "of step logs.",
        ),
    ],
    *,
    model: Annotated[str, typer.Option(metavar="M", help="Model, if the file holds several.")] = "",
    parallel: Annotated[
        str, typer.Option(metavar="P", help="Strategy of parallelism: dep, tep, pure_tp.")
    ] = "",
    dp: Annotated[int, typer.Option(metavar="N", help="Degree of data parallelism.")] = 0,
    tp: Annotated[int, typer.Option(metavar="N", help="Degree of tensor parallelism.")] = 0,
    layers: Annotated[
        int, typer.Option(metavar="N", help="Attention layers, for a table that holds one.")
    ] = 0,
    sequences: Annotated[
        str | None,
        typer.Option(metavar="LOW:HIGH", help="Sequences of the decode steps to fit."),
    ] = None,
    prefill: Annotated[
        str | None,
        typer.Option(
            metavar="LOW:HIGH",
            help="Prefill tokens of the prefill steps to fit (default: 256:, or less if "
            "the most measured is below 2,048).",
        ),
    ] = None,
    shared: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Share of a prefill token that all ranks bear (default: what fits best where "
            "ranks differ, else 0.5).",
        ),
    ] = None,
    operators: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Folder of AIConfigurator/AISimulate's operator tables, or one of them: what of "
            "a token is bound to its rank follows from attention against experts, in place of "
            "--shared.",
        ),
    ] = None,
    shape: Annotated[
        str,
        typer.Option(
            metavar="NAME|FILE.toml",
            help="Sizes of the model, for --operators (default: the known ones of the model that "
            "was measured).",
        ),
    ] = "",
    experts: Annotated[
        str,
        typer.Option(
            metavar="K/N",
            help="Experts of a token, of all: also fit what reading their weights takes, which "
            "small batches tell.",
        ),
    ] = "",
    name: Annotated[str, typer.Option(metavar="NAME", help="What to call it.")] = "",
    licence: Annotated[str, typer.Option(metavar="TEXT", help="Licence of the measurements.")] = "",
    out: Annotated[
        str | None, typer.Option(metavar="FILE.toml", help="Also write a hardware file.")
    ] = None,
    json: o.JsonOption = False,
) -> None:
    """Fit a step time to measured steps."""
    from brsolver.hardware.fit import fit_steps
    from brsolver.hardware.from_fit import hardware_of
    from brsolver.hardware.readers import Selection, read_measurements

    require_target(name, out)
    _require_one_share(shared, operators, shape)
    limits = _limits(sequences, prefill, shared, experts)
    selection = Selection(model=model, parallel=parallel, dp=dp, tp=tp, layers=layers)
    measured = read_measurements(Path(file), selection)
    if operators is not None:
        limits = _with_operators(limits, measured, operators, shape)
    found = fit_steps(measured, limits)
    hardware = hardware_of(found, name=name, licence=licence)
    for note in (*measured.origin.notes, *(found.operators.notes if found.operators else ())):
        typer.echo(note, err=True)
    if json:
        _print_json(fit_facts(found, hardware))
    else:
        _print_fit(found, hardware)
    if out is not None:
        hardware.to_toml(out)
        typer.echo(f"wrote {out}", err=True)


def require_target(name: str, out: str | None) -> None:
    """Refuse a name that hardware cannot have, and where it cannot be written; before measuring.

    Parameters
    ----------
    name : str
        ``--name``; empty if it was not given.
    out : str or None
        ``--out``.

    Raises
    ------
    ParameterError
        The name has other characters than names may have, or the file is no ``.toml``.
    OutputError
        Its folder is not there, or it is a folder itself.
    """
    from brsolver.hardware.model import require_name

    if name:
        require_name("--name", name)
    if out is not None:
        _require_out(out)


def _require_out(text: str) -> None:
    from brsolver.errors import OutputError, ParameterError

    if not text.lower().endswith(".toml"):
        raise ParameterError(f"--out is {text!r}, must end in .toml")
    if not Path(text).resolve().parent.is_dir():
        raise OutputError(f"--out {text} cannot be written: there is no such folder")
    if Path(text).is_dir():
        raise OutputError(f"--out {text} cannot be written: it is a folder")


def _limits(
    sequences: str | None, prefill: str | None, shared: float | None, experts: str
) -> Limits:
    from brsolver.hardware.fit import Limits

    given: dict[str, Any] = {"shared": shared, "experts": parse_experts(experts)}
    if sequences is not None:
        given["sequences"] = parse_range("sequences", sequences)
    if prefill is not None:
        given["prefill_tokens"] = parse_range("prefill", prefill)
    return Limits(**given)


def _require_one_share(shared: float | None, operators: str | None, shape: str) -> None:
    from brsolver.errors import ParameterError

    if shared is not None and operators is not None:
        raise ParameterError("--shared and --operators exclude each other; give one")
    if shape and operators is None:
        raise ParameterError("--shape is given without --operators, must be with its tables")


def _with_operators(limits: Limits, measured: Measurements, folder: str, shape: str) -> Limits:
    """Add what tables of operators tell of the model that was measured."""
    from dataclasses import replace

    from brsolver.hardware.fit import ranges_to_fit
    from brsolver.hardware.operators import operators_of
    from brsolver.hardware.readers.operator_tables import read_tables
    from brsolver.hardware.shape import read_shape, shape_of_model

    origin = measured.origin
    model = read_shape(shape) if shape else shape_of_model(origin.model)
    require_plain_ranks(origin)
    found = operators_of(
        read_tables(Path(folder), origin.engine),
        model,
        ranks=max(origin.dp, measured.ranks),
        **ranges_to_fit(measured, limits),
    )
    return replace(limits, operators=found)


def require_plain_ranks(origin: Origin) -> None:
    """Refuse servers whose ranks are of several GPUs: their collectives are others."""
    from brsolver.errors import ParameterError

    if origin.tp > 1:
        raise ParameterError(
            f"--operators: tp is {origin.tp} in {origin.file}, must be 1: attention data parallel, "
            "a GPU a rank"
        )


def parse_range(name: str, text: str) -> tuple[float, float]:
    """Read ``"64:512"``, ``"64:"`` or ``":512"``."""
    from brsolver.errors import ParameterError

    low, colon, high = (part.strip() for part in text.partition(":"))
    numbers = [part for part in (low, high) if part]
    if not colon or not numbers or not all(part.isdecimal() for part in numbers):
        raise ParameterError(f"{name} is {text!r}, must be LOW:HIGH, e.g. 64:512, 64: or :512")
    return float(low or 0), float(high or "inf")


def parse_experts(text: str) -> float:
    """Read ``"8/256"``; nothing is 0."""
    from brsolver.errors import ParameterError

    few, slash, all_of_them = (part.strip() for part in text.partition("/"))
    if not text:
        return 0.0
    if not slash or not few.isdecimal() or not all_of_them.isdecimal():
        raise ParameterError(f"experts is {text!r}, must be K/N, e.g. 8/256")
    if not 0 < int(few) < int(all_of_them):
        raise ParameterError(f"experts is {text!r}, must be K/N with K from 1 to below N")
    return int(few) / int(all_of_them)


def fit_facts(fit: Fit, hardware: Hardware) -> dict[str, Any]:
    """Return a fit as ``--json`` prints it."""
    from dataclasses import asdict

    from brsolver.hardware.residuals import bins_of, doubts

    origin = fit.decode.origin
    evidence = hardware.fit
    return {
        "name": hardware.name,
        **{key: value for key, value in asdict(origin).items() if key != "notes"},
        "rows": evidence.rows,
        "base_s": fit.base,
        "per_sequence_s": fit.per_sequence,
        "per_kv_token_s": fit.per_kv_token,
        "per_prefill_token_s": fit.per_prefill_token,
        "per_prefill_context_s": fit.per_prefill_context,
        "all_experts_s": fit.all_experts,
        "expert_share": fit.expert_share,
        "shared": fit.shared,
        "shared_identified": fit.shared_known,
        "shared_source": fit.shared_source,
        "sequence_shared": fit.sequence_shared,
        "operators": operator_facts(fit.operators),
        "request_tokens": fit.request_tokens,
        "median_error": evidence.median_error,
        "p95_error": evidence.p95_error,
        "prefill_rows": evidence.prefill_rows,
        "prefill_median_error": evidence.prefill_median_error,
        "prefill_p95_error": evidence.prefill_p95_error,
        "sensitivity": [asdict(each) for each in fit.sensitivity],
        "residuals": [asdict(each) for each in bins_of(fit)],
        "doubts": list(doubts(fit)),
        "notes": list(origin.notes),
        "step_time": hardware.coefficients(),
    }


def operator_facts(found: Operators | None) -> dict[str, Any] | None:
    """Return what tables of operators told as ``--json`` prints it."""
    from dataclasses import asdict

    if found is None:
        return None
    sizes = [{**asdict(size), "shared": size.shared} for size in found.sizes]
    return {**asdict(found), "sizes": sizes}


def _facts(hardware: Hardware) -> dict[str, Any]:
    return {**hardware.to_dict(), "request_tokens": hardware.step_time.request_tokens}


def _print_json(value: Any) -> None:
    import json

    from brsolver.results.plain import finite_only

    sys.stdout.write(json.dumps(finite_only(value), indent=2, allow_nan=False) + "\n")


def _print_list(known: list[Hardware]) -> None:
    from brsolver.cli._hardware_tables import list_table

    _print(list_table(known))


def _print_hardware(hardware: Hardware) -> None:
    from brsolver.cli._hardware_tables import hardware_tables

    _print(*hardware_tables(hardware))


def _print_fit(fit: Fit, hardware: Hardware) -> None:
    from brsolver.cli._hardware_tables import (
        coefficient_table,
        operators_table,
        sensitivity_table,
    )
    from brsolver.hardware.residuals import bins_of, doubts, picture

    _print(coefficient_table(hardware))
    if fit.operators is not None:
        _print(operators_table(fit.operators))
    if fit.sensitivity:
        _print(sensitivity_table(fit))
    for line in ("", *picture(bins_of(fit)), "", "Do not believe it"):
        typer.echo(line)
    for line in doubts(fit):
        typer.echo(f"- {line}")


def _print(*tables: Any) -> None:
    from rich.console import Console

    width = None if sys.stdout.isatty() else 140
    console = Console(highlight=False, width=width)
    for table in tables:
        console.print(table)
