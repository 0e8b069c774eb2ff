"""The description that is fuzzed from is what the rig's vLLM publishes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from rig import environment, openapi

from integration.picker.bodies import kind_of
from integration.settings import Listen


def test_it_is_kept_as_it_is_written_with_all_that_it_needs_and_no_more():
    kept = openapi.kept()
    release = kept["info"]["version"]
    again = openapi.served(kept, Listen().paths, release=release)
    assert openapi.differences(again, kept) == []
    assert openapi.written(again) == openapi.FILE.read_text(encoding="utf-8")
    assert f"{openapi.PACKAGE}=={release}" == environment.VLLM, "the rig's vLLM is another"
    assert {kind_of(path) for path in kept["paths"]} > {"completions", "chat", "embeddings"}


def test_what_differs_is_named():
    kept, other = openapi.kept(), openapi.kept()
    other["paths"]["/v1/models"]["put"] = {}
    del other["components"]["schemas"]["CompletionRequest"]
    other["info"]["version"] = "1"
    named = ["paths: /v1/models", "schemas: CompletionRequest", "info: version"]
    assert openapi.differences(kept, other) == named


def test_only_what_values_depend_on_is_kept():
    field = {"title": "T", "type": "object", "additionalProperties": True, "default": {"a": 1}}
    schema = {"description": "D", "properties": {"title": field, "default": {"$ref": "#/x"}}}
    document = {
        "openapi": "3.1.0",
        "paths": {
            "/v1/x": {"post": {"summary": "S", "requestBody": ref("One"), "responses": ref("Two")}},
            "/v1x": {"get": {}},
            "/pooling/y": {"get": {}},
            "/poolings": {"get": {}},
        },
        "components": {"schemas": {"One": schema, "Two": {}}},
    }
    found = openapi.served(document, ("/v1/", "/pooling"), release="7")
    assert sorted(found["paths"]) == ["/pooling/y", "/v1/x"]
    assert found["components"]["schemas"] == {
        "One": {"properties": {"title": {"type": "object"}, "default": {"$ref": "#/x"}}}
    }
    assert found["info"]["version"] == "7"


def ref(name):
    return {"$ref": f"#/components/schemas/{name}"}


@pytest.mark.vllm
def test_it_is_what_vllm_publishes(tmp_path):
    from rig.servers import rig_environment

    made = tmp_path / "made.json"
    subprocess.run(
        [sys.executable, openapi.__file__, made],
        env=os.environ | rig_environment(),
        check=True,
    )
    assert openapi.differences(openapi.kept(), openapi.kept(made)) == []
