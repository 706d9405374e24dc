"""deploy/helm/serving: its values against their schema, what it names against the server; and what Helm makes of it,
where HELM_PYTHON names a Python that has Helm (see helm.py)."""

import json
import os
import re
import subprocess
from typing import Any

import jsonschema
import pytest
import yaml

from serving.config import Settings
from tests.deploy import schema
from tests.deploy.manifests import CHART, DEPLOY, ROOT, containers, flags, read, settings

VALUES = read(CHART / "values.yaml")[0]
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
TEMPLATES = {path.name: path.read_text() for path in sorted(CHART.glob("templates/**/*")) if path.is_file()}


def test_values_are_valid() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.validate(VALUES, SCHEMA)


@pytest.mark.parametrize(
    "wrong", [{"replicaCount": 3}, {"replicas": "two"}, {"models": {"paths": []}}, {"settings": {"--flag": 1}}]
)
def test_what_is_wrong_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(VALUES | wrong, SCHEMA)


def _paths(values: Any, before: str = "") -> set[str]:
    if not isinstance(values, dict):
        return {before}
    return {before} | {path for key, value in values.items() for path in _paths(value, f"{before}.{key}".lstrip("."))}


def test_templates_use_values_that_there_are() -> None:
    known = _paths(VALUES)
    used = {name for text in TEMPLATES.values() for name in re.findall(r"\.Values\.([A-Za-z.]+)", text)}
    assert used <= known
    leaves = {path for path in known - {""} if not any(other.startswith(f"{path}.") for other in known)}
    unused = {leaf for leaf in leaves if not any(leaf == name or leaf.startswith(f"{name}.") for name in used)}
    volume = {leaf for leaf in unused if leaf.startswith("models.volume.")}  # one template is `with` it
    assert unused == volume and all(f" .{leaf.rpartition('.')[2]}" in TEMPLATES["models.yaml"] for leaf in volume)


def test_servers_start_with_these_arguments() -> None:
    """All that the template can ever give, at once."""
    text = re.sub(r"\{\{ \.Values\.\w+\.\w+ \}\}", "10", TEMPLATES["deployment.yaml"])
    given = re.findall(r"^ +- (--\S+)$", text, re.MULTILINE)
    assert {one.split("=")[0] for one in given} == flags(TEMPLATES["deployment.yaml"])
    chosen = settings(["start", "s3://models", *(one for one in given if not one.startswith("--config="))])
    assert f"containerPort: {chosen.http_port}" in text and f"containerPort: {chosen.manage_port}" in text


def test_settings_are_the_servers() -> None:
    assert Settings.model_validate(VALUES["settings"])


def test_probes_ask_for_health() -> None:
    probes = re.findall(r'"serving.probe" \(dict "path" "(\w+)"', TEMPLATES["deployment.yaml"])
    assert probes == ["ready", "ready", "live"]


def test_rules_are_those_of_prometheus() -> None:
    assert (CHART / "files/rules.yaml").resolve() == DEPLOY / "prometheus/rules.yaml"


def test_versions_are_those_of_the_project() -> None:
    (chart,) = read(CHART / "Chart.yaml")
    base = read(DEPLOY / "kubernetes/base/kustomization.yaml")[0]
    project = re.search(r'^version = "(.+)"$', (DEPLOY.parent / "pyproject.toml").read_text(), re.MULTILINE)
    assert project is not None
    assert {chart["version"], chart["appVersion"], base["images"][0]["newTag"]} == {project[1]}


# With Helm

HELM_PYTHON = os.environ.get("HELM_PYTHON", "")
needs_helm = pytest.mark.skipif(not HELM_PYTHON, reason="HELM_PYTHON names no Python that has helm-sdkpy")
ALL: dict[str, Any] = {
    "affinity": {"nodeAffinity": {}},
    "apiKeys": {"secret": "keys"},
    "gpu": {"count": 1},
    "image": {"tag": "0.1.0-gpu"},
    "imagePullSecrets": [{"name": "registry"}],
    "keda": {"enabled": True},
    "models": {"paths": ["s3://models", "/models"], "volume": {"storageClass": "fast"}, "credentialsSecret": "s3"},
    "monitoring": {"serviceMonitor": True, "prometheusRule": True, "labels": {"release": "prometheus"}},
    "networkPolicy": {"objectStores": True},
    "nodeSelector": {"accelerator": "nvidia"},
    "podAnnotations": {"note": "one"},
    "priorityClassName": "high",
    "service": {"annotations": {"note": "two"}},
    "serviceAccount": {"annotations": {"note": "three"}},
    "tls": {"secret": "tls"},
    "tolerations": [{"key": "dedicated", "operator": "Exists"}],
}
LITTLE: dict[str, Any] = {
    "autoscaling": {"enabled": True},
    "models": {"paths": ["gs://models"], "volume": {"create": False}},
    "networkPolicy": {"enabled": False},
    "podDisruptionBudget": {"enabled": False},
    "probes": {"enabled": False},
    "serviceAccount": {"create": False},
}
BASE = {"ConfigMap", "Deployment", "Service"}
USUAL = BASE | {"NetworkPolicy", "PersistentVolumeClaim", "PodDisruptionBudget", "ServiceAccount"}


def _helm(values: Any) -> "subprocess.CompletedProcess[str]":
    command = [HELM_PYTHON, "-m", "tests.deploy.helm", str(CHART)]
    return subprocess.run(
        command, cwd=ROOT, input=yaml.safe_dump(values), capture_output=True, text=True, check=False, timeout=180
    )


@needs_helm
@pytest.mark.parametrize(
    ("values", "kinds"),
    [
        ({}, USUAL),
        (ALL, USUAL | {"PrometheusRule", "ScaledObject", "ServiceMonitor"}),
        (LITTLE, BASE | {"HorizontalPodAutoscaler"}),
    ],
    ids=["defaults", "all", "little"],
)
def test_install(values: Any, kinds: set[str]) -> None:
    done = _helm(values)
    assert done.returncode == 0, done.stderr
    objects = list(yaml.safe_load_all(done.stdout))
    assert {one["kind"] for one in objects} == kinds
    assert [line for line in schema.problems(objects) if "nvidia.com/gpu" not in line] == []  # a number will do there
    (deployment,) = (one for one in objects if one["kind"] == "Deployment")
    assert ("replicas" in deployment["spec"]) == ("Deployment" in kinds and values == {})
    (container,) = containers(deployment)
    chosen = settings(container["args"])
    assert list(chosen.paths) == values.get("models", VALUES["models"])["paths"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in deployment["spec"]["template"]["spec"]["volumes"]}
    (rules,) = (one["spec"] for one in objects if one["kind"] == "PrometheusRule") if values is ALL else (None,)
    assert rules in (None, read(DEPLOY / "prometheus/rules.yaml")[0])


@needs_helm
@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"autoscaling": {"enabled": True}, "keda": {"enabled": True}}, "one of them"),
        ({"replicaCount": 3}, "additional properties 'replicaCount' not allowed"),
        ({"replicas": "two"}, "got string, want integer"),
    ],
)
def test_refused(values: Any, why: str) -> None:
    done = _helm(values)
    assert done.returncode == 1 and why in done.stderr
