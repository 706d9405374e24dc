"""The course of one inference: what is counted, what the client is told, and what only the log is told."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest

from serving.core.errors import ErrorKind, ServingError
from serving.core.types import InferRequest, InferResponse
from serving.engine import Engine, Times
from serving.protocols.answer import Heavy, answer
from serving.protocols.offload import Offload
from serving.protocols.oip import metadata
from serving.protocols.oip.rest import PROTOCOL, HttpReply, OipRest
from serving.protocols.record import Record, Watch, answered
from tests import models
from tests.protocols import codec
from tests.protocols.build import body, lines, serving_engine, tensor

T = TypeVar("T")

ONES = [[1.0] * 4]

ROW = tensor(shape=[1, 4], data=[1, 2, 3, 4])


def with_model(tmp_path: Path, ask: Callable[[Engine, OipRest], Awaitable[T]]) -> T:
    """Runs `ask` with a model `copy` (version 2)."""
    models.save(models.identity(), tmp_path / "copy" / "2" / "model.onnx")

    async def main() -> T:
        async with serving_engine(tmp_path) as (engine, control):
            return await ask(engine, OipRest(engine, control, metadata.ServerIdentity("s", "0")))

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


def test_an_encoding_that_is_not_offered(tmp_path: Path) -> None:
    async def ask(engine: Engine, rest: OipRest) -> None:
        for encoding in (None, b"", b"identity"):
            assert (await rest.infer("copy", None, body(ROW), lines(encoding=encoding))).status == 200
        reply = await rest.infer("copy", None, body(ROW), lines(encoding=b"br"))
        assert reply.status == 501 and b"Unsupported compression type" in reply.body
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


class TestVariants:
    """What callers may ask of `answer` beyond the usual."""

    @pytest.mark.parametrize(("name_request", "prefix"), [(True, "[request id: a1] "), (False, "")])
    @pytest.mark.parametrize(
        ("rows", "encode", "text"),
        [([[1.0]], codec.encode, "unexpected shape"), ([[1.0] * 4], codec.cannot, "output 'y' cannot be written")],
    )
    def test_refusals_name_the_request_where_that_is_customary(
        self, tmp_path: Path, rows: list[list[float]], encode: Any, text: str, name_request: bool, prefix: str
    ) -> None:
        async def ask(engine: Engine, _rest: OipRest) -> None:
            decode = partial(codec.decode, "copy", rows, "a1")
            with pytest.raises(ServingError) as caught:
                await answer(engine, PROTOCOL, "copy", decode, encode, 0.0, name_request=name_request)
            assert caught.value.kind is ErrorKind.INVALID
            assert caught.value.message.startswith(prefix + text)

        with_model(tmp_path, ask)

    def test_a_version_that_was_resolved_before_is_the_one_that_answers(self, tmp_path: Path) -> None:
        models.save(models.scale(2.0), tmp_path / "copy" / "1" / "model.onnx")
        (tmp_path / "copy" / "model.yaml").write_text("versions: all\n")

        async def ask(engine: Engine, _rest: OipRest) -> None:
            first = engine.catalog.resolve("copy", 1)
            decode = partial(codec.decode, "copy", ONES)
            reply = await answer(engine, PROTOCOL, "copy", decode, codec.encode, 0.0, version=first)
            assert reply.outputs == {"y": [[2.0] * 4]}
            assert outcomes(engine, version="1") == {"ok": 1}
            with pytest.raises(ServingError):
                await answer(engine, PROTOCOL, "copy", codec.refuse, codec.encode, 0.0, version=first)
            assert outcomes(engine, version="1") == {"ok": 1, "invalid": 1}
            assert outcomes(engine, version="2") == {}

        with_model(tmp_path, ask)


class TestHeavy:
    """The codec's functions in a helper process."""

    def with_heavy(
        self,
        tmp_path: Path,
        ask: Callable[[Engine, Heavy[int]], Awaitable[None]],
        decode: bool = True,
        encode: bool = False,
        max_waiting: int = 1,
    ) -> None:
        async def main(engine: Engine, _rest: OipRest) -> None:
            offload = Offload(1, max_waiting)
            try:
                await ask(engine, Heavy(offload, decode, lambda response, _wants: encode))
            finally:
                offload.close()

        with_model(tmp_path, main)

    @pytest.mark.parametrize("heavy_decode", [False, True])
    @pytest.mark.parametrize("heavy_encode", [False, True])
    def test_what_is_heavy_is_done_elsewhere(self, tmp_path: Path, heavy_decode: bool, heavy_encode: bool) -> None:
        async def ask(engine: Engine, heavy: Heavy[int]) -> None:
            decode = partial(codec.decode, "copy", ONES)
            reply = await answer(engine, PROTOCOL, "copy", decode, codec.encode, 0.0, heavy=heavy)
            assert reply.outputs == {"y": ONES}
            assert (reply.decoded_by != os.getpid()) == heavy_decode
            assert (reply.encoded_by != os.getpid()) == heavy_encode
            assert outcomes(engine) == {"ok": 1}
            metrics = engine.metrics.requests("copy", "2", PROTOCOL)
            phases = ("decode", "queue", "compute", "encode")
            assert [sum(getattr(metrics, phase).counts) for phase in phases] == [1] * 4

        self.with_heavy(tmp_path, ask, heavy_decode, heavy_encode)

    def test_a_codec_is_asked_about_the_answer_and_the_form_that_is_wanted(self, tmp_path: Path) -> None:
        seen = []

        def look(response: InferResponse, decoded_by: int) -> bool:
            seen.append((response.outputs["y"].tolist(), decoded_by))
            return False

        async def ask(engine: Engine, heavy: Heavy[int]) -> None:
            heavy.encode = look
            decode = partial(codec.decode, "copy", ONES)
            reply = await answer(engine, PROTOCOL, "copy", decode, codec.encode, 0.0, heavy=heavy)
            assert seen == [(ONES, reply.decoded_by)]

        self.with_heavy(tmp_path, ask)

    @pytest.mark.parametrize(
        ("decode", "encode", "kind", "text"),
        [
            (codec.refuse, codec.encode, ErrorKind.INVALID, "not this one"),
            (codec.die, codec.encode, ErrorKind.INTERNAL, "the helper process that works on large bodies ended"),
            (
                partial(codec.decode, "copy", ONES, "a1"),
                codec.cannot,
                ErrorKind.INVALID,
                "[request id: a1] output 'y' cannot be written",
            ),
        ],
    )
    def test_an_error_is_told_and_counted_as_ever(
        self, tmp_path: Path, decode: Any, encode: Any, kind: ErrorKind, text: str
    ) -> None:
        async def ask(engine: Engine, heavy: Heavy[int]) -> None:
            with pytest.raises(ServingError) as caught:
                await answer(engine, PROTOCOL, "copy", decode, encode, 0.0, heavy=heavy)
            assert caught.value.kind is kind and caught.value.message.startswith(text)
            assert outcomes(engine) == {kind.value: 1}

        self.with_heavy(tmp_path, ask, encode=True)

    def test_what_nobody_foresaw_is_told_to_the_log(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        async def ask(engine: Engine, heavy: Heavy[int]) -> None:
            decode = partial(codec.decode, "copy", [["the secret"]])
            with pytest.raises(ServingError) as caught:
                await answer(engine, PROTOCOL, "copy", decode, codec.encode, 0.0, heavy=heavy)
            assert caught.value.kind is ErrorKind.INTERNAL and "secret" not in caught.value.message

        with caplog.at_level(logging.ERROR):
            self.with_heavy(tmp_path, ask)
        assert "could not convert string to float: 'the secret'" in caplog.text

    def test_a_body_too_many_is_refused_and_an_answer_is_not(self, tmp_path: Path) -> None:
        async def ask(engine: Engine, heavy: Heavy[int]) -> None:
            fifo = tmp_path / "gate"
            os.mkfifo(fifo)
            jobs = [asyncio.ensure_future(heavy.offload.run(partial(Path.read_bytes, fifo)))]
            with await asyncio.to_thread(fifo.open, "wb"):
                jobs.append(asyncio.ensure_future(heavy.offload.run(len, b"")))  # it waits
                await asyncio.sleep(0)
                decode = partial(codec.decode, "copy", ONES)
                with pytest.raises(ServingError) as caught:
                    await answer(engine, PROTOCOL, "copy", decode, codec.encode, 0.0, heavy=heavy)
                assert caught.value.kind is ErrorKind.QUEUE_FULL
                assert outcomes(engine) == {"queue_full": 1}
                arrived = asyncio.Event()

                def heavy_too(_response: InferResponse, _wants: int) -> bool:
                    arrived.set()
                    return True

                light = Heavy(heavy.offload, False, heavy_too)
                call = answer(engine, PROTOCOL, "copy", decode, codec.encode, 0.0, heavy=light)
                answered = asyncio.ensure_future(call)
                await arrived.wait()
            await asyncio.gather(*jobs)
            assert (await answered).encoded_by != os.getpid()

        self.with_heavy(tmp_path, ask, encode=True)

    def test_a_client_that_goes_away_meanwhile_is_counted(self, tmp_path: Path) -> None:
        async def ask(engine: Engine, heavy: Heavy[int]) -> None:
            fifo = tmp_path / "gate"
            os.mkfifo(fifo)
            decode: Any = partial(Path.read_bytes, fifo)
            call = answer(engine, PROTOCOL, "copy", decode, codec.encode, 0.0, heavy=heavy)
            gone = asyncio.ensure_future(call)
            with await asyncio.to_thread(fifo.open, "wb"):  # a helper is at it
                gone.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await gone
                assert outcomes(engine) == {"cancelled": 1}
            assert await heavy.offload.run(len, b"abc") == 3

        self.with_heavy(tmp_path, ask)


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

    @pytest.mark.parametrize("data", [b"{", b'{"parameters":5}', b'{"parameters":true}', b'{"parameters":{"a":1}}'])
    def test_load_of_something_else(self, tmp_path: Path, data: bytes) -> None:
        async def ask(_engine: Engine, rest: OipRest) -> None:
            with pytest.raises(ServingError) as caught:
                await rest.load("copy", data)
            assert caught.value.kind is ErrorKind.INVALID

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
            assert (await rest.model_metadata("copy", None)).body == expected
            assert (await rest.model_metadata("copy", "2")).body == expected

        with_model(tmp_path, ask)


def test_all_observers_are_told_of_an_answer_and_none_of_a_refusal(tmp_path: Path) -> None:
    told: list[tuple[str, str, str, int]] = []

    def note(name: str, protocol: str, request: InferRequest, response: InferResponse, times: Times) -> None:
        assert times.arrived < times.decoded < times.inferred < times.encoded
        told.append((name, protocol, request.id, response.version))

    async def ask(engine: Engine, rest: OipRest) -> None:
        first, second = partial(note, "first"), partial(note, "second")
        for observer in (first, second, first):
            engine.observe(observer)
        await rest.infer("copy", None, body(ROW, id="a1"))
        with pytest.raises(ServingError):
            await rest.infer("copy", None, b"{")
        engine.unobserve(first)
        await rest.infer("copy", None, body(ROW, id="a2"))
        engine.unobserve(second)
        engine.unobserve(second)
        assert engine.observers == ()

    with_model(tmp_path, ask)
    assert told == [("first", PROTOCOL, "a1", 2), ("second", PROTOCOL, "a1", 2), ("second", PROTOCOL, "a2", 2)]


def test_the_record_of_a_request_has_its_answers_and_refusals(tmp_path: Path) -> None:
    async def ask(engine: Engine, rest: OipRest) -> Record | None:
        engine.observe(answered)
        record = Watch(every=True).http("POST", b"/", [], None, 0)
        await rest.infer("copy", None, body(ROW, id="a1"))
        with pytest.raises(ServingError):
            await rest.infer("copy", None, body(id="a2"))
        return record

    record = with_model(tmp_path, ask)
    assert record is not None and record.request_id == "a1"
    assert [(i.protocol, i.model, i.version, i.outcome) for i in record.inferences] == [
        (PROTOCOL, "copy", "2", "ok"),
        (PROTOCOL, "copy", "2", "invalid"),
    ]
