"""Rewrites an ONNX graph so that products with constant matrices are of int8: these take a quarter of the bytes.

Weights get a scale for each column. What they are multiplied with gets one for each row, found in each run. That sets
this apart from ONNX Runtime's own dynamic quantization, which has one scale for all rows of a batch: there, what a
client gets depends on whose requests share the run, and so they could not be merged. Pure, but for the graph in place.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

LEAST_OPSET = 11
_LEAST_ELEMENTS = 4096  # of a matrix: with less, finding the scales of rows takes longer than it saves
_LARGEST = 127
_ZERO = 128  # of unsigned bytes, the kind that processors multiply with signed ones at once
_TINY = 1e-30  # instead of a scale of 0
_AXES_ARE_AN_INPUT = 18  # opset from which ReduceMax has it so
_PREFIX = "serving_int8"


def convert(model: "onnx.ModelProto") -> int:
    """Rewrites `model`, and returns how many matrices are int8 now.

    Raises:
        ValueError: its opset is too old.
    """
    opset = next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), 0)
    if opset < LEAST_OPSET:
        raise ValueError(f"its opset is {opset}, and this takes {LEAST_OPSET}: export it again")
    graph = model.graph
    constants = {each.name: each for each in graph.initializer}
    for given in graph.input:  # clients may give another value
        constants.pop(given.name, None)
    uses = Counter(name for node in _all_nodes(graph) for name in node.input)
    uses.update(each.name for each in graph.output)
    done: set[str] = set()
    nodes: list[Any] = []
    for node in graph.node:
        weights = _weights(node, constants)
        if weights is None:
            nodes.append(node)
            continue
        name = node.input[1]
        key = f"{_PREFIX}_{name}" + ("_transposed" if _attributes(node).get("transB") else "")
        if key not in done:
            done.add(key)
            graph.initializer.extend(_quantized(key, weights))
        uses[name] -= 1
        nodes += _product(node, key, f"{_PREFIX}_{node.output[0]}", opset)
    if not done:
        return 0
    graph.initializer.extend(_shared(opset))
    kept = [each for each in graph.initializer if each.name not in constants or uses[each.name]]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)
    return len(done)


def _all_nodes(graph: "onnx.GraphProto") -> Iterator[Any]:
    """With those of the graphs inside, which may use what is outside."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _all_nodes(inner)


def _attributes(node: Any) -> dict[str, Any]:
    return {each.name: helper.get_attribute_value(each) for each in node.attribute}


def _weights(node: Any, constants: dict[str, Any]) -> np.ndarray | None:
    """The matrix, [in, out], that a node multiplies with; None: it does not, or it stays as it is."""
    if node.op_type not in ("MatMul", "Gemm") or node.domain not in ("", "ai.onnx"):
        return None
    tensor = constants.get(node.input[1])
    if tensor is None or tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) != 2:
        return None
    if int(np.prod(tensor.dims)) < _LEAST_ELEMENTS:
        return None
    given = _attributes(node)
    if given.get("transA") or given.get("alpha", 1.0) != 1.0 or given.get("beta", 1.0) != 1.0:
        return None
    array: np.ndarray = numpy_helper.to_array(tensor)
    return array.T if given.get("transB") else array


def _quantized(key: str, weights: np.ndarray) -> Iterator[Any]:
    scale = np.maximum(np.abs(weights).max(axis=0), _TINY) / _LARGEST
    yield numpy_helper.from_array(np.rint(weights / scale).astype(np.int8), key)
    yield numpy_helper.from_array(scale.astype(np.float32), f"{key}_scale")


def _shared(opset: int) -> Iterator[Any]:
    yield numpy_helper.from_array(np.array(_LARGEST, np.float32), f"{_PREFIX}_largest")
    yield numpy_helper.from_array(np.array(_TINY, np.float32), f"{_PREFIX}_tiny")
    yield numpy_helper.from_array(np.array(_ZERO, np.float32), f"{_PREFIX}_offset")
    yield numpy_helper.from_array(np.array(_ZERO, np.uint8), f"{_PREFIX}_zero")
    if opset >= _AXES_ARE_AN_INPUT:
        yield numpy_helper.from_array(np.array([-1], np.int64), f"{_PREFIX}_axes")


def _product(node: Any, key: str, name: str, opset: int) -> Iterator[Any]:
    """`node` in int8; `name` is the beginning of the names of what is between."""

    def step(op: str, inputs: list[str], output: str, **attributes: Any) -> Any:
        return helper.make_node(op, inputs, [output], name=f"{output}_{op}", **attributes)

    rows, is_gemm = node.input[0], node.op_type == "Gemm" and len(node.input) > 2
    yield step("Abs", [rows], f"{name}_abs")
    if opset >= _AXES_ARE_AN_INPUT:
        yield step("ReduceMax", [f"{name}_abs", f"{_PREFIX}_axes"], f"{name}_max", keepdims=1)
    else:
        yield step("ReduceMax", [f"{name}_abs"], f"{name}_max", axes=[-1], keepdims=1)
    yield step("Max", [f"{name}_max", f"{_PREFIX}_tiny"], f"{name}_range")
    yield step("Div", [f"{name}_range", f"{_PREFIX}_largest"], f"{name}_scale")
    yield step("Div", [rows, f"{name}_scale"], f"{name}_steps")
    yield step("Round", [f"{name}_steps"], f"{name}_whole")
    yield step("Add", [f"{name}_whole", f"{_PREFIX}_offset"], f"{name}_shifted")
    yield step("Cast", [f"{name}_shifted"], f"{name}_bytes", to=onnx.TensorProto.UINT8)
    yield step("MatMulInteger", [f"{name}_bytes", key, f"{_PREFIX}_zero"], f"{name}_sums")
    yield step("Cast", [f"{name}_sums"], f"{name}_float", to=onnx.TensorProto.FLOAT)
    yield step("Mul", [f"{name}_float", f"{key}_scale"], f"{name}_columns")
    product = f"{name}_product" if is_gemm else node.output[0]
    yield step("Mul", [f"{name}_columns", f"{name}_scale"], product)
    if is_gemm:
        yield step("Add", [product, node.input[2]], node.output[0])
