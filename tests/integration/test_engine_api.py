"""The OpenAI API of fake engines."""

import asyncio

import openai
import pytest
from engine_client import counted, engine_of, exactly, figures, post, stream, with_engine
from hypothesis import given, settings
from hypothesis import strategies as st

from integration.engines import asking
from integration.engines.params import EngineParams
from integration.engines.stopping import stop_of

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello there"}]
TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": {}}},
    {"type": "function", "function": {"name": "time", "parameters": {}}},
]


def test_a_completion_has_its_tokens_and_their_usage():
    async def scenario(_, client):
        return await post(client, COMPLETIONS, exactly(5, "12345678"))

    status, answer = with_engine(scenario)
    assert status == 200
    assert answer["choices"][0]["text"] == counted(5)
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"] == {"prompt_tokens": 2, "completion_tokens": 5, "total_tokens": 7}


def test_prompts_and_choices_have_an_output_each():
    async def scenario(_, client):
        return await post(client, COMPLETIONS, exactly(3, [[1, 2], [3]], n=2))

    _, answer = with_engine(scenario)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert {choice["text"] for choice in answer["choices"]} == {counted(3)}
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 12, "total_tokens": 15}


def test_a_streamed_chat_has_a_role_then_a_token_per_event_then_the_usage():
    async def scenario(_, client):
        body = {"messages": HELLO, "max_completion_tokens": 4, "ignore_eos": True}
        return await stream(client, CHAT, body | {"stream_options": {"include_usage": True}})

    opening, *tokens, usage = with_engine(scenario)
    assert opening["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [one["choices"][0]["delta"]["content"] for one in tokens] == [" 0", " 1", " 2", " 3"]
    reasons = [one["choices"][0]["finish_reason"] for one in tokens]
    assert reasons == [None, None, None, "length"]
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 4


def test_streamed_choices_come_side_by_side_and_whole():
    async def scenario(_, client):
        return await stream(client, COMPLETIONS, exactly(6, n=3))

    events = with_engine(scenario)
    for index in range(3):
        texts = [e["choices"][0]["text"] for e in events if e["choices"][0]["index"] == index]
        assert "".join(texts) == counted(6)


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
def test_logprobs_are_of_every_token(path):
    body = {"max_tokens": 3, "ignore_eos": True}
    chat = path == CHAT
    body |= {"messages": HELLO, "logprobs": True, "top_logprobs": 2} if chat else {}
    body |= {} if chat else {"prompt": "x", "logprobs": 1}

    async def scenario(_, client):
        return (await post(client, path, body))[1], await stream(client, path, body)

    answer, events = with_engine(scenario)
    whole = answer["choices"][0]["logprobs"]
    parts = [e["choices"][0]["logprobs"] for e in events if e["choices"][0]["logprobs"]]
    if chat:
        assert [one["token"] for one in whole["content"]] == [" 0", " 1", " 2"]
        assert all(len(one["top_logprobs"]) == 2 for one in whole["content"])
        assert [one for part in parts for one in part["content"]] == whole["content"]
    else:
        assert whole["text_offset"] == [0, 2, 4]
        assert [one for part in parts for one in part["text_offset"]] == [0, 2, 4]


def test_usage_stands_in_every_event_if_that_is_asked_for():
    async def scenario(_, client):
        body = exactly(3, stream_options={"continuous_usage_stats": True})
        return await stream(client, COMPLETIONS, body)

    assert [e["usage"]["completion_tokens"] for e in with_engine(scenario)] == [1, 2, 3]


@pytest.mark.parametrize("tokens", [1, 2, 7])
@pytest.mark.parametrize(
    ("choice", "name"),
    [("required", "weather"), ({"type": "function", "function": {"name": "time"}}, "time")],
)
def test_the_official_client_calls_tools(tokens, choice, name):
    async def scenario(engine, _):
        async with openai.AsyncOpenAI(base_url=f"{engine.url}/v1", api_key="none") as client:
            asked = {
                "model": "fake",
                "messages": HELLO,
                "tools": TOOLS,
                "tool_choice": choice,
                "max_tokens": tokens,
                "extra_body": {"ignore_eos": True},
            }
            whole = await client.chat.completions.create(**asked)
            parts = [p async for p in await client.chat.completions.create(**asked, stream=True)]
            return whole.choices[0], [part.choices[0] for part in parts]

    whole, parts = with_engine(scenario)
    call = whole.message.tool_calls[0].function
    assert (whole.finish_reason, call.name, call.arguments[0]) == ("tool_calls", name, "{")
    calls = [part.delta.tool_calls[0].function for part in parts if part.delta.tool_calls]
    assert calls[0].name == name
    assert "".join(one.arguments for one in calls) == call.arguments


def test_the_official_client_reads_embeddings_and_models():
    async def scenario(engine, _):
        async with openai.AsyncOpenAI(base_url=f"{engine.url}/v1", api_key="none") as client:
            both = [
                await client.embeddings.create(
                    model="fake", input=["a", "b"], encoding_format=form, dimensions=70
                )
                for form in ("float", "base64")
            ]
            default = await client.embeddings.create(model="fake", input="a")
            return both, default, [model.id async for model in client.models.list()]

    (plain, packed), default, models = with_engine(scenario)
    assert models == ["fake"]
    assert len(plain.data) == 2
    assert plain.data[0].embedding != plain.data[1].embedding
    assert len(plain.data[0].embedding) == 70
    assert plain.usage.prompt_tokens == 2
    assert len(default.data[0].embedding) == 64
    assert packed.data[0].embedding


def test_outputs_end_by_themselves_the_same_way_every_time():
    async def scenario(_, client):
        asked = [{"prompt": f"p{j}", "max_tokens": 200, "min_tokens": 2} for j in range(20)]
        return [
            [(await post(client, COMPLETIONS, body))[1]["usage"]["completion_tokens"]]
            for body in asked * 2
        ]

    lengths = with_engine(scenario, mean_output=40)
    assert lengths[:20] == lengths[20:]
    assert len({length for (length,) in lengths}) > 5
    assert all(2 <= length <= 200 for (length,) in lengths)


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        ({"prompt": None}, 400, "prompt is null, must be a text"),
        ({"prompt": []}, 400, "prompt is [], must be"),
        ({"prompt": ""}, 400, 'prompt has "", must be'),
        ({"prompt": [1, "a"]}, 400, "prompt has 1, must be"),
        ({"prompt": [-1]}, 400, "prompt has -1, must be"),
        ({"model": "other"}, 404, "The model `other` does not exist"),
        ({"model": 3}, 400, "model is 3, must be a text"),
        ({"max_tokens": 0}, 400, "max_tokens is 0, must be a whole number from 1"),
        ({"max_tokens": True}, 400, "max_tokens is true"),
        ({"max_tokens": 1 << 40}, 400, "maximum context length is 131072 tokens"),
        ({"prompt": [7] * 131072}, 400, "maximum context length is 131072 tokens"),
        ({"min_tokens": 6}, 400, "min_tokens is 6, must be a whole number from 0 to 5"),
        ({"n": 0}, 400, "n is 0, must be a whole number from 1 to 128"),
        ({"temperature": -1}, 400, "temperature is -1, must be a number from 0 to 2"),
        ({"top_p": "x"}, 400, 'top_p is "x", must be a number'),
        ({"stop": 3}, 400, "stop is 3, must be a text or a list"),
        ({"echo": True}, 400, "echo is not currently supported"),
        ({"stream": "yes"}, 400, 'stream is "yes", must be true or false'),
        ({"stream_options": {}}, 400, "Stream options can only be defined when `stream=True`."),
        ({"logprobs": 21}, 400, "logprobs is 21, must be a whole number from 0 to 20"),
        ({"kv_transfer_params": 1}, 400, "kv_transfer_params is 1, must be an object"),
    ],
)
def test_what_vllm_refuses_is_refused_in_openai_s_format(change, status, says):
    async def scenario(_, client):
        return await post(client, COMPLETIONS, exactly(5) | change)

    found, answer = with_engine(scenario)
    assert found == status
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert answer["error"]["code"] == status
    assert says in answer["error"]["message"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"messages": []}, "messages is [], must be a list of messages"),
        ({"messages": [1]}, "messages has 1, must be objects with a role"),
        ({"messages": [{"role": "user", "content": 4}]}, "content of a message is 4"),
        ({"tools": [{}], "tool_choice": "auto"}, "tools has {}, must be"),
        ({"tool_choice": "required"}, 'tool_choice is "required"'),
        ({"tools": TOOLS, "tool_choice": {"type": "function"}}, "tools has"),
        ({"tools": TOOLS, "tool_choice": ["x"]}, 'tool_choice is ["x"]'),
    ],
)
def test_chats_that_are_none_are_refused(change, says):
    async def scenario(_, client):
        return await post(client, CHAT, {"messages": HELLO} | change)

    status, answer = with_engine(scenario)
    assert status == 400
    assert says in answer["error"]["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff", b"[" * 100_000, b"1" * 10_000])
def test_a_body_that_is_no_json_object_is_refused(body):
    async def scenario(_, client):
        async with client.post(COMPLETIONS, data=body) as answer:
            return answer.status, await answer.json()

    status, answer = with_engine(scenario)
    assert status == 400
    assert answer["error"]["message"].startswith("the body is")


@pytest.mark.parametrize(
    ("stop", "text", "tokens"),
    [
        ("7", " 0 1 2 3 4 5 6 ", 8),
        (["none", " 3 4"], " 0 1 2", 5),
        ("11", counted(11) + " ", 12),
        (["", "99"], counted(20), 20),
        ([], counted(20), 20),
    ],
)
@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
def test_an_output_ends_before_the_text_that_it_is_to_stop_at(path, stop, text, tokens):
    prompt = {"prompt": "x"} if path == COMPLETIONS else {"messages": HELLO}
    body = prompt | {"max_tokens": 20, "ignore_eos": True, "stop": stop}

    async def scenario(_, client):
        whole = await post(client, path, body)
        usage = {"stream_options": {"include_usage": True}}
        return whole, await stream(client, path, body | usage)

    (_, whole), events = with_engine(scenario)
    [choice] = whole["choices"]
    reason = "length" if tokens == 20 else "stop"
    said = choice["text"] if path == COMPLETIONS else choice["message"]["content"]
    assert (said, choice["finish_reason"]) == (text, reason)
    assert whole["usage"]["completion_tokens"] == tokens
    *parts, last = events
    parts = [part["choices"][0] for part in parts]
    told = [part["text"] if path == COMPLETIONS else part["delta"]["content"] for part in parts]
    assert "".join(told) == text
    assert parts[-1]["finish_reason"] == reason
    assert last["usage"]["completion_tokens"] == tokens


@given(
    st.lists(st.text("0123456789 ", min_size=1, max_size=4), min_size=1, max_size=3),
    st.integers(1, 150),
    st.integers(1, 150),
)
def test_an_output_stops_at_the_first_token_with_which_it_has_the_text(texts, least, most):
    least = min(least, most)
    found = stop_of(texts, least, most)
    first = next(
        (
            k
            for k in range(least, most + 1)
            if any(t in counted(k)[tail(t, least) :] for t in texts)
        ),
        None,
    )
    assert (None if found is None else found.tokens) == first
    assert found is None or any(counted(first)[found.shown :].startswith(t) for t in texts)


def tail(text, least):
    """Return from where on the text may begin, so that it ends with the token `least` or later."""
    return max(len(counted(least - 1)) - len(text) + 1, 0)


def test_an_api_that_is_not_there_is_one_clear_404():
    async def scenario(_, client):
        return await post(client, "/v1/responses", {"model": "fake", "input": "x"})

    status, answer = with_engine(scenario)
    assert status == 404
    assert answer["error"]["type"] == "NotFoundError"
    assert "POST '/v1/responses' is not served by a fake engine" in answer["error"]["message"]


def test_what_is_not_served_is_refused_in_the_same_format():
    async def scenario(_, client):
        async with client.get("/v1/completions") as wrong, client.get("/nothing") as none:
            return [(a.status, (await a.json())["error"]["code"]) for a in (wrong, none)]

    assert with_engine(scenario) == [(405, 405), (404, 404)]


def test_metrics_count_steps_and_tokens():
    async def scenario(_, client):
        await post(client, COMPLETIONS, exactly(5, [1] * 30))
        async with client.get("/health") as answer:
            assert answer.status == 200
        return await figures(client)

    found = with_engine(scenario, slots=8, budget=8)
    assert found["prompt_tokens_total", 0] == 30
    assert found["generation_tokens_total", 0] == 5
    # Of a prompt of 30 tokens 8 in each step, the last of which gives the first token.
    assert found["iteration_tokens_total_count", 0] == 4 + 4
    assert found["iteration_tokens_total_sum", 0] == 30 + 4
    assert found["num_requests_running", 0] == found["num_requests_waiting", 0] == 0


def test_metrics_tell_times_to_first_tokens_and_between_tokens():
    async def scenario(_, client):
        for tokens in (1, 5, 8):
            await stream(client, COMPLETIONS, exactly(tokens, [1] * 3))
        async with client.get("/metrics") as answer:
            return await figures(client), await answer.text()

    found, text = with_engine(scenario)
    assert found["time_to_first_token_seconds_count", 0] == 3
    assert found["inter_token_latency_seconds_count", 0] == 0 + 4 + 7
    for name in ("time_to_first_token_seconds", "inter_token_latency_seconds"):
        assert found[f"{name}_sum", 0] > 0
        last = f'vllm:{name}_bucket{{engine="0",model_name="fake",le="+Inf"}} '
        assert f"{last}{int(found[f'{name}_count', 0])}\n" in text


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**40) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "function", "name"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)
KEYS = [
    *("model", "prompt", "messages", "max_tokens", "min_tokens", "n", "stream", "stream_options"),
    *("logprobs", "top_logprobs", "tools", "tool_choice", "stop", "temperature", "seed"),
    *("kv_transfer_params", "ignore_eos", "max_completion_tokens", "suffix"),
]


@settings(max_examples=500, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), ANYTHING, max_size=6), st.booleans())
def test_any_body_is_read_or_refused(body, chat):
    params = EngineParams(max_model_len=64)
    try:
        asked = asking.read_completion(body, params, chat=chat)
    except asking.RequestRefused:
        return
    assert len(asked.output_tokens) == asked.n * len(asked.prompt_tokens)
    assert max(asked.prompt_tokens) + asked.max_tokens <= 64
    assert all(1 <= tokens <= asked.max_tokens for tokens in asked.output_tokens)


def test_an_engine_leaves_nothing_behind():
    async def scenario():
        for _ in range(2):
            async with engine_of(ranks=2, ports_per_rank=0) as engine:
                assert len({engine.url, *engine.rank_urls}) == 3

    asyncio.run(scenario())
