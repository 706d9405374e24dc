"""`serving predict` and `serving models`: questions to a running server."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from serving.cli.describe import fail, tensors
from serving.client import Client, ClientError, connect
from serving.core import dtypes
from serving.core.errors import ServingError
from serving.core.generate import random_inputs
from serving.core.types import Signature, Tensors, TensorSpec
from serving.protocols import jsonio


class InputError(ValueError):
    """The input file does not suit the model; the message is one line."""


def predict(url: str, model: str, version: str, file: Path | None, random: bool, rows: int) -> int:
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


def models(url: str) -> int:
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
    except (OSError, ValueError, ServingError) as error:
        raise InputError(f"{file}: {getattr(error, 'strerror', None) or error}") from None
    if isinstance(values, dict) and isinstance(values.get("inputs"), list):
        values = {e["name"]: _shaped(e) for e in values["inputs"] if isinstance(e, dict) and "name" in e}
    if not isinstance(values, dict):
        if len(signature.inputs) != 1:
            raise InputError(f"{file}: holds one array, but the model takes {', '.join(signature.inputs)}")
        values = {next(iter(signature.inputs)): values}
    unknown, missing = values.keys() - signature.inputs.keys(), signature.inputs.keys() - values.keys()
    if unknown or missing:
        raise InputError(
            f"{file}: expected inputs {', '.join(signature.inputs)}, got {', '.join(map(str, values)) or 'none'}"
        )
    return {name: _convert(file, spec, values[name]) for name, spec in signature.inputs.items()}


def _read(file: Path) -> Any:
    if file.suffix == ".npy":
        return np.load(file, allow_pickle=False)
    if file.suffix == ".npz":
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    return jsonio.parse(file.read_bytes())


def _shaped(entry: dict[str, Any]) -> Any:
    array = np.array(entry.get("data"), dtype=object)
    return array.reshape(entry["shape"]) if "shape" in entry else array


def _convert(file: Path, spec: TensorSpec, value: Any) -> np.ndarray:
    try:
        array = _strings(value) if spec.dtype is dtypes.BYTES else _numbers(spec.dtype, value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{file}: input '{spec.name}' is no {spec.dtype.name} tensor: {error}") from None
    if array.ndim == len(spec.shape) - 1 and spec.shape[0] == -1:
        array = array[np.newaxis]  # one row, given without its batch axis
    return array


def _strings(value: Any) -> np.ndarray:
    array = np.asarray(value, dtype=object)
    texts = np.empty(array.size, dtype=object)
    texts[:] = [e if isinstance(e, bytes) else str(e).encode() for e in array.flat]
    return texts.reshape(array.shape)


def _numbers(dtype: dtypes.DType, value: Any) -> np.ndarray:
    """Raises: ValueError: a cast would change a value (floats may be rounded)."""
    given = np.asarray(value)
    if given.dtype == object:  # an array that kept Python's own numbers
        given = np.array(given.tolist())
    with np.errstate(all="ignore"):
        array = given.astype(dtype.numpy)
        if not dtype.is_float and not np.array_equal(array, given):
            wrong = given[array != given].flat[0]
            raise ValueError(f"it cannot hold {wrong}")
    return array


def _plain(array: np.ndarray) -> Any:
    if array.dtype == object:
        return [e.decode("utf-8", "replace") for e in array.flat] if array.ndim == 1 else [_plain(a) for a in array]
    return array.astype(np.float32).tolist() if array.dtype == dtypes.BF16.numpy else array.tolist()
