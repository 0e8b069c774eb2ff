"""Descriptors from the tables, in a pool of our own, and message classes from them.

The pool is private: nothing here clashes with, or is seen by, what other packages registered
under the same names in protobuf's default pool.
"""

from __future__ import annotations

import functools
import re
from importlib import import_module
from typing import TYPE_CHECKING, Any

from brsolver.errors import MissingExtraError
from integration.messages._tables import PACKAGES, Package

if TYPE_CHECKING:
    from collections.abc import Iterator

_FIELD = re.compile(r"(\d+)\s+(\w+)\s+([\w.]+)(\[\]|\{\})?(?:\s+/(\w+))?\s*(?=\d+\s|$)")
_SCALARS = ("double", "uint64", "int64", "uint32", "int32", "bool", "string", "bytes")
_BORROWED = ("any", "duration", "struct", "timestamp", "wrappers")


def _protobuf(module: str) -> Any:
    """Import a module of protobuf, or say which extra brings it."""
    try:
        return import_module(f"google.protobuf.{module}")
    except ImportError as error:
        raise MissingExtraError.for_extra("protobuf", "proxy") from error


@functools.cache
def _pool() -> Any:
    pool = _protobuf("descriptor_pool").DescriptorPool()
    for name in _BORROWED:
        pool.AddSerializedFile(_protobuf(f"{name}_pb2").DESCRIPTOR.serialized_pb)
    enums = {f"{package.name}.{enum}" for package in PACKAGES for enum in package.enums}
    for package in PACKAGES:
        pool.Add(_FileBuilder(package, enums).build())
    return pool


def message_class(name: str) -> Any:
    """Return the class of a message.

    Parameters
    ----------
    name : str
        Its whole name: ``"envoy.service.ext_proc.v3.ProcessingRequest"``.
    """
    descriptor = _pool().FindMessageTypeByName(name)
    return _protobuf("message_factory").GetMessageClass(descriptor)


def enum_values(name: str) -> dict[str, int]:
    """Return numbers by name of an enumeration, given by its whole name."""
    values = _pool().FindEnumTypeByName(name).values
    return {value.name: value.number for value in values}


class _FileBuilder:
    """Makes the descriptor of one package's file."""

    def __init__(self, package: Package, enums: set[str]) -> None:
        self._package = package
        self._enums = enums
        self._pb = _protobuf("descriptor_pb2")
        self._file = self._pb.FileDescriptorProto(
            name=_file_name(package), package=package.name, syntax="proto3"
        )
        self._messages: dict[str, Any] = {}

    def build(self) -> Any:
        self._file.dependency.extend(self._dependencies())
        for name in self._package.messages:
            self._messages[name] = self._place(name, "message_type", "nested_type")
        for name, values in self._package.enums.items():
            self._enum(self._place(name, "enum_type", "enum_type"), values)
        for name, lines in self._package.messages.items():
            for field in _FIELD.finditer(lines.strip()):
                self._field(name, *field.groups())
        return self._file

    def _dependencies(self) -> Iterator[str]:
        yield from (f"google/protobuf/{name}.proto" for name in _BORROWED)
        for other in PACKAGES[: PACKAGES.index(self._package)]:
            yield _file_name(other)

    def _place(self, name: str, at_top: str, nested: str) -> Any:
        """Add an empty entry where `name` belongs: in the file, or in the message around it."""
        outer, _, own = name.rpartition(".")
        holder = getattr(self._messages[outer], nested) if outer else getattr(self._file, at_top)
        return holder.add(name=own)

    def _enum(self, enum: Any, values: str) -> None:
        for value in values.split():
            name, number = value.split("=")
            enum.value.add(name=name, number=int(number))

    def _field(
        self, owner: str, number: str, name: str, kind: str, plural: str | None, oneof: str | None
    ) -> None:
        field = self._messages[owner].field.add(name=name, number=int(number))
        field.label = field.LABEL_REPEATED if plural else field.LABEL_OPTIONAL
        if plural == "{}":
            field.type, field.type_name = field.TYPE_MESSAGE, self._map_entry(owner, name, kind)
        else:
            self._set_type(field, kind)
        if oneof is not None:
            field.oneof_index = self._oneof(owner, oneof)

    def _set_type(self, field: Any, kind: str) -> None:
        if kind in _SCALARS:
            field.type = getattr(field, f"TYPE_{kind.upper()}")
            return
        whole = self._whole(kind)
        field.type = field.TYPE_ENUM if whole in self._enums else field.TYPE_MESSAGE
        field.type_name = f".{whole}"

    def _whole(self, kind: str) -> str:
        """Return the whole name of a type; those of other packages are whole already."""
        ours = kind in self._package.messages or kind in self._package.enums
        return f"{self._package.name}.{kind}" if ours else kind

    def _map_entry(self, owner: str, name: str, kind: str) -> str:
        """Add the message that stands for a map's entries, as the language has it."""
        own = "".join(part.capitalize() for part in name.split("_")) + "Entry"
        entry = self._messages[owner].nested_type.add(name=own)
        entry.options.map_entry = True
        for number, (field_name, field_kind) in enumerate((("key", "string"), ("value", kind)), 1):
            field = entry.field.add(name=field_name, number=number)
            field.label = field.LABEL_OPTIONAL
            self._set_type(field, field_kind)
        return f".{self._package.name}.{owner}.{own}"

    def _oneof(self, owner: str, name: str) -> int:
        declared = self._messages[owner].oneof_decl
        names = [one.name for one in declared]
        if name not in names:
            declared.add(name=name)
            names.append(name)
        return names.index(name)


def _file_name(package: Package) -> str:
    return f"{package.name.replace('.', '/')}.proto"
