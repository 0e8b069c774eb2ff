"""Our messages beside the published ones, which live in an environment of their own."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf import json_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from published_protos import environment, reader_path

from brsolver.errors import UnknownNameError
from integration.messages import accesslog, ext_proc, health, services
from integration.messages._build import enum_values, message_class
from integration.messages._tables import PACKAGES, SERVICES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MESSAGES = [f"{package.name}.{name}" for package in PACKAGES for name in package.messages]
ENUMS = [f"{package.name}.{name}" for package in PACKAGES for name in package.enums]
PARTIAL = "envoy.type.v3.StatusCode"
"""Of this enumeration we name only the values that are answered."""


@pytest.fixture(scope="module")
def published() -> Iterator[Callable[[dict[str, Any]], Any]]:
    try:
        interpreter = environment.create()
    except environment.UnavailableError as error:
        pytest.skip(f"the published messages cannot be had here: {error}")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([str(interpreter), "-I", str(reader_path())], **pipes) as reader:

        def ask(asked: dict[str, Any]) -> Any:
            reader.stdin.write(json.dumps(asked) + "\n")
            reader.stdin.flush()
            return json.loads(reader.stdout.readline())

        yield ask
        reader.stdin.close()


@pytest.fixture(scope="module")
def described(published) -> dict[str, Any]:
    asked = {"messages": MESSAGES, "enums": ENUMS, "services": list(SERVICES)}
    return published({"describe": asked})


def fields(message: Any) -> dict[str, list[Any]]:
    return {
        field.name: [
            field.number,
            field.type,
            field.is_repeated if hasattr(field, "is_repeated") else field.label == 3,
            getattr(field.message_type or field.enum_type, "full_name", None),
            getattr(field.containing_oneof, "name", None),
        ]
        for field in message.DESCRIPTOR.fields
    }


def test_fields_are_the_published_ones(described) -> None:
    for name in MESSAGES:
        theirs = described["messages"][name]
        ours = fields(message_class(name))
        assert ours == {field: theirs.get(field) for field in ours}, name


def test_values_are_the_published_ones(described) -> None:
    for name in ENUMS:
        ours, theirs = enum_values(name), described["enums"][name]
        assert ours == ({key: theirs[key] for key in ours} if name == PARTIAL else theirs), name


def test_methods_are_the_published_ones(described) -> None:
    for service, methods in SERVICES.items():
        found = {name: services.method(service, name) for name in methods}
        ours = {
            name: [m.request.DESCRIPTOR.full_name, m.response.DESCRIPTOR.full_name, *m.streams]
            for name, m in found.items()
        }
        assert ours == described["services"][service]


def scalars(field: Any) -> st.SearchStrategy[Any]:
    kinds = {
        field.TYPE_DOUBLE: st.floats(allow_nan=False, allow_infinity=False),
        field.TYPE_UINT64: st.integers(0, 2**64 - 1),
        field.TYPE_UINT32: st.integers(0, 2**32 - 1),
        field.TYPE_INT64: st.integers(-(2**63), 2**63 - 1),
        field.TYPE_INT32: st.integers(-(2**31), 2**31 - 1),
        field.TYPE_BOOL: st.booleans(),
        field.TYPE_STRING: st.text(max_size=20),
        field.TYPE_BYTES: st.binary(max_size=20),
    }
    if field.type == field.TYPE_ENUM:
        return st.sampled_from([value.number for value in field.enum_type.values])
    return kinds[field.type]


def fill(draw: Callable[[st.SearchStrategy[Any]], Any], message: Any, depth: int = 4) -> None:
    """Set some fields of `message`, and of those in it."""
    name = message.DESCRIPTOR.full_name
    if name.startswith("google.protobuf."):
        fill_known(draw, message, name)
        return
    for field in message.DESCRIPTOR.fields:
        if draw(st.booleans()) and (depth or field.message_type is None):
            fill_field(draw, message, field, depth)


def fill_known(draw: Callable[[st.SearchStrategy[Any]], Any], message: Any, name: str) -> None:
    if name.endswith("Struct"):
        message.update({"a": draw(st.text(max_size=5)), "b": [1.5, None, {"c": True}]})
    elif name.endswith(("Duration", "Timestamp")):
        message.seconds, message.nanos = (
            draw(st.integers(0, 10**9)),
            draw(st.integers(0, 10**9 - 1)),
        )
    elif not name.endswith("Any"):
        message.value = draw(st.integers(0, 1))


def fill_field(
    draw: Callable[[st.SearchStrategy[Any]], Any], message: Any, field: Any, depth: int
) -> None:
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        kind = field.message_type.fields_by_name["value"]
        if kind.message_type is None:
            value[draw(st.text(max_size=5))] = draw(scalars(kind))
        else:
            fill(draw, value[draw(st.text(max_size=5))], depth - 1)
    elif field.message_type is not None:
        inner = value.add() if hasattr(value, "add") else value
        inner.SetInParent() if hasattr(inner, "SetInParent") else None
        fill(draw, inner, depth - 1)
    elif hasattr(value, "append"):
        value.append(draw(scalars(field)))
    else:
        setattr(message, field.name, draw(scalars(field)))


@given(data=st.data(), name=st.sampled_from(MESSAGES))
@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_bytes_are_read_alike_on_both_sides(data, name, published) -> None:
    message = message_class(name)()
    fill(data.draw, message)
    answer = published({"name": name, "data": message.SerializeToString().hex()})
    assert answer["read"] == json_format.MessageToDict(message, preserving_proto_field_name=True)
    assert type(message).FromString(bytes.fromhex(answer["data"])) == message


def test_what_is_not_in_our_tables_is_kept(published) -> None:
    name = "envoy.config.core.v3.Node"
    locality = "22040a026575"  # field 4, of which field 1 is "eu"
    node = message_class(name).FromString(bytes.fromhex(locality))
    node.id = "here"
    answer = published({"name": name, "data": node.SerializeToString().hex()})
    assert answer["read"] == {"id": "here", "locality": {"region": "eu"}}


def test_unknown_services_and_methods_name_those_that_are_known() -> None:
    with pytest.raises(UnknownNameError, match="unknown gRPC service"):
        services.method("grpc.health.v1.Helth", "Check")
    with pytest.raises(UnknownNameError, match="known: Check, List, Watch"):
        services.handler(services.HEALTH, Chek=print)


def test_messages_of_our_pool_take_structs_and_durations() -> None:
    answer = ext_proc.ProcessingResponse()
    answer.dynamic_metadata.update({"envoy.lb": {"x-gateway-destination-endpoint": "a:1"}})
    answer.override_message_timeout.CopyFrom(ext_proc.Duration(seconds=3))
    assert ext_proc.ProcessingResponse.FromString(answer.SerializeToString()) == answer
    assert accesslog.TYPES["DownstreamEnd"] == 6
    assert health.STATUSES["SERVING"] == 1
