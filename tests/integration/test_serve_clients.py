"""The official client of the OpenAI API, unmodified, through the front door."""

from __future__ import annotations

import json

import pytest
from serve_stack import Stack

openai = pytest.importorskip("openai")

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look_up",
            "description": "Look a word up.",
            "parameters": {"type": "object", "properties": {"word": {"type": "string"}}},
        },
    }
]


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    with Stack(tmp_path_factory.mktemp("clients"), slots=8, speed=20.0) as running:
        yield running


@pytest.fixture
def client(stack):
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def chat(client, **more):
    return client.chat.completions.create(
        model="fake",
        messages=[{"role": "user", "content": "Say something."}],
        max_tokens=7,
        extra_body={"ignore_eos": True},
        **more,
    )


def test_models(client):
    assert [model.id for model in client.models.list()] == ["fake"]


def test_completion(client):
    done = client.completions.create(
        model="fake", prompt="Once", max_tokens=5, extra_body={"ignore_eos": True}
    )
    assert done.usage.completion_tokens == 5
    assert done.choices[0].finish_reason == "length"


def test_chat(client):
    done = chat(client)
    assert done.usage.completion_tokens == 7
    assert done.choices[0].message.role == "assistant"


def test_streaming(client):
    chunks = list(chat(client, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].usage.completion_tokens == 7
    assert sum(bool(c.choices and c.choices[0].delta.content) for c in chunks) == 7


def test_several_choices(client):
    assert {choice.index for choice in chat(client, n=3).choices} == {0, 1, 2}


def test_log_probabilities(client):
    (choice,) = chat(client, logprobs=True, top_logprobs=2).choices
    assert len(choice.logprobs.content) == 7


def test_tools(client):
    (choice,) = chat(client, tools=TOOLS, tool_choice="required").choices
    (call,) = choice.message.tool_calls
    assert call.function.name == "look_up"
    assert isinstance(json.loads(call.function.arguments), dict)


def test_streamed_tools(client):
    chunks = list(chat(client, tools=TOOLS, tool_choice="required", stream=True))
    calls = [c.choices[0].delta.tool_calls for c in chunks if c.choices]
    assert any(call and call[0].function.name == "look_up" for call in calls)


def test_embeddings(client):
    found = client.embeddings.create(model="fake", input=["one", "two"])
    assert len(found.data) == 2
    assert len(found.data[0].embedding) > 0


def test_errors_have_the_clients_own_types(client):
    with pytest.raises(openai.BadRequestError):
        client.post("/completions", body={"model": "fake", "max_tokens": "many"}, cast_to=object)
    with pytest.raises(openai.NotFoundError):
        client.get("/nothing/of/this/name", cast_to=object)
