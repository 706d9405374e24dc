"""The REST API on a real engine with ONNX models, without sockets."""

import asyncio
import gzip
import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from serving.core.errors import ErrorKind, ServingError
from serving.engine import Engine
from serving.protocols import jsonio
from serving.protocols.http import HttpReply
from serving.protocols.offload import Offload
from serving.protocols.tfs.rest import PROTOCOL, TfsRest
from tests import models
from tests.protocols.build import serving_engine

T = TypeVar("T")
Ask = Callable[[Engine, TfsRest], Awaitable[T]]

PREDICT = "/v1/models/copy:predict"


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`copy`, versions 2 and 3 (scaled by their number), labels; `sum` with two inputs; `broken` that cannot load."""
    path = tmp_path_factory.mktemp("repo")
    for number in (2, 3):
        models.save(models.scale(number), path / "copy" / str(number) / "model.onnx")
    (path / "copy" / "model.yaml").write_text("versions: all\nversion_labels: {stable: 2}\nmax_batch_size: 4\n")
    models.save(models.add_sub(width=2), path / "sum" / "1" / "model.onnx")
    models.save(models.lookup(), path / "lookup" / "1" / "model.onnx")
    (path / "broken" / "5").mkdir(parents=True)
    (path / "broken" / "5" / "model.onnx").write_bytes(b"no graph")
    return path


def run(repo: Path, ask: Ask[T], **options: Any) -> T:
    async def main() -> T:
        async with serving_engine(repo) as (engine, _):
            return await ask(engine, TfsRest(engine, **options))

    return asyncio.run(main())


def ask_once(repo: Path, method: str, path: str, body: bytes = b"", encoding: bytes | None = None) -> tuple[int, Any]:
    async def ask(_: Engine, rest: TfsRest) -> HttpReply:
        return await rest.handle(method, path, body, encoding)

    reply = run(repo, ask)
    assert reply.headers == [(b"content-type", b"application/json")]
    return reply.status, json.loads(reply.body)


def test_predict_in_both_forms_by_version_and_label(repo: Path) -> None:
    async def ask(engine: Engine, rest: TfsRest) -> None:
        for path, factor in (
            (PREDICT, 3.0),
            ("/v1/models/copy/versions/2:predict", 2.0),
            ("/v1/models/copy/labels/stable:predict", 2.0),
            ("/V1/MODELS/%63opy/versions/03:PREDICT", 3.0),
        ):
            expected = [[factor, 2 * factor, 3 * factor, 4 * factor]]
            row = await rest.handle("POST", path, b'{"instances":[[1,2,3,4]]}')
            column = await rest.handle("POST", path, b'{"inputs":{"x":[[1,2,3,4.0]]}}')
            assert (row.status, json.loads(row.body)) == (200, {"predictions": expected})
            assert (column.status, json.loads(column.body)) == (200, {"outputs": expected})
        several = await rest.handle(
            "POST", "/v1/models/sum:predict", b'{"instances":[{"INPUT0":[1,2],"INPUT1":[3,4]}]}'
        )
        assert several.body == b'{"predictions":[{"OUTPUT0":[4,6],"OUTPUT1":[-2,-2]}]}'
        packed = gzip.compress(b'{"instances":[[1,2,3,4]]}')
        assert (await rest.handle("POST", PREDICT, packed, b"gzip")).status == 200
        nothing = await rest.handle("POST", PREDICT, b'{"inputs":[]}')
        assert (nothing.status, nothing.body) == (200, b'{"outputs":[]}')
        assert engine.metrics.requests("copy", "3", PROTOCOL).outcomes == {"ok": 6}
        assert engine.metrics.requests("copy", "2", PROTOCOL).outcomes == {"ok": 4}

    run(repo, ask)


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        (PREDICT, b"{", 400, "JSON Parse error: Invalid value. at offset: 1"),
        ("/v1/models/no:predict", b"{", 400, "JSON Parse error: Invalid value. at offset: 1"),
        ("/v1/models/no:predict", b"{}", 404, "Servable not found for request: Latest(no)"),
        ("/v1/models/broken:predict", b"{}", 404, "Servable not found for request: Latest(broken)"),
        ("/v1/models/copy/versions/50:predict", b"{}", 404, "Servable not found for request: Specific(copy, 50)"),
        ("/v1/models/copy/labels/x:predict", b"{}", 400, "Unrecognized servable version label: x"),
        (PREDICT, b'{"signature_name":"z"}', 400, 'Serving signature name: "z" not found in signature def'),
        (PREDICT, b"{}", 400, "Missing 'inputs' or 'instances' key"),
        (PREDICT, b'{"instances":[[1,2]]}', 400, "unexpected shape for input 'x' for model 'copy'"),
        (PREDICT, b'{"inputs":[[1,2,3,4],[1,2,3,4],[1,2,3,4],[1,2,3,4],[1,2,3,4]]}', 400, "batch-size must be <= 4"),
        (
            "/v1/models/copy:classify",
            b'{"examples":[{}]}',
            400,
            "Expected classification signature method_name to be tensorflow/serving/classify. "
            "Was: tensorflow/serving/predict",
        ),
        (
            "/v1/models/copy:regress",
            b'{"signature_name":"z","examples":[{}]}',
            400,
            "No signature was found with the name: z",
        ),
        ("/v1/models/lookup:predict", b'{"inputs":[[9]]}', 500, ""),
    ],
)
def test_refusals(repo: Path, path: str, body: bytes, status: int, text: str) -> None:
    got, value = ask_once(repo, "POST", path, body)
    assert got == status
    assert value.keys() == {"error"}
    assert text in value["error"]
    assert not value["error"].startswith("[request id")


def test_refusals_are_counted_by_what_the_server_knows(repo: Path) -> None:
    async def ask(engine: Engine, rest: TfsRest) -> None:
        for path, labels, kind in (
            ("/v1/models/copy/versions/2:predict", ("copy", "2"), "invalid"),
            ("/v1/models/copy/labels/stable:predict", ("copy", "2"), "invalid"),
            (PREDICT, ("copy", "3"), "invalid"),
            ("/v1/models/no:predict", ("", ""), "not_found"),
        ):
            before = engine.metrics.requests(*labels, PROTOCOL).outcomes.get(kind, 0)
            await rest.handle("POST", path, b"{}")
            assert engine.metrics.requests(*labels, PROTOCOL).outcomes == {kind: before + 1}

    run(repo, ask)


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("POST", "/v1/models/foo/metadata", 400, "Malformed request: POST /v1/models/foo/metadata"),
        ("GET", "/v1/models", 400, "Missing model name in request."),
        ("GET", PREDICT, 400, f"Malformed request: GET {PREDICT}"),
        ("DELETE", "/v1/models/copy", 400, "Malformed request: DELETE /v1/models/copy"),
        ("GET", "/v1/models/no", 404, "Could not find any versions of model no"),
        ("GET", "/v1/models/copy/versions/9", 404, "Could not find version 9 of model copy"),
        ("GET", "/v1/models/no/metadata", 404, "Servable not found for request: Latest(no)"),
        ("GET", "/v1/models/copy/labels/x/metadata", 400, "Unrecognized servable version label: x"),
    ],
)
def test_other_refusals(repo: Path, method: str, path: str, status: int, text: str) -> None:
    assert ask_once(repo, method, path) == (status, {"error": text})


def test_status(repo: Path) -> None:
    def line(version: str) -> dict[str, Any]:
        return {"version": version, "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}

    assert ask_once(repo, "GET", "/v1/models/copy") == (200, {"model_version_status": [line("3"), line("2")]})
    assert ask_once(repo, "GET", "/v1/models/copy/labels/stable")[1]["model_version_status"] == [line("3"), line("2")]
    assert ask_once(repo, "GET", "/v1/models/copy/versions/2") == (200, {"model_version_status": [line("2")]})
    status, value = ask_once(repo, "GET", "/v1/models/broken")
    (failed,) = value["model_version_status"]
    assert (status, failed["version"], failed["state"], failed["status"]["error_code"]) == (200, "5", "END", "UNKNOWN")
    assert failed["status"]["error_message"]


def test_metadata(repo: Path) -> None:
    tensor = {
        "dtype": "DT_FLOAT",
        "tensor_shape": {"dim": [{"size": "-1", "name": ""}, {"size": "4", "name": ""}], "unknown_rank": False},
    }
    signature = {
        "inputs": {"x": {**tensor, "name": "x"}},
        "outputs": {"y": {**tensor, "name": "y"}},
        "method_name": "tensorflow/serving/predict",
        "defaults": {},
    }
    for path, version in (("copy", "3"), ("copy/versions/2", "2"), ("copy/labels/stable", "2")):
        assert ask_once(repo, "GET", f"/v1/models/{path}/metadata") == (
            200,
            {
                "model_spec": {"name": "copy", "signature_name": "", "version": version},
                "metadata": {"signature_def": {"signature_def": {"serving_default": signature}}},
            },
        )


def test_what_is_heavy_goes_to_a_helper(tmp_path: Path) -> None:
    models.save(models.identity(shape=("batch", "width")), tmp_path / "wide" / "1" / "model.onnx")
    values = np.random.default_rng(0).random((1, 60_000), np.float32)
    body = b'{"instances":%b}' % json.dumps(values.tolist()).encode()
    asked = []

    class Watched(Offload):
        async def run(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
            asked.append(function)
            return await super().run(function, *args, **options)

    async def ask(engine: Engine, rest: TfsRest) -> None:
        version = engine.catalog.resolve("wide")
        for data, encoding in ((body, None), (gzip.compress(body, 1), b"gzip")):
            reply = await rest.handle("POST", "/v1/models/wide:predict", data, encoding)
            assert reply.status == 200
            back = np.array(json.loads(reply.body)["predictions"], np.float32)
            assert np.array_equal(back, values)
        assert len(asked) == 4  # each was read and written there
        broken = await rest.handle("POST", "/v1/models/wide:predict", body[:-1])
        assert broken.status == 400 and b"JSON Parse error" in broken.body
        small = await rest.handle("POST", "/v1/models/wide:predict", b'{"instances":[[1]]}')
        assert small.body == b'{"predictions":[[1.0]]}' and len(asked) == 5
        assert version.leases == 0

    offload = Watched(1)
    try:
        run(tmp_path, ask, offload=offload)
    finally:
        offload.close()


def test_a_bound_on_what_a_body_expands_to(repo: Path) -> None:
    async def ask(_: Engine, rest: TfsRest) -> HttpReply:
        return await rest.handle("POST", PREDICT, gzip.compress(bytes(2000)), b"gzip")

    reply = run(repo, ask, max_body_bytes=1000)
    assert reply.status == 400 and b"exceeds the maximum allowed input size of 1000 bytes" in reply.body


def test_what_nobody_foresaw(repo: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask(engine: Engine, rest: TfsRest) -> None:
        monkeypatch.setattr(engine, "catalog", None)
        for method, path in (("GET", "/v1/models/copy"), ("POST", PREDICT)):
            reply = await rest.handle(method, path, b"{}")
            assert (reply.status, reply.body) == (500, b'{"error":"internal error; the server\'s log has the details"}')
        monkeypatch.undo()

    with caplog.at_level(logging.ERROR):
        run(repo, ask)
    assert "AttributeError" in caplog.text


@pytest.mark.parametrize("offloaded", [False, True])
def test_a_request_may_wait_so_long(repo: Path, offloaded: bool) -> None:
    """Also one that another process reads."""
    row = b'{"instances": [[1, 2, 3, 4]]}' + b" " * (2_000_000 if offloaded else 0)
    assert jsonio.is_heavy_to_read(row) is offloaded

    async def ask(_: Engine, rest: TfsRest) -> tuple[int, Any]:
        reply = await rest.handle("POST", PREDICT, row)
        return reply.status, json.loads(reply.body)

    async def late(engine: Engine, _: TfsRest) -> None:
        offload = Offload() if offloaded else None
        try:
            status, told = await ask(engine, TfsRest(engine, offload, timeout_s=1e-9))
        finally:
            if offload is not None:
                offload.close()
        assert (status, told) == (504, {"error": "Request timeout expired"})

    run(repo, late)
    assert run(repo, ask, timeout_s=3600)[0] == 200


@pytest.mark.parametrize(
    ("kind", "status"), [(ErrorKind.EXPIRED, 504), (ErrorKind.QUEUE_FULL, 503), (ErrorKind.FORBIDDEN, 403)]
)
def test_statuses_are_those_of_this_family(
    repo: Path, kind: ErrorKind, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise ServingError(kind, "no")

    async def ask(engine: Engine, rest: TfsRest) -> None:
        monkeypatch.setattr(engine, "infer", refuse)
        reply = await rest.handle("POST", PREDICT, b'{"instances":[[1,2,3,4]]}')
        assert (reply.status, reply.body) == (status, b'{"error":"no"}')

    run(repo, ask)
