"""Open Inference Protocol over REST: JSON and the binary tensor extension. Bodies in, bodies out; no sockets."""

import re
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from serving.core import dtypes
from serving.core.errors import ErrorKind, ServingError, invalid
from serving.core.types import InferRequest, InferResponse, Parameters
from serving.engine import Control, Engine
from serving.protocols import jsonio, oip
from serving.protocols.answer import answer
from serving.protocols.jsonio import describe
from serving.protocols.status import Family, http_status

PROTOCOL = "oip_rest"
HEADER_LENGTH = b"inference-header-content-length"

Headers = list[tuple[bytes, bytes]]

_INTEGER = re.compile(rb"[+-]?[0-9]{1,100}")
_JSON = (b"content-type", b"application/json")
_BINARY = (b"content-type", b"application/octet-stream")


@dataclass(slots=True)
class HttpReply:
    """Status, body, and the headers besides content-length."""

    status: int
    body: bytes
    headers: Headers = field(default_factory=lambda: [_JSON])


def json_reply(value: Any, status: int = 200) -> HttpReply:
    return HttpReply(status, jsonio.dump(value))


def error_reply(error: ServingError) -> HttpReply:
    return json_reply({"error": error.message}, http_status(error.kind, Family.OIP))


class OipRest:
    """The endpoints. Each returns a reply; a `ServingError` that one raises is for `error_reply`."""

    def __init__(self, engine: Engine, control: Control, identity: oip.ServerIdentity) -> None:
        self._engine = engine
        self._control = control
        self._identity = identity

    async def infer(
        self,
        model: str,
        version: str | None,
        body: bytes,
        header_length: bytes | None = None,
        encoding: bytes | None = None,
    ) -> HttpReply:
        """Answers an inference request.

        Args:
            header_length: the value of Inference-Header-Content-Length: the size of the JSON at the start of `body`,
                raw tensors behind it. None: `body` is JSON.
            encoding: the value of Content-Encoding.
        """
        started = time.perf_counter()

        def decoded() -> tuple[InferRequest, Wants]:
            if encoding not in (None, b"", b"identity"):
                raise ServingError(ErrorKind.UNSUPPORTED, "Unsupported compression type")
            return decode(model, version, body, header_length)

        return await answer(self._engine, PROTOCOL, model, decoded, encode, started)

    def live(self) -> HttpReply:
        return json_reply({"live": True})

    def ready(self) -> HttpReply:
        ready = self._engine.ready
        return json_reply({"ready": ready}, 200 if ready else 400)

    def model_ready(self, model: str, version: str | None) -> HttpReply:
        if oip.model_ready(self._engine, model, oip.parse_version(version)):
            return json_reply({"name": model, "ready": True})
        raise invalid("Model version not ready")

    def server_metadata(self) -> HttpReply:
        return json_reply(oip.server_metadata(self._identity))

    def model_metadata(self, model: str, version: str | None) -> HttpReply:
        return json_reply(oip.model_metadata(self._engine, model, oip.parse_version(version)))

    def repository_index(self, body: bytes) -> HttpReply:
        value = jsonio.parse(body) if body.strip() else {}
        only_ready = value.get("ready", False) if isinstance(value, dict) else None
        if not isinstance(only_ready, bool):
            raise invalid("Invalid value for 'ready': expected a boolean in a JSON object")
        return json_reply(oip.repository_index(self._engine, only_ready))

    async def load(self, model: str, body: bytes) -> HttpReply:
        value = jsonio.parse(body) if body.strip() else {}
        parameters = value.get("parameters") if isinstance(value, dict) else value
        if parameters is not None and not isinstance(parameters, dict):
            raise invalid("the body of a load request is empty, or an object whose 'parameters' are an object")
        if parameters:
            raise ServingError(ErrorKind.UNSUPPORTED, f"load parameters are not supported, got {list(parameters)[:5]}")
        await self._control.load(model)
        return HttpReply(200, b"")

    async def unload(self, model: str) -> HttpReply:
        await self._control.unload(model)
        return HttpReply(200, b"")


@dataclass(slots=True)
class Wants:
    """The form in which outputs are wanted: those named in the request have a choice each, the others share one."""

    binary: dict[str, bool]
    binary_by_default: bool


def decode(model: str, version: str | None, body: bytes, header_length: bytes | None) -> tuple[InferRequest, Wants]:
    """Reads an infer request; arrays are views of `body` wherever it holds raw tensors.

    Raises:
        ServingError: INVALID, naming what is wrong.
    """
    if header_length is None:
        header: bytes | memoryview = body
        raw = memoryview(b"")
    else:
        size = _header_size(header_length, len(body))
        view = memoryview(body)
        header, raw = view[:size], view[size:]
    value = jsonio.parse(header)
    if type(value) is not dict:
        raise invalid(f"the request JSON must be an object, got {describe(value)}")
    request = InferRequest(model, {}, oip.parse_version(version))
    request_id = value.get("id", "")
    if type(request_id) is not str:
        raise invalid(f"Unable to parse 'id': expected a string, got {describe(request_id)}")
    request.id = request_id
    if parameters := value.get("parameters"):
        request.parameters = _parameters(parameters)
        request.deadline = oip.deadline_of(request.parameters)
    inputs = value.get("inputs")
    if type(inputs) is not list:
        raise _absent_or_wrong("inputs", value, "an array")
    may_hold_bools = b"true" in body or b"false" in body
    at = 0
    for entry in inputs:
        if type(entry) is not dict:
            raise invalid(f"Unable to parse 'inputs': expected objects, got {describe(entry)}")
        name = entry.get("name")
        if type(name) is not str:
            raise _absent_or_wrong("name", entry, "a string")
        dtype = oip.datatype(name, entry.get("datatype"))
        shape = _shape(name, model, entry)
        raw_size = _binary_size(name, entry)
        if raw_size is None:
            array = jsonio.to_array(name, dtype, shape, entry["data"], may_hold_bools)
        else:
            end = at + raw_size
            if end > len(raw):
                raise invalid(
                    f"unexpected size for input '{name}', expecting {end - len(raw)} additional bytes "
                    f"for model '{model}'"
                )
            array = oip.from_raw(name, model, dtype, shape, raw[at:end])
            at = end
        oip.add_input(request, name, array)
    if at != len(raw):
        raise invalid(
            f"unexpected additional input data for model '{model}': {len(raw) - at} bytes that no input claims"
        )
    return request, _wants(request, value.get("outputs"))


def _header_size(text: bytes, available: int) -> int:
    if not _INTEGER.fullmatch(text):
        raise invalid(f"Unable to parse Inference-Header-Content-Length, got: {text[:40].decode('latin-1')}")
    size = int(text)
    if not -(2**31) <= size < 2**31:
        raise invalid(
            "Unable to parse Inference-Header-Content-Length, value is out of range "
            f"[ -2147483648, 2147483647 ], got: {text[:40].decode('latin-1')}"
        )
    if not 0 <= size <= available:
        raise invalid(f"inference header size should be in range (0, {available}), got: {size}")
    return size


def _absent_or_wrong(key: str, where: dict[str, Any], expected: str) -> ServingError:
    if key not in where:
        return invalid(f"Unable to parse '{key}': attempt to access non-existing object member '{key}'")
    return invalid(f"Unable to parse '{key}': expected {expected}, got {describe(where[key])}")


def _shape(name: str, model: str, entry: dict[str, Any]) -> tuple[int, ...]:
    shape = entry.get("shape")
    if type(shape) is not list:
        raise _absent_or_wrong("shape", entry, "an array of integers >= 0")
    for d in shape:
        if type(d) is not int or d < 0:
            raise invalid(
                "Unable to parse 'shape': attempt to access JSON non-unsigned-integer as unsigned-integer: "
                f"input '{name}' got {describe(d)}"
            )
        if d > oip.MAX_INT64:
            raise invalid(
                f"the shape of input '{name}' causes total element count to exceed maximum size of {oip.MAX_INT64}"
            )
    oip.check_shape(name, model, tuple(shape))
    return tuple(shape)


def _binary_size(name: str, entry: dict[str, Any]) -> int | None:
    """The bytes that the input claims of the raw part; None if it brings its `data`."""
    parameters = entry.get("parameters")
    if not parameters:
        size = None
    elif type(parameters) is not dict:
        raise invalid(f"Unable to parse 'parameters': input '{name}' expects an object")
    else:
        size = parameters.get("binary_data_size")
        if "shared_memory_region" in parameters:
            raise ServingError(ErrorKind.UNSUPPORTED, f"input '{name}': shared memory is not supported")
    sources = ["'data'"] * ("data" in entry) + ["'binary_data_size'"] * (size is not None)
    if len(sources) != 1:
        found = f"But set {' '.join(sources)}" if sources else "But no field is set"
        raise invalid(
            "Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters', "
            f"'shared_memory_region' in 'parameters'. {found} for input '{name}'"
        )
    if size is not None and (type(size) is not int or size < 0):
        raise invalid(
            f"Unable to parse 'binary_data_size': input '{name}' expects an integer >= 0, got {describe(size)}"
        )
    return size


def _parameters(value: Any) -> Parameters:
    if type(value) is not dict:
        raise invalid("Unable to parse 'parameters': expected an object")
    for key, v in value.items():
        if not isinstance(v, bool | int | float | str):
            raise invalid(f"parameter '{key}' has invalid type. It should be either 'int', 'bool', or 'string'.")
    oip.check_parameter_names(value)
    return value


def _wants(request: InferRequest, outputs: Any) -> Wants:
    default = request.parameters.get("binary_data_output", False)
    if type(default) is not bool:
        raise invalid(f"Unable to parse 'binary_data_output': expected a boolean, got {describe(default)}")
    if not outputs:
        return Wants({}, default)
    if type(outputs) is not list:
        raise invalid(f"Unable to parse 'outputs': expected an array, got {describe(outputs)}")
    binary: dict[str, bool] = {}
    names = []
    for entry in outputs:
        if type(entry) is not dict:
            raise invalid(f"Unable to parse 'outputs': expected objects, got {describe(entry)}")
        name = entry.get("name")
        if type(name) is not str:
            raise _absent_or_wrong("name", entry, "a string")
        parameters = entry.get("parameters") or {}
        choice = parameters.get("binary_data", False) if type(parameters) is dict else None
        if type(choice) is not bool:
            raise invalid(f"Unable to parse 'binary_data': output '{name}' expects a boolean")
        for unsupported in ("classification", "shared_memory_region"):
            if parameters.get(unsupported):
                raise ServingError(ErrorKind.UNSUPPORTED, f"output '{name}': '{unsupported}' is not supported")
        names.append(name)
        binary[name] = choice
    request.outputs = tuple(names)
    return Wants(binary, default)


def encode(response: InferResponse, wants: Wants) -> HttpReply:
    """Writes an answer; each output is written once.

    Raises:
        ServingError: INVALID, if an output cannot be written as JSON and was not asked for as binary.
    """
    outputs = []
    raw: list[bytes] = []
    for name, array in response.outputs.items():
        dtype = oip.output_dtype(response, name)
        entry: dict[str, Any] = {"name": name, "datatype": dtype.name, "shape": array.shape}
        if wants.binary.get(name, wants.binary_by_default):
            data = oip.to_raw(array)
            raw.append(data)
            entry["parameters"] = {"binary_data_size": len(data)}
        else:
            entry["data"] = _json_data(name, dtype, array)
        outputs.append(entry)
    value: dict[str, Any] = {"id": response.id} if response.id else {}
    value["model_name"] = response.model
    value["model_version"] = str(response.version)
    value["outputs"] = outputs
    header = jsonio.dump(value)
    if not any(raw):
        return HttpReply(200, header)
    return HttpReply(
        200, b"".join((header, *raw)), [_BINARY, (b"inference-header-content-length", b"%d" % len(header))]
    )


def _json_data(name: str, dtype: dtypes.DType, array: np.ndarray) -> Any:
    if dtype is dtypes.FP16 or dtype is dtypes.BF16:
        raise invalid(
            f"sending {dtype.name} data via JSON is not supported. Please use the binary data format for output {name}"
        )
    if dtype is not dtypes.BYTES:
        return np.ascontiguousarray(array).reshape(-1)
    try:
        return [element.decode() for element in array.flat]
    except UnicodeDecodeError:
        raise invalid(
            f"output '{name}' holds bytes that are not UTF-8, which JSON cannot carry; ask for it with binary_data"
        ) from None
