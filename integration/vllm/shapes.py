"""The shapes of vLLM's classes, from the classes themselves or from their sources alone."""

from __future__ import annotations

import ast
import dis
import inspect
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, TypeGuard

from integration.vllm.capability import MODULES, NEEDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

Shapes = dict[tuple[str, str], "ClassShape"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodShape:
    """Parameters, in order, and kind of a method."""

    parameters: tuple[str, ...]
    coroutine: bool
    static: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassShape:
    """A class: its methods and attributes, inherited ones included.

    Attributes
    ----------
    bases : frozenset of str
        Names of all classes it derives from.
    methods : mapping of str to MethodShape
    own : frozenset of str
        Names that it defines itself.
    attributes : frozenset of str
        Names that its methods assign on ``self``.
    fields : frozenset of str
        Names that its body annotates or assigns.
    values : mapping of str to int
        Those of its fields that are whole numbers.
    """

    bases: frozenset[str]
    methods: Mapping[str, MethodShape]
    own: frozenset[str]
    attributes: frozenset[str]
    fields: frozenset[str]
    values: Mapping[str, int]


def module_path(module: str, root: Path) -> Path:
    """Return where a module's source lies under the folder that holds the package ``vllm``."""
    folder = root.joinpath(*module.split("."))
    return folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")


def from_sources(root: Path) -> Shapes:
    """Read the shapes of the classes that matter from sources, importing nothing.

    Parameters
    ----------
    root : path
        The folder that holds the package ``vllm``.

    Raises
    ------
    OSError, SyntaxError
        A module is not there or is not Python.
    """
    shapes: Shapes = {}
    for module in MODULES:
        tree = ast.parse(module_path(module, root).read_text(encoding="utf-8"))
        classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
        for name in _wanted(module):
            if name in classes:
                shapes[module, name] = _parsed(classes[name], classes)
    return shapes


def live() -> Shapes:
    """Take the shapes of the classes that matter from the vLLM of this process.

    Raises
    ------
    ImportError
        There is none.
    """
    shapes: Shapes = {}
    for module in MODULES:
        loaded = import_module(module)
        for name in _wanted(module):
            if isinstance(found := getattr(loaded, name, None), type):
                shapes[module, name] = _inspected(found)
    return shapes


def _wanted(module: str) -> list[str]:
    return [need.name for need in NEEDS if need.module == module]


def _parsed(node: ast.ClassDef, classes: Mapping[str, ast.ClassDef]) -> ClassShape:
    lineage = _lineage(node, classes)
    methods: dict[str, MethodShape] = {}
    for member in lineage:
        for item in member.body:
            if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef):
                methods.setdefault(item.name, _parsed_method(item))
    return ClassShape(
        bases=frozenset(member.name for member in lineage[1:]),
        methods=methods,
        own=frozenset(_defined(node)),
        attributes=frozenset(name for member in lineage for name in _assigned(member)),
        fields=frozenset(name for member in lineage for name in _declared(member)),
        values={name: value for member in reversed(lineage) for name, value in _numbers(member)},
    )


def _lineage(node: ast.ClassDef, classes: Mapping[str, ast.ClassDef]) -> list[ast.ClassDef]:
    """Return the class and those of this module it derives from, nearest first."""
    found = [node]
    for base in node.bases:
        if isinstance(base, ast.Name) and base.id in classes:
            found += _lineage(classes[base.id], classes)
    return found


def _parsed_method(item: ast.FunctionDef | ast.AsyncFunctionDef) -> MethodShape:
    arguments = item.args
    ordered = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    marks = {mark.id for mark in item.decorator_list if isinstance(mark, ast.Name)}
    return MethodShape(
        parameters=tuple(argument.arg for argument in ordered),
        coroutine=isinstance(item, ast.AsyncFunctionDef),
        static="staticmethod" in marks,
    )


def _defined(node: ast.ClassDef) -> Iterable[str]:
    for item in node.body:
        if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef):
            yield item.name


def _assigned(node: ast.ClassDef) -> Iterable[str]:
    for item in ast.walk(node):
        if (
            isinstance(item, ast.Attribute)
            and isinstance(item.ctx, ast.Store)
            and isinstance(item.value, ast.Name)
            and item.value.id == "self"
        ):
            yield item.attr


def _declared(node: ast.ClassDef) -> Iterable[str]:
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            yield item.target.id
        elif isinstance(item, ast.Assign):
            yield from (target.id for target in item.targets if isinstance(target, ast.Name))


def _numbers(node: ast.ClassDef) -> Iterable[tuple[str, int]]:
    for item in node.body:
        if not (isinstance(item, ast.Assign) and isinstance(item.value, ast.Constant)):
            continue
        value = item.value.value
        if _is_number(value):
            yield from ((each.id, value) for each in item.targets if isinstance(each, ast.Name))


def _is_number(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _inspected(found: type) -> ClassShape:
    lineage = found.__mro__[:-1]
    members = {name: value for base in reversed(lineage) for name, value in vars(base).items()}
    return ClassShape(
        bases=frozenset(base.__name__ for base in lineage[1:]),
        methods={
            name: _inspected_method(value)
            for name, value in members.items()
            if isinstance(value, staticmethod) or inspect.isfunction(value)
        },
        own=frozenset(vars(found)),
        attributes=frozenset(name for base in lineage for name in _stored(base)),
        fields=frozenset(
            name
            for base in lineage
            for name in (*vars(base).get("__annotations__", ()), *vars(base))
        ),
        # A member of an `IntEnum` is the number.
        values={name: int(value) for name, value in members.items() if _is_number(value)},
    )


def _inspected_method(value: object) -> MethodShape:
    static = isinstance(value, staticmethod)
    function = value.__func__ if isinstance(value, staticmethod) else value
    # Tracing decorators keep the wrapped function's signature where `inspect` finds it.
    assert callable(function)  # noqa: S101 # functions and static methods only get here
    return MethodShape(
        parameters=tuple(inspect.signature(function).parameters),
        coroutine=inspect.iscoroutinefunction(inspect.unwrap(function)),
        static=static,
    )


def _stored(base: type) -> Iterable[str]:
    for value in vars(base).values():
        if inspect.isfunction(value):
            for instruction in dis.get_instructions(inspect.unwrap(value)):
                if instruction.opname == "STORE_ATTR":
                    yield instruction.argval
