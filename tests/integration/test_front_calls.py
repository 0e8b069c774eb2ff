"""What routing goes by of calls of Python functions."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from integration.fronts import prompt_body, request_body
from integration.fronts.calls import UNKNOWN_TOKENS
from integration.picker.bodies import CHAT, COMPLETIONS

CHATTED = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 7, "n": 3}


class Model:
    """As pydantic's."""

    def __init__(self, **values: object) -> None:
        self._values = values

    def __getattr__(self, name: str) -> object:
        if name in self._values:
            return self._values[name]
        raise AttributeError(name)

    def model_dump(self) -> dict[str, object]:
        return self._values


@pytest.mark.parametrize(
    "given",
    [
        CHATTED,
        SimpleNamespace(**CHATTED),
        Model(**CHATTED),
        Model(**CHATTED | {"messages": [Model(role="user", content="hello")]}),
    ],
)
def test_a_chat_is_found_as_object_and_as_mapping(given):
    body = request_body([given, "more"], {})
    assert (body.kind, body.max_tokens, body.n) == (CHAT, 7, 3)
    assert body.prompts == ("user\nhello",)


def test_tools_are_read_as_templates_write_them():
    told = {"type": "function", "function": {"name": "look", "parameters": {}}}
    plain = request_body([CHATTED | {"tools": [told]}], {})
    assert plain.prompts == (f"{json.dumps([told])}\nuser\nhello",)
    assert request_body([SimpleNamespace(**CHATTED, tools=[Model(**told)])], {}) == plain


def test_a_chat_is_found_among_keywords():
    assert request_body([], CHATTED).prompts == ("user\nhello",)


@pytest.mark.parametrize("ids", [[1, 2, 3], (1, 2, 3), np.array([1, 2, 3])])
@pytest.mark.parametrize("name", ["prompt_ids", "prompt_token_ids", "input_ids"])
def test_token_ids_are_found(ids, name):
    for args, kwargs in (
        ([ids], {"max_new_tokens": 9}),
        ([], {name: ids, "max_tokens": 9}),
        ([], {name: ids, "sampling_params": {"max_tokens": 9}}),
        ([{name: ids}], {"sampling_params": SimpleNamespace(max_tokens=9)}),
        ([SimpleNamespace(**{name: ids, "sampling_params": {"max_tokens": 9}})], {}),
    ):
        body = request_body(args, kwargs)
        assert (body.prompts, body.max_tokens) == (((1, 2, 3),), 9)


def test_a_text_and_a_body_of_json_are_found():
    assert request_body(["hello"], {}).prompts == ("hello",)
    assert request_body(["hello"], {}).max_tokens is None
    body = request_body([b'{"prompt": "hello"}'], {})
    assert (body.kind, body.prompts, body.max_tokens) == (COMPLETIONS, ("hello",), 16)


@pytest.mark.parametrize("args", [[], [object()], [3], [None], [b"\x00\x01"], [[]], [""]])
def test_what_has_no_prompt_weighs_as_much_as_any_other_such(args):
    body = request_body(args, {"other": 1})
    assert (body.prompts, body.more_tokens) == ((), UNKNOWN_TOKENS)
    assert prompt_body(None) == body
