"""Logs of gateways, spans and exports, as they are written by those who have them."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brsolver.errors import BrsolverError
from brsolver.traces import Trace, load_trace
from brsolver.traces import sample as sample_module
from brsolver.traces import source as source_module

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PROMPTS = [657, 718, 167]
OUTPUTS = [86, 262, 26]
TIMES = [0.0, 0.462, 1.445]
EPOCH_MS = [1767225600271, 1767225600733, 1767225601716]
DATES = ["2026-01-01T00:00:00.271Z", "2026-01-01T00:00:00.733Z", "2026-01-01T00:00:01.716Z"]
BLANK = [date[:-1].replace("T", " ") for date in DATES]


def rows(make: Callable[[int], dict[str, Any]]) -> list[dict[str, Any]]:
    return [make(i) for i in range(3)]


def jsonl(records: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def table(records: list[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]))
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue().encode()


def usage(i: int) -> dict[str, int]:
    prompt, output = PROMPTS[i], OUTPUTS[i]
    return {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}


def attributes(i: int) -> dict[str, Any]:
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "m",
        "gen_ai.usage.input_tokens": PROMPTS[i],
        "gen_ai.usage.output_tokens": OUTPUTS[i],
    }


def span(i: int, **more: Any) -> dict[str, Any]:
    """Write a span as OTLP's JSON does, 64-bit numbers as text."""
    pairs = [
        {"key": key, "value": {"stringValue": value}}
        if isinstance(value, str)
        else {"key": key, "value": {"intValue": str(value)}}
        for key, value in attributes(i).items()
    ]
    start = EPOCH_MS[i] * 10**6
    return {"startTimeUnixNano": str(start), "attributes": pairs, "status": {}, **more}


def otlp(*spans: dict[str, Any]) -> dict[str, Any]:
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "s"}}]}
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": list(spans)}]}]}


def bedrock(i: int) -> dict[str, Any]:
    return {
        "schemaType": "ModelInvocationLog",
        "timestamp": DATES[i],
        "operation": "Converse",
        "modelId": "m",
        "input": {"inputContentType": "application/json", "inputTokenCount": PROMPTS[i]},
        "output": {
            "outputBodyJson": {"usage": {"inputTokens": 1, "outputTokens": 2}},
            "outputTokenCount": OUTPUTS[i],
        },
    }


def kong(i: int) -> dict[str, Any]:
    proxy = {"usage": {"prompt_tokens": PROMPTS[i], "completion_tokens": OUTPUTS[i], "cost": 0.1}}
    return {
        "started_at": EPOCH_MS[i],
        "tries": [{"balancer_start": 1}],
        "response": {"status": 200, "size": 5},
        "ai": {"proxy": {**proxy, "meta": {"llm_latency": 2670}}},
    }


def langfuse(i: int) -> dict[str, Any]:
    return {
        "id": str(i),
        "type": "GENERATION",
        "start_time": BLANK[i] + "000",
        "end_time": BLANK[i] + "999",
        "level": "DEFAULT",
        "usage_details": {"input": PROMPTS[i], "output": OUTPUTS[i], "total": 9},
    }


def cloudflare(i: int) -> dict[str, Any]:
    return {
        "id": str(i),
        "cached": False,
        "created_at": DATES[i],
        "duration": 900,
        "success": True,
        "status_code": 200,
        "tokens_in": PROMPTS[i],
        "tokens_out": OUTPUTS[i],
    }


def litellm(i: int) -> dict[str, Any]:
    return {
        "request_id": f"r{i}",
        "call_type": "acompletion",
        "total_tokens": float(PROMPTS[i] + OUTPUTS[i]),
        "prompt_tokens": float(PROMPTS[i]),
        "completion_tokens": float(OUTPUTS[i]),
        "startTime": DATES[i],
        "endTime": "2026-01-01T00:00:09Z",
    }


def aiperf(i: int) -> dict[str, Any]:
    start = EPOCH_MS[i] * 10**6
    return {
        "metadata": {"session_num": i, "request_start_ns": start, "request_end_ns": start + 10**9},
        "metrics": {
            "input_sequence_length": {"value": PROMPTS[i], "unit": "tokens"},
            "output_sequence_length": {"value": OUTPUTS[i], "unit": "tokens"},
        },
        "error": None,
    }


def blis(i: int) -> dict[str, Any]:
    return {
        "request_id": i,
        "session_id": "s1",
        "round_index": i,
        "input_tokens": PROMPTS[i],
        "output_tokens": OUTPUTS[i],
        "arrival_time_us": round(TIMES[i] * 1e6),
        "status": "ok",
    }


KINDS: dict[str, bytes] = {
    "flat": jsonl(rows(lambda i: {"timestamp": DATES[i], "status": 200, **usage(i)})),
    "nested": jsonl(rows(lambda i: {"ts": DATES[i], "status": 200, "usage": usage(i)})),
    "array": json.dumps(rows(lambda i: {"ts": DATES[i], "usage": usage(i)}), indent=1).encode(),
    "epoch_ms": jsonl(rows(lambda i: {"epoch_ms": EPOCH_MS[i], **usage(i)})),
    "litellm": table(rows(litellm)),
    "litellm, from a database": table(
        rows(lambda i: {**litellm(i), "startTime": BLANK[i] + "+00", "status": "success"})
    ),
    "litellm, as its callbacks log": jsonl(
        rows(
            lambda i: {**usage(i), "startTime": EPOCH_MS[i] / 1e3, "status": "success", "error": {}}
        )
    ),
    "cloudflare": jsonl(rows(cloudflare)),
    "cloudflare's interface": json.dumps(
        {"result": rows(cloudflare), "result_info": {"count": 3}, "success": True}
    ).encode(),
    "new-api's interface": json.dumps(
        {
            "success": True,
            "data": {
                "page": 1,
                "items": rows(
                    lambda i: {"created_at": EPOCH_MS[i] / 1e3, "use_time": 3, **usage(i)}
                ),
            },
        },
        indent=1,
    ).encode(),
    "a relay": jsonl(
        rows(
            lambda i: {
                "created_at": DATES[2],
                "request_at": DATES[i],
                "usage": {"input_tokens": PROMPTS[i], "output_tokens": OUTPUTS[i]},
            }
        )
    ),
    "bedrock": jsonl(rows(bedrock)),
    "gemini": jsonl(
        rows(
            lambda i: {
                "logging_time": DATES[i],
                "full_response": {
                    "usageMetadata": {
                        "promptTokenCount": PROMPTS[i],
                        "candidatesTokenCount": OUTPUTS[i],
                    }
                },
            }
        )
    ),
    "anthropic": jsonl(
        rows(
            lambda i: {
                "created_at": DATES[i],
                "usage": {
                    "input_tokens": PROMPTS[i] - 100,
                    "cache_read_input_tokens": 60 if i else None,
                    "cache_creation_input_tokens": 40 if i else 100,
                    "output_tokens": OUTPUTS[i],
                },
            }
        )
    ),
    "kong": jsonl(rows(kong)),
    "langfuse": jsonl(rows(langfuse)),
    "openrouter": table(
        rows(
            lambda i: {
                "created_at": BLANK[i],
                "tokens_prompt": PROMPTS[i],
                "tokens_completion": OUTPUTS[i],
                "cancelled": "false",
            }
        )
    ),
    "counts of tokens": table(
        rows(
            lambda i: {
                "request_id": i,
                "status_code": 200,
                "request_time": DATES[i],
                "input_token_count": PROMPTS[i],
                "output_token_count": OUTPUTS[i],
            }
        )
    ),
    "azure api management": table(
        rows(
            lambda i: {
                "TimeGenerated": DATES[i],
                "PromptTokens": PROMPTS[i],
                "CompletionTokens": OUTPUTS[i],
                "TotalTokens": 1,
            }
        )
    ),
    "a development proxy": table(
        rows(
            lambda i: {
                "time": DATES[i],
                "status": 200,
                "retry-after": "",
                "prompt tokens": PROMPTS[i],
                "completion tokens": OUTPUTS[i],
            }
        )
    ),
    "phoenix": table(
        rows(
            lambda i: {
                "name": "ChatCompletion",
                "start_time": DATES[i],
                "status_code": "OK",
                "attributes.session.id": "s",
                "attributes.llm.token_count.prompt": float(PROMPTS[i]),
                "attributes.llm.token_count.completion": float(OUTPUTS[i]),
            }
        )
    ),
    "spans, flat": jsonl(
        rows(lambda i: {"start_time_unix_nano": EPOCH_MS[i] * 10**6, **attributes(i)})
    ),
    "spans, nested": jsonl(
        rows(
            lambda i: {
                "start_time": DATES[i],
                "attributes": attributes(i),
                "status": {"status_code": "UNSET"},
            }
        )
    ),
    "otlp, a line each": jsonl([otlp(span(0)), otlp(span(1), span(2))]),
    "otlp, one object": json.dumps(otlp(span(0), span(1), span(2)), indent=2).encode(),
    "otlp, spans by themselves": jsonl(rows(span)),
    "aiperf": jsonl(rows(aiperf)),
    "blis": table(rows(blis)),
    "llmservingsim": jsonl(
        rows(
            lambda i: {
                "input_toks": PROMPTS[i],
                "output_toks": OUTPUTS[i],
                "arrival_time_ns": round(TIMES[i] * 1e9) + 46926808,
            }
        )
    ),
}
kinds = pytest.mark.parametrize("content", KINDS.values(), ids=KINDS)


def load(tmp_path: Path, content: bytes, **options: Any) -> Trace:
    path = tmp_path / "log"
    path.write_bytes(content)
    return load_trace(path, **options)


def check(trace: Trace) -> None:
    assert trace.source_format == "gateway"
    assert trace.prompt_tokens.tolist() == PROMPTS
    assert trace.output_tokens.tolist() == OUTPUTS
    assert trace.arrival_s is not None
    np.testing.assert_allclose(trace.arrival_s, TIMES, rtol=0, atol=2e-6)


@kinds
def test_each_kind_is_read_with_its_times(tmp_path: Path, content: bytes) -> None:
    trace = load(tmp_path, content)
    check(trace)
    assert trace.skipped_rows == 0
    assert len(trace.notes) == 1
    assert trace.notes[0].startswith("log: prompt tokens from ")
    assert ", times taken as " in trace.notes[0]


@kinds
def test_blocks_of_a_few_bytes_give_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setattr(source_module, "_BLOCK_BYTES", 64)
    check(load(tmp_path, content))


@pytest.mark.parametrize(
    "make", [langfuse, cloudflare, kong, bedrock, aiperf, lambda i: {"ts": 1.5, "usage": usage(i)}]
)
def test_parquet_with_structs(tmp_path: Path, make: Callable[[int], dict[str, Any]]) -> None:
    path = tmp_path / "p"
    pq.write_table(pa.Table.from_pylist(rows(make)), path)
    trace = load_trace(path)
    assert trace.source_format == "gateway"
    assert trace.prompt_tokens.tolist() == PROMPTS
    assert trace.arrival_s is not None


def test_a_log_of_openai_with_whole_seconds(tmp_path: Path) -> None:
    records = [
        {"created": 1767225600, "prompt_tokens": 100, "completion_tokens": 20},
        {"created": 1767225605, "prompt_tokens": 200, "completion_tokens": 30},
    ]
    trace = load(tmp_path, jsonl(records))
    assert trace.arrival_s is not None
    assert (trace.source_format, trace.arrival_s.tolist()) == ("gateway", [0.0, 5.0])
    assert trace.notes[0].endswith("times taken as seconds since 1970 from created")


def test_what_was_taken_is_said(tmp_path: Path) -> None:
    assert load(tmp_path, KINDS["litellm"]).notes == (
        "log: prompt tokens from prompt_tokens, output tokens from completion_tokens, times taken "
        "as dates from startTime, not used: endTime",
    )
    assert (
        load(tmp_path, KINDS["anthropic"])
        .notes[0]
        .startswith(
            "log: prompt tokens from usage.input_tokens + usage.cache_read_input_tokens + "
            "usage.cache_creation_input_tokens, output"
        )
    )
    assert (
        load(tmp_path, KINDS["epoch_ms"])
        .notes[0]
        .endswith("times taken as milliseconds since 1970 from epoch_ms")
    )


def ok(i: int) -> dict[str, Any]:
    return {"ts": 10 + i, "usage": {"prompt_tokens": 5, "completion_tokens": 6}}


FAILURES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "status": ({"status": 200}, {"status": 429}, "1 failed (status is '429')"),
    "text": ({"status": "success"}, {"status": "failure"}, "1 failed (status is 'failure')"),
    "digits": ({"status": "200"}, {"status": "500"}, "1 failed (status is '500')"),
    "http": ({"http_status": "200 OK"}, {"http_status": "503 Unavailable"}, "http_status is '503"),
    "response": (
        {"response": {"status": 200}},
        {"response": {"status": 502}},
        "response.status is",
    ),
    "code": ({"status": {"code": 1}}, {"status": {"code": 2}}, "status.code is '2'"),
    "success": ({"success": True}, {"success": False}, "success is 'false'"),
    "error": ({"error": None}, {"error": {"message": "no"}}, '1 failed (error is \'{"message"'),
    "error text": ({"error": ""}, {"error": "timed out"}, "error is 'timed out'"),
    "level": ({"level": "DEFAULT"}, {"level": "ERROR"}, "level is 'ERROR'"),
    "agent": (
        {"attributes": {"gen_ai.operation.name": "chat"}},
        {"attributes": {"gen_ai.operation.name": "invoke_agent"}},
        "1 no calls of a model (attributes.gen_ai.operation.name is 'invoke_agent')",
    ),
    "no usage": ({}, {"usage": None}, "1 without output tokens"),
    "no output": ({}, {"usage": {"prompt_tokens": 5}}, "1 without output tokens"),
    "nothing": (
        {},
        {"usage": {"prompt_tokens": 5, "completion_tokens": 0}},
        "1 without output tokens",
    ),
}


@pytest.mark.parametrize(("good", "bad", "said"), FAILURES.values(), ids=FAILURES)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_requests_that_were_not_answered_are_left_out(
    tmp_path: Path, good: dict[str, Any], bad: dict[str, Any], said: str, place: int
) -> None:
    records = [{**ok(i), **(bad if i == place else good)} for i in range(3)]
    trace = load(tmp_path, jsonl(records))
    assert trace.prompt_tokens.tolist() == [5, 5]
    assert trace.skipped_rows == 0
    assert trace.notes[1].startswith("log: left out 1 rows: ")
    assert said in trace.notes[1]


def test_fields_that_are_objects_in_some_records_only(tmp_path: Path) -> None:
    records = [
        {**ok(0), "status": None, "model": {"name": "m"}, "session": None},
        {**ok(1), "status": {"code": 1}, "model": None, "session": {"id": "s"}},
        {**ok(2), "status": {"code": 2}, "model": {"name": "n"}, "session": {"id": "s"}},
        {**ok(3), "status": "ok", "model": None, "session": {"id": "t"}},
    ]
    trace = load(tmp_path, jsonl(records))
    assert trace.columns["session"].tolist() == ["", "s", "t"]
    assert trace.notes[1] == "log: left out 1 rows: 1 failed (status.code is '2')"


def test_reasons_are_counted(tmp_path: Path) -> None:
    records = [{**ok(i), "status": 200} for i in range(4)]
    records += [{"ts": 14, "status": 500, "usage": None}] * 3
    records += [{**ok(5), "status": 429}, {"ts": 20, "status": 200, "usage": None}]
    assert load(tmp_path, jsonl(records)).notes[1] == (
        "log: left out 5 rows: 3 failed (status is '500'), 1 failed (status is '429'), "
        "1 without output tokens"
    )


def test_rows_behind_the_limit_are_not_counted(tmp_path: Path) -> None:
    records = [ok(0), {"ts": 10, "usage": None}, ok(1), {"ts": 12, "usage": None}, ok(3)]
    trace = load(tmp_path, jsonl(records), limit=2)
    assert len(trace) == 2
    assert "left out 1 rows" in trace.notes[1]


def test_a_status_that_says_something_else_is_not_heeded(tmp_path: Path) -> None:
    records = [{**ok(i), "status": "active"} for i in range(3)]
    assert len(load(tmp_path, jsonl(records))) == 3


def test_a_log_of_failures_only_says_so(tmp_path: Path) -> None:
    records = [{**ok(i), "status": 500} for i in range(3)]
    with pytest.raises(BrsolverError, match=r"log: left out 3 rows: 3 failed \(status is '500'\)"):
        load(tmp_path, jsonl(records))


def test_other_bad_values_stay_bad_rows(tmp_path: Path) -> None:
    records = [ok(0), {**ok(1), "usage": {"prompt_tokens": "many", "completion_tokens": 6}}]
    content = jsonl(records)
    with pytest.raises(
        BrsolverError, match=r"row 2 \(line of the file\): usage.prompt_tokens is 'm"
    ):
        load(tmp_path, content)
    assert load(tmp_path, content, skip_bad_rows=True).skipped_rows == 1
    content = jsonl([ok(0), {"usage": usage(0)}])
    with pytest.raises(BrsolverError, match=r"row 2 .*: ts is missing, must be a finite number"):
        load(tmp_path, content)


def test_sessions_are_kept(tmp_path: Path) -> None:
    records = [{**ok(i), "metadata": {"session_id": f"s{i % 2}"}} for i in range(3)]
    assert load(tmp_path, jsonl(records)).columns["session"].tolist() == ["s0", "s1", "s0"]


def test_lengths_without_times_are_read_and_said(tmp_path: Path) -> None:
    trace = load(tmp_path, table([{"tokens_in": 5, "tokens_out": 6, "when": DATES[0]}]))
    assert trace.arrival_s is None
    assert trace.notes[1] == (
        "log: warning: read without arrival times; when looks like a time: --columns arrival=when "
        "takes it"
    )


@pytest.mark.parametrize("kind", ["otlp, a line each", "otlp, one object", "new-api's interface"])
def test_columns_can_be_named_within_documents(tmp_path: Path, kind: str) -> None:
    arrival = "created_at" if kind.startswith("new") else "startTimeUnixNano"
    check(load(tmp_path, KINDS[kind], columns={"arrival": arrival}))
    with pytest.raises(BrsolverError, match="columns gives 'x' for arrival, must be one of: "):
        load(tmp_path, KINDS[kind], columns={"arrival": "x"})


def test_rows_that_sum_up_are_doubted(tmp_path: Path) -> None:
    day = {"time": "2026-01-01 00:00:00", "input_tokens": 900, "output_tokens": 70}
    trace = load(tmp_path, table([{**day, "requests": 3}, {**day, "requests": 12}]))
    assert trace.notes[1] == (
        "log: warning: a row seems to sum up several requests, requests is up to 12; a trace has a "
        "row for each request"
    )
    assert len(load(tmp_path, table([{**day, "requests": 1}])).notes) == 1


def test_large_columns_beside_are_not_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_module, "_LARGEST_COLUMN", 3000)
    records = [
        {**ok(i), "messages": [str(i)] * 9, "text": "".join(map(str, range(i, i + 999)))}
        for i in range(50)
    ]
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "p")
    sample = sample_module.sample_of(source_module.Source(path=tmp_path / "p"))
    assert sample.columns["text",] == []
    assert sample.columns["messages",] == []
    assert len(sample.columns["usage", "prompt_tokens"]) == 50
    assert len(load_trace(tmp_path / "p")) == 50


def test_a_record_among_others_that_is_no_object_is_a_bad_row(tmp_path: Path) -> None:
    content = jsonl([ok(0)]) + b"[1]\n" + jsonl([ok(1)])
    with pytest.raises(BrsolverError, match=r"row 2 .* must be a JSON object"):
        load(tmp_path, content)


@settings(max_examples=60, deadline=None)
@given(
    answered=st.lists(
        st.tuples(
            st.integers(1, 10**6), st.integers(0, 3), st.sampled_from([200, 204, 400, 503, None])
        ),
        min_size=1,
        max_size=30,
    )
)
def test_what_is_kept_and_what_is_left_out_add_up(
    tmp_path_factory: pytest.TempPathFactory, answered: list[tuple[int, int, int | None]]
) -> None:
    records = [
        {"ts": i, "status": status, "usage": {"prompt_tokens": p, "completion_tokens": o}}
        for i, (p, o, status) in enumerate(answered)
    ]
    right = [p for p, o, status in answered if o and (status is None or status < 400)]
    path = tmp_path_factory.mktemp("any") / "log"
    path.write_bytes(jsonl(records))
    left_out = len(answered) - len(right)
    if not right:
        with pytest.raises(BrsolverError, match=f"left out {left_out} rows"):
            load_trace(path)
        return
    trace = load_trace(path)
    assert trace.prompt_tokens.tolist() == right
    assert len(trace.notes) == (2 if left_out else 1)
    assert not left_out or f"left out {left_out} rows" in trace.notes[1]


ANY = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-3, 2**66),
        st.floats(),
        st.sampled_from(["", "5", "ok", "2026-01-01T00:00:00Z", "x", "1,5"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["prompt_tokens", "completion_tokens", "code", "id", "spans", "a.b"]),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=6,
)
FIELDS = (
    *("ts", "created_at", "status", "error", "success", "session_id", "model", "usage", "requests"),
    *("attributes", "resourceSpans", "prompt_tokens", "completion_tokens", "input_tokens"),
)


@settings(max_examples=200, deadline=None)
@given(
    records=st.lists(
        st.dictionaries(st.sampled_from(FIELDS), ANY, max_size=6).map(
            lambda some: {"ts": 1, "usage": {"prompt_tokens": 5, "completion_tokens": 6}, **some}
        ),
        min_size=1,
        max_size=4,
    ),
    whole=st.booleans(),
    skip=st.booleans(),
)
def test_no_log_raises_anything_else(
    tmp_path_factory: pytest.TempPathFactory,
    records: list[dict[str, Any]],
    whole: bool,
    skip: bool,
) -> None:
    path = tmp_path_factory.mktemp("any") / "log"
    path.write_bytes(json.dumps(records).encode() if whole else jsonl(records))
    try:
        trace = load_trace(path, skip_bad_rows=skip)
    except BrsolverError as error:
        text = str(error)
    else:
        assert trace.prompt_tokens.min() >= 1
        text = " ".join(trace.notes)
    assert "\n" not in text
