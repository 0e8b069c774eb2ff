"""What the page on Kubernetes says can be used as it stands there."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml
from published_protos import environment, schemas_path

from integration.admin.params import AdminParams
from integration.picker import Core, WorkerSpec
from integration.settings import load

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "kubernetes.md"
TEXT = PAGE.read_text(encoding="utf-8")
[RECIPE] = re.findall(r"```dockerfile\n(.*?)```", TEXT, re.DOTALL)
MANIFESTS = [
    manifest
    for block in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    for manifest in yaml.safe_load_all(block)
]


def table(required="", **fields):
    """A schema of an object that has these fields and no others."""
    return {
        "type": "object",
        "properties": fields,
        "required": required.split(),
        "additionalProperties": False,
    }


NAME = {"type": "string", "minLength": 1, "maxLength": 253}
PORT = {"type": "integer", "minimum": 1, "maximum": 65535}
DURATION = {"type": "string", "pattern": "^([0-9]{1,5}(h|m|s|ms)){1,4}$"}
LABELS = {"type": "object", "additionalProperties": {"type": "string", "maxLength": 63}}
# What the definitions of these kinds say of the fields that stand on the page.
SPECS = {
    ("inference.networking.k8s.io/v1", "InferencePool"): table(
        "selector targetPorts endpointPickerRef",
        selector=table("matchLabels", matchLabels=LABELS),
        targetPorts={"type": "array", "items": table("number", number=PORT), "minItems": 1},
        endpointPickerRef=table(
            "name",
            group={"type": "string"},
            kind=NAME,
            name=NAME,
            port=table("number", number=PORT),
            failureMode={"enum": ["FailOpen", "FailClose"]},
        ),
    ),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): table(
        parentRefs={"type": "array", "items": table("name", name=NAME, namespace=NAME)},
        rules={
            "type": "array",
            "items": table(
                matches={
                    "type": "array",
                    "items": table(
                        path=table(
                            type={"enum": ["Exact", "PathPrefix", "RegularExpression"]},
                            value={"type": "string", "pattern": "^/"},
                        )
                    ),
                },
                backendRefs={
                    "type": "array",
                    "items": table(
                        "name", group={"type": "string"}, kind=NAME, name=NAME, port=PORT
                    ),
                },
                timeouts=table(request=DURATION, backendRequest=DURATION),
            ),
        },
    ),
    ("networking.istio.io/v1", "DestinationRule"): table(
        "host",
        host=NAME,
        trafficPolicy=table(
            tls=table(
                "mode",
                mode={"enum": ["DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL"]},
                insecureSkipVerify={"type": "boolean"},
            ),
            connectionPool=table(
                http=table(
                    http2MaxRequests={"type": "integer", "minimum": 0},
                    maxRequestsPerConnection={"type": "integer", "minimum": 0},
                )
            ),
        ),
    ),
}


def of(kind):
    return {each["metadata"]["name"]: each for each in MANIFESTS if each["kind"] == kind}


def picker_settings(folder):
    path = folder / "serve.toml"
    [settings] = of("ConfigMap").values()
    path.write_text(settings["data"]["serve.toml"], encoding="utf-8")
    return load(path)


def instructions(name):
    """What follows an instruction of the container's recipe, each in one line."""
    lines = RECIPE.replace("\\\n", " ").splitlines()
    return [line.removeprefix(f"{name} ") for line in lines if line.startswith(f"{name} ")]


def test_the_container_is_made_of_what_is_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    copied = {source for line in instructions("COPY") for source in line.split()[:-1]}
    assert sorted(source for source in copied if not (ROOT / source).exists()) == []
    about = project["project"]
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert {"pyproject.toml", about["readme"], *about["license-files"], *packages} <= copied
    installed = [each for line in instructions("RUN") for each in re.findall("pip install.*", line)]
    named = [re.search(r"'\.\[([\w,-]+)\]'", each)[1] for each in installed]
    assert named
    assert set(",".join(named).split(",")) <= about["optional-dependencies"].keys()


def test_the_container_begins_with_a_command_that_there_is() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    [entry] = instructions("ENTRYPOINT")
    program, command, option, path = json.loads(entry)
    assert program in project["scripts"]
    assert command in project["entry-points"]["brsolver.commands"]
    assert option == "--config"
    [deployment] = of("Deployment").values()
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    [mount] = container["volumeMounts"]
    [settings] = of("ConfigMap").values()
    assert path in {f"{mount['mountPath']}/{name}" for name in settings["data"]}


def test_the_settings_are_settings(tmp_path: Path) -> None:
    config = picker_settings(tmp_path)
    token = None if config.admin.token_env is None else "sixteen letters!"
    AdminParams(host=config.admin.host, port=config.admin.port, token=token)
    pod = WorkerSpec(name="pod", address="10.0.0.1:8000")
    Core(config.router, [pod], clock=lambda: 0.0)


def test_secrets_that_are_named_are_given() -> None:
    for name in re.findall(r'_env = "(\w+)"', TEXT):
        assert f"- name: {name}" in TEXT


def test_kinds_of_kubernetes_are_as_it_has_published_them() -> None:
    try:
        interpreter = environment.create("kubernetes")
    except environment.UnavailableError as error:
        pytest.skip(f"the published schemas cannot be had here: {error}")
    unknown = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {}, "unknown": 1}
    done = subprocess.run(
        [str(interpreter), "-I", str(schemas_path())],
        input=json.dumps([*MANIFESTS, unknown]),
        capture_output=True,
        text=True,
        check=True,
    )
    *found, refused = json.loads(done.stdout)
    assert refused
    others = {each["kind"] for each, wrong in zip(MANIFESTS, found, strict=True) if wrong is None}
    assert others == {kind for _, kind in SPECS}
    assert [wrong for wrong in found if wrong] == []


def test_kinds_of_extensions_have_the_fields_of_their_definitions() -> None:
    checked = set()
    for each in MANIFESTS:
        schema = SPECS.get((each["apiVersion"], each["kind"]))
        if schema is not None:
            jsonschema.validate(each["spec"], schema)
            checked.add(each["kind"])
    assert checked == {kind for _, kind in SPECS}


def test_what_manifests_name_is_there(tmp_path: Path) -> None:
    [deployment], [role], [binding], [pool], [route] = (
        of(kind).values()
        for kind in ("Deployment", "Role", "RoleBinding", "InferencePool", "HTTPRoute")
    )
    pod = deployment["spec"]["template"]["spec"]
    [container] = pod["containers"]
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    config = picker_settings(tmp_path)
    assert ports == {"grpc": config.picker.grpc_port, "metrics": config.admin.port}
    for probe in ("livenessProbe", "readinessProbe"):
        assert container[probe]["grpc"]["port"] == config.picker.grpc_port
    assert pod["serviceAccountName"] in of("ServiceAccount")
    assert binding["subjects"][0]["name"] == pod["serviceAccountName"]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert pod["volumes"][0]["configMap"]["name"] in of("ConfigMap")
    assert pod["terminationGracePeriodSeconds"] > config.limits.drain_s

    labels = deployment["spec"]["template"]["metadata"]["labels"]
    reference, services = pool["spec"]["endpointPickerRef"], of("Service")
    door = services[reference["name"]]["spec"]
    assert door["selector"] == deployment["spec"]["selector"]["matchLabels"] == labels
    assert reference["port"]["number"] == door["ports"][0]["port"]
    assert door["ports"][0]["targetPort"] in ports

    name, _, port = config.workers.service.partition(":")
    workers = services[name]["spec"]
    assert workers["selector"] == pool["spec"]["selector"]["matchLabels"]
    assert (
        int(port) == workers["ports"][0]["targetPort"] == pool["spec"]["targetPorts"][0]["number"]
    )
    [backend] = route["spec"]["rules"][0]["backendRefs"]
    assert backend["name"] == pool["metadata"]["name"]
    assert f"{backend['group']}/v1" == pool["apiVersion"]
    [rule] = of("DestinationRule").values()
    assert rule["spec"]["host"] in services
