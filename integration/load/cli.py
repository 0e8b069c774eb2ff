"""``brsolver load``.

Imported for the overview of commands: nothing heavy at the top.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import typer

from brsolver.cli import _options as o  # noqa: TC001 # typer evaluates annotations
from brsolver.cli._input import InputOptions  # noqa: TC001 # typer evaluates annotations
from brsolver.cli._offered import takes_input_options
from integration.load import options as lo  # typer evaluates annotations

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from brsolver.cli._progress import LateBar
    from brsolver.traces.trace import Trace
    from integration.load.driving import Drive
    from integration.load.params import LoadParams
    from integration.load.running import Loaded

SOME_FAILED, INTERRUPTED = 1, 130


@takes_input_options
def load(
    trace: o.TraceArgument,
    *,
    target: lo.TargetOption,
    model: lo.ModelOption = None,
    chat: lo.ChatOption = False,
    api_key_env: lo.ApiKeyEnvOption = lo.KEY_VARIABLE,
    header: lo.HeaderOption = None,
    timeout: lo.TimeoutOption = 600.0,
    max_connections: lo.MaxConnectionsOption = None,
    ca_file: lo.CaFileOption = None,
    insecure: lo.InsecureOption = False,
    rate: lo.RateOption = None,
    concurrency: lo.ConcurrencyOption = None,
    speed: lo.SpeedOption = 1.0,
    requests: lo.RequestsOption = None,
    warm_up: lo.WarmUpOption = 1,
    prompts: lo.PromptsOption = None,
    tokenizer: lo.TokenizerOption = None,
    block: lo.BlockOption = None,
    ignore_eos: lo.IgnoreEosOption = True,
    drop_oversized: lo.DropOversizedOption = False,
    body: lo.BodyOption = None,
    seed: o.SeedOption = None,
    options: InputOptions,
    slo_ttft: lo.SloTtftOption = None,
    slo_tpot: lo.SloTpotOption = None,
    json: o.JsonOption = False,
    out: lo.OutOption = None,
    vllm_json: lo.VllmJsonOption = None,
) -> None:
    """Replay a trace against an OpenAI endpoint, and measure what comes.

    Latencies count from when a request was due, not from when it was sent. Ctrl-C ends a load and
    prints what is there.
    """
    from integration.load.params import ContentParams, LoadParams, Objectives, Pace, TargetParams

    params = LoadParams(
        target=TargetParams(
            url=target,
            model=model,
            chat=chat,
            key=os.environ.get(api_key_env, "").strip(),
            headers=headers_of(header or ()),
            timeout_s=timeout,
            max_connections=max_connections,
            ca_file=ca_file,
            insecure=insecure,
        ),
        pace=Pace(rate=rate, concurrency=concurrency, speed=speed),
        content=ContentParams(
            prompts=prompts or ("text" if chat or tokenizer else "ids"),  # type: ignore[arg-type] # checked there
            tokenizer=tokenizer,
            block=block,
            ignore_eos=ignore_eos,
            more=fields_of(body, exact=ignore_eos),
            seed=seed or 0,
        ),
        objectives=Objectives(ttft_s=_seconds(slo_ttft), tpot_s=_seconds(slo_tpot)),
        warm_up=warm_up,
        fit=drop_oversized,
    )
    loaded = _run(trace, options, params, requests, out=out, vllm_json=vllm_json)
    # First, so that they are there if a file cannot be written.
    _print(loaded, as_json=json)
    _save(loaded, params, out=out, vllm_json=vllm_json)
    _leave(loaded)


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1e3


def headers_of(texts: Sequence[str]) -> dict[str, str]:
    """Read ``NAME=VALUE`` texts.

    Raises
    ------
    ParameterError
        One is not of that form, or its name is none of a header.
    """
    from brsolver.errors import ParameterError

    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        plain = name and name.isascii() and name.replace("-", "").replace("_", "").isalnum()
        if not equals or not plain or not value.isprintable():
            raise ParameterError(f"--header is {text!r}, must be NAME=VALUE")
        found[name] = value
    return found


def fields_of(text: str | None, *, exact: bool = True) -> dict[str, Any]:
    """Read further fields of bodies, a JSON object.

    Parameters
    ----------
    text : str or None
    exact : bool
        Whether the load asks for exact numbers of tokens.

    Raises
    ------
    ParameterError
        It is none, or sets what the load itself sets.
    """
    import json

    from brsolver.errors import ParameterError

    if text is None:
        return {}
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ParameterError(f"--body is {text!r}, must be a JSON object: {error}") from error
    if not isinstance(fields, dict):
        raise ParameterError(f"--body is {text!r}, must be a JSON object")
    own = {"prompt", "messages", "model", "stream", "max_tokens", "max_completion_tokens"}
    own |= {"min_tokens", "ignore_eos"} if exact else set()
    if taken := sorted(own & fields.keys()):
        raise ParameterError(f"--body has {', '.join(taken)}, which the load sets itself")
    return fields


def _run(
    source: str,
    options: InputOptions,
    params: LoadParams,
    requests: int | None,
    *,
    out: str | None,
    vllm_json: str | None,
) -> Loaded:
    from brsolver.cli._progress import late_bar
    from integration.load import saving
    from integration.load.http import require_aiohttp
    from integration.load.running import run_load

    require_aiohttp()
    if out is not None:
        saving.check_place(out, "--out", saving.ENDINGS)
    if vllm_json is not None:
        saving.check_place(vllm_json, "--vllm-json")
    trace = first_of(options.source(source).load(params.content.seed), requests)
    with late_bar("asking the endpoint") as bar:
        return run_load(trace, params, tell=_tell, progress=lambda drive: _show(bar, drive))


def _save(loaded: Loaded, params: LoadParams, *, out: str | None, vllm_json: str | None) -> None:
    from integration.load import saving

    if out is not None and saving.write_results(loaded, out):
        _tell(f"wrote {out}")
    if vllm_json is not None:
        saving.write_vllm_result(loaded, params, vllm_json)
        _tell(f"wrote {vllm_json}")


def first_of(trace: Trace, requests: int | None) -> Trace:
    """Return the first requests of a trace.

    Raises
    ------
    ParameterError
        There are fewer.
    """
    from brsolver.errors import ParameterError

    if requests is not None and not 1 <= requests <= len(trace):
        raise ParameterError(
            f"requests is {requests}, must be from 1 to the {len(trace)} of {trace.name}"
        )
    return trace.head(requests)


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _show(bar: LateBar, drive: Drive) -> None:
    failed = sum(reply.kind.failure for reply in drive.replies)
    told = f", {failed} failed" if failed else ""
    bar.rename(f"{len(drive.under_way)} in flight{told}; ended")
    bar.update(len(drive.replies), drive.total)


def _print(loaded: Loaded, *, as_json: bool) -> None:
    import json

    from rich.console import Console

    from brsolver.results.plain import finite_only
    from integration.load.figures import as_data
    from integration.load.showing import DUE, counts_table, durations_table

    if as_json:
        facts: Mapping[str, Any] = {
            "model": loaded.served.model,
            "trace": loaded.trace.name,
            "trace_fingerprint": loaded.trace.fingerprint(),
            "interrupted_by_user": loaded.interrupted,
            "latencies_count_from": "when a request was due",
            **as_data(loaded.figures),
            "notes": list(loaded.notes),
        }
        sys.stdout.write(json.dumps(finite_only(dict(facts)), indent=2, allow_nan=False) + "\n")
    else:
        console = Console(highlight=False)
        console.print(counts_table(loaded))
        console.print()
        console.print(durations_table(loaded.figures))
        console.print(DUE)
    for note in loaded.notes:
        _tell(f"note: {note}")


def _leave(loaded: Loaded) -> None:
    if loaded.interrupted:
        raise typer.Exit(INTERRUPTED)
    if loaded.figures.failures:
        raise typer.Exit(SOME_FAILED)
