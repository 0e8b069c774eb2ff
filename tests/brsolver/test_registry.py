"""Plug-ins that are not what their entry point promises."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING

import pytest

from brsolver import registry
from brsolver.errors import ParameterError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Pretend that an entry point called ``odd`` is installed."""

    def add(group: str, value: str) -> None:
        entry = EntryPoint(name="odd", value=value, group=group)
        monkeypatch.setattr(registry, "_entries", lambda _: {"odd": entry})

    return add


@pytest.mark.parametrize(
    ("group", "value", "message"),
    [
        (registry.POLICY_GROUP, "json", "is a module, must be a class with a method route"),
        (registry.POLICY_GROUP, "json:dumps", "is a function, must be a class"),
        (registry.POLICY_GROUP, "json:JSONDecoder", "is JSONDecoder, must be a class with a"),
        (registry.PREDICTOR_GROUP, "json", "is a module, must be a class with a method predict"),
        (registry.POLICY_GROUP, "json:nothing", "cannot be loaded"),
    ],
)
def test_entry_points_must_be_classes(
    install: Callable[[str, str], None], group: str, value: str, message: str
) -> None:
    install(group, value)
    make = registry.make_policy if group == registry.POLICY_GROUP else registry.make_predictor
    with pytest.raises(ParameterError, match=message):
        make("odd")
    if group == registry.POLICY_GROUP:
        with pytest.raises(ParameterError, match=message):
            registry.describe_policy("odd")


def test_parameters_without_defaults_are_listed_as_required(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Params:
        depth: int
        names: list[str] = field(default_factory=list)

    class Needy:
        """Needs to be told."""

        def route(self) -> None: ...

    Needy.Params = Params  # type: ignore[attr-defined] # as a stranger's class would have it
    monkeypatch.setattr(registry, "_load", lambda *_: Needy)
    assert registry.describe_policy("odd").params == {"depth": "required", "names": []}
