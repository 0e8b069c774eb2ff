"""What can be switched off in a run, one thing at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from brsolver.hardware.step_time import StepTime
    from brsolver.results.result import SimulationResult
    from brsolver.simulator.params import SimulationParams


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """A cause, and the run without it.

    Attributes
    ----------
    name, label, without : str
        As of `brsolver.oracles.explain.Cause`.
    params : SimulationParams
        Of the run without it.
    oracle : bool
        Whether that run knows lengths.
    logged_s : float or None
        What it costs by the run's own step log, where no other run can tell.
    why_not : str
        Why it is not there; empty if it is.
    """

    name: str
    label: str
    without: str
    params: SimulationParams
    oracle: bool = False
    logged_s: float | None = None
    why_not: str = ""


LOADS = (
    (
        "prefill",
        "prefill that is not aligned",
        "with every prefill token's time shared evenly by all ranks",
        ("per_prefill_token", "per_prefill_context"),
    ),
    ("kv", "imbalance of KV tokens", "with KV tokens balanced perfectly", ("per_token",)),
    (
        "sequences",
        "imbalance of counts",
        "with numbers of sequences balanced perfectly",
        ("per_sequence",),
    ),
)
"""Name, label, what is done without it, and the coefficients that are then shared."""


def switches(run: SimulationResult) -> list[Switch]:
    """Return everything that could be switched off in a run, there or not."""
    fixed = with_fixed_weights(run.params)
    return [*_loads(run, fixed), _padding(fixed), *_regime(run, fixed)]


def with_fixed_weights(params: SimulationParams) -> SimulationParams:
    """Keep what a request weighs for the policy when coefficients are changed."""
    if params.request_tokens != "auto":
        return params
    return replace(params, request_tokens=params.step_time.request_tokens)


def _loads(run: SimulationResult, params: SimulationParams) -> Iterator[Switch]:
    model = params.step_time
    for name, label, without, coefficients in LOADS:
        given = Switch(name=name, label=label, without=without, params=params)
        # With graphs all ranks pay for the largest count: there is nothing to share evenly.
        if model.model == "table" or (name == "sequences" and model.graph_sizes):
            logged = float(getattr(run.steps, f"lost_{name}_s").sum())
            yield replace(given, logged_s=logged, without=f"{without}, by its own step log")
        elif not any(getattr(model, each) for each in coefficients):
            yield replace(given, why_not="this hardware's steps do not depend on it")
        elif name == "prefill" and not run.steps.prefill_tokens.any():
            yield replace(given, why_not="prompts are not prefilled on the decode ranks")
        else:
            yield replace(given, params=replace(params, step_time=_shared(model, coefficients)))


def _shared(model: StepTime, coefficients: tuple[str, ...]) -> StepTime:
    """Let all ranks share what each paid for itself: the mean costs what it did, excess nothing."""
    changes: dict[str, float] = {}
    for bound in coefficients:
        mean = bound.replace("per_", "per_mean_")
        changes |= {bound: 0.0, mean: getattr(model, bound) + getattr(model, mean)}
    return replace(model, model="loads", **changes)  # type: ignore[arg-type] # numbers all


def _padding(params: SimulationParams) -> Switch:
    sizes = params.step_time.graph_sizes
    # A graph for every count: ranks go on paying for the largest one's, which is imbalance.
    every = tuple(range(1, max(params.slots_each()) + 1)) if sizes else ()
    plain = replace(params.step_time, graph_sizes=every)
    return Switch(
        name="padding",
        label="padding to CUDA graphs",
        without="with the largest count paid as it is, not rounded up",
        params=replace(params, step_time=plain),
        why_not="" if sizes else "no graph sizes are given",
    )


def _regime(run: SimulationResult, params: SimulationParams) -> Iterator[Switch]:
    stale, fresh = params.staleness, type(params.staleness)()
    yield Switch(
        name="staleness",
        label="stale information",
        without="with loads as they are at every decision",
        params=replace(params, staleness=fresh),
        why_not="" if stale.active else "information is fresh",
    )
    yield Switch(
        name="transit",
        label="requests in transit",
        without="with requests that run from the step they are sent at",
        params=replace(params, transit_steps=0),
        why_not="" if params.transit_steps else "nothing is in transit",
    )
    yield Switch(
        name="immediate",
        label="immediate routing",
        without="with requests held in a pool until a slot is free",
        params=replace(params, routing="pooled"),
        why_not="" if params.routing == "immediate" else "requests are pooled already",
    )
    yield Switch(
        name="lengths",
        label="not knowing lengths",
        without="with true output lengths for the policy",
        params=params,
        oracle=True,
        why_not=_knows_enough(run),
    )


MOVES_EVERY = 4
"""Steps between the moves of the run in which requests move."""


def moved(run: SimulationResult) -> Switch:
    """Return the run in which requests move between workers, which engines do not offer."""
    from brsolver.simulator.migration import why_not_moved

    params = with_fixed_weights(run.params)
    migration = replace(params.migration, every=MOVES_EVERY)
    why_not = why_not_moved(params.prefill)
    if params.migration.active:
        why_not = "they move in this very run"
    elif params.workers == 1:
        why_not = "there is one worker"
    return Switch(
        name="migration",
        label="requests cannot move",
        without=(
            f"with one that runs moved every {MOVES_EVERY} steps "
            f"({1e6 * migration.token_s:.3g} ms per 1,000 KV tokens)"
        ),
        params=params if why_not else replace(params, migration=migration),
        why_not=why_not,
    )


def _knows_enough(run: SimulationResult) -> str:
    if run.sees_future:
        return "the policy is given true lengths"
    return f"{run.policy} uses no forecasts" if run.predictor == "none" else ""
