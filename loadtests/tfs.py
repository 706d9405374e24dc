"""The client's side of TensorFlow Serving's API: predict as JSON in row form and as gRPC messages.

Pure. Tensors go in and out by name; nothing here knows which model or server they are for. Decoders raise ValueError,
KeyError or TypeError for answers that do not hold together.
"""

import base64
import json
from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
import orjson

from serving.core import dtypes
from serving.core.dtypes import DType
from serving.core.types import Tensors
from serving.protocols.messages import tf, tfs

GRPC_PREDICT = "/tensorflow.serving.PredictionService/Predict"

# The API has no JSON form for these.
NOT_IN_JSON = (dtypes.FP16, dtypes.BF16, dtypes.UINT16)

_BY_NUMBER = {int(tf.DataType[dtype.tensorflow]): dtype for dtype in dtypes.ALL}
_NARROW = (dtypes.UINT8, dtypes.UINT16, dtypes.INT8, dtypes.INT16, dtypes.INT32)
_FIELDS = {
    **dict.fromkeys(_NARROW, "int_val"),
    dtypes.BOOL: "bool_val",
    dtypes.INT64: "int64_val",
    dtypes.UINT32: "uint32_val",
    dtypes.UINT64: "uint64_val",
    dtypes.FP16: "half_val",
    dtypes.BF16: "half_val",
    dtypes.FP32: "float_val",
    dtypes.FP64: "double_val",
    dtypes.BYTES: "string_val",
}


def predict_path(model: str) -> str:
    return f"/v1/models/{model}:predict"


def encode_rows(inputs: Tensors) -> bytes:
    """A whole REST body; all inputs have the same axis 0. ValueError for FP16, BF16 and UINT16."""
    for name, array in inputs.items():
        if dtypes.BY_NUMPY[array.dtype] in NOT_IN_JSON:
            raise ValueError(f"input '{name}' is {dtypes.BY_NUMPY[array.dtype]}, which JSON cannot carry")
    instances: Any
    if len(inputs) == 1:
        (instances,) = map(_json_values, inputs.values())
    else:
        rows = zip(*inputs.values(), strict=True)
        instances = [{name: _json_values(row) for name, row in zip(inputs, each, strict=True)} for each in rows]
    return orjson.dumps({"instances": instances}, option=orjson.OPT_SERIALIZE_NUMPY)


def encode_predict(model: str, inputs: Tensors, *, typed: bool = False) -> bytes:
    """A serialized PredictRequest: elements as raw bytes in tensor_content, or each in the field for its type.

    BYTES have no raw form here and always go in their field.
    """
    request = tfs.PredictRequest(model_spec=tfs.ModelSpec(name=model))
    for name, array in inputs.items():
        _fill(request.inputs[name], np.ascontiguousarray(array), typed)
    return bytes(request.SerializeToString())


def decode_rows(body: bytes, outputs: Mapping[str, DType]) -> Tensors:
    """The outputs of a REST answer in row form, which tells neither types nor, of a single output, the name."""
    # The standard parser: the API writes NaN and infinities bare.
    rows = json.loads(body)["predictions"]
    if len(outputs) == 1:
        return {name: _from_json(dtype, rows) for name, dtype in outputs.items()}
    if any(row.keys() != outputs.keys() for row in rows):
        raise ValueError(f"rows without exactly {sorted(outputs)}")
    return {name: _from_json(dtype, [row[name] for row in rows]) for name, dtype in outputs.items()}


def decode_predict(body: bytes) -> Tensors:
    """The outputs of a serialized PredictResponse in either form."""
    return {name: _array(name, tensor) for name, tensor in tfs.PredictResponse.FromString(body).outputs.items()}


def _json_values(values: Any) -> Any:
    """An array, or a scalar of one, as something that orjson writes as nested lists."""
    if isinstance(values, bytes):
        return {"b64": base64.b64encode(values).decode()}
    if not isinstance(values, np.ndarray):
        return values
    return [_json_values(each) for each in values] if values.dtype == object else np.ascontiguousarray(values)


def _from_json(dtype: DType, rows: list[Any]) -> np.ndarray:
    array = np.array(rows, dtype.numpy)
    if dtype is dtypes.BYTES:
        flat = array.reshape(-1)
        for i, element in enumerate(flat):
            flat[i] = base64.b64decode(element["b64"]) if isinstance(element, dict) else element.encode()
    return array


def _fill(tensor: Any, array: np.ndarray, typed: bool) -> None:
    dtype = dtypes.BY_NUMPY[array.dtype]
    tensor.dtype = tf.DataType[dtype.tensorflow]
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    if typed or dtype is dtypes.BYTES:
        field = _FIELDS[dtype]
        flat = array.reshape(-1)
        getattr(tensor, field).extend((flat.view(np.uint16) if field == "half_val" else flat).tolist())
    else:
        tensor.tensor_content = array.tobytes()


def _array(name: str, tensor: Any) -> np.ndarray:
    dtype = _BY_NUMBER[tensor.dtype]
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.tensor_content:
        values = np.frombuffer(tensor.tensor_content, dtype.numpy)
    else:
        field = _FIELDS[dtype]
        listed = getattr(tensor, field)
        values = np.array(listed, np.uint16).view(dtype.numpy) if field == "half_val" else np.array(listed, dtype.numpy)
    if prod(shape) != values.size:
        raise ValueError(f"output '{name}' of shape {shape} has {values.size} values")
    return values.reshape(shape)
