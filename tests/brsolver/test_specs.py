"""Specification strings and the parameters built from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brsolver.errors import ParameterError, UnknownNameError
from brsolver.specs import build_params, convert, parse_policy, parse_spec, split_policies


@dataclass(frozen=True, kw_only=True)
class Params:
    """Parameters of every kind."""

    count: int = 1
    share: float = 0.5
    flag: bool = False
    label: str = "x"
    bound: Optional[int] = None  # noqa: UP045
    rate: float | None = 2.0
    mode: Literal["fast", "exact"] = "fast"
    cached: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ParameterError(f"count is {self.count}, must be at least 0")
        if self.share > 1:
            raise ValueError("share must be at most 1")


@dataclass(frozen=True, kw_only=True)
class Needy:
    """A parameter without default."""

    window: int


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("br-h", ("br-h", {})),
        ("br-h:", ("br-h", {})),
        ("br-h:H=80,gamma=0.9", ("br-h", {"H": "80", "gamma": "0.9"})),
        (" br-h : H = 80 , name = a b ", ("br-h", {"H": "80", "name": "a b"})),
        ("x:path=a:b=c", ("x", {"path": "a:b=c"})),
    ],
)
def test_parse_spec(spec: str, expected: tuple[str, dict[str, str]]) -> None:
    assert parse_spec(spec) == expected


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "specification is '', must be NAME or NAME:KEY=VALUE,...: it has no name"),
        (":a=1", "has no name"),
        ("x:a", "specification is 'x:a', must be NAME or NAME:KEY=VALUE,...: 'a' is not KEY="),
        ("x:=1", "'=1' is not KEY=VALUE"),
        ("x:a=", "'a=' is not KEY=VALUE"),
        ("x:a=1,", "'' is not KEY=VALUE"),
        ("x:a=1,a=2", "sets 'a' twice"),
    ],
)
def test_parse_spec_refuses(spec: str, message: str) -> None:
    with pytest.raises(ParameterError) as caught:
        parse_spec(spec)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "specs"),
    [
        ("br-0", ("br-0",)),
        ("br-0, jsq", ("br-0", "jsq")),
        ("br-h:horizon=40,gamma=0.9,jsq", ("br-h:horizon=40,gamma=0.9", "jsq")),
        ("a:x=1,b:y=2,z=3", ("a:x=1", "b:y=2,z=3")),
        ("br-h,gamma=0.9", ("br-h:gamma=0.9",)),
        ("a:file=b:c,k=d:e", ("a:file=b:c,k=d:e",)),
        ("vllm,m.n:C,jsq", ("vllm", "m.n:C", "jsq")),
        ("m:C:k=1,j=2,n:D,i=3", ("m:C:k=1,j=2", "n:D:i=3")),
    ],
)
def test_commas_separate_policies_and_parameters(text: str, specs: tuple[str, ...]) -> None:
    assert split_policies(text) == specs


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mine:Mine", ("mine:Mine", {})),
        (" my.pack_age:Mine : k=1, j=a:b ", ("my.pack_age:Mine", {"k": "1", "j": "a:b"})),
        ("br-h:horizon=4", ("br-h", {"horizon": "4"})),
        ("mine:key=1", ("mine", {"key": "1"})),
    ],
)
def test_a_policy_may_be_a_class_of_a_module(
    text: str, expected: tuple[str, dict[str, str]]
) -> None:
    assert parse_policy(text) == expected


@pytest.mark.parametrize("text", ["mine.py:Mine", "./mine.py:Mine:k=1", "/a/b/mine.py:Mine"])
def test_a_file_is_no_module(text: str) -> None:
    with pytest.raises(ParameterError, match="a file is named MODULE:CLASS, as in my_policy:"):
        parse_policy(text)


@pytest.mark.parametrize("text", ["", "a,,b", "a,", "gamma=0.9,a"])
def test_broken_lists_are_refused(text: str) -> None:
    with pytest.raises(ParameterError, match=r"policies is .*, must be NAME"):
        split_policies(text)


names = st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True)


@given(names, st.dictionaries(names, st.integers() | names))
def test_parse_spec_inverts_formatting(name: str, values: dict[str, Any]) -> None:
    spec = name + ":" + ",".join(f"{key}={value}" for key, value in values.items())
    assert parse_spec(spec) == (name, {key: str(value) for key, value in values.items()})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("count", "12", 12),
        ("count", "1e4", 10_000),
        ("count", 3, 3),
        ("share", "1e-3", 0.001),
        ("share", "-inf", float("-inf")),
        ("share", 1, 1.0),
        ("flag", "True", True),
        ("flag", "off", False),
        ("flag", "1", True),
        ("label", "12", "12"),
        ("bound", "none", None),
        ("bound", "7", 7),
        ("bound", None, None),
        ("rate", "None", None),
        ("rate", "3", 3.0),
        ("mode", "exact", "exact"),
    ],
)
def test_build_params_converts_by_annotation(name: str, value: object, expected: object) -> None:
    built = getattr(build_params(Params, {name: value}, "p"), name)
    assert built == expected
    assert type(built) is type(expected)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": "1.5"}, "p: count is '1.5', must be a whole number"),
        ({"count": "inf"}, "p: count is 'inf', must be a whole number"),
        ({"count": True}, "p: count is True, must be a whole number"),
        ({"count": 2.0}, "p: count is 2.0, must be a whole number"),
        ({"share": "nan"}, "p: share is 'nan', must be a number"),
        ({"share": True}, "p: share is True, must be a number"),
        ({"flag": "maybe"}, "p: flag is 'maybe', must be true or false"),
        ({"flag": 1}, "p: flag is 1, must be true or false"),
        ({"label": 5}, "p: label is 5, must be a text"),
        ({"bound": "x"}, "p: bound is 'x', must be none or a whole number"),
        ({"mode": "slow"}, "p: mode is 'slow', must be one of 'fast', 'exact'"),
        ({"count": "-1"}, "p: count is -1, must be at least 0"),
        ({"share": "2"}, "p: share must be at most 1"),
        ({"cached": "2"}, "unknown parameter of p 'cached'"),
    ],
)
def test_build_params_refuses(values: dict[str, object], message: str) -> None:
    with pytest.raises(ParameterError) as caught:
        build_params(Params, values, "p")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("8", 8), ("8, 9", (8, 9)), ("1e3,2", (1000, 2)), ("none", None)],
)
def test_texts_hold_lists(text: str, expected: object) -> None:
    assert convert(text, int | tuple[int, ...] | None, "slots") == expected


@pytest.mark.parametrize("text", ["two", "4,x", "8,", ",", "1.5,2"])
def test_broken_lists_of_numbers_are_refused(text: str) -> None:
    with pytest.raises(ParameterError) as caught:
        convert(text, int | tuple[int, ...], "slots")
    assert str(caught.value) == (
        f"slots is {text!r}, must be a whole number or several, each a whole number: A,B,..."
    )


def test_build_params_suggests_and_asks_for_what_is_missing() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'count'"):
        build_params(Params, {"cout": "1"}, "p")
    with pytest.raises(ParameterError, match="p: parameter 'window' is missing, must be given"):
        build_params(Needy, {}, "p")
    assert build_params(Needy, {"window": "3"}, "p").window == 3


@dataclass(frozen=True, kw_only=True)
class Outer:
    """Parameters in parameters."""

    sizes: int | tuple[int, ...] = 1
    inner: Params = field(default_factory=Params)
    several: tuple[Needy, ...] = ()


def test_build_params_nests() -> None:
    values = {"sizes": [1, 2], "inner": {"share": 1}, "several": [{"window": 3}]}
    built = build_params(Outer, values, "o", convert_texts=False)
    assert built == Outer(sizes=(1, 2), inner=Params(share=1.0), several=(Needy(window=3),))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sizes": [1, "a"]}, "o: sizes is [1, 'a'], must be a whole number or a list, each entry"),
        ({"sizes": "3"}, "o: sizes is '3', must be a whole number"),
        ({"inner": 3}, "o: inner is 3, must be a table of count, share"),
        ({"inner": {"flag": "yes"}}, "inner: flag is 'yes', must be true or false"),
        ({"inner": {"mode": ["fast"]}}, "inner: mode is ['fast'], must be one of"),
        ({"inner": {"share": 10**400}}, "inner: share is 1000"),
        ({"inner": {"shar": 1}}, "unknown parameter of inner 'shar'"),
        ({"several": [{"window": 3}, {"window": 1.5}]}, "several[1]: window is 1.5"),
    ],
)
def test_build_params_takes_typed_values_as_they_are(
    values: dict[str, object], message: str
) -> None:
    with pytest.raises(ParameterError) as caught:
        build_params(Outer, values, "o", convert_texts=False)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("400000", 400_000),
        ("400_000", 400_000),
        ("400k", 400_000),
        ("4e5", 400_000),
        ("4E5", 400_000),
        ("0.4M", 400_000),
        ("1.1k", 1100),
        ("2G", 2_000_000_000),
        ("256Ki", 262_144),
        ("1.5Mi", 1_572_864),
        ("1Gi", 2**30),
        ("-2k", -2000),
        ("12.", 12),
    ],
)
def test_counts(text: str, number: int) -> None:
    assert convert(text, int, "count") == number
    assert convert(f"{text},7", tuple[int, ...], "count") == (number, 7)


@pytest.mark.parametrize(
    "text",
    [
        "400K",
        "1m",
        "1.0001k",
        "0.5",
        "k",
        "1kk",
        "1 k",
        "1e400k",
        "1e999999999",
        "1,000",
        "0x10",
        "",
    ],
)
def test_texts_that_are_no_counts(text: str) -> None:
    with pytest.raises(ParameterError, match=r"count is '.*', must be a whole number"):
        convert(text, int, "count")


def test_a_capital_k_has_two_readings() -> None:
    with pytest.raises(ParameterError) as caught:
        convert("400K", int | None, "capacity")
    assert str(caught.value) == (
        "capacity is '400K', must be none or a whole number such as 400000, 400k (400,000) or "
        "400Ki (409,600)"
    )


def test_pairs() -> None:
    assert convert("a=b, c = d e", Mapping[str, str], "columns") == {"a": "b", "c": "d e"}
    for text in ("a", "a=", "=b", "a=b,a=c", ""):
        with pytest.raises(ParameterError, match=r"columns is .*, must be NAME=VALUE"):
            convert(text, Mapping[str, str], "columns")
