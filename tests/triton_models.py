"""The models that the published example clients and tests of the Open Inference Protocol expect, built by script.

A model is a directory as the server reads it: `<name>/model.yaml`, label files beside it, a directory for each version.
Shapes are those on the wire, batch axis included. Models that those clients know but whose feature is not offered
(sequences, several answers to one request) are not here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import yaml
from onnx import helper

from tests import models
from tests.models import DTYPES, Dim, tensor

MAX_BATCH = 8
CLASSES = 1000
VULTURE = 23  # the index of the class that the example picture shows
LABELS = tuple(f"label{i}" for i in range(16))


@dataclass(frozen=True)
class Example:
    """What a model's directory holds: a graph for each version, or the tensors that an identity model passes on."""

    versions: Mapping[int, onnx.ModelProto | Sequence[Mapping[str, object]]]
    spec: Mapping[str, object]
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)  # by output

    def write(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        files = {output: f"labels{i}.txt" for i, output in enumerate(self.labels)}
        for output, name in files.items():
            (directory / name).write_text("".join(f"{label}\n" for label in self.labels[output]))
        labels = {"class_labels": files} if files else {}
        (directory / "model.yaml").write_text(yaml.safe_dump({**self.spec, **labels}))
        for number, made in self.versions.items():
            if isinstance(made, onnx.ModelProto):
                models.save(made, directory / str(number) / "model.onnx")
            else:
                path = directory / str(number) / "identity.yaml"
                path.parent.mkdir()
                path.write_text(yaml.safe_dump({"tensors": [dict(one) for one in made]}))


def write(repo: Path, *names: str) -> Path:
    """Writes these models into a repository, or all of them if none is named. Returns `repo`."""
    for name in names or EXAMPLES:
        EXAMPLES[name].write(repo / name)
    return repo


# Graphs


def add_sub(compute: str, given: str, gives: tuple[str, str], *, swap: bool = False) -> onnx.ModelProto:
    """OUTPUT0 = INPUT0 + INPUT1, OUTPUT1 = INPUT0 - INPUT1 (`swap`: the other way round), `[batch, 16]`.

    `given` is the data type of the inputs, `gives` those of the outputs; sums are made in `compute`.
    """
    first, second = ("Sub", "Add") if swap else ("Add", "Sub")
    nodes = []
    for i in (0, 1):
        step = ("Identity", {}) if given == compute else ("Cast", {"to": DTYPES[compute]})
        nodes.append(helper.make_node(step[0], [f"INPUT{i}"], [f"given{i}"], **step[1]))
    for i, operation in enumerate((first, second)):
        nodes.append(helper.make_node(operation, ["given0", "given1"], [f"made{i}"]))
        nodes.append(helper.make_node("Cast", [f"made{i}"], [f"OUTPUT{i}"], to=DTYPES[gives[i]]))
    return models.model(
        nodes,
        [tensor(f"INPUT{i}", given, (None, 16)) for i in (0, 1)],
        [tensor(f"OUTPUT{i}", gives[i], (None, 16)) for i in (0, 1)],
    )


def zero(count: int, dtype: str, shape: Sequence[Dim]) -> onnx.ModelProto:
    """`count` pairs, OUTPUTi = INPUTi; open axes may have no elements."""
    return models.model(
        [helper.make_node("Identity", [f"INPUT{i}"], [f"OUTPUT{i}"]) for i in range(count)],
        [tensor(f"INPUT{i}", dtype, shape) for i in range(count)],
        [tensor(f"OUTPUT{i}", dtype, shape) for i in range(count)],
    )


def classifier(inputs: str, shape: Sequence[int], outputs: str, classes: int, best: int) -> onnx.ModelProto:
    """A stand-in for a network that names what a picture shows: one score for each class, `best` above all others.

    The score of a class grows with its number and, a little, with the mean of the picture. FP32, no batch axis.
    """
    bias = np.linspace(0, 10, classes, dtype=np.float32)
    bias[best] = 20
    return models.model(
        [
            helper.make_node("ReduceMean", [inputs], ["mean"], keepdims=0),
            helper.make_node("Mul", ["mean", "little"], ["part"]),
            helper.make_node("Add", ["bias", "part"], [outputs]),
        ],
        [tensor(inputs, "FP32", shape)],
        [tensor(outputs, "FP32", (classes,))],
        {"bias": bias, "little": np.array(0.01, np.float32)},
    )


def not_finite() -> onnx.ModelProto:
    """Whatever comes in, OUTPUT0 = NOT_FINITE."""
    return models.model(
        [helper.make_node("Identity", ["values"], ["OUTPUT0"])],
        [tensor("INPUT0", "FP32", (None,))],
        [tensor("OUTPUT0", "FP32", (6,))],
        {"values": NOT_FINITE},
    )


NOT_FINITE = np.array([np.nan, np.inf, -np.inf, 1, 2, 3], np.float32)


def total(optional: Sequence[int]) -> onnx.ModelProto:
    """OUTPUT0 = INPUT0 + INPUT1 + INPUT2, `[n]`; an `optional` one that is missing counts 100 * (its number + 1)."""
    return models.model(
        [
            helper.make_node("Add", ["INPUT0", "INPUT1"], ["two"]),
            helper.make_node("Add", ["two", "INPUT2"], ["OUTPUT0"]),
        ],
        [tensor(f"INPUT{i}", "FP32", (None,)) for i in range(3)],
        [tensor("OUTPUT0", "FP32", (None,))],
        {f"INPUT{i}": np.array([100 * (i + 1)], np.float32) for i in optional},
    )


def writer() -> onnx.ModelProto:
    """What generates text looks like this: BYTES `text_output` = `text_input`, INT32 `n` = 2 * `count`."""
    return models.model(
        [
            helper.make_node("Identity", ["text_input"], ["text_output"]),
            helper.make_node("Add", ["count", "count"], ["n"]),
        ],
        [tensor("text_input", "BYTES", (None, 1)), tensor("count", "INT32", (None, 1))],
        [tensor("text_output", "BYTES", (None, 1)), tensor("n", "INT32", (None, 1))],
    )


# Which models there are


def _identity(shape: Sequence[int], dtype: str = "BYTES") -> list[dict[str, object]]:
    return [{"input": "INPUT0", "output": "OUTPUT0", "datatype": dtype, "shape": list(shape)}]


def _zeros() -> dict[str, Example]:
    """`onnx_zero_<count>_<dtype>`, and `onnx_nobatch_zero_...` without a batch axis."""
    made = {}
    for name, dtype in (("bool", "BOOL"), ("float32", "FP32"), ("float16", "FP16"), ("object", "BYTES")):
        for count in (1, 3):
            rank = 2 if name == "float16" or (name, count) == ("object", 3) else 1
            for start, axes, max_batch in (("onnx", rank + 1, MAX_BATCH), ("onnx_nobatch", rank, 0)):
                graph = zero(count, dtype, (None,) * axes)
                made[f"{start}_zero_{count}_{name}"] = Example({1: graph}, {"max_batch_size": max_batch})
    return made


def _batched(graph: onnx.ModelProto, **more: object) -> Example:
    return Example({1: graph}, {"max_batch_size": MAX_BATCH, **more})


def _unbatched(graph: onnx.ModelProto) -> Example:
    return Example({1: graph}, {"max_batch_size": 0})


EXAMPLES: Mapping[str, Example] = {
    "simple": _batched(add_sub("INT32", "INT32", ("INT32", "INT32"))),
    "simple_int8": _batched(add_sub("INT32", "INT8", ("INT8", "INT8"))),
    "simple_string": _batched(add_sub("INT32", "BYTES", ("BYTES", "BYTES"))),
    "simple_identity": Example({1: _identity((-1, -1))}, {"max_batch_size": MAX_BATCH}),
    "densenet_onnx": Example(
        {1: classifier("data_0", (3, 224, 224), "fc6_1", CLASSES, VULTURE)},
        {"max_batch_size": 0},
        {"fc6_1": ["VULTURE" if i == VULTURE else f"CLASS {i}" for i in range(CLASSES)]},
    ),
    "inception_onnx": _unbatched(
        classifier("input:0", (299, 299, 3), "InceptionV3/Predictions/Softmax:0", CLASSES + 1, VULTURE + 1)
    ),
    "onnx_int32_int32_int32": Example(
        {v: add_sub("INT32", "INT32", ("INT32", "INT32"), swap=v > 1) for v in (1, 2, 3)},
        {"max_batch_size": MAX_BATCH, "versions": "all"},
        {"OUTPUT0": LABELS},
    ),
    "onnx_int32_float32_float32": _batched(add_sub("INT32", "INT32", ("FP32", "FP32"))),
    "onnx_float32_float32_float32": Example(
        {1: add_sub("FP32", "FP32", ("FP32", "FP32"))}, {"max_batch_size": MAX_BATCH}, {"OUTPUT0": LABELS}
    ),
    "onnx_object_int32_int32": _batched(add_sub("INT32", "BYTES", ("INT32", "INT32"))),
    "onnx_int32_object_object": _batched(add_sub("INT32", "INT32", ("BYTES", "BYTES"))),
    **_zeros(),
    "onnx_zero_1_object_1_element": _batched(zero(1, "BYTES", (None, 1))),
    "onnx_scalar": _unbatched(zero(1, "FP32", ())),
    "string_identity": _unbatched(zero(1, "BYTES", (1,))),
    "bytes_identity": Example({1: _identity((1,))}, {"max_batch_size": 0}),
    "identity_fp32": Example({1: zero(1, "FP32", (None, None))}, {"max_batch_size": 64}),
    "custom_identity_int32": Example({1: zero(1, "INT32", (None, None))}, {"max_batch_size": 1024}),
    "nan_inf_output": _unbatched(not_finite()),
    "input_all_required": _unbatched(total(())),
    "input_optional": _unbatched(total((2,))),
    "input_all_optional": _unbatched(total((0, 1, 2))),
    "writer": _batched(writer()),
}
