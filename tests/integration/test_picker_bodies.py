"""Whatever is sent as a body: read, or refused in one line."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from brsolver.errors import MissingExtraError, ParameterError
from integration.picker import Ask, PickerParams, Reader, Refused, Usage
from integration.picker.asks import End
from integration.picker.bodies import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    MOST_VALUES,
    RESPONSES,
    BodyError,
    kind_of,
    read_body,
)
from integration.picker.events import Ended, Refusal
from integration.picker.lengths import FIRST, Lengths, units

KINDS = (COMPLETIONS, CHAT, EMBEDDINGS, RESPONSES)
PATHS = ("/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/v1/responses")

TEXTS = st.text(st.characters(), max_size=20)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
ODD = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**60), 10**60) | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
FIELDS = (
    *("model", "prompt", "messages", "input", "max_tokens", "max_completion_tokens", "n", "user"),
    *("max_output_tokens", "stream", "tools", "system", "instructions"),
)
MESSAGES = st.lists(
    ODD | st.fixed_dictionaries({"role": ODD, "content": ODD}, optional={"tool_calls": ODD}),
    max_size=3,
)
BODIES = st.dictionaries(st.sampled_from(FIELDS), ODD | MESSAGES, max_size=8)


def reader(**more) -> Reader:
    return Reader(PickerParams(**more))


@pytest.mark.parametrize("kind", KINDS)
@given(body=BODIES)
@settings(deadline=None)
def test_odd_fields_are_left_to_the_engine(kind, body):
    found = read_body(kind, json.dumps(body).encode())
    assert found.max_tokens is None or found.max_tokens >= 0
    assert found.n >= 1
    assert Lengths().of(found) >= 1
    assert isinstance(reader(block_tokens=1).ask(found, "a"), Ask)


@given(content=st.binary(max_size=60), path=st.sampled_from(PATHS))
@example(content=b"", path=PATHS[0])
@example(content=b"[" * 100_000, path=PATHS[0])
@example(content=b'{"a":' * 100_000, path=PATHS[1])
@example(content=b'{"max_tokens": ' + b"9" * 5000 + b"}", path=PATHS[1])
@example(content=b'{"n": 1e999999}', path=PATHS[1])
@example(content=b'{"n": NaN}', path=PATHS[1])
@example(content=b'\xff\xfe{"a"', path=PATHS[1])
@example(content=b'{"prompt": "\\ud800"}', path=PATHS[0])
@example(content=b'{"prompt": [1, 2, ' + b"7" * 4000 + b"]}", path=PATHS[0])
def test_hostile_bodies_are_refused_in_one_line(content, path):
    found = reader().read("POST", path, content)
    assert isinstance(found, Ask | Refused)
    if isinstance(found, Refused):
        assert found.status == 400
        assert found.message.startswith("the body ")
        assert "\n" not in found.message


@pytest.mark.parametrize("value", ["[]", "null", "3", '"x"', "true"])
def test_only_objects_are_bodies(value):
    with pytest.raises(BodyError, match="must be an object"):
        read_body(CHAT, value.encode())


def test_names_can_be_written_down():
    found = read_body(CHAT, b'{"user":"\\ud800a","model":"\\udfff"}')
    assert (found.user, found.model) == ("?a", "?")


def test_errors_do_not_repeat_what_was_sent():
    with pytest.raises(BodyError) as caught:
        read_body(CHAT, b'{"messages": "a secret')
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/v1/completions", COMPLETIONS),
        ("/v1/chat/completions", CHAT),
        ("/v1/chat/completions/?a=/v1/embeddings", CHAT),
        ("/some/where/v1/embeddings", EMBEDDINGS),
        ("/v1/messages", CHAT),
        ("/v1/responses", RESPONSES),
        ("/v1/models", None),
        ("/", None),
        ("", None),
    ],
)
def test_paths_say_what_is_asked_for(path, kind):
    assert kind_of(path) == kind


def test_what_generates_nothing_needs_no_slot():
    assert reader().read("GET", "/v1/completions", b"") is None
    assert reader().read("POST", "/tokenize", b"{") is None


def test_a_chat_is_read():
    body = {
        "model": "m",
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "hello"}, {"type": "image_url"}]},
        ],
        "tools": [{"type": "function"}],
        "max_tokens": 5,
        "max_completion_tokens": 7,
        "stream": True,
        "n": 3,
        "user": "u",
    }
    found = read_body(CHAT, json.dumps(body).encode())
    assert found.prompts == ('[{"type": "function"}]\nsystem\nbe brief\nuser\nhello',)
    assert (found.max_tokens, found.stream, found.n, found.user) == (7, True, 3, "u")
    assert found.sequences == 3
    assert found.more_tokens > 512


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("abc", ("abc",)),
        (["a", "b"], ("a", "b")),
        ([1, 2, 3], ((1, 2, 3),)),
        ([[1, 2], [3]], ((1, 2), (3,))),
        ([], ()),
        ([True], ()),
        ({"a": 1}, ()),
    ],
)
def test_prompts_are_texts_or_ids(prompt, prompts):
    found = read_body(COMPLETIONS, json.dumps({"prompt": prompt}).encode())
    assert found.prompts == prompts
    assert found.max_tokens == 16


def test_ids_are_counted_and_texts_are_estimated():
    ids = reader().read("POST", PATHS[0], json.dumps({"prompt": list(range(100))}).encode())
    text = reader().read("POST", PATHS[0], json.dumps({"prompt": "x" * 400}).encode())
    assert ids.prompt_tokens == 100
    assert text.prompt_tokens == round(400 / FIRST)


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("abc", ()),
        (["abc"], ()),
        ([[1, 2], [3]], (2, 1)),
        (["x" * 40, "", "x" * 80], (10, 1, 20)),
    ],
)
def test_each_prompt_of_several_has_its_length(prompt, parts):
    body = json.dumps({"prompt": prompt, "n": 2}).encode()
    ask = reader().read("POST", PATHS[0], body)
    assert ask.parts == parts
    assert ask.sequences == 2 * max(len(parts), 1)
    embedded = json.dumps({"input": prompt}).encode()
    assert reader().read("POST", "/v1/embeddings", embedded).parts == ()


@pytest.mark.parametrize("value", [b"1", b"{}", b"[]", b'""'])
def test_what_would_take_seconds_to_read_is_estimated(value):
    content = b'{"prompt":[' + b",".join([value] * (MOST_VALUES + 1)) + b'],"max_tokens":3}'
    found = read_body(COMPLETIONS, content)
    assert found.prompts == ()
    assert found.max_tokens is None
    assert found.more_tokens == len(content) // 4
    long = b'{"prompt":["' + b"x" * len(content) + b'"],"max_tokens":3}'
    assert read_body(COMPLETIONS, long).max_tokens == 3


@given(ratio=st.floats(1.0, 12.0), sizes=st.lists(st.integers(200, 5000), min_size=8, max_size=20))
def test_characters_per_token_are_learned(ratio, sizes):
    made = reader()
    for index, size in enumerate(sizes * 4):
        body = json.dumps({"model": "m", "prompt": "x" * size, "max_tokens": 1}).encode()
        name = made.read("POST", PATHS[0], body, name=f"r{index}").name
        usage = Usage(max(round(size / ratio), 1), 1)
        made.event(Ended(name, 0, End.FINISHED, usage, 0.0, None, None))
    assert made.lengths.per_token("m") == pytest.approx(ratio, rel=0.2)
    assert made.lengths.per_token("other") == FIRST
    assert not made._kept


def test_nothing_is_learned_from_nonsense():
    lengths = Lengths()
    for tokens in (0, -5, 10**12):
        lengths.learn("m", 100.0, tokens)
    lengths.learn("m", 0.0, 10)
    assert lengths.per_token("m") == FIRST


def test_what_was_refused_is_forgotten():
    made = reader()
    name = made.read("POST", PATHS[0], b'{"prompt": "abc"}').name
    made.event(Refusal(name, Refused(429, "full")))
    assert not made._kept


def test_names_are_our_own():
    made = reader()
    names = {made.name() for _ in range(100)} | {reader().name()}
    assert len(names) == 101


@given(text=TEXTS)
def test_units_of_a_text(text):
    assert len(text) <= units(text) <= 4 * len(text)


def test_a_tokenizer_counts(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "?": 2}, "?"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    made = Reader(PickerParams(tokenizer="tokenizer.json"), tmp_path)

    def tokens(text):
        return made.read("POST", PATHS[0], json.dumps({"prompt": text}).encode()).prompt_tokens

    assert tokens("a b a") == 3
    assert tokens("a " * 50_000) == pytest.approx(50_000, rel=0.01)
    assert tokens("\ud800") >= 1
    assert tokens(["a b", "a"]) == 3

    heads: list[str] = []
    encode = made.lengths._encode
    made.lengths._encode = lambda head: heads.append(head) or encode(head)
    assert tokens(["a b", ""] * 50_000) == pytest.approx(100_000, rel=0.01)
    assert sum(map(len, heads)) + len(heads) < 20_000


def test_a_tokenizer_that_cannot_be_read_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ParameterError, match=r"tokenizer .* cannot be read") as caught:
        Lengths(tmp_path / "tokenizer.json")
    assert "\n" not in str(caught.value)
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'brsolver\[proxy\]'"):
        Lengths(tmp_path / "tokenizer.json")
