"""Prompts have the trace's lengths, and share what the trace says that they shared."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from load_servers import requests

from brsolver.errors import ParameterError, TraceError
from brsolver.traces.trace import Trace
from integration.load.bodies import Bodies
from integration.load.prompts import Prompts, block_tokens
from integration.load.vocabulary import COMMON, ORDINARY_TOKENS, Numbers, Words, words_of

BLOCK = 4


def chained(lengths, chains, **more) -> Trace:
    return Trace(
        prompt_tokens=np.array(lengths),
        output_tokens=np.ones(len(lengths), np.int64),
        name="chained",
        columns={
            "hash_offsets": np.cumsum([0, *map(len, chains)]),
            "hash_values": np.array([one for chain in chains for one in chain], np.int64),
        },
        **more,
    )


def ids(prompts: Prompts, row: int) -> list[int]:
    return json.loads(prompts.of(row))


@st.composite
def chains(draw):
    """Prompts as lengths and chains, the last block whole, begun, or not numbered."""
    values = st.integers(-(2**63), 2**63 - 1)
    known = draw(st.lists(values, min_size=1, max_size=4, unique=True))
    rows = draw(st.lists(st.lists(st.sampled_from(known), max_size=4), min_size=1, max_size=6))
    extra = [draw(st.integers(-BLOCK + 1, 2 * BLOCK)) if row else 3 for row in rows]
    return [max(1, BLOCK * len(row) + e) for row, e in zip(rows, extra, strict=True)], rows


@given(chains(), st.integers(0, 9))
def test_equal_numbers_are_equal_blocks_and_others_are_not(drawn, seed):
    lengths, rows = drawn
    prompts = Prompts(chained(lengths, rows), Numbers(), block=BLOCK, seed=seed)
    blocks = {}
    for row, chain in enumerate(rows):
        tokens = ids(prompts, row)
        assert len(tokens) == lengths[row]
        assert all(ORDINARY_TOKENS[0] <= token < ORDINARY_TOKENS[1] for token in tokens)
        for at, number in enumerate(chain):
            block = tuple(tokens[BLOCK * at : BLOCK * (at + 1)])
            seen = blocks.setdefault(number, block)
            shared = min(len(seen), len(block))
            assert seen[:shared] == block[:shared]
    whole = [block for block in blocks.values() if len(block) == BLOCK]
    assert len(set(whole)) == len(whole)


def test_what_has_no_number_is_the_requests_own():
    prompts = Prompts(chained([2 * BLOCK, 2 * BLOCK], [[7], [7]]), Numbers(), block=BLOCK)
    first, second = ids(prompts, 0), ids(prompts, 1)
    assert first[:BLOCK] == second[:BLOCK]
    assert first[BLOCK:] != second[BLOCK:]


def test_without_numbers_no_two_prompts_begin_alike():
    prompts = Prompts(requests(50, prompt=30), Numbers())
    assert len({prompts.of(row)[:40] for row in range(50)}) == 50
    assert len(json.loads(prompts.warm(0, 30))) == 30
    assert prompts.warm(0, 30) not in {prompts.of(row) for row in range(50)}


def test_a_seed_gives_the_same_prompts_and_another_gives_others():
    trace = chained([9, 9], [[1, 2], [1, 3]])
    one, same, other = (Prompts(trace, Numbers(), block=BLOCK, seed=s) for s in (5, 5, 6))
    assert one.of(1) == same.of(1) != other.of(1)


@pytest.mark.parametrize(
    "labels", [np.array(["a", "b", "a", "", ""]), np.array([4, 5, 4, 6, 7])], ids=["text", "number"]
)
def test_equal_prompt_hashes_are_equal_prompts(labels):
    prompts = Prompts(requests(5, prompt=8, prompt_hash=labels), Numbers())
    assert prompts.of(0) == prompts.of(2)
    assert len({prompts.of(row) for row in range(5)}) == 4


@pytest.mark.parametrize(
    ("lengths", "counts", "block"),
    [([1000, 513, 512, 2049], [2, 2, 1, 5], 512), ([48, 17, 33, 16], [3, 1, 2, 1], 16)],
    ids=["last block begun", "whole blocks"],
)
def test_the_size_of_blocks_is_found_out(lengths, counts, block):
    assert block_tokens(chained(lengths, [range(k) for k in counts])) == block


def test_formats_say_the_size_of_their_blocks():
    assert block_tokens(chained([700], [[1, 2]], source_format="mooncake")) == 512


@pytest.mark.parametrize(
    ("lengths", "counts", "says"),
    [
        ([5], [1], "must be given (possible: 4, 8, 16, 32"),
        ([100, 100], [1, 7], "no size fits all prompts"),
    ],
)
def test_a_size_that_cannot_be_told_is_asked_for(lengths, counts, says):
    with pytest.raises(ParameterError) as error:
        block_tokens(chained(lengths, [range(k) for k in counts]))
    assert says in str(error.value)


def test_a_size_that_cannot_be_is_refused():
    with pytest.raises(TraceError, match=r"request 1 has 3 hash_ids, must have at most 2"):
        block_tokens(chained([8, 8], [[1, 2], [1, 2, 3]]), BLOCK)


@given(st.integers(1, 40), st.integers(0, 9))
def test_words_are_as_many_as_tokens(tokens, seed):
    prompts = Prompts(requests(1, prompt=tokens), Words(), seed=seed)
    text = json.loads(prompts.of(0))
    assert len(text.split(" ")) == tokens
    assert set(text.split(" ")) <= {*COMMON}
    # What a server says that takes four characters for a token.
    assert -(-len(text) // 4) == tokens


@pytest.fixture
def tokenizer(tmp_path):
    """A byte-level BPE that has some words as one token, and others not."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words = [f"{a}{b}{c}" for a in "bcdf" for b in "aeio" for c in "lmnr"]
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["<s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([" ".join(words), *words] * 5, trainer)
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path, made


def test_words_of_a_tokenizer_are_one_token_each(tokenizer):
    path, made = tokenizer
    words = words_of(str(path))
    assert words.extra == 1
    prompts = Prompts(requests(20, prompt=57), words)
    for row in range(20):
        assert len(made.encode(json.loads(prompts.of(row))).ids) == 57
    assert words_of(str(path / "tokenizer.json"), chat=True).extra == 0


def test_a_tokenizer_must_be_one(tmp_path, tokenizer):
    with pytest.raises(ParameterError, match=r"must be a file tokenizer.json or a folder with it"):
        words_of(str(tmp_path / "nowhere"))
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ParameterError, match=r"must be a tokenizer.json: "):
        words_of(str(tmp_path / "other.json"))


def test_a_tokenizer_needs_words(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = Tokenizer(models.WordLevel({"one": 1, "two": 2}))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ParameterError, match=r"must have at least 16 words .*, has 2"):
        words_of(str(tmp_path))


def test_bodies_ask_for_exactly_what_the_trace_has():
    trace = requests(2, prompt=5, output=[3, 9])
    body = json.loads(Bodies(trace, Prompts(trace, Numbers()), model="m").of(1))
    assert len(body.pop("prompt")) == 5
    assert body == {
        "model": "m",
        "temperature": 0.0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 9,
        "min_tokens": 9,
        "ignore_eos": True,
    }


def test_chats_and_further_fields():
    trace = requests(1, prompt=5, output=3)
    more = {"temperature": 0.5, "user": "\ue001 é"}
    made = Bodies(trace, Prompts(trace, Words()), model="m", chat=True, exact=False, more=more)
    body = json.loads(made.of(0))
    (message,) = body["messages"]
    assert len(message["content"].split()) == 5
    assert message["role"] == "user"
    assert (body["max_completion_tokens"], body["temperature"]) == (3, 0.5)
    assert body["user"] == more["user"]
    assert not {"ignore_eos", "min_tokens", "max_tokens", "prompt"} & body.keys()
