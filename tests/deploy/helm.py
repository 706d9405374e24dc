"""Helm itself, installing the chart into a stand-in for Kubernetes that keeps what it is given.

    PYTHON -m tests.deploy.helm CHART < VALUES.yaml

prints the objects that Helm created; exit code 1 and Helm's words if it refuses. PYTHON is one, 3.12 or newer, that has
`helm-sdkpy` (Helm as a library) and `pyyaml`; the environment variable HELM_PYTHON names it to the tests.
"""

import asyncio
import json
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

_KINDS = {
    "v1": ("ConfigMap", "PersistentVolumeClaim", "Pod", "Secret", "Service", "ServiceAccount"),
    "apps/v1": ("Deployment",),
    "autoscaling/v2": ("HorizontalPodAutoscaler",),
    "keda.sh/v1alpha1": ("ScaledObject",),
    "monitoring.coreos.com/v1": ("PrometheusRule", "ServiceMonitor"),
    "networking.k8s.io/v1": ("NetworkPolicy",),
    "policy/v1": ("PodDisruptionBudget",),
}
_VERBS = ["create", "delete", "get", "list", "patch", "update"]


def _resource(kind: str) -> dict[str, Any]:
    name = kind.lower()
    plural = f"{name[:-1]}ies" if name.endswith("y") else f"{name}s"
    return {"name": plural, "singularName": name, "namespaced": True, "kind": kind, "verbs": _VERBS}


def _discovery() -> dict[str, Any]:
    """What the API says of itself, by path."""
    groups = []
    answers: dict[str, Any] = {
        "/version": {"major": "1", "minor": "33", "gitVersion": "v1.33.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
    }
    for version, kinds in _KINDS.items():
        path = f"/api/{version}" if version == "v1" else f"/apis/{version}"
        resources = [_resource(kind) for kind in kinds]
        answers[path] = {"kind": "APIResourceList", "groupVersion": version, "resources": resources}
        if version != "v1":
            group, _, short = version.partition("/")
            one = {"groupVersion": version, "version": short}
            groups.append({"name": group, "versions": [one], "preferredVersion": one})
    answers["/apis"] = {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
    return answers


class StandIn(ThreadingHTTPServer):
    """Knows kinds, says that nothing exists, and takes what it is given. `created`: objects in the order of their
    coming, without Helm's own record."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.created: list[Any] = []
        self.known = _discovery()
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StandIn

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].rstrip("/")
        if path in self.server.known:
            self._answer(200, self.server.known[path])
        elif path.endswith("/secrets"):
            self._answer(200, {"kind": "SecretList", "apiVersion": "v1", "metadata": {}, "items": []})
        else:
            self._answer(404, {"kind": "Status", "apiVersion": "v1", "reason": "NotFound", "code": 404})

    def do_POST(self) -> None:
        self._take(201)

    def do_PUT(self) -> None:
        self._take(200)

    def do_PATCH(self) -> None:
        self._take(200)

    def _take(self, status: int) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        kind = self.headers["Content-Type"]
        if "protobuf" not in kind:  # which is Helm's own record
            kind = "application/json"
            if self.command == "POST":
                self.server.created.append(json.loads(data))
        self._send(status, kind, data)

    def _answer(self, status: int, body: Any) -> None:
        self._send(status, "application/json", json.dumps(body).encode())

    def _send(self, status: int, kind: str, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


async def install(chart: str, values: Any) -> list[Any]:
    """What Helm creates for the chart with these values, as release `ml` in the namespace `models`.

    Raises:
        helm_sdkpy.HelmError: Helm refuses.
    """
    import helm_sdkpy

    stand_in = StandIn()
    user = {"current-context": "it", "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}]}
    cluster = {"server": f"http://127.0.0.1:{stand_in.server_port}"}
    config = {"apiVersion": "v1", "kind": "Config", "users": [{"name": "it", "user": {}}], **user}
    config["clusters"] = [{"name": "it", "cluster": cluster}]
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "config"
        file.write_text(json.dumps(config))
        helm = helm_sdkpy.Configuration(namespace="models", kubeconfig=str(file))
        await helm_sdkpy.Install(helm).run("ml", chart, values=values, wait=False)
    return stand_in.created


if __name__ == "__main__":
    try:
        print(yaml.safe_dump_all(asyncio.run(install(sys.argv[1], yaml.safe_load(sys.stdin) or {}))))
    except Exception as error:
        sys.exit(str(error))
