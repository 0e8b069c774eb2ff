"""``brsolver fake-engine``."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from integration.engines.engine import FakeEngine
    from integration.engines.params import EngineParams

CLUSTER, SERVER = "Cluster", "Server"

fake_engine = typer.Typer(
    add_completion=False, context_settings={"help_option_names": ["-h", "--help"]}
)


@fake_engine.command("fake-engine")
def run(
    *,
    ranks: Annotated[
        int, typer.Option(metavar="G", rich_help_panel=CLUSTER, help="Data-parallel ranks.")
    ] = 1,
    hardware: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            rich_help_panel=CLUSTER,
            help="What a step lasts, as in simulate. (default: that of simulate)",
        ),
    ] = None,
    slots: Annotated[
        int,
        typer.Option(
            metavar="B", rich_help_panel=CLUSTER, help="Requests that a rank runs at once."
        ),
    ] = 256,
    capacity: Annotated[
        int | None,
        typer.Option(
            metavar="N", rich_help_panel=CLUSTER, help="KV tokens of a rank. (default: unlimited)"
        ),
    ] = None,
    budget: Annotated[
        int,
        typer.Option(
            metavar="N", rich_help_panel=CLUSTER, help="Most tokens that a rank computes in a step."
        ),
    ] = 8192,
    threshold: Annotated[
        int,
        typer.Option(
            metavar="N",
            rich_help_panel=CLUSTER,
            help="Most tokens of one prompt in a step, 0 for no limit.",
        ),
    ] = 0,
    interval: Annotated[
        int,
        typer.Option(
            metavar="N", rich_help_panel=CLUSTER, help="Steps from one with prefill to the next."
        ),
    ] = 1,
    role: Annotated[
        str,
        typer.Option(
            metavar="both|prefill|decode",
            rich_help_panel=CLUSTER,
            help="Tier that the engine is of.",
        ),
    ] = "both",
    speed: Annotated[
        float,
        typer.Option(
            metavar="X", rich_help_panel=CLUSTER, help="How much faster than the hardware it runs."
        ),
    ] = 1.0,
    model: Annotated[
        str, typer.Option(metavar="NAME", rich_help_panel=SERVER, help="The model's name.")
    ] = "fake",
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", rich_help_panel=SERVER, help="Address to listen on.")
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            metavar="PORT",
            rich_help_panel=SERVER,
            help="Port of all ranks together, 0 for a free one.",
        ),
    ] = 8000,
    ports_per_rank: Annotated[
        int | None,
        typer.Option(
            metavar="PORT",
            rich_help_panel=SERVER,
            help="Port of rank 0 alone, those of the others following; 0 for free ones. "
            "(default: none)",
        ),
    ] = None,
    ignore_pin: Annotated[
        bool,
        typer.Option(
            "--ignore-pin", rich_help_panel=SERVER, help="Do not look at X-data-parallel-rank."
        ),
    ] = False,
    max_model_len: Annotated[
        int,
        typer.Option(
            metavar="N", rich_help_panel=SERVER, help="Longest prompt plus output, in tokens."
        ),
    ] = 131_072,
    characters_per_token: Annotated[
        float,
        typer.Option(metavar="X", rich_help_panel=SERVER, help="Length of a prompt's token."),
    ] = 4.0,
    mean_output: Annotated[
        float,
        typer.Option(
            metavar="N",
            rich_help_panel=SERVER,
            help="Mean output length of requests without ignore_eos.",
        ),
    ] = 128.0,
    keep_kv: Annotated[
        float,
        typer.Option(
            metavar="S",
            rich_help_panel=SERVER,
            help="How long the KV of a prompt is kept that no decode engine fetches.",
        ),
    ] = 480.0,
    seed: Annotated[
        int, typer.Option(metavar="S", rich_help_panel=SERVER, help="Seed of output lengths.")
    ] = 0,
    log: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=SERVER,
            help="Add a line of JSON for each request: when it came, and when its tokens went.",
        ),
    ] = None,
) -> None:
    """Serve the OpenAI API from ranks that only exist in the simulator.

    Requests get their tokens when ranks of that hardware, with one barrier and prefill of their
    own, would have computed them. Prints one address per line, and ready.
    """
    from brsolver.hardware.model import DEFAULT_HARDWARE
    from integration.engines.params import EngineParams

    params = EngineParams(
        ranks=ranks,
        hardware=DEFAULT_HARDWARE if hardware is None else hardware,
        slots=slots,
        capacity=capacity,
        budget=budget,
        threshold=threshold,
        interval=interval,
        role=role,  # type: ignore[arg-type] # checked there
        speed=speed,
        model=model,
        host=host,
        port=port,
        ports_per_rank=ports_per_rank,
        ignore_pin=ignore_pin,
        max_model_len=max_model_len,
        characters_per_token=characters_per_token,
        mean_output=mean_output,
        keep_kv_s=keep_kv,
        seed=seed,
        log=log,
    )
    asyncio.run(_serve(params))


async def _serve(params: EngineParams) -> None:
    from brsolver.errors import MissingExtraError

    try:
        from integration.engines.engine import run as run_engine
    except ModuleNotFoundError as error:
        raise MissingExtraError.for_extra(error.name or "aiohttp", "proxy") from error

    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    await run_engine(params, ready=_announce, stopped=stopped)


def _announce(engine: FakeEngine) -> None:
    lines = [f"{engine.url} all {engine.params.ranks} ranks"]
    lines += [f"{url} rank {rank}" for rank, url in enumerate(engine.rank_urls)]
    sys.stdout.write("\n".join([*lines, "ready", ""]))
    sys.stdout.flush()
