"""Every data type, in every shape, over every form of both protocols: what went in comes out again, bit for bit, or the
request is refused as the documentation says."""

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from serving.core import dtypes, strings
from serving.core.dtypes import DType
from serving.protocols import messages as m
from tests import models
from tests.e2e.clients import RefusedError
from tests.e2e.plain import OIP, PREDICTION, Plain
from tests.e2e.server import Server

# What is sent


@dataclass(frozen=True)
class Kind:
    """A data type, the values that are sent of it, and what the model calls its output."""

    name: str
    dtype: DType
    values: np.ndarray  # one dimension
    output: str = "y"


def _values(dtype: DType) -> np.ndarray:
    if dtype is dtypes.BYTES:
        return _objects(b"", b"a", "grüße, \N{SNOWMAN}\N{GRINNING FACE}".encode(), b'"\\\n\t\0', "é".encode() * 300)
    if dtype is dtypes.BOOL:
        return np.array([True, False, False])
    if dtype.is_integer:
        limits = np.iinfo(dtype.numpy)
        wanted = (limits.min, limits.max, limits.max - 1, 0, 1, 44, 2**53 + 1 if dtype.itemsize == 8 else 7)
        return np.array(wanted, dtype.numpy)
    limits = ml_dtypes.finfo(dtype.numpy)
    wanted = (
        *(np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -2.5, 0.1, 1 / 3),
        *(limits.max, limits.min, limits.tiny, limits.smallest_subnormal, limits.eps),
    )
    return np.array([float(v) for v in wanted]).astype(dtype.numpy)


def _objects(*elements: bytes) -> np.ndarray:
    array = np.empty(len(elements), object)
    array[:] = elements
    return array


# ONNX Runtime takes text only, so arbitrary bytes go through the backend that returns what it gets. There the output's
# name ends as TensorFlow Serving wants it for answers in base64.
NOT_TEXT = Kind(
    "not_text", dtypes.BYTES, _objects(b"\xff", b"\x80abc", bytes(range(128, 256)), b"\xed\xa0\x80"), "y_bytes"
)
KINDS = {kind.name: kind for kind in (*(Kind(d.name, d, _values(d)) for d in dtypes.ALL), NOT_TEXT)}


def _rows(count: int) -> Callable[[np.ndarray], list[np.ndarray]]:
    return lambda values: [np.stack([np.roll(values, i) for i in range(count)])]


# By name: which of a kind's models is asked, and the arrays that are sent for it, each in a request.
SHAPES: dict[str, tuple[str, Callable[[np.ndarray], list[np.ndarray]]]] = {
    "scalar": ("scalar", lambda values: list(map(_scalar, values))),
    "vector": ("vector", lambda values: [values]),
    "matrix": ("matrix", _rows(2)),
    "zero elements": ("wide", lambda values: [np.empty((2, 0), values.dtype)]),
    "batch 1": ("rows", _rows(1)),
    "batch n": ("rows", _rows(5)),
    "no rows": ("rows", lambda values: [np.empty((0, len(values)), values.dtype)]),
}


def _scalar(value: Any) -> np.ndarray:
    array = np.empty((), object if isinstance(value, bytes) else value.dtype)
    array[()] = value
    return array


def _model_shapes(kind: Kind) -> dict[str, tuple[int, ...]]:
    width = len(kind.values)
    return {"scalar": (), "vector": (width,), "matrix": (2, width), "rows": (-1, width), "wide": (-1, -1)}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plain]:
    """A server with five models of each kind, such as `FP32_rows`: input `x`, and the same as output."""
    root = tmp_path_factory.mktemp("matrix")
    for kind in KINDS.values():
        for form, shape in _model_shapes(kind).items():
            version = root / "repo" / f"{kind.name}_{form}" / "1"
            if kind is not NOT_TEXT:
                dims = [("batch", "width")[axis] if size < 0 else size for axis, size in enumerate(shape)]
                models.save(models.identity(kind.dtype.name, dims), version / "model.onnx")
                continue
            version.mkdir(parents=True)
            tensor = {"input": "x", "output": kind.output, "datatype": "BYTES", "shape": shape}
            (version / "identity.yaml").write_text(json.dumps({"tensors": [tensor]}))
    server = Server(root / "logs", root / "repo", "--log-level", "warning")
    try:
        with Plain(server.wait_ready()) as made:
            yield made
        assert "Traceback" not in server.log
    finally:
        server.end()


# How it is sent: each form gives the array that came back, and raises RefusedError


def post(plain: Plain, path: str, data: bytes, **headers: str) -> tuple[bytes, int]:
    """The body of the answer, and how many bytes of it are JSON."""
    answer = plain.post(path, data, **headers)
    if answer.status_code != 200:
        raise RefusedError(answer.status_code, answer.json()["error"])
    return answer.content, int(answer.headers.get("inference-header-content-length", len(answer.content)))


def to_json(value: Any) -> bytes:
    """Python's own JSON: bare NaN and Infinity, whole integers. Bytes that are no text go out as they are."""
    return json.dumps(value, ensure_ascii=False).encode(errors="surrogateescape")


def elements(kind: Kind, array: np.ndarray) -> Any:
    """The array in nested lists, of what JSON has."""
    if kind.dtype is dtypes.BYTES:
        return _nested(array, lambda element: element.decode(errors="surrogateescape"))
    return array.astype(float).tolist() if kind.dtype.is_float else array.tolist()


def _nested(array: Any, change: Callable[[Any], Any]) -> Any:
    """`change` of every element, in nested lists."""
    if not isinstance(array, np.ndarray):
        return change(array)
    return change(array[()]) if array.shape == () else [_nested(part, change) for part in array]


def from_json(kind: Kind, data: Any, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Nested lists as an array, of the shape of the nesting unless it is given. Every element has the one JSON type."""
    flat = list(_flat(data))
    if kind is NOT_TEXT:
        assert all(element.keys() == {"b64"} for element in flat)
        flat = [base64.b64decode(element["b64"], validate=True) for element in flat]
    elif kind.dtype is dtypes.BYTES:
        flat = [element.encode() for element in flat]
    else:
        expected = bool if kind.dtype is dtypes.BOOL else int if kind.dtype.is_integer else float
        assert {type(element) for element in flat} <= {expected}
    array = np.empty(len(flat), kind.dtype.numpy)
    array[:] = flat
    return array.reshape(_nesting(data) if shape is None else shape)


def _flat(data: Any) -> Iterator[Any]:
    if not isinstance(data, list):
        yield data
        return
    for part in data:
        yield from _flat(part)


def _nesting(data: Any) -> tuple[int, ...]:
    """The shape of nested lists."""
    if not isinstance(data, list):
        return ()
    below = {_nesting(part) for part in data}
    assert len(below) <= 1
    return (len(data), *below.pop()) if below else (0,)


def from_raw(kind: Kind, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    array = strings.unpack(data) if kind.dtype is dtypes.BYTES else np.frombuffer(data, kind.dtype.numpy)
    return array.reshape(shape)


def to_raw(kind: Kind, array: np.ndarray) -> bytes:
    return strings.pack(array) if kind.dtype is dtypes.BYTES else array.tobytes()


def oip_json(plain: Plain, model: str, kind: Kind, array: np.ndarray) -> np.ndarray:
    data = list(_flat(elements(kind, array)))
    request = {"inputs": [{"name": "x", "datatype": kind.dtype.name, "shape": array.shape, "data": data}]}
    body, _ = post(plain, f"/v2/models/{model}/infer", to_json(request))
    (output,) = json.loads(body)["outputs"]
    assert (output["name"], output["datatype"]) == (kind.output, kind.dtype.name)
    return from_json(kind, output["data"], tuple(output["shape"]))


def oip_binary(plain: Plain, model: str, kind: Kind, array: np.ndarray) -> np.ndarray:
    raw = to_raw(kind, array)
    parameters = {"binary_data_size": len(raw)}
    entry = {"name": "x", "datatype": kind.dtype.name, "shape": array.shape, "parameters": parameters}
    head = to_json({"inputs": [entry], "parameters": {"binary_data_output": True}})
    length = {"Inference-Header-Content-Length": str(len(head))}
    body, json_size = post(plain, f"/v2/models/{model}/infer", head + raw, **length)
    (output,) = json.loads(body[:json_size])["outputs"]
    assert (output["name"], output["datatype"]) == (kind.output, kind.dtype.name)
    assert output["parameters"]["binary_data_size"] == len(body) - json_size
    return from_raw(kind, body[json_size:], tuple(output["shape"]))


def oip_grpc_raw(plain: Plain, model: str, kind: Kind, array: np.ndarray) -> np.ndarray:
    request = m.oip.ModelInferRequest(model_name=model, raw_input_contents=[to_raw(kind, array)])
    request.inputs.add(name="x", datatype=kind.dtype.name, shape=array.shape)
    return _oip_answer(plain, kind, request)


# FP16 and BF16 have no field there; a client would try the one for floats.
CONTENTS = {
    "BOOL": "bool_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "FP16": "fp32_contents", "BF16": "fp32_contents", "FP32": "fp32_contents",
    "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip


def oip_grpc_contents(plain: Plain, model: str, kind: Kind, array: np.ndarray) -> np.ndarray:
    request = m.oip.ModelInferRequest(model_name=model)
    values = array.reshape(-1).tolist()
    tensor = request.inputs.add(name="x", datatype=kind.dtype.name, shape=array.shape)
    tensor.contents.SetInParent()
    getattr(tensor.contents, CONTENTS[kind.dtype.name]).extend(values)
    return _oip_answer(plain, kind, request)


def _oip_answer(plain: Plain, kind: Kind, request: Any) -> np.ndarray:
    answer = m.oip.ModelInferResponse.FromString(plain.call(OIP, "ModelInfer", request.SerializeToString()))
    (output,), (raw,) = answer.outputs, answer.raw_output_contents
    assert (output.name, output.datatype) == (kind.output, kind.dtype.name)
    assert not output.HasField("contents")
    return from_raw(kind, raw, tuple(output.shape))


def tfs_row(plain: Plain, model: str, kind: Kind, array: np.ndarray) -> np.ndarray:
    body, _ = post(plain, f"/v1/models/{model}:predict", to_json({"instances": _tfs_elements(kind, array)}))
    return from_json(kind, json.loads(body)["predictions"])


def tfs_column(plain: Plain, model: str, kind: Kind, array: np.ndarray) -> np.ndarray:
    body, _ = post(plain, f"/v1/models/{model}:predict", to_json({"inputs": _tfs_elements(kind, array)}))
    outputs = json.loads(body)["outputs"]
    return from_json(
        kind, outputs, array.shape if outputs == [] else None
    )  # no rows: an empty list, whatever they hold


def _tfs_elements(kind: Kind, array: np.ndarray) -> Any:
    if kind is NOT_TEXT:
        return _nested(array, lambda element: {"b64": base64.b64encode(element).decode()})
    return elements(kind, array)


VALUES = {
    "BOOL": "bool_val", "UINT8": "int_val", "UINT16": "int_val", "UINT32": "uint32_val", "UINT64": "uint64_val",
    "INT8": "int_val", "INT16": "int_val", "INT32": "int_val", "INT64": "int64_val", "FP16": "half_val",
    "BF16": "half_val", "FP32": "float_val", "FP64": "double_val", "BYTES": "string_val",
}  # fmt: skip


def tfs_grpc_typed(plain: Plain, model: str, kind: Kind, array: np.ndarray) -> np.ndarray:
    field = VALUES[kind.dtype.name]
    flat = array.reshape(-1)
    values = (flat.view(np.uint16) if field == "half_val" else flat).tolist()
    return _tfs_grpc(plain, model, kind, array, **{field: values})


def tfs_grpc_content(plain: Plain, model: str, kind: Kind, array: np.ndarray) -> np.ndarray:
    """TensorFlow's raw form of strings is all lengths, then all bytes; of anything else its bytes."""
    if kind.dtype is dtypes.BYTES:
        flat = array.reshape(-1).tolist()
        content = b"".join(_varint(len(element)) for element in flat) + b"".join(flat)
    else:
        content = array.tobytes()
    return _tfs_grpc(plain, model, kind, array, tensor_content=content)


def _varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + _varint(value >> 7)


def _tfs_grpc(plain: Plain, model: str, kind: Kind, array: np.ndarray, **data: Any) -> np.ndarray:
    request = m.tfs.PredictRequest(model_spec={"name": model})
    tensor = m.tf.TensorProto(dtype=kind.dtype.tensorflow, **data)
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    request.inputs["x"].CopyFrom(tensor)
    answer = m.tfs.PredictResponse.FromString(plain.call(PREDICTION, "Predict", request.SerializeToString()))
    assert set(answer.outputs) == {kind.output}
    output = answer.outputs[kind.output]
    assert (output.dtype, output.tensor_content) == (m.tf.DataType[kind.dtype.tensorflow], b"")
    field = VALUES[kind.dtype.name]
    listed = getattr(output, field)
    found = np.empty(len(listed), np.uint16 if field == "half_val" else kind.dtype.numpy)
    found[:] = listed
    return found.view(kind.dtype.numpy).reshape([dim.size for dim in output.tensor_shape.dim])


FORMS = {
    "OIP JSON": oip_json,
    "OIP binary": oip_binary,
    "gRPC raw": oip_grpc_raw,
    "gRPC contents": oip_grpc_contents,
    "TFS row": tfs_row,
    "TFS column": tfs_column,
    "TFS gRPC typed": tfs_grpc_typed,
    "TFS gRPC tensor_content": tfs_grpc_content,
}

# What is refused, by form, kinds and shapes; None is any. All that is not in here comes back as it was sent.
INVALID = "INVALID_ARGUMENT"
TFS_JSON = ("TFS row", "TFS column")
NOT_IN_TFS_JSON = ("FP16", "BF16", "UINT16")
NO_JSON = "receiving (FP16|BF16) data via JSON is not supported"
REFUSALS: list[tuple[tuple[str, ...], tuple[str, ...] | None, tuple[str, ...] | None, object, str]] = [
    (("OIP JSON",), ("FP16", "BF16"), None, 400, NO_JSON),
    (("OIP JSON",), ("not_text",), ("scalar", "vector", "matrix", "batch 1", "batch n"), 400, "UTF-8"),
    (("gRPC contents",), ("FP16", "BF16"), None, INVALID, "raw_input_contents"),
    (("TFS row",), None, ("no rows",), 400, "No values in 'instances' array"),
    (("TFS row",), None, ("scalar",), 400, "Expecting 'instances' to be an list/array"),
    (TFS_JSON, NOT_IN_TFS_JSON, None, 501, "(half|bfloat16|uint16)"),
    (("OIP JSON", "OIP binary"), None, ("no rows",), 400, "the batch is empty"),
    (("gRPC raw", "gRPC contents"), None, ("no rows",), INVALID, "the batch is empty"),
]


def refusal(form: str, kind: str, shape: str) -> tuple[object, str] | None:
    """Status and text of the refusal that is to be expected."""
    for forms, kinds, shapes, status, text in REFUSALS:
        if form in forms and (kinds is None or kind in kinds) and (shapes is None or shape in shapes):
            return status, text
    return None


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
def test_round_trip(plain: Plain, form: str, kind: str, shape: str) -> None:
    model, arrays = SHAPES[shape]
    send, expected = FORMS[form], refusal(form, kind, shape)
    for array in arrays(KINDS[kind].values):
        if expected is None:
            got = send(plain, f"{kind}_{model}", KINDS[kind], array)
            assert (got.dtype, got.shape) == (array.dtype, array.shape)
            if array.dtype == object:
                assert got.tolist() == array.tolist()
            else:
                assert got.tobytes() == array.tobytes()
        else:
            with pytest.raises(RefusedError, match=expected[1]) as caught:
                send(plain, f"{kind}_{model}", KINDS[kind], array)
            assert caught.value.status == expected[0]


def test_bytes_that_an_answer_in_json_cannot_carry(plain: Plain) -> None:
    """They came in a form that can, so the answer has to be asked for in one as well; the refusal says so."""
    array = NOT_TEXT.values.reshape(1, -1)
    raw = to_raw(NOT_TEXT, array)
    entry = {"name": "x", "datatype": "BYTES", "shape": array.shape, "parameters": {"binary_data_size": len(raw)}}
    head = to_json({"inputs": [entry]})
    length = {"Inference-Header-Content-Length": str(len(head))}
    with pytest.raises(RefusedError, match=r"not UTF-8.*binary_data") as caught:
        post(plain, "/v2/models/not_text_rows/infer", head + raw, **length)
    assert caught.value.status == 400


@pytest.mark.parametrize("form", [form for form in FORMS if form != "OIP JSON"])
def test_bytes_that_a_model_cannot_take(plain: Plain, form: str) -> None:
    """ONNX strings are text: the model's refusal of any other bytes names the element."""
    array = _objects(b"a", b"b", b"c", b"\xff", b"e").reshape(1, 5)
    kind = Kind("BYTES", dtypes.BYTES, array) if not form.startswith("TFS") else NOT_TEXT
    with pytest.raises(RefusedError, match="UTF-8") as caught:
        FORMS[form](plain, "BYTES_rows", kind, array)
    assert caught.value.status in (400, INVALID)
