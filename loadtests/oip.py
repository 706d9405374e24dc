"""The client's side of the Open Inference Protocol: infer as JSON, as binary tensors and as gRPC messages.

Pure. Tensors go in and out by name; nothing here knows which model or server they are for. Decoders raise ValueError,
KeyError or TypeError for answers that do not hold together.
"""

import json
from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

import numpy as np
import orjson

from serving.core import dtypes, strings
from serving.core.types import Tensors
from serving.protocols.messages import oip as m

JSON_LENGTH = "inference-header-content-length"
GRPC_INFER = "/inference.GRPCInferenceService/ModelInfer"

# The protocol has no JSON form for these.
BINARY_ONLY = (dtypes.FP16, dtypes.BF16)


class AnswerError(Exception):
    """A server refused a request, or answered what it must not."""


def infer_path(model: str) -> str:
    return f"/v2/models/{model}/infer"


def encode_json(inputs: Tensors) -> bytes:
    """A whole REST body; floats in as few digits as tell them apart. ValueError for FP16 and BF16."""
    return orjson.dumps({"inputs": [_json_tensor(*item) for item in inputs.items()]}, option=orjson.OPT_SERIALIZE_NUMPY)


def encode_binary(inputs: Tensors) -> tuple[bytes, int]:
    """A REST body that ends in the tensors' bytes and wants such an answer, and the length of the JSON in it."""
    raws = [_raw(array) for array in inputs.values()]
    tensors = [
        {**_head(*item), "parameters": {"binary_data_size": len(raw)}}
        for item, raw in zip(inputs.items(), raws, strict=True)
    ]
    head = orjson.dumps({"inputs": tensors, "parameters": {"binary_data_output": True}})
    return b"".join([head, *raws]), len(head)


def encode_grpc(model: str, inputs: Tensors) -> bytes:
    """A serialized ModelInferRequest with raw contents."""
    request = m.ModelInferRequest(model_name=model)
    for name, array in inputs.items():
        request.inputs.add(**_head(name, array))
        request.raw_input_contents.append(_raw(array))
    return bytes(request.SerializeToString())


def decode_rest(headers: Mapping[str, str], body: bytes) -> Tensors:
    """The outputs of a REST answer in either form; header names in lower case."""
    length = headers.get(JSON_LENGTH)
    # The standard parser: the protocol writes NaN and infinities bare.
    answer = json.loads(body if length is None else body[: int(length)])
    at = len(body) if length is None else int(length)
    outputs = []
    for output in answer["outputs"]:
        size = (output.get("parameters") or {}).get("binary_data_size")
        if size is None:
            values = _from_json(output["datatype"], output["data"])
        else:
            values = _from_raw(output["datatype"], body[at : at + size])
            at += size
        outputs.append((output["name"], output["shape"], values))
    if at != len(body):
        raise ValueError(f"{len(body) - at} bytes more than the outputs take")
    return _collect(outputs)


def decode_grpc(body: bytes) -> Tensors:
    """The outputs of a serialized ModelInferResponse with raw contents."""
    response = m.ModelInferResponse.FromString(body)
    if len(response.raw_output_contents) != len(response.outputs):
        raise ValueError(f"{len(response.raw_output_contents)} raw contents for {len(response.outputs)} outputs")
    pairs = zip(response.outputs, response.raw_output_contents, strict=True)
    return _collect((output.name, list(output.shape), _from_raw(output.datatype, raw)) for output, raw in pairs)


def _head(name: str, array: np.ndarray) -> dict[str, Any]:
    return {"name": name, "datatype": dtypes.BY_NUMPY[array.dtype].name, "shape": array.shape}


def _json_tensor(name: str, array: np.ndarray) -> dict[str, Any]:
    dtype = dtypes.BY_NUMPY[array.dtype]
    if dtype in BINARY_ONLY:
        raise ValueError(f"input '{name}' is {dtype}, which JSON cannot carry")
    flat = np.ascontiguousarray(array).reshape(-1)
    return {
        **_head(name, array),
        "data": [element.decode() for element in flat] if dtype is dtypes.BYTES else flat,
    }


def _raw(array: np.ndarray) -> bytes:
    return strings.pack(array) if array.dtype == dtypes.BYTES.numpy else array.tobytes()


def _from_json(datatype: str, data: list[Any]) -> np.ndarray:
    dtype = dtypes.BY_NAME[datatype]
    if dtype is dtypes.BYTES:
        data = [element.encode() for element in data]
    return np.array(data, dtype.numpy)


def _from_raw(datatype: str, raw: bytes) -> np.ndarray:
    dtype = dtypes.BY_NAME[datatype]
    return strings.unpack(raw) if dtype is dtypes.BYTES else np.frombuffer(raw, dtype.numpy)


def _collect(outputs: Iterable[tuple[str, list[int], np.ndarray]]) -> Tensors:
    tensors: Tensors = {}
    for name, shape, values in outputs:
        if name in tensors:
            raise ValueError(f"output '{name}' comes twice")
        if prod(shape) != values.size:
            raise ValueError(f"output '{name}' of shape {shape} has {values.size} values")
        tensors[name] = values.reshape(shape)
    return tensors
