"""`serving predict` and `serving models`: questions to a running server."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from rich.console import Console
from rich.table import Table

from serving.cli.describe import fail, tensors
from serving.client import Client, ClientError, Where, connect
from serving.core import dtypes
from serving.core.errors import ServingError
from serving.core.generate import random_inputs
from serving.core.types import Signature, Tensors, TensorSpec
from serving.protocols import jsonio
from serving.protocols.oip import tensors as oip


class InputError(ValueError):
    """The input file does not suit the model; the message is one line."""


def predict(url: Where, model: str, version: str, file: Path | None, random: bool, rows: int) -> int:
    if (file is None) == (not random):
        return fail("give one of --input FILE and --random")
    try:
        client = connect(url)
        signature = client.signature(model, version)
        if file is None:
            inputs = random_inputs(signature, rows, np.random.default_rng())
        else:
            inputs = read_inputs(file, signature)
        answer = client.infer(model, version, inputs)
    except (ClientError, InputError) as error:
        return fail(str(error))
    outputs = {name: _plain(array) for name, array in answer.outputs.items()}
    print(json.dumps({"model": answer.model, "version": answer.version, "outputs": outputs}, ensure_ascii=False))
    return 0


def models(url: Where) -> int:
    try:
        client = connect(url)
        table = Table(box=None, pad_edge=False)
        for title in ("model", "version", "state", "inputs", "outputs"):
            table.add_column(title, overflow="fold")
        for entry in client.index():
            version, state = entry.get("version", ""), entry.get("state", "")
            inputs, outputs = (
                _shapes(client, entry["name"], version) if state == "READY" else (entry.get("reason", ""), "")
            )
            table.add_row(entry["name"], version, state, inputs, outputs)
    except ClientError as error:
        return fail(str(error))
    Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 200).print(table)
    return 0


def _shapes(client: Client, model: str, version: str) -> tuple[str, str]:
    signature = client.signature(model, version)
    return tensors(signature.inputs.values()), tensors(signature.outputs.values())


def read_inputs(file: Path, signature: Signature) -> Tensors:
    """Tensors for `signature` out of a file.

    `.npy`: the one input. `.npz`: inputs by name. Anything else is JSON: the body of an inference request, an object of
    arrays by input name, or one array for the one input.

    Raises:
        InputError: names the file, the input, what was expected and what came.
    """
    try:
        values = _read(file)
        if isinstance(values, np.ndarray | list | int | float | str):
            if len(signature.inputs) != 1:
                raise ValueError(f"holds one array, but the model takes {', '.join(signature.inputs)}")
            values = {next(iter(signature.inputs)): values}
        if not isinstance(values, dict):
            raise ValueError("expected an array or an object of arrays")
        if values.keys() != signature.inputs.keys() and isinstance(values.get("inputs"), list):
            values = _request(values["inputs"])
        if values.keys() != signature.inputs.keys():
            raise ValueError(f"expected inputs {', '.join(signature.inputs)}, got {', '.join(values) or 'none'}")
        return {name: _convert(spec, values[name]) for name, spec in signature.inputs.items()}
    except ServingError as error:
        raise InputError(f"{file}: {error}") from None
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise InputError(f"{file}: {' '.join((getattr(error, 'strerror', None) or str(error)).split())}") from None


def _read(file: Path) -> Any:
    if file.suffix not in (".npy", ".npz"):
        return jsonio.parse(file.read_bytes())
    with file.open("rb") as stream:
        loaded = np.load(stream, allow_pickle=False)
        if isinstance(loaded, np.ndarray) != (file.suffix == ".npy"):
            raise ValueError(f"is no {file.suffix} file")
        return loaded if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}


@dataclass(frozen=True)
class _Shaped:
    """Values of a request, with the shape that it gives them."""

    shape: tuple[int, ...] | None
    data: Any


def _request(entries: list[Any]) -> dict[str, _Shaped]:
    values = {}
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise ValueError("each of 'inputs' is an object with a 'name'")
        shape = entry.get("shape")
        if shape is not None and not (isinstance(shape, list) and all(type(d) is int and d >= 0 for d in shape)):
            raise ValueError(f"input '{entry['name']}': 'shape' is an array of integers >= 0")
        values[entry["name"]] = _Shaped(None if shape is None else tuple(shape), entry.get("data"))
    return values


def _convert(spec: TensorSpec, value: Any) -> np.ndarray:
    try:
        array = _array(spec, value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"input '{spec.name}' is no {spec.dtype.name} tensor: {error}") from None
    if spec.shape and array.ndim == len(spec.shape) - 1 and spec.shape[0] == -1:
        array = array[np.newaxis]  # one row, given without its batch axis
    return array


def _array(spec: TensorSpec, value: Any) -> np.ndarray:
    if isinstance(value, np.ndarray):
        return _strings(value) if spec.dtype is dtypes.BYTES else _numbers(spec.dtype, value)
    given = value if isinstance(value, _Shaped) else _Shaped(None, value)
    shape = _shape_of(given.data) if given.shape is None else given.shape
    oip.check_shape(spec.name, "", shape)
    data = given.data if isinstance(given.data, list) or given.shape is not None else [given.data]
    half = spec.dtype in (dtypes.FP16, dtypes.BF16)  # which JSON cannot carry to the server, and this command can
    try:
        array = jsonio.to_array(spec.name, dtypes.FP64 if half else spec.dtype, shape, data, may_hold_bools=True)
    except ServingError as error:
        raise ValueError(error.message) from None
    with np.errstate(over="ignore"):
        return array.astype(spec.dtype.numpy) if half else array


def _shape_of(value: Any) -> tuple[int, ...]:
    """The shape of nested lists. Raises: ValueError: rows are of different lengths."""
    if not isinstance(value, list):
        return ()
    shapes = {_shape_of(item) for item in value}
    if len(shapes) > 1:
        raise ValueError("rows are of different lengths")
    return (len(value), *(shapes.pop() if shapes else ()))


def _strings(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "SU":
        raise ValueError(f"its elements are {array.dtype}")
    texts = np.empty(array.size, dtype=object)
    texts[:] = [e if isinstance(e, bytes) else str(e).encode() for e in array.flat]
    return texts.reshape(array.shape)


def _numbers(dtype: dtypes.DType, given: np.ndarray) -> np.ndarray:
    """Raises: ValueError: a cast would change a value (floats may be rounded)."""
    if given.dtype.kind in "SUO":
        raise ValueError(f"its elements are {given.dtype}")
    with np.errstate(all="ignore"):
        array = given.astype(dtype.numpy)
        if not dtype.is_float and not np.array_equal(array, given):
            raise ValueError(f"it cannot hold {given[array != given].flat[0]}")
    return array


def _plain(array: np.ndarray) -> Any:
    if array.dtype == object:
        return [e.decode("utf-8", "replace") for e in array.flat] if array.ndim == 1 else [_plain(a) for a in array]
    return array.astype(np.float32).tolist() if array.dtype == dtypes.BF16.numpy else array.tolist()
