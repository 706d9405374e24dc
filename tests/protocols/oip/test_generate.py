"""Flat JSON objects in and out, for models that take values or lists of them."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from onnx import helper

from serving.core import dtypes
from serving.core.dtypes import DType
from serving.core.errors import ErrorKind, ServingError
from serving.core.types import InferRequest, Signature, TensorSpec
from serving.engine import Engine
from serving.protocols.http import HttpReply
from serving.protocols.offload import Offload
from serving.protocols.oip import generate
from serving.protocols.oip.rest import PROTOCOL, OipRest
from tests import models
from tests.protocols.build import answer_of, refused, same, serving_oip

T = TypeVar("T")

EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")


def spec(name: str = "PROMPT", dtype: DType = dtypes.BYTES, shape: tuple[int, ...] | None = (-1, 1)) -> TensorSpec:
    return TensorSpec(name, dtype, shape)


def decode(data: Any, *inputs: TensorSpec) -> InferRequest:
    """Of a model that takes `PROMPT`, or the inputs given; `other` is another signature, with an input `only`."""
    named = {s.name: s for s in inputs or (spec(),)}
    signatures = {"": Signature(named, {}), "other": Signature({"only": spec("only")}, {})}
    body = data if isinstance(data, bytes) else json.dumps(data).encode()
    return generate.decode("m", None, body, signatures)[0]


class TestDecode:
    def test_keys_are_inputs_or_parameters(self) -> None:
        request = decode({"PROMPT": "hi", "id": "a1", "temperature": 0.5, "stream": True})
        assert (request.model, request.id) == ("m", "a1")
        assert request.inputs["PROMPT"].tolist() == [[b"hi"]]
        assert request.parameters == {"temperature": 0.5, "stream": True}

    def test_parameters_are_looked_into(self) -> None:
        request = decode({"parameters": {"PROMPT": "hi", "k": 1, "parameters": {"deep": "v"}}, "top": 2})
        assert request.inputs["PROMPT"].tolist() == [[b"hi"]]
        assert request.parameters == {"k": 1, "deep": "v", "top": 2}

    def test_parameters_as_deep_as_the_parser_follows(self) -> None:
        depth = 900
        data = b'{"parameters":' * depth + b'{"PROMPT":"hi"}' + b"}" * depth
        assert decode(data).inputs["PROMPT"].tolist() == [[b"hi"]]

    def test_what_is_known_of_parameters(self) -> None:
        request = decode({"PROMPT": "hi", "priority": 2, "parameters": {"timeout": 10**6, "signature_name": ""}})
        assert request.priority == 2 and request.deadline is not None

    @pytest.mark.parametrize("where", [lambda v: v, lambda v: {"parameters": v}])
    def test_a_signature(self, where: Callable[[Any], Any]) -> None:
        request = decode(where({"signature_name": "other", "only": "x"}))
        assert request.signature == "other" and list(request.inputs) == ["only"]

    def test_no_such_signature(self) -> None:
        text = refused(lambda: decode({"signature_name": "zz"}), ErrorKind.PRECONDITION)
        assert text == 'Serving signature key "zz" not found.'

    def test_inputs_may_have_any_name(self) -> None:
        request = decode(
            {"id": "x", "parameters": "y", "model_name": "z"}, spec("id"), spec("parameters"), spec("model_name")
        )
        assert request.id == "" and len(request.inputs) == 3

    @pytest.mark.parametrize(
        "data",
        [
            b'{"PROMPT":"a","PROMPT":"b"}',
            b'{"PROMPT":"a","parameters":{"PROMPT":"b"}}',
            b'{"parameters":{"PROMPT":"a","PROMPT":"b"}}',
            b'{"PROMPT":"a","PR\\u004fMPT":"b"}',
        ],
    )
    def test_an_input_comes_once(self, data: bytes) -> None:
        assert refused(lambda: decode(data)) == "input 'PROMPT' already exists in request"

    def test_an_inputs_name_may_be_a_value(self) -> None:
        assert decode({"PROMPT": "PROMPT", "k": "PROMPT"}).inputs["PROMPT"].tolist() == [[b"PROMPT"]]

    @pytest.mark.parametrize(
        ("data", "why"),
        [
            (b"", "failed to parse the request JSON buffer"),
            (b"[]", "the request JSON must be an object"),
            ({"parameters": [1]}, "Unable to parse 'parameters': expected an object"),
            ({"parameters": None}, "Unable to parse 'parameters': expected an object"),
            ({"id": 5}, "Unable to parse 'id'"),
            ({"signature_name": 5}, "Unable to parse 'signature_name'"),
            ({"k": [1]}, "parameter 'k' has invalid type"),
            ({"k": {"a": 1}}, "parameter 'k' has invalid type"),
            ({"triton_k": 1}, "reserved"),
            ({"timeout": "1"}, "Unable to parse 'timeout'"),
            ({"PROMPT": 5}, "input 'PROMPT' expects BYTES elements, got the integer 5"),
        ],
    )
    def test_what_is_wrong_is_named(self, data: Any, why: str) -> None:
        assert why in refused(lambda: decode(data))


class TestShapes:
    @pytest.mark.parametrize(
        ("shape", "value", "expected"),
        [
            ((-1, 1), 5, [[5]]),
            ((-1, 1), [5, 6], [[5], [6]]),
            ((-1, -1), [5, 6], [[5, 6]]),
            ((-1, -1), 5, [[5]]),
            ((-1,), [5, 6, 7], [5, 6, 7]),
            ((-1, 2), [5, 6, 7, 8], [[5, 6], [7, 8]]),
            ((-1, -1, 2), [5, 6, 7, 8], [[[5, 6], [7, 8]]]),
            ((2,), [5, 6], [5, 6]),
            ((), 5, 5),
            ((), [5], 5),
            ((1, 1), 5, [[5]]),
            (None, 5, [5]),
            (None, [5, 6], [5, 6]),
        ],
    )
    def test_values_take_the_models_shape(self, shape: tuple[int, ...] | None, value: Any, expected: Any) -> None:
        request = decode({"n": value}, spec("n", dtypes.INT64, shape))
        assert same(request.inputs["n"], np.array(expected, np.int64))

    def test_no_values(self) -> None:
        assert decode({"n": []}, spec("n", dtypes.INT64, (-1, 3))).inputs["n"].shape == (0, 3)
        assert decode({"n": []}, spec("n", dtypes.INT64, (-1, -1))).inputs["n"].shape == (1, 0)

    @pytest.mark.parametrize(
        ("shape", "value"),
        [
            ((-1, 2), [1, 2, 3]),
            ((-1, 2), 5),
            ((2,), 5),
            ((2,), [1, 2, 3]),
            ((), [1, 2]),
            ((), []),
            ((-1, 0), 5),
            ((-1, 0), []),
            ((-1, 1), [[1], [2]]),
            ((-1, 1), {"a": 1}),
            ((-1, 1), None),
            ((-1, 2), [1, None]),
        ],
    )
    def test_values_that_have_no_shape(self, shape: tuple[int, ...], value: Any) -> None:
        assert refused(lambda: decode({"n": value}, spec("n", dtypes.INT64, shape))).startswith(
            "The schema can not convert input 'n' to tensor with proper shape"
        )

    @pytest.mark.parametrize(
        ("dtype", "value"), [(dtypes.BOOL, True), (dtypes.FP32, 0.5), (dtypes.UINT8, 255), (dtypes.BYTES, "é")]
    )
    def test_every_kind_of_value(self, dtype: DType, value: Any) -> None:
        element = value.encode() if dtype is dtypes.BYTES else value
        assert decode({"n": value}, spec("n", dtype)).inputs["n"].tolist() == [[element]]

    @pytest.mark.parametrize(("dtype", "value"), [(dtypes.UINT8, 256), (dtypes.INT8, True), (dtypes.BOOL, 1)])
    def test_values_of_another_kind(self, dtype: DType, value: Any) -> None:
        assert f"expects {dtype.name} elements" in refused(lambda: decode({"n": value}, spec("n", dtype)))


class TestEncode:
    ANSWER = answer_of(
        {
            "text_output": (dtypes.BYTES, np.array([["hé".encode()]], object)),
            "n": (dtypes.INT64, np.array([[2**62]])),
            "list": (dtypes.FP64, np.array([[0.5, np.nan]])),
            "a": (dtypes.FP32, np.array([np.inf], np.float32)),
            "none": (dtypes.FP32, np.empty((1, 0), np.float32)),
        },
        request_id="q1",
    )
    TEXT = (
        '{"a":Infinity,"id":"q1","list":[0.5,NaN],"model_name":"m","model_version":"3","n":4611686018427387904,'
        '"none":[],"text_output":"hé"}'
    ).encode()

    def test_keys_are_in_order_and_one_element_is_no_list(self) -> None:
        reply = generate.encode(self.ANSWER, None, stream=False)
        assert (reply.status, reply.body) == (200, self.TEXT)
        assert reply.headers == [(b"content-type", b"application/json")]

    def test_as_an_event(self) -> None:
        reply = generate.encode(self.ANSWER, None, stream=True)
        assert (reply.status, reply.body, reply.headers) == (200, b"data: %b\n\n" % self.TEXT, [EVENTS])

    def test_without_an_id_there_is_none(self) -> None:
        answer = answer_of({"y": (dtypes.BOOL, np.array([True]))})
        assert generate.encode(answer, None, stream=False).body == b'{"model_name":"m","model_version":"3","y":true}'

    def test_bytes_that_are_no_text(self) -> None:
        answer = answer_of({"y": (dtypes.BYTES, np.array([b"\xff"], object))})
        assert "bytes that are not UTF-8" in refused(lambda: generate.encode(answer, None, stream=False))


def echo() -> Any:
    """y = PROMPT, BYTES `[batch, 1]`; n = 2 * m, INT64 `[batch, 1]`."""
    return models.model(
        [helper.make_node("Identity", ["PROMPT"], ["y"]), helper.make_node("Add", ["m", "m"], ["n"])],
        [models.tensor("PROMPT", "BYTES", (models.BATCH, 1)), models.tensor("m", "INT64", (models.BATCH, 1))],
        [models.tensor("y", "BYTES", (models.BATCH, 1)), models.tensor("n", "INT64", (models.BATCH, 1))],
    )


class TestService:
    """On an engine with models `echo` and `lookup`, which fails for what is not in its table."""

    def ask(self, tmp_path: Path, ask: Callable[[OipRest, Engine], Awaitable[T]], offload: bool = False) -> T:
        models.save(echo(), tmp_path / "echo" / "1" / "model.onnx")
        models.save(models.lookup(), tmp_path / "lookup" / "1" / "model.onnx")

        async def main() -> T:
            helpers = Offload(1) if offload else None
            try:
                async with serving_oip(tmp_path, offload=helpers) as (rest, _, engine):
                    return await ask(rest, engine)
            finally:
                if helpers is not None:
                    helpers.close()

        return asyncio.run(main())

    @pytest.mark.parametrize("offload", [False, True])
    @pytest.mark.parametrize("length", [2, 1_000_000])
    def test_one_object_for_another(self, tmp_path: Path, length: int, offload: bool) -> None:
        async def ask(rest: OipRest, engine: Engine) -> HttpReply:
            data = json.dumps({"PROMPT": "x" * length, "m": 4, "id": "a"}).encode()
            reply = await rest.generate("echo", "1", data, stream=False)
            assert engine.metrics.requests("echo", "1", PROTOCOL).outcomes == {"ok": 1}
            return reply

        assert self.ask(tmp_path, ask, offload).body == (
            b'{"id":"a","model_name":"echo","model_version":"1","n":8,"y":"%b"}' % (b"x" * length)
        )

    def test_an_event(self, tmp_path: Path) -> None:
        async def ask(rest: OipRest, _: Engine) -> HttpReply:
            return await rest.generate("echo", None, b'{"PROMPT":["a","b"],"m":[1,2]}', stream=True)

        reply = self.ask(tmp_path, ask)
        assert reply.headers == [EVENTS]
        assert reply.body == b'data: {"model_name":"echo","model_version":"1","n":[2,4],"y":["a","b"]}\n\n'

    def test_an_error_of_the_run_is_an_event(self, tmp_path: Path) -> None:
        async def ask(rest: OipRest, _: Engine) -> HttpReply:
            with pytest.raises(ServingError) as caught:
                await rest.generate("lookup", None, b'{"x":9}', stream=False)
            assert caught.value.kind is ErrorKind.MODEL
            return await rest.generate("lookup", None, b'{"x":9}', stream=True)

        reply = self.ask(tmp_path, ask)
        assert reply.status == 500 and reply.headers == [EVENTS]
        assert reply.body.startswith(b'data: {"error":"') and reply.body.endswith(b'"}\n\n')

    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize(
        ("model", "version", "data", "encoding", "kind", "why"),
        [
            ("no", None, b"{}", None, ErrorKind.NOT_FOUND, "Request for unknown model: 'no' is not found"),
            ("echo", "2", b"{}", None, ErrorKind.NOT_FOUND, "version 2 is not found"),
            ("echo", "x", b"{}", None, ErrorKind.INVALID, "failed to get model version"),
            ("echo", None, b"{", None, ErrorKind.INVALID, "failed to parse"),
            ("echo", None, b'{"m":1,"id":"a"}', None, ErrorKind.INVALID, "[request id: a] expected 2 inputs but got 1"),
            ("echo", None, b"{}", b"gzip", ErrorKind.INVALID, "Unsupported content-encoding, only 'identity' is"),
        ],
    )
    def test_an_error_before_it_is_none(
        self, tmp_path: Path, model: str, version: str, data: bytes, encoding: bytes, kind: ErrorKind, why: str,
        stream: bool,
    ) -> None:  # fmt: skip
        async def ask(rest: OipRest, engine: Engine) -> None:
            with pytest.raises(ServingError) as caught:
                await rest.generate(model, version, data, encoding, stream=stream)
            assert caught.value.kind is kind and why in caught.value.message
            known = engine.known(model, int(version) if version == "2" else None)
            assert engine.metrics.requests(*known, PROTOCOL).outcomes == {kind.value: 1}

        self.ask(tmp_path, ask)
