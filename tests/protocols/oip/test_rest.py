"""The REST endpoints on an engine with real models, without a socket."""

import asyncio
import gzip
import json
import zlib
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from onnx import helper

from serving.core.errors import ErrorKind, ServingError
from serving.engine import Engine
from serving.protocols.http import HttpReply
from serving.protocols.offload import Offload
from serving.protocols.oip.rest import PROTOCOL, OipRest
from serving.protocols.oip.shared_memory import SharedMemory
from tests import models
from tests.protocols.build import body, lines, serving_oip, split_answer, tensor

T = TypeVar("T")

ROW = tensor(shape=[1, 4], data=[1, 2, 3, 4])
FLOATS = np.arange(1, 5, dtype=np.float32)


def with_models(
    tmp_path: Path, ask: Callable[[OipRest, Engine], Awaitable[T]], offload: bool = False, **more: Any
) -> T:
    """Runs `ask` with the models `copy` (version 2, FP32 [-1, 4]), `text` (BYTES [-1, 1]) and `sum` (INT32, two
    inputs)."""
    models.save(models.identity(), tmp_path / "repo" / "copy" / "2" / "model.onnx")
    models.save(models.identity("BYTES", (models.BATCH, 1)), tmp_path / "repo" / "text" / "1" / "model.onnx")
    models.save(models.add_sub(), tmp_path / "repo" / "sum" / "1" / "model.onnx")

    async def main() -> T:
        helpers = Offload(1) if offload else None
        try:
            async with serving_oip(tmp_path / "repo", offload=helpers, **more) as (rest, _, engine):
                return await ask(rest, engine)
        finally:
            if helpers is not None:
                helpers.close()

    return asyncio.run(main())


async def refusal(asked: Awaitable[Any], kind: ErrorKind = ErrorKind.INVALID) -> str:
    with pytest.raises(ServingError) as caught:
        await asked
    assert caught.value.kind is kind
    return caught.value.message


class TestRaw:
    @pytest.mark.parametrize("length", [b"0", b"+0", b"00"])
    def test_the_body_is_the_input(self, tmp_path: Path, length: bytes) -> None:
        async def ask(rest: OipRest, engine: Engine) -> HttpReply:
            reply = await rest.infer("copy", "2", FLOATS.tobytes(), lines(length))
            assert engine.metrics.requests("copy", "2", PROTOCOL).outcomes == {"ok": 1}
            return reply

        value, raw = split_answer(with_models(tmp_path, ask))
        assert value["outputs"][0]["shape"] == [1, 4] and raw == FLOATS.tobytes()

    @pytest.mark.parametrize("length", [None, b"0"])
    def test_an_empty_body_is_one(self, tmp_path: Path, length: bytes | None) -> None:
        async def ask(rest: OipRest, _: Engine) -> HttpReply:
            return await rest.infer("text", None, b"", lines(length))

        value, raw = split_answer(with_models(tmp_path, ask))
        assert value["outputs"][0] == {
            "name": "y", "datatype": "BYTES", "shape": [1, 1], "parameters": {"binary_data_size": 4},
        }  # fmt: skip
        assert raw == bytes(4)  # the empty text

    def test_what_cannot_be_one(self, tmp_path: Path) -> None:
        async def ask(rest: OipRest, engine: Engine) -> None:
            assert "Raw request must only have 1 input" in await refusal(rest.infer("sum", None, b""))
            assert "Expected 16, got 15" in await refusal(rest.infer("copy", None, bytes(15), lines(b"0")))
            await refusal(rest.infer("no", None, b""), ErrorKind.NOT_FOUND)
            await refusal(rest.infer("copy", "x", b""))
            assert engine.metrics.requests("copy", "2", PROTOCOL).outcomes == {"invalid": 2}
            assert engine.metrics.requests("", "", PROTOCOL).outcomes == {"not_found": 1}

        with_models(tmp_path, ask)


class TestCompression:
    @pytest.mark.parametrize("offload", [False, True])
    @pytest.mark.parametrize("rows", [50, 20_000])
    @pytest.mark.parametrize(
        ("encoding", "pack", "bits"), [(b"gzip", gzip.compress, 31), (b"deflate", zlib.compress, 15)]
    )
    def test_both_ways(
        self, tmp_path: Path, encoding: bytes, pack: Callable[[bytes], bytes], bits: int, rows: int, offload: bool
    ) -> None:
        spec = tmp_path / "repo" / "copy" / "model.yaml"
        spec.parent.mkdir(parents=True)
        spec.write_text("max_batch_size: 20000\nmax_queue_rows: 20000\nwarmup: false\n")
        data = body(tensor(shape=[rows, 4], data=[1, 2, 3, 4] * rows))

        async def ask(rest: OipRest, _: Engine) -> HttpReply:
            return await rest.infer("copy", None, pack(data), lines(None, encoding, encoding))

        reply = with_models(tmp_path, ask, offload)
        assert dict(reply.headers)[b"content-encoding"] == encoding
        output = json.loads(zlib.decompress(reply.body, bits))["outputs"][0]
        assert output["data"] == [1, 2, 3, 4] * rows

    def test_the_header_length_is_of_the_expanded_body(self, tmp_path: Path) -> None:
        header = body(
            tensor(shape=[50, 4], parameters={"binary_data_size": 800}), parameters={"binary_data_output": True}
        )

        async def ask(rest: OipRest, _: Engine) -> HttpReply:
            packed = gzip.compress(header + FLOATS.tobytes() * 50)
            return await rest.infer("copy", None, packed, lines(b"%d" % len(header), b"gzip", b"br, deflate;q=0.5, *"))

        reply = with_models(tmp_path, ask)
        plain = zlib.decompress(reply.body)
        size = int(dict(reply.headers)[b"inference-header-content-length"])
        assert json.loads(plain[:size])["outputs"][0]["shape"] == [50, 4] and plain[size:] == FLOATS.tobytes() * 50

    @pytest.mark.parametrize("offload", [False, True])
    def test_what_cannot_be_expanded(self, tmp_path: Path, offload: bool) -> None:
        async def ask(rest: OipRest, engine: Engine) -> None:
            reply = await rest.infer("copy", None, body(ROW), lines(encoding=b"br"))
            assert (reply.status, reply.body) == (501, b'{"error":"Unsupported compression type"}')
            assert dict(reply.headers)[b"accept-encoding"] == b"gzip, deflate"
            assert "not valid gzip" in await refusal(rest.infer("copy", None, body(ROW), lines(encoding=b"gzip")))
            bomb = gzip.compress(bytes(10_000_000))
            assert "maximum allowed input size of 1000000" in await refusal(
                rest.infer("copy", None, bomb, lines(encoding=b"gzip"))
            )
            assert engine.metrics.requests("copy", "2", PROTOCOL).outcomes == {"unsupported": 1, "invalid": 2}

        with_models(tmp_path, ask, offload, max_body_bytes=1_000_000)

    def test_errors_are_not_compressed(self, tmp_path: Path) -> None:
        async def ask(rest: OipRest, _: Engine) -> None:
            await refusal(rest.infer("copy", None, body(), lines(accept=b"gzip")))

        with_models(tmp_path, ask)


class TestLargeBodies:
    """That a helper process reads and writes makes no difference."""

    @pytest.mark.parametrize("offload", [False, True])
    def test_text(self, tmp_path: Path, offload: bool) -> None:
        spec = tmp_path / "repo" / "text" / "model.yaml"
        spec.parent.mkdir(parents=True)
        spec.write_text("max_batch_size: 20000\nmax_queue_rows: 20000\nwarmup: false\n")
        texts = [f"{i} grüße und noch ein wenig mehr" for i in range(10_000)]
        data = body(tensor("x", "BYTES", [10_000, 1], data=texts), id="a")

        async def ask(rest: OipRest, _: Engine) -> HttpReply:
            return await rest.infer("text", None, data)

        value = json.loads(with_models(tmp_path, ask, offload).body)
        assert value["id"] == "a" and value["outputs"][0]["data"] == texts

    def test_refusals(self, tmp_path: Path) -> None:
        async def ask(rest: OipRest, engine: Engine) -> None:
            wide = body(tensor(shape=[1, 300_000], data=[0] * 300_000), id="a")
            assert "[request id: a] unexpected shape" in await refusal(rest.infer("copy", None, wide))
            assert "failed to parse" in await refusal(rest.infer("copy", None, wide + b"]"))
            assert engine.metrics.requests("copy", "2", PROTOCOL).outcomes == {"invalid": 2}

        with_models(tmp_path, ask, offload=True)


class TestClassification:
    def test_labels_come_with_the_model(self, tmp_path: Path) -> None:
        directory = tmp_path / "repo" / "copy"
        directory.mkdir(parents=True)
        (directory / "labels.txt").write_text("cat\ndog\nbird\nfish\n")
        (directory / "model.yaml").write_text("class_labels: {y: labels.txt}\n")
        outputs = [{"name": "y", "parameters": {"classification": 2}}]

        async def ask(rest: OipRest, _: Engine) -> HttpReply:
            data = body(tensor(shape=[2, 4], data=[1, 9, 3, 4, 8, 7, 6, 5]), outputs=outputs)
            return await rest.infer("copy", None, data)

        (output,) = json.loads(with_models(tmp_path, ask).body)["outputs"]
        assert output == {
            "name": "y", "datatype": "BYTES", "shape": [2, 2],
            "data": ["9.000000:1:dog", "4.000000:3:fish", "8.000000:0:cat", "7.000000:1:dog"],
        }  # fmt: skip

    def test_text_has_no_classes(self, tmp_path: Path) -> None:
        async def ask(rest: OipRest, _: Engine) -> None:
            outputs = [{"name": "y", "parameters": {"classification": 2}}]
            data = body(tensor("x", "BYTES", [1, 1], data=["a"]), outputs=outputs)
            assert "unsupported type 'BYTES'" in await refusal(rest.infer("text", None, data))

        with_models(tmp_path, ask)


class TestSharedMemory:
    def test_in_and_out(self, tmp_path: Path) -> None:
        (tmp_path / "object").write_bytes(FLOATS.tobytes() + bytes(16))
        region = {"shared_memory_region": "r", "shared_memory_byte_size": 16}
        data = body(
            tensor(shape=[1, 4], parameters=region),
            outputs=[{"name": "y", "parameters": {**region, "shared_memory_offset": 16}}],
        )

        async def ask(rest: OipRest, _: Engine) -> HttpReply:
            register = json.dumps({"key": "/object", "byte_size": 32}).encode()
            assert rest.shm_register("system", "r", register).status == 200
            status = [{"name": "r", "key": "/object", "offset": 0, "byte_size": 32}]
            assert json.loads(rest.shm_status("system", "r").body) == status
            assert json.loads(rest.shm_status("system", None).body) == status
            assert b'"system_shared_memory"' in rest.server_metadata().body
            asked = asyncio.ensure_future(rest.infer("copy", None, data))
            await asyncio.sleep(0)  # it has been read, and waits
            assert rest.shm_unregister("system", "r").status == 200
            return await asked

        reply = with_models(tmp_path, ask, memory=SharedMemory(True, tmp_path))
        assert json.loads(reply.body)["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [1, 4]}]
        assert (tmp_path / "object").read_bytes() == FLOATS.tobytes() * 2

    def test_large_text_beside_it(self, tmp_path: Path) -> None:
        (tmp_path / "object").write_bytes(np.ones(16, np.int32).tobytes())
        one = tensor(
            "INPUT0", "INT32", [1, 16], parameters={"shared_memory_region": "r", "shared_memory_byte_size": 64}
        )
        values = list(range(16))
        two = tensor("INPUT1", "INT32", [1, 16], data=values)

        async def ask(rest: OipRest, _: Engine) -> HttpReply:
            rest.shm_register("system", "r", b'{"key":"object","byte_size":64}')
            return await rest.infer("sum", None, body(one, two, more=["x" * 100] * 5000))

        reply = with_models(tmp_path, ask, offload=True, memory=SharedMemory(True, tmp_path))
        assert json.loads(reply.body)["outputs"][0]["data"] == [n + 1 for n in values]

    @pytest.mark.parametrize("kind", ["system", "cuda"])
    def test_unless_it_is_allowed(self, tmp_path: Path, kind: str) -> None:
        async def ask(rest: OipRest, _: Engine) -> None:
            for change in (partial(rest.shm_register, kind, "r", b"{}"), partial(rest.shm_unregister, kind, "r")):
                with pytest.raises(ServingError, match="Client shared memory is disabled") as caught:
                    change()
                assert caught.value.kind is ErrorKind.UNSUPPORTED
            assert rest.shm_status(kind, None).body == b"[]"
            assert b"system_shared_memory" not in rest.server_metadata().body

        with_models(tmp_path, ask)

    @pytest.mark.parametrize("kind", ["system", "cuda"])
    def test_a_registration_is_json(self, tmp_path: Path, kind: str) -> None:
        async def ask(rest: OipRest, _: Engine) -> None:
            with pytest.raises(ServingError, match="failed to parse the request JSON buffer"):
                rest.shm_register(kind, "r", b"{")

        with_models(tmp_path, ask, memory=SharedMemory(True, tmp_path))

    def test_memory_of_a_gpu(self, tmp_path: Path) -> None:
        async def ask(rest: OipRest, _: Engine) -> None:
            with pytest.raises(ServingError, match="CUDA shared memory is not supported") as caught:
                rest.shm_register("cuda", "r", b"{}")
            assert caught.value.kind is ErrorKind.UNSUPPORTED
            assert rest.shm_status("cuda", None).body == b"[]"
            with pytest.raises(ServingError, match="Unable to find cuda shared memory region: 'r'"):
                rest.shm_status("cuda", "r")
            assert rest.shm_unregister("cuda", None).status == 200

        with_models(tmp_path, ask, memory=SharedMemory(True, tmp_path))


def test_signatures_are_chosen_by_a_parameter(tmp_path: Path) -> None:
    async def ask(rest: OipRest, _: Engine) -> None:
        named = body(ROW, parameters={"signature_name": "serving_default", "priority": 1})
        assert (await rest.infer("copy", None, named)).status == 200
        other = body(ROW, parameters={"signature_name": "other"})
        assert 'Serving signature key "other" not found' in await refusal(
            rest.infer("copy", None, other), ErrorKind.PRECONDITION
        )

    with_models(tmp_path, ask)


def test_outputs_come_in_the_models_order_and_once(tmp_path: Path) -> None:
    pair = [tensor(f"INPUT{i}", "INT32", [1, 16], data=[i] * 16) for i in (0, 1)]

    async def ask(rest: OipRest, _: Engine) -> None:
        for outputs in ([], [{"name": "OUTPUT1"}, {"name": "OUTPUT0"}], None):
            value = json.loads((await rest.infer("sum", None, body(*pair, outputs=outputs))).body)
            assert [o["name"] for o in value["outputs"]] == ["OUTPUT0", "OUTPUT1"]
        twice = body(*pair, outputs=[{"name": "OUTPUT0"}] * 2)
        assert "output 'OUTPUT0' already exists in request" in await refusal(rest.infer("sum", None, twice))

    with_models(tmp_path, ask)


def test_inputs_that_may_be_missing(tmp_path: Path) -> None:
    biased = models.model(
        [helper.make_node("Add", ["x", "bias"], ["y"])],
        [models.tensor("x", "FP32", (models.BATCH, 4)), models.tensor("bias", "FP32", (4,))],
        [models.tensor("y", "FP32", (models.BATCH, 4))],
        {"bias": np.full(4, 10, np.float32)},  # an input that has a value already
    )
    models.save(biased, tmp_path / "repo" / "biased" / "1" / "model.onnx")
    bias = tensor("bias", shape=[4], data=[0, 0, 0, 1])

    async def ask(rest: OipRest, _: Engine) -> None:
        for inputs, expected in (([ROW], [11, 12, 13, 14]), ([bias, ROW], [1, 2, 3, 5])):
            reply = await rest.infer("biased", None, body(*inputs))
            assert json.loads(reply.body)["outputs"][0]["data"] == expected
        text = await refusal(rest.infer("biased", None, body()))
        assert "expected number of inputs between 1 and 2 but got 0 inputs for model 'biased'. Got input(s) []" in text

    with_models(tmp_path, ask)
