"""The course of one inference: what is counted, what the client is told, and what only the log is told."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from serving.core.errors import ErrorKind, ServingError
from serving.engine import Engine
from serving.protocols import oip
from serving.protocols.answer import answer
from serving.protocols.oip_rest import PROTOCOL, HttpReply, OipRest
from tests import models
from tests.protocols.build import body, serving_engine, tensor

T = TypeVar("T")

ROW = tensor(shape=[1, 4], data=[1, 2, 3, 4])


def with_model(tmp_path: Path, ask: Callable[[Engine, OipRest], Awaitable[T]]) -> T:
    """Runs `ask` with a model `copy` (version 2)."""
    models.save(models.identity(), tmp_path / "copy" / "2" / "model.onnx")

    async def main() -> T:
        async with serving_engine(tmp_path) as (engine, control):
            return await ask(engine, OipRest(engine, control, oip.ServerIdentity("s", "0")))

    return asyncio.run(main())


def outcomes(engine: Engine, model: str = "copy", version: str = "2") -> dict[str, int]:
    return engine.metrics.requests(model, version, PROTOCOL).outcomes


def test_an_answer_is_counted_with_its_phases(tmp_path: Path) -> None:
    async def ask(engine: Engine, rest: OipRest) -> HttpReply:
        reply = await rest.infer("copy", None, body(ROW))
        assert outcomes(engine) == {"ok": 1}
        metrics = engine.metrics.requests("copy", "2", PROTOCOL)
        assert [sum(getattr(metrics, phase).counts) for phase in ("decode", "queue", "compute", "encode")] == [1] * 4
        return reply

    assert with_model(tmp_path, ask).status == 200


@pytest.mark.parametrize(
    ("model", "version", "data", "kind", "text", "labels"),
    [
        ("copy", None, b"{", ErrorKind.INVALID, "failed to parse", ("copy", "2")),
        ("copy", "9", body(ROW), ErrorKind.NOT_FOUND, "version 9 is not found", ("copy", "")),
        ("no", None, body(ROW), ErrorKind.NOT_FOUND, "Request for unknown model: 'no' is not found", ("", "")),
        ("copy", "2", body(), ErrorKind.INVALID, "[request id: <id_unknown>] expected 1 inputs", ("copy", "2")),
        (
            "copy",
            None,
            body(ROW, id="a1", outputs=[{"name": "z"}]),
            ErrorKind.INVALID,
            "[request id: a1] ",
            ("copy", "2"),
        ),
    ],
)
def test_a_refusal_is_counted_by_what_the_server_knows(
    tmp_path: Path, model: str, version: str | None, data: bytes, kind: ErrorKind, text: str, labels: tuple[str, str]
) -> None:
    async def ask(engine: Engine, rest: OipRest) -> None:
        with pytest.raises(ServingError) as caught:
            await rest.infer(model, version, data)
        assert caught.value.kind is kind and text in caught.value.message
        assert outcomes(engine, *labels) == {kind.value: 1}

    with_model(tmp_path, ask)


def test_an_encoding_is_not_offered(tmp_path: Path) -> None:
    async def ask(engine: Engine, rest: OipRest) -> None:
        for encoding in (None, b"", b"identity"):
            assert (await rest.infer("copy", None, body(ROW), encoding=encoding)).status == 200
        with pytest.raises(ServingError, match="Unsupported compression type") as caught:
            await rest.infer("copy", None, body(ROW), encoding=b"gzip")
        assert caught.value.kind is ErrorKind.UNSUPPORTED
        assert outcomes(engine) == {"ok": 3, "unsupported": 1}

    with_model(tmp_path, ask)


def test_a_client_that_goes_away_is_counted(tmp_path: Path) -> None:
    async def ask(engine: Engine, rest: OipRest) -> None:
        task = asyncio.ensure_future(rest.infer("copy", None, body(ROW)))
        await asyncio.sleep(0)  # it waits for the model now
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert outcomes(engine) == {"cancelled": 1}

    with_model(tmp_path, ask)


def test_what_nobody_foresaw_is_told_to_the_log_and_not_to_the_client(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> Any:
        raise KeyError("the secret")

    async def ask(engine: Engine, rest: OipRest) -> None:
        with pytest.raises(ServingError) as caught:
            await answer(engine, PROTOCOL, "copy", broken, broken, 0.0)
        assert caught.value.kind is ErrorKind.INTERNAL and "secret" not in caught.value.message
        assert outcomes(engine) == {"internal": 1}

    with caplog.at_level(logging.ERROR):
        with_model(tmp_path, ask)
    assert "KeyError: 'the secret'" in caplog.text


class TestManagement:
    @pytest.mark.parametrize("data", [b"", b"  ", b"{}", b'{"ready":false}', b'{"ready":true}', b'{"more":1}'])
    def test_index(self, tmp_path: Path, data: bytes) -> None:
        async def ask(_engine: Engine, rest: OipRest) -> HttpReply:
            return rest.repository_index(data)

        expected = b'[{"name":"copy","version":"2","state":"READY","reason":""}]'
        assert with_model(tmp_path, ask).body == expected

    @pytest.mark.parametrize("data", [b"[]", b"null", b"1", b'{"ready":1}', b'{"ready":null}', b"{"])
    def test_index_of_something_else(self, tmp_path: Path, data: bytes) -> None:
        async def ask(_engine: Engine, rest: OipRest) -> None:
            with pytest.raises(ServingError) as caught:
                rest.repository_index(data)
            assert caught.value.kind is ErrorKind.INVALID

        with_model(tmp_path, ask)

    @pytest.mark.parametrize("data", [b"", b"{}", b'{"parameters":{}}', b'{"parameters":null}'])
    def test_load(self, tmp_path: Path, data: bytes) -> None:
        async def ask(_engine: Engine, rest: OipRest) -> HttpReply:
            return await rest.load("copy", data)

        assert with_model(tmp_path, ask).status == 200

    @pytest.mark.parametrize(
        "data", [b"{", b'{"parameters":5}', b'{"parameters":true}', b'{"parameters":{"config":"{}"}}']
    )
    def test_load_with_parameters(self, tmp_path: Path, data: bytes) -> None:
        async def ask(_engine: Engine, rest: OipRest) -> None:
            with pytest.raises(ServingError) as caught:
                await rest.load("copy", data)
            assert caught.value.kind in (ErrorKind.INVALID, ErrorKind.UNSUPPORTED)

        with_model(tmp_path, ask)

    @pytest.mark.parametrize("name", ["no", "..", "../copy", "/etc", "", "a\x00b", "copy/2", ".hidden"])
    def test_load_of_what_is_not_there(self, tmp_path: Path, name: str) -> None:
        async def ask(_engine: Engine, rest: OipRest) -> None:
            with pytest.raises(ServingError) as caught:
                await rest.load(name, b"")
            assert caught.value.kind is ErrorKind.INVALID

        with_model(tmp_path, ask)

    def test_unload(self, tmp_path: Path) -> None:
        async def ask(engine: Engine, rest: OipRest) -> None:
            assert (await rest.unload("copy")).status == 200
            with pytest.raises(ServingError, match="has no available versions"):
                await rest.infer("copy", None, body(ROW))
            with pytest.raises(ServingError, match="Model version not ready"):
                rest.model_ready("copy", None)
            assert (await rest.load("copy", b"")).status == 200
            assert (await rest.infer("copy", None, body(ROW))).status == 200

        with_model(tmp_path, ask)

    def test_health(self, tmp_path: Path) -> None:
        async def ask(engine: Engine, rest: OipRest) -> None:
            assert (rest.live().status, rest.live().body) == (200, b'{"live":true}')
            assert (rest.ready().status, rest.ready().body) == (200, b'{"ready":true}')
            assert rest.model_ready("copy", "2").body == b'{"name":"copy","ready":true}'
            engine.stopping = True
            assert (rest.ready().status, rest.ready().body) == (400, b'{"ready":false}')

        with_model(tmp_path, ask)

    def test_metadata(self, tmp_path: Path) -> None:
        async def ask(_engine: Engine, rest: OipRest) -> None:
            assert rest.server_metadata().body.startswith(b'{"name":"s","version":"0","extensions":[')
            tensors = b'[{"name":"x","datatype":"FP32","shape":[-1,4]}]'
            expected = b'{"name":"copy","versions":["2"],"platform":"onnxruntime_onnx","inputs":%b,"outputs":%b}' % (
                tensors,
                tensors.replace(b'"x"', b'"y"'),
            )
            assert rest.model_metadata("copy", None).body == expected
            assert rest.model_metadata("copy", "2").body == expected

        with_model(tmp_path, ask)
