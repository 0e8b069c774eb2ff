"""Whether a vLLM is one that the adapter knows how to stand in.

What the adapter relies on is written down once, as requirements on classes; they can be held
against the classes of an installed vLLM (`integration.vllm.shapes.live`) or against its sources
alone (`integration.vllm.shapes.from_sources`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from integration.vllm.shapes import ClassShape, MethodShape

CLIENTS = "vllm.v1.engine.core_client"
MESSAGES = "vllm.v1.engine"
MODULES = (CLIENTS, MESSAGES)

TESTED = ((0, 20, 2), (0, 25, 0), (0, 30, 0), (0, 32, 0), (0, 33, 0))
"""Releases whose sources the tests hold against the needs below; later patches count as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodNeed:
    """A method: its parameters, in order, and its kind.

    Attributes
    ----------
    parameters : tuple of str
        All of them if `exact`, else some that must be among them.
    """

    parameters: tuple[str, ...]
    coroutine: bool = False
    static: bool = False
    exact: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassNeed:
    """What one class must have; inherited members count, but for `own`.

    Attributes
    ----------
    values : mapping of str to int
        Fields that must have this value: messages carry it as a number.
    """

    module: str
    name: str
    methods: Mapping[str, MethodNeed] = field(default_factory=dict)
    own: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    values: Mapping[str, int] = field(default_factory=dict)
    base: str | None = None


_ADD = MethodNeed(parameters=("self", "request"), coroutine=True)

NEEDS = (
    ClassNeed(
        module=CLIENTS,
        name="DPLBAsyncMPClient",
        base="DPAsyncMPClient",
        methods={
            "get_core_engine_for_request": MethodNeed(parameters=("self", "request")),
            "process_engine_outputs": MethodNeed(
                parameters=("self", "outputs"), coroutine=True, static=True
            ),
            "abort_requests_async": MethodNeed(parameters=("self", "request_ids"), coroutine=True),
            "add_request_async": _ADD,
        },
        own=("get_core_engine_for_request", "process_engine_outputs", "abort_requests_async"),
        attributes=(
            "reqs_in_flight",
            "core_engines",
            "outputs_queue",
            "client_count",
            "client_index",
            "vllm_config",
            "resources",
            "stats_update_address",
        ),
    ),
    ClassNeed(
        module=CLIENTS,
        name="DPAsyncMPClient",
        base="AsyncMPClient",
        methods={"add_request_async": _ADD},
        own=("add_request_async",),
    ),
    ClassNeed(
        module=CLIENTS,
        name="AsyncMPClient",
        methods={
            "__init__": MethodNeed(
                parameters=("self", "vllm_config", "client_count", "client_index"), exact=False
            ),
        },
        own=("__init__",),
    ),
    ClassNeed(
        module=MESSAGES,
        name="EngineCoreRequest",
        fields=(
            "request_id",
            "prompt_token_ids",
            "prompt_embeds",
            "sampling_params",
            "pooling_params",
            "arrival_time",
            "lora_request",
            "data_parallel_rank",
            "resumable",
        ),
    ),
    ClassNeed(
        module=MESSAGES,
        name="EngineCoreOutput",
        fields=("request_id", "new_token_ids", "finish_reason", "events", "prefill_stats"),
    ),
    ClassNeed(
        module=MESSAGES,
        name="EngineCoreOutputs",
        fields=("engine_index", "outputs", "finished_requests"),
    ),
    ClassNeed(
        module=MESSAGES,
        name="FinishReason",
        values={"STOP": 0, "LENGTH": 1, "ABORT": 2, "ERROR": 3, "REPETITION": 4},
    ),
    ClassNeed(module=MESSAGES, name="EngineCoreEventType", values={"PREEMPTED": 3}),
)


def mismatches(shapes: Mapping[tuple[str, str], ClassShape]) -> list[str]:
    """Return what a vLLM lacks for the adapter, one line each; an empty list if nothing.

    Parameters
    ----------
    shapes : mapping of (module, class name) to ClassShape
        What it has.
    """
    return [line for need in NEEDS for line in _compare(need, shapes)]


def _compare(need: ClassNeed, shapes: Mapping[tuple[str, str], ClassShape]) -> Iterator[str]:
    shape = shapes.get((need.module, need.name))
    if shape is None:
        yield f"{need.module} has no class {need.name}"
        return
    if need.base is not None and need.base not in shape.bases:
        yield f"{need.name} does not derive from {need.base}"
    for name, wanted in need.methods.items():
        yield from _compare_method(f"{need.name}.{name}", wanted, shape.methods.get(name))
    for name in need.own:
        if name not in shape.own:
            yield f"{need.name} does not define {name} itself"
    for name in need.attributes:
        if name not in shape.attributes:
            yield f"{need.name} sets no attribute {name}"
    for name in need.fields:
        if name not in shape.fields:
            yield f"{need.name} has no field {name}"
    yield from _compare_values(need, shape)


def _compare_values(need: ClassNeed, shape: ClassShape) -> Iterator[str]:
    for name, value in need.values.items():
        if name not in shape.fields:
            yield f"{need.name} has no field {name}"
        elif shape.values.get(name) != value:
            yield f"{need.name}.{name} is {shape.values.get(name, 'no plain number')}, not {value}"


def _compare_method(where: str, need: MethodNeed, shape: MethodShape | None) -> Iterator[str]:
    if shape is None:
        yield f"{where} is missing"
        return
    given = ", ".join(shape.parameters)
    if need.exact and shape.parameters != need.parameters:
        yield f"{where} takes ({given}), not ({', '.join(need.parameters)})"
    elif not need.exact and not set(need.parameters) <= set(shape.parameters):
        yield f"{where} takes ({given}), which lacks one of {', '.join(need.parameters)}"
    if shape.static != need.static:
        yield f"{where} is {'a' if shape.static else 'no'} static method"
    if shape.coroutine != need.coroutine:
        yield f"{where} is {'a' if shape.coroutine else 'no'} coroutine function"
