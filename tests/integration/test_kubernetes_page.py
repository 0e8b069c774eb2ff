"""The manifests of docs/kubernetes.md: they parse, and they agree with each other."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from integration.settings import load

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/kubernetes.md"
_BLOCK = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def manifests():
    """Manifests by kind and name."""
    text = PAGE.read_text(encoding="utf-8")
    documents = [one for block in _BLOCK.findall(text) for one in yaml.safe_load_all(block)]
    return {(one["kind"], one["metadata"]["name"]): one for one in documents}


def test_all_that_is_needed_is_there_once():
    found = manifests()
    assert set(found) == {
        ("ConfigMap", "brsolver-picker"),
        ("ServiceAccount", "brsolver-picker"),
        ("Role", "brsolver-picker"),
        ("RoleBinding", "brsolver-picker"),
        ("Deployment", "brsolver-picker"),
        ("Service", "brsolver-picker"),
        ("Service", "vllm-workers"),
        ("InferencePool", "vllm"),
        ("HTTPRoute", "vllm"),
        ("DestinationRule", "brsolver-picker"),
    }
    assert all(one["apiVersion"] for one in found.values())


def settings(tmp_path):
    path = tmp_path / "serve.toml"
    path.write_text(manifests()["ConfigMap", "brsolver-picker"]["data"]["serve.toml"])
    return load(path)


def test_settings_are_read_and_ports_agree(tmp_path):
    found, config = manifests(), settings(tmp_path)
    pod = found["Deployment", "brsolver-picker"]["spec"]["template"]["spec"]
    container = pod["containers"][0]
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert (config.picker.grpc_port, config.admin.port) == (ports["grpc"], ports["metrics"])
    service = found["Service", "brsolver-picker"]["spec"]["ports"][0]
    pool = found["InferencePool", "vllm"]["spec"]
    assert service["port"] == pool["endpointPickerRef"]["port"]["number"] == ports["grpc"]
    for probe in ("livenessProbe", "readinessProbe"):
        assert container[probe]["grpc"]["port"] == ports["grpc"]
        assert container[probe]["grpc"]["service"] in {"liveness", "readiness"}
    assert config.picker.door == "ext_proc"


def test_workers_service_is_the_pools(tmp_path):
    found, config = manifests(), settings(tmp_path)
    service = found["Service", "vllm-workers"]["spec"]
    pool = found["InferencePool", "vllm"]["spec"]
    assert config.workers.service == f"vllm-workers:{service['ports'][0]['targetPort']}"
    assert service["selector"] == pool["selector"]["matchLabels"]
    assert pool["targetPorts"] == [{"number": service["ports"][0]["targetPort"]}]


def test_names_and_labels_agree():
    found = manifests()
    deployment = found["Deployment", "brsolver-picker"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == labels
    assert found["Service", "brsolver-picker"]["spec"]["selector"] == labels
    account = deployment["template"]["spec"]["serviceAccountName"]
    binding = found["RoleBinding", "brsolver-picker"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account}]
    assert binding["roleRef"]["name"] == found["Role", "brsolver-picker"]["metadata"]["name"]
    rule = found["Role", "brsolver-picker"]["rules"][0]
    assert (rule["resources"], set(rule["verbs"])) == (["endpointslices"], {"get", "list", "watch"})
    backend = found["HTTPRoute", "vllm"]["spec"]["rules"][0]["backendRefs"][0]
    assert (backend["kind"], backend["name"]) == ("InferencePool", "vllm")
    host = found["DestinationRule", "brsolver-picker"]["spec"]["host"]
    assert host == found["InferencePool", "vllm"]["spec"]["endpointPickerRef"]["name"]
