"""The files of deploy/ray: held against Ray's own schema where Ray is installed, and against Kubernetes' types."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving.config import Settings
from tests.deploy import schema

ROOT = Path(__file__).parents[2]
RAY = ROOT / "deploy/ray"

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")


def manifest() -> tuple[dict[str, Any], dict[str, Any]]:
    service, grpc = yaml.safe_load_all((RAY / "rayservice.yaml").read_text())
    return service, grpc


def serve_configs() -> Mapping[str, Any]:
    return {
        "serve.yaml": yaml.safe_load((RAY / "serve.yaml").read_text()),
        "rayservice.yaml": yaml.safe_load(manifest()[0]["spec"]["serveConfigV2"]),
    }


def pods() -> dict[str, Any]:
    cluster = manifest()[0]["spec"]["rayClusterConfig"]
    workers = {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    return {"head": cluster["headGroupSpec"]["template"], **workers}


def test_pods_and_services_are_what_kubernetes_knows() -> None:
    _, grpc = manifest()
    made = [
        {"apiVersion": "v1", "kind": "Pod", **template, "metadata": {"name": name, **template["metadata"]}}
        for name, template in pods().items()
    ]
    assert len(made) == 2
    assert schema.problems([*made, grpc]) == []


def test_the_grpc_service_finds_the_proxies() -> None:
    _, grpc = manifest()
    config = serve_configs()["rayservice.yaml"]
    (port,) = grpc["spec"]["ports"]
    assert (
        config["grpc_options"]["enable_reflection"] is False
    )  # or Ray's own would answer, which knows no message of ours
    assert port["port"] == config["grpc_options"]["port"]
    for template in pods().values():
        assert grpc["spec"]["selector"].items() <= {**template["metadata"]["labels"], "ray.io/serve": "true"}.items()
        ports = {one["name"]: one["containerPort"] for one in template["spec"]["containers"][0]["ports"]}
        assert (ports["serve"], ports[port["targetPort"]]) == (config["http_options"]["port"], port["port"])


def test_a_pod_is_not_ended_before_its_replica_has_drained() -> None:
    (application,) = serve_configs()["rayservice.yaml"]["applications"]
    assert pods()["replicas"]["spec"]["terminationGracePeriodSeconds"] > application["args"]["drain_limit_s"]


def test_workers_have_the_repository() -> None:
    (application,) = serve_configs()["rayservice.yaml"]["applications"]
    (container,) = pods()["replicas"]["spec"]["containers"]
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == [application["args"]["model_repo"]]


def test_the_image_names_what_is_there() -> None:
    text = (RAY / "Dockerfile").read_text()
    assert "deploy.ray.proxy:middlewares" in text
    version = manifest()[0]["spec"]["rayClusterConfig"]["rayVersion"]
    assert f"ARG RAY_VERSION={version}\n" in text
    allowed = {line[1:] for line in (RAY / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        word
        for line in text.splitlines()
        if line.startswith("COPY")
        for word in line.split()[1:-1]
        if not word.startswith("--")
    }
    assert copied == allowed and all((ROOT / path).exists() for path in copied)


@needs_ray
@pytest.mark.parametrize("name", ["serve.yaml", "rayservice.yaml"])
def test_ray_takes_the_configuration_and_can_build_the_application(name: str) -> None:
    """In a process of its own: Ray is loud when it is imported."""
    config = serve_configs()[name]
    done = subprocess.run(
        [sys.executable, "-c", _CHECK, json.dumps(config)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"deployments": ["Replica"], "services": 1, "middlewares": 1}


_CHECK = """
import importlib, json, sys
from ray._common.utils import import_attr
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary
from ray.serve.schema import ServeDeploySchema

config = ServeDeploySchema.model_validate(json.loads(sys.argv[1]))
(application,) = config.applications
made = call_user_app_builder_with_args_if_necessary(import_attr(application.import_path), application.args)
functions = [import_attr(path) for path in config.grpc_options.grpc_servicer_functions]
middlewares = import_attr("deploy.ray.proxy:middlewares")()
found = {
    "deployments": [made._bound_deployment.name],
    "services": len(functions),
    "middlewares": len(middlewares),
}
print(json.dumps(found))
"""


@needs_ray
@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"model_repo": "/models", "settings": {"http_port": 1}}, "'http_port' is none of a replica"),
        ({"model_repo": "/models", "settings": {"state_dir": "/x"}}, "'state_dir' is none of a replica"),
        ({"model_repo": "/models", "settings": {"mode": "sometimes"}}, "mode"),
        ({"model_repo": "/models", "replicas": 2}, "replicas"),
        ({}, "model_repo"),
    ],
)
def test_a_wrong_argument_is_named(arguments: Mapping[str, Any], problem: str) -> None:
    code = "import json,sys; from deploy.ray.app import *; build(Arguments.model_validate(json.loads(sys.argv[1])))"
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(arguments)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert problem in done.stderr.splitlines()[-1] or problem in done.stderr[-600:]


@needs_ray
def test_settings_of_replicas_are_settings() -> None:
    code = "from deploy.ray.app import SETTINGS; print(*SETTINGS)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    names = done.stdout.split()
    assert "mode" in names and set(names) <= set(Settings.model_fields)
