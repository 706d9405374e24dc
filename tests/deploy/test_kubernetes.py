"""deploy/kubernetes, as Kustomize renders it: every overlay, held against the API's types and against the server."""

import shlex
from collections.abc import Iterator
from typing import Any

import pytest

from tests.deploy import schema
from tests.deploy.manifests import (
    DEPLOY,
    KUBERNETES,
    OVERLAYS,
    containers,
    kustomized,
    needs_kubectl,
    read,
    settings,
    with_component,
)

pytestmark = needs_kubectl


@pytest.fixture(scope="module")
def overlays() -> dict[str, list[Any]]:
    return {name: kustomized(KUBERNETES / "overlays" / name) for name in OVERLAYS}


@pytest.fixture(scope="module")
def protected(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """TLS and keys on top of an overlay."""
    return with_component("cpu", "access", tmp_path_factory.mktemp("access"))


def _of(objects: list[Any], kind: str) -> Iterator[Any]:
    return (one for one in objects if one["kind"] == kind)


def test_types(overlays: dict[str, list[Any]], protected: list[Any]) -> None:
    objects = [one for rendered in (*overlays.values(), protected) for one in rendered]
    assert len(objects) > 30
    assert schema.problems(objects) == []


def test_the_check_of_types_finds_what_is_wrong(overlays: dict[str, list[Any]]) -> None:
    (deployment,) = _of(overlays["cpu"], "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    spec = deployment["spec"] | {"replicas": "two", "selector": None, "template": {"spec": pod | {"container": []}}}
    found = schema.problems([deployment | {"spec": spec}])
    assert [line.split(": ")[0].removeprefix("Deployment serving.spec.") for line in found] == [
        "replicas",
        "selector",
        "template.spec.container",
    ]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_servers_start_with_these_arguments(overlays: dict[str, list[Any]], overlay: str) -> None:
    for deployment in _of(overlays[overlay], "Deployment"):
        pod = deployment["spec"]["template"]["spec"]
        for container in containers(pod):
            chosen = settings(container["args"])
            assert chosen.stop_grace_s + chosen.drain_limit_s < pod["terminationGracePeriodSeconds"]
            ports = {port["name"]: port["containerPort"] for port in container["ports"]}
            assert ports == {"http": chosen.http_port, "grpc": chosen.grpc_port, "manage": chosen.manage_port}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_are_restricted(overlays: dict[str, list[Any]], overlay: str) -> None:
    """What the Pod Security Standard `restricted` wants, and a root file system that cannot be written."""
    for deployment in _of(overlays[overlay], "Deployment"):
        pod = deployment["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 10001
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not pod["automountServiceAccountToken"]
        assert not any("hostPath" in volume for volume in pod["volumes"])
        for container in containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"requests", "limits"} <= container["resources"].keys()
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            assert mounted == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_selectors_select(overlays: dict[str, list[Any]], overlay: str) -> None:
    labels = [one["spec"]["template"]["metadata"]["labels"] for one in _of(overlays[overlay], "Deployment")]
    selectors = [one["spec"]["selector"] for one in _of(overlays[overlay], "Service")]
    selectors += [one["spec"]["podSelector"]["matchLabels"] for one in _of(overlays[overlay], "NetworkPolicy")]
    selectors += [one["spec"]["selector"]["matchLabels"] for one in _of(overlays[overlay], "PodDisruptionBudget")]
    for selector in selectors:
        assert all(selector.items() <= one.items() for one in labels)
    services = [one["metadata"]["labels"] for one in _of(overlays[overlay], "Service")]
    for monitor in _of(overlays[overlay], "ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"]
        assert sum(wanted.items() <= one.items() for one in services) == 1


def test_stable_and_canary_are_apart_and_behind_one_service(overlays: dict[str, list[Any]]) -> None:
    (stable,), (canary,) = (list(_of(overlays[name], "Deployment")) for name in ("cpu", "canary"))
    assert stable["spec"]["selector"] != canary["spec"]["selector"]
    assert stable["metadata"]["name"] != canary["metadata"]["name"]
    service = next(_of(overlays["cpu"], "Service"))["spec"]["selector"]
    assert service.items() <= canary["spec"]["template"]["metadata"]["labels"].items()
    assert [one["kind"] for one in overlays["canary"]] == ["Deployment"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_autoscaler_is_alone_with_the_number_of_replicas(overlays: dict[str, list[Any]], overlay: str) -> None:
    rendered = overlays[overlay]
    scalers = [*_of(rendered, "HorizontalPodAutoscaler"), *_of(rendered, "ScaledObject")]
    (deployment,) = _of(rendered, "Deployment")
    assert len(scalers) == ("replicas" not in deployment["spec"])


def test_probes_and_prometheus_follow_tls(protected: list[Any]) -> None:
    (deployment,) = _of(protected, "Deployment")
    (container,) = containers(deployment)
    chosen = settings(container["args"])
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    for file in (chosen.tls_cert, chosen.tls_key, chosen.api_keys):
        assert file is not None and str(file.parent) in mounts
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["scheme"] == "HTTPS"
    (monitor,) = _of(protected, "ServiceMonitor")
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["scheme"] == "https" and "authorization" in endpoint


def test_rules_are_those_of_prometheus() -> None:
    directory = KUBERNETES / "components/monitoring"
    (rule,) = read(directory / "prometheusrule.yaml")
    (rules,) = read(DEPLOY / "prometheus/rules.yaml")
    command = next(line for line in (directory / "prometheusrule.head").read_text().splitlines() if "sed" in line)
    assert rule["spec"] == rules, f"make it again, in {directory.relative_to(DEPLOY.parent)}: {command.lstrip('# ')}"
    assert shlex.split(command.lstrip("# "))[-1] == "prometheusrule.yaml"
