"""Runs in the other environment, by its interpreter: answers a JSON line with a JSON line.

``{"describe": NAMES}`` gives the published fields of messages and values of enumerations;
``{"name": MESSAGE, "data": HEX}`` what is read from bytes, and the same written again.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module

from google.protobuf import descriptor_pool, json_format, message_factory

for registers in (
    "envoy.service.accesslog.v3.als_pb2",
    "envoy.service.ext_proc.v3.external_processor_pb2",
    "grpc_health.v1.health_pb2",
):
    import_module(registers)
POOL = descriptor_pool.Default()


def describe_message(name):
    """Fields by name, as protobuf describes them."""
    proto = message_factory.GetMessageClass(POOL.FindMessageTypeByName(name)).DESCRIPTOR
    return {
        field.name: [
            field.number,
            field.type,
            field.is_repeated,
            (field.message_type or field.enum_type).full_name
            if field.message_type or field.enum_type
            else None,
            field.containing_oneof.name if field.containing_oneof else None,
        ]
        for field in proto.fields
    }


def describe_enum(name):
    """Numbers by name."""
    return {value.name: value.number for value in POOL.FindEnumTypeByName(name).values}


def describe_service(name):
    """By method: what is asked and answered, and which of them are streams."""
    return {
        method.name: [
            method.input_type.full_name,
            method.output_type.full_name,
            method.client_streaming,
            method.server_streaming,
        ]
        for method in POOL.FindServiceByName(name).methods
    }


def answer(asked):
    """Answer one line."""
    if "describe" in asked:
        kinds = {"messages": describe_message, "enums": describe_enum, "services": describe_service}
        return {
            kind: {name: kinds[kind](name) for name in names}
            for kind, names in asked["describe"].items()
        }
    message = message_factory.GetMessageClass(POOL.FindMessageTypeByName(asked["name"]))()
    message.ParseFromString(bytes.fromhex(asked["data"]))
    return {
        "read": json_format.MessageToDict(message, preserving_proto_field_name=True),
        "data": message.SerializeToString().hex(),
    }


if __name__ == "__main__":
    for line in sys.stdin:
        sys.stdout.write(json.dumps(answer(json.loads(line))) + "\n")
        sys.stdout.flush()
