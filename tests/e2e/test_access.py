"""TLS, keys and an address for management, with the real clients of both protocol families against a real server."""

import datetime
import json
import re
import ssl
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from serving import config, server
from serving.cli import keys as keys_command
from serving.startup import StartError
from tests import models
from tests.certificates import YESTERDAY, Authority, Issued
from tests.e2e.conftest import Serve
from tests.e2e.server import LIMIT_S, Server, command, error_line, wait_for

X = np.ones((1, 4), np.float32)


class Site(SimpleNamespace):
    """A server with everything that protects it, and what its clients have."""

    server: Server
    authority: Authority
    clients: Authority
    mine: Issued
    keys: dict[str, str]
    file: Path
    certificate: Issued

    def http(self, key: str | None = None, own: Issued | None = None, roots: Path | None = None) -> httpx.Client:
        context = ssl.create_default_context(cafile=str(roots or self.authority.certificate))
        if own is None:
            own = self.mine
        context.load_cert_chain(own.certificate, own.key)
        headers = {"Authorization": f"Bearer {self.keys[key]}"} if key else {}
        return httpx.Client(base_url=self.server.url, verify=context, headers=headers, timeout=LIMIT_S)

    def flags(self, key: str) -> dict[str, str]:
        """For commands."""
        return {
            "SERVING_CLIENT_KEY": self.keys[key],
            "SERVING_CA_CERT": str(self.authority.certificate),
            "SERVING_CLIENT_CERT": str(self.mine.both),
        }

    def tls(self) -> dict[str, Any]:
        """For gRPC clients of Triton."""
        return {
            "ssl": True,
            "root_certificates": str(self.authority.certificate),
            "private_key": str(self.mine.key),
            "certificate_chain": str(self.mine.certificate),
        }


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("access")
    authority, clients = Authority(root, "authority"), Authority(root, "clients")
    certificate, file = authority.issue("server"), root / "keys.yaml"
    keys = {
        "web": new(file, "web", "infer", models=["copy"]),
        "ops": new(file, "ops", "manage", "observe"),
        "late": new(file, "late", "infer", expires="2020-01-01"),
        "slow": new(file, "slow", "infer", requests_per_s=0.01, burst=2),
        "wrong": "srv_wrong",
    }
    models.save(models.identity(), root / "repo" / "copy" / "1" / "model.onnx")
    models.save(models.identity(), root / "repo" / "other" / "1" / "model.onnx")
    running = Server(
        root / "logs", root / "repo",
        "--tls-cert", certificate.certificate, "--tls-key", certificate.key, "--tls-client-ca", clients.certificate,
        "--api-keys", file, "--no-trial-load",
    )  # fmt: skip
    running.wait_ready()
    yield Site(
        server=running, authority=authority, clients=clients, mine=clients.issue("client"), keys=keys, file=file,
        certificate=certificate,
    )  # fmt: skip
    log = running.log
    running.end()
    assert "Traceback" not in log
    assert not any(key in log for key in keys.values())


def new(file: Path, name: str, *scopes: str, **more: Any) -> str:
    """Makes a key as `serving keys new` does."""
    with redirect_stdout(StringIO()) as printed:
        assert keys_command.new(file, {"name": name, "scopes": list(scopes), **more}) == 0
    return printed.getvalue().strip()


def infer(client: httpx.Client, model: str = "copy") -> httpx.Response:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": X.ravel().tolist()}
    return client.post(f"/v2/models/{model}/infer", json={"inputs": [tensor]})


# REST


def test_who_shows_what_it_takes_is_served(site: Site) -> None:
    with site.http("web") as client:
        assert infer(client).json()["outputs"][0]["data"] == [1, 1, 1, 1]
        answer = client.post("/v1/models/copy:predict", json={"instances": [[1.0, 2.0, 3.0, 4.0]]})
        assert answer.json() == {"predictions": [[1.0, 2.0, 3.0, 4.0]]}


@pytest.mark.parametrize(
    ("key", "model", "status", "says"),
    [
        (None, "copy", 401, "a key is needed"),
        ("wrong", "copy", 401, "the key is not known"),
        ("late", "copy", 401, "the key 'late' has expired"),
        ("ops", "copy", 403, "the key 'ops' has not the scope 'infer'"),
        ("web", "other", 403, "the key 'web' is for 'copy', and not for 'other'"),
    ],
)
def test_who_does_not_is_refused(site: Site, key: str | None, model: str, status: int, says: str) -> None:
    with site.http(key) as client:
        answer = infer(client, model)
        assert answer.status_code == status and says in answer.json()["error"]
        assert ("www-authenticate" in answer.headers) is (status == 401)
        assert client.get("/v2/health/ready").status_code == 200  # which nobody needs a key for


def test_a_rate_is_kept_and_told(site: Site) -> None:
    with site.http("slow") as client:
        answers = [infer(client) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert 60 < int(answers[2].headers["retry-after"]) <= 100


@pytest.mark.parametrize("which", ["stranger", "late"])
def test_a_client_with_the_wrong_certificate_is_not_heard(site: Site, which: str) -> None:
    own = site.authority.issue("stranger") if which == "stranger" else site.clients.issue("late", ends=YESTERDAY)
    with site.http("web", own=own) as client, pytest.raises(httpx.TransportError):
        client.get("/v2/health/live")


def test_a_client_does_not_take_another_server_for_this_one(site: Site, tmp_path: Path) -> None:
    refused = pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED")
    with site.http("web", roots=Authority(tmp_path).certificate) as client, refused:
        client.get("/v2/health/live")


def test_metrics_tell_of_refusals_and_of_the_certificate(site: Site) -> None:
    with site.http() as client:
        assert client.get("/v2/models/copy").status_code == 401
    with site.http("ops") as client:
        text = client.get("/metrics").text
    assert re.search(r'^serving_refused_total{protocol="http",reason="unauthenticated"} [1-9]', text, re.MULTILINE)
    expiry = re.search(r"^serving_tls_certificate_expiry_timestamp_seconds (\S+)$", text, re.MULTILINE)
    assert expiry is not None
    assert float(expiry[1]) > datetime.datetime.now(datetime.UTC).timestamp()


# Triton's clients


def test_triton_over_http(site: Site) -> None:
    def context() -> ssl.SSLContext:
        made = ssl.create_default_context(cafile=str(site.authority.certificate))
        made.load_cert_chain(site.mine.certificate, site.mine.key)
        return made

    where = f"localhost:{site.server.http_port}"
    client = triton_http.InferenceServerClient(where, ssl=True, ssl_context_factory=context, insecure=False)
    try:
        x = triton_http.InferInput("x", [1, 4], "FP32")
        x.set_data_from_numpy(X)
        headers = {"Authorization": f"Bearer {site.keys['web']}"}
        assert np.array_equal(client.infer("copy", [x], headers=headers).as_numpy("y"), X)
        with pytest.raises(InferenceServerException, match="a key is needed") as error:
            client.infer("copy", [x])
        assert error.value.status() == "401"
        with pytest.raises(InferenceServerException, match="has not the scope 'manage'"):
            client.unload_model("copy", headers=headers)
        assert client.is_server_live()
    finally:
        client.close()


def test_triton_over_grpc(site: Site) -> None:
    with triton_grpc.InferenceServerClient(f"localhost:{site.server.grpc_port}", **site.tls()) as client:
        x = triton_grpc.InferInput("x", [1, 4], "FP32")
        x.set_data_from_numpy(X)
        headers = {"authorization": f"Bearer {site.keys['web']}"}
        assert np.array_equal(client.infer("copy", [x], headers=headers).as_numpy("y"), X)
        for given, model, code in [
            ({}, "copy", "UNAUTHENTICATED"),
            ({"x-api-key": site.keys["late"]}, "copy", "UNAUTHENTICATED"),
            ({"x-api-key": site.keys["ops"]}, "copy", "PERMISSION_DENIED"),
            (headers, "other", "PERMISSION_DENIED"),
        ]:
            with pytest.raises(InferenceServerException) as error:
                client.infer(model, [x], headers=given)
            assert error.value.status() == f"StatusCode.{code}"
        assert client.is_server_ready()
        with pytest.raises(InferenceServerException, match="has not the scope 'manage'"):
            client.unload_model("copy", headers=headers)
        index = client.get_model_repository_index(headers={"x-api-key": site.keys["ops"]})
        assert sorted(model.name for model in index.models) == ["copy", "other"]


def test_grpc_without_a_certificate(site: Site) -> None:
    roots = {"ssl": True, "root_certificates": str(site.authority.certificate)}
    refused = pytest.raises(InferenceServerException, match="UNAVAILABLE")
    with triton_grpc.InferenceServerClient(f"localhost:{site.server.grpc_port}", **roots) as client, refused:
        client.is_server_live()


# TensorFlow Serving's


def test_tensorflow_serving(site: Site, api: Any) -> None:
    credentials = grpc.ssl_channel_credentials(
        site.authority.certificate.read_bytes(), site.mine.key.read_bytes(), site.mine.certificate.read_bytes()
    )
    with grpc.secure_channel(f"localhost:{site.server.grpc_port}", credentials) as channel:
        stub = api.prediction_service_pb2_grpc.PredictionServiceStub(channel)
        request = api.predict_pb2.PredictRequest()
        request.model_spec.name = "copy"
        request.inputs["x"].CopyFrom(api.tf.make_tensor_proto(X))
        key = [("authorization", f"Bearer {site.keys['web']}")]
        answer = stub.Predict(request, timeout=LIMIT_S, metadata=key)
        assert np.array_equal(api.tf.make_ndarray(answer.outputs["y"]), X)
        with pytest.raises(grpc.RpcError) as error:
            stub.Predict(request, timeout=LIMIT_S)
        assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED  # type: ignore[attr-defined]
        model = api.model_service_pb2_grpc.ModelServiceStub(channel)
        with pytest.raises(grpc.RpcError) as error:
            model.HandleReloadConfigRequest(
                api.model_management_pb2.ReloadConfigRequest(), timeout=LIMIT_S, metadata=key
            )
        assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED  # type: ignore[attr-defined]


# Commands


@pytest.mark.parametrize("scheme", ["https", "grpcs"])
def test_commands_are_let_in(site: Site, scheme: str) -> None:
    port = site.server.http_port if scheme == "https" else site.server.grpc_port
    url = f"{scheme}://localhost:{port}"
    asked = command("predict", "copy", "--random", "--url", url, env=site.flags("web"))
    assert asked.returncode == 0, asked.stderr
    assert json.loads(asked.stdout)["model"] == "copy"


def test_commands_say_why_they_are_not(site: Site, tmp_path: Path) -> None:
    url = ("--url", f"https://localhost:{site.server.http_port}")
    assert "a key is needed" in error_line(command("status", *url, env=site.flags("web") | {"SERVING_CLIENT_KEY": ""}))
    no_roots = {"SERVING_CA_CERT": str(Authority(tmp_path).certificate)}
    assert "CERTIFICATE_VERIFY_FAILED" in error_line(command("status", *url, env=site.flags("ops") | no_roots))
    assert "cannot read" in error_line(command("status", *url, "--ca-cert", tmp_path / "no.pem"))
    stood = command("status", *url, env=site.flags("ops"))
    assert stood.returncode == 0 and "copy" in stood.stdout


# Changes while it runs


def test_keys_and_certificates_are_replaced_without_a_restart(site: Site) -> None:
    again = new(site.file, "again", "infer")
    site.keys["again"] = again

    def status() -> int:
        with site.http("again") as client:
            return infer(client).status_code

    assert wait_for(lambda: status() == 200, "the new key to count")
    before = site.server.log
    site.authority.issue("server")
    wait_for(lambda: site.server.log.count("TLS: read again") > before.count("TLS: read again"), "the new certificate")
    assert status() == 200
    site.certificate.key.write_text("nonsense")
    wait_for(lambda: "TLS: what was changed does not count" in site.server.log, "the line that says so")
    assert status() == 200


# Other servers


def test_an_address_for_management(serve: Serve, tmp_path: Path) -> None:
    models.save(models.identity(), tmp_path / "repo" / "copy" / "1" / "model.onnx")
    it = serve(
        tmp_path / "repo", "--manage-port", 0, "--manage-grpc-port", 0, "--host", "0.0.0.0", "--no-trial-load",
        env={"SERVING_API_KEY": "srv_0123456789abcdef"},
    )  # fmt: skip
    management = re.search(r"management (http://\S+) +metrics (\S+) +gRPC management (\S+)", it.printed)
    assert management is not None
    key = {"x-api-key": "srv_0123456789abcdef"}
    for path in ("/metrics", "/serving/models"):
        answer = it.ask("GET", path, headers=key)
        assert answer.status_code == 403 and "--manage-port" in answer.json()["error"]
        assert httpx.get(management[1] + path, timeout=LIMIT_S).status_code == 401
        assert httpx.get(management[1] + path, headers=key, timeout=LIMIT_S).status_code == 200
    assert management[2] == f"{management[1]}/metrics"
    for where, code in ((it.grpc, "PERMISSION_DENIED"), (management[3], None)):
        with triton_grpc.InferenceServerClient(where) as client:
            if code is None:
                assert client.get_model_repository_index(headers=key).models
                continue
            with pytest.raises(InferenceServerException, match=r"--manage-port") as error:
                client.get_model_repository_index(headers=key)
            assert error.value.status() == f"StatusCode.{code}"
    assert "it has no TLS" in it.log  # 0.0.0.0, and keys in the clear


def test_a_start_with_the_key_of_another_certificate_says_so(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    tls = ("--tls-cert", authority.issue("one").certificate, "--tls-key", authority.issue("two").key)
    model = models.save(models.identity(), tmp_path / "copy.onnx")
    line = error_line(command("start", model, *tls, "--http-port", 0, "--grpc-port", 0))
    assert "does not belong to the certificate" in line


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"tls_cert": "{certificate}"}, "--tls-cert and --tls-key go together"),
        ({"tls_client_ca": "{certificate}"}, "--tls-client-ca is for a server with --tls-cert"),
        ({"tls_cert": "no.pem", "tls_key": "{key}"}, "cannot read 'no.pem': No such file or directory"),
        ({"api_keys": "{certificate}"}, "certificate.pem': expected keys and values"),
        ({"api_key": "short"}, "SERVING_API_KEY: a key has at least 16 characters"),
        ({"manage_host": "127.0.0.1"}, "give one of them"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, str], says: str, tmp_path: Path) -> None:
    issued = Authority(tmp_path).issue("one")
    given = {name: text.format(certificate=issued.certificate, key=issued.key) for name, text in settings.items()}
    with pytest.raises(StartError, match=re.escape(says)):
        server.Server(config.load(given | {"paths": (str(tmp_path),)}, {}))
