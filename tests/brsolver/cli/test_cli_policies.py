from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from brsolver import registry
from brsolver.errors import ParameterError

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest


def test_table_lists_every_policy(brsolver: Callable[..., Any]) -> None:
    outcome = brsolver("policies")
    assert outcome.code == 0
    for name in registry.policy_names():
        assert name in outcome.out


def test_json_says_parameters_and_source(brsolver: Callable[..., Any]) -> None:
    outcome = brsolver("policies", "--json")
    policies = {row["name"]: row for row in json.loads(outcome.out)}
    assert set(policies) == set(registry.policy_names())
    assert policies["br-h"]["params"]["horizon"] == 80
    assert all(row["source"] and row["summary"] for row in policies.values())


def test_a_broken_plug_in_hides_no_other(
    monkeypatch: pytest.MonkeyPatch, brsolver: Callable[..., Any]
) -> None:
    real = registry.describe_policy

    def describe(name: str) -> registry.PolicyInfo:
        if name == "jsq":
            raise ParameterError("policy 'jsq' cannot be loaded")
        return real(name)

    monkeypatch.setattr(registry, "describe_policy", describe)
    outcome = brsolver("policies", "--json")
    policies = {row["name"]: row for row in json.loads(outcome.out)}
    assert policies["jsq"]["summary"] == "policy 'jsq' cannot be loaded"
    assert policies["br-0"]["params"]
