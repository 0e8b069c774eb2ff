"""What logs and exports call the fields of a request, written as in `docs/traces.md`.

Names are compared without case and punctuation (`brsolver.traces.paths.simple`). A name matches at
the end of a path: ``prompt_tokens`` is found in ``response.usage.prompt_tokens``, too.
"""

from __future__ import annotations

from types import MappingProxyType

from brsolver.traces.paths import Path, parts, simple

LENGTH_PAIRS: tuple[tuple[str, str], ...] = (
    ("prompt_tokens", "completion_tokens"),
    ("prompt_tokens", "output_tokens"),
    ("input_tokens", "output_tokens"),
    ("input_token_count", "output_token_count"),
    ("input.inputTokenCount", "output.outputTokenCount"),
    ("prompt_token_count", "candidates_token_count"),
    ("prompt_token", "completion_token"),
    ("token_count.prompt", "token_count.completion"),
    ("tokens_in", "tokens_out"),
    ("tokens_prompt", "tokens_completion"),
    ("usage_details.input", "usage_details.output"),
    ("usage.input", "usage.output"),
    ("num_prompt_tokens", "num_completion_tokens"),
    ("num_prompt_tokens", "num_generation_tokens"),
    ("num_input_tokens", "num_output_tokens"),
    ("num_prefill_tokens", "num_decode_tokens"),
    ("context_tokens", "generated_tokens"),
    ("request_tokens", "response_tokens"),
    ("input_toks", "output_toks"),
    ("input_sequence_length.value", "output_sequence_length.value"),
    ("input_sequence_length", "output_sequence_length"),
    ("input_length", "output_length"),
    ("input_len", "output_len"),
    ("prompt_length", "output_length"),
    ("prompt_len", "output_len"),
    ("prompt_size", "token_size"),
)
"""Pairs of names for the lengths of prompt and output; the two stand side by side."""

ARRIVAL_NAMES: tuple[str, ...] = (
    "arrival",
    "arrival_time",
    "arrival_timestamp",
    "arrived_at",
    "request_start",
    "request_start_time",
    "start_time",
    "started_at",
    "start_timestamp",
    "start",
    "request_time",
    "request_timestamp",
    "request_created_at",
    "requested_at",
    "request_at",
    "received_at",
    "submitted_at",
    "created_at",
    "created",
    "created_time",
    "creation_time",
    "timestamp",
    "ts",
    "time",
    "datetime",
    "event_time",
    "event_timestamp",
    "time_generated",
    "logging_time",
    "epoch",
)
"""Names of the time at which a request arrives, the better ones first."""

UNIT_ENDINGS = MappingProxyType(
    {
        "unix_nano": "ns",
        "unix_ns": "ns",
        "nanos": "ns",
        "ns": "ns",
        "unix_us": "us",
        "micros": "us",
        "us": "us",
        "unix_ms": "ms",
        "millis": "ms",
        "ms": "ms",
        "seconds": "s",
        "secs": "s",
        "sec": "s",
        "s": "s",
        "unix": None,
        "epoch": None,
        "utc": None,
    }
)
"""What may follow a name of `ARRIVAL_NAMES`, and the unit it means."""

TIME_WORDS = ("time", "arriv", "created", "epoch", "started")
SPAN_WORDS = ("latency", "duration", "elapsed", "timeout", "pertoken", "firsttoken", "response")
"""Words in the names of columns that look like times; of those, of what lasts rather than is."""

SESSION_NAMES = (
    "session_id",
    "session.id",
    "session",
    "conversation_id",
    "conversation.id",
    "chat_id",
)
"""Names of what the turns of a conversation have in common, the better ones first."""
STATUS_NAMES = (
    "status",
    "status_code",
    "status.code",
    "status.status_code",
    "http_status",
    "http_status_code",
    "response_status",
    "response_code",
    "upstream_status",
    "level",
)
SUCCESS_NAMES = ("success", "is_success", "is_request_success", "was_successful")
ERROR_NAMES = ("error", "error_code", "error_type", "error.type", "error_message", "exception")
OPERATION_NAMES = ("gen_ai.operation.name",)
CACHED_NAMES = ("cache_read_input_tokens", "cache_creation_input_tokens")
"""Parts of the prompt that Anthropic's ``input_tokens`` leaves out; they stand beside it."""

COUNT_NAMES = ("requests", "request_count", "num_requests", "n_requests", "calls")
"""How many requests a row sums up; such rows are no requests."""

GOOD_STATUS = frozenset(
    {"ok", "success", "succeeded", "successful", "complete", "completed", "finished", "done"}
    | {"unset", "none", "null", "default", "debug", "info", "warning", "incomplete", "stop"}
    | {"length", "true", "statuscodeok", "statuscodeunset", "statusok", "200ok"}
)
"""What a status says of requests that were answered, in simple names."""

OTHER_OPERATIONS = frozenset(
    {"invokeagent", "createagent", "executetool", "invokeworkflow", "embeddings", "retrieval"}
)
"""OpenTelemetry operations that are no call of a model, or that sum calls up."""


def ends_with(path: Path, name: str) -> bool:
    """Tell whether a path ends with a name."""
    wanted = parts((name,))
    return parts(path)[-len(wanted) :] == wanted


def arrival_rank(path: Path) -> tuple[int, int] | None:
    """Say how good a name for arrival times the last key of a path is.

    Returns
    -------
    rank : tuple of int or None
        Steps above the key, then the place in `ARRIVAL_NAMES`; None if it is no such name.
    """
    last = parts(path)[-1]
    for place, name in enumerate(map(simple, ARRIVAL_NAMES)):
        if last == name or (last.startswith(name) and last[len(name) :] in _ENDINGS):
            return len(path) - 1, place
    return None


def unit_of(path: Path) -> str | None:
    """Return the unit that a name ends with: ``s``, ``ms``, ``us`` or ``ns``; None without."""
    last = parts(path)[-1]
    for name in map(simple, ARRIVAL_NAMES):
        if last.startswith(name) and last != name and last[len(name) :] in _ENDINGS:
            return _ENDINGS[last[len(name) :]]
    return None


def looks_like_time(path: Path) -> bool:
    """Tell whether a name speaks of a point in time."""
    last = parts(path)[-1]
    if any(word in last for word in SPAN_WORDS):
        return False
    return arrival_rank(path) is not None or any(word in last for word in TIME_WORDS)


_ENDINGS = {simple(ending): unit for ending, unit in UNIT_ENDINGS.items()}
