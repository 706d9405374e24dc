"""Requests that work, made from the models that are loaded: for the documentation page and the lines at start."""

import json
import math
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np

from serving.core import dtypes
from serving.core.generate import random_inputs
from serving.core.types import Tensors
from serving.protocols.oip import tensors
from serving.repository.catalog import Catalog
from serving.repository.version import Version

_INLINE_ELEMENTS = 1000  # a longer request is shown in binary form, or not at all


@dataclass(frozen=True)
class Example:
    """JSON bodies that this version answers with 200, by the action that they are for."""

    version: int
    infer: dict[str, Any]
    generate: dict[str, Any]
    predict: dict[str, Any]  # TensorFlow Serving's


class Examples:
    """Those of a catalog that is replaced now and then; made anew only when it was."""

    def __init__(self, catalog: Callable[[], Catalog]) -> None:
        self._catalog = catalog
        self._of: Catalog | None = None
        self._made: dict[str, Example] = {}

    def __call__(self) -> dict[str, Example]:
        catalog = self._catalog()
        if catalog is not self._of:
            self._of, self._made = catalog, infer_examples(catalog)
        return self._made


def infer_examples(catalog: Catalog) -> dict[str, Example]:
    """By model, for each that has a version to ask and a request short enough to read."""
    found = {}
    for name, model in catalog.models.items():
        if model.latest is not None:
            body = infer_body(model.latest)
            if body is not None:
                found[name] = Example(model.latest.number, body, _generate_body(body), _predict_body(body))
    return found


def infer_body(version: Version) -> dict[str, Any] | None:
    """The JSON of a valid request of the least size; None if it would be long or JSON cannot carry it."""
    inputs = _inputs(version)
    if any(a.dtype in (dtypes.FP16.numpy, dtypes.BF16.numpy) for a in inputs.values()):
        return None
    if sum(a.size for a in inputs.values()) > _INLINE_ELEMENTS:
        return None
    return {"inputs": [_json_input(name, array) for name, array in inputs.items()]}


def _generate_body(infer: dict[str, Any]) -> dict[str, Any]:
    """The same tensors as plain values."""
    return {t["name"]: t["data"] if len(t["data"]) != 1 else t["data"][0] for t in infer["inputs"]}


def _predict_body(infer: dict[str, Any]) -> dict[str, Any]:
    """The same tensors in TensorFlow Serving's column form."""
    tensors = {tensor["name"]: _nested(tensor["data"], tensor["shape"]) for tensor in infer["inputs"]}
    return {"inputs": tensors}


def _nested(flat: list[Any], shape: list[int]) -> Any:
    if not shape:
        return flat[0]
    step = math.prod(shape[1:])
    return [_nested(flat[i * step : (i + 1) * step], shape[1:]) for i in range(shape[0])]


def curl(version: Version, base_url: str) -> str:
    """A command that sends a valid request; `base_url` without a slash at its end."""
    url = f"{base_url}/v2/models/{quote(version.model, safe='')}/infer"
    body = infer_body(version)
    if body is not None:
        return f"curl -s {url} -d {shlex.quote(_compact(body))}"
    # Zero bytes are a valid tensor of every dtype; for BYTES they are the lengths of empty elements.
    inputs = _inputs(version)
    sizes = {name: a.size * 4 if a.dtype == object else a.nbytes for name, a in inputs.items()}
    heads = [
        {**tensors.tensor_head(name, a), "parameters": {"binary_data_size": sizes[name]}} for name, a in inputs.items()
    ]
    header = _compact({"inputs": heads, "parameters": {"binary_data_output": True}})
    return (
        f"(printf %s {shlex.quote(header)}; head -c {sum(sizes.values())} /dev/zero) | "
        f"curl -s {url} -H 'Inference-Header-Content-Length: {len(header)}' --data-binary @- -o -"
    )


def _inputs(version: Version) -> Tensors:
    if version.sample is not None:
        return version.sample
    return random_inputs(version.contract.signature, 1, np.random.default_rng(0))


def _json_input(name: str, array: np.ndarray) -> dict[str, Any]:
    flat: list[Any] = array.reshape(-1).tolist()
    if array.dtype == object:
        flat = [element.decode("utf-8", "replace") for element in flat]
    elif array.dtype.kind == "f":
        flat = [_short(v) for v in flat]
    return {**tensors.tensor_head(name, array), "data": flat}


def _short(value: float) -> float | int:
    """Few digits: an example is there to be read."""
    if not math.isfinite(value):  # JSON proper has no word for it
        return 0
    rounded = round(value, 3)
    return int(rounded) if rounded == int(rounded) else rounded


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
