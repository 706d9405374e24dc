"""A Triton model repository as its documentation and examples lay one out, built by script: nothing in it is ours.

`write(repo)` makes all of it, or the models that are named:

    simple, simple_int8, simple_string   the first examples: `[16]` and `[16]` -> sum and difference, batches of 8
    simple_identity     backend identity, BYTES `[-1]`; its version's directory is empty
    densenet_onnx       `max_batch_size: 1`, a picture NCHW -> 1000 classes reshaped to `[1000]`, a labels file
    densenet_unbatched  the same network without a batch axis: both sides are reshaped
    digits_savedmodel   a SavedModel in `model.savedmodel/`, labels file
    tuned               versions 1 and 3 of 1, 2 and 3 (y = version * x), in a file of another name; instances, dynamic
                        batching, parameters, warm-up with zeros, random values and a file
    one_of_two          a model with two outputs, of which the config lists one
    completed           a config that leaves out all but its name
    newer               fields of a release that does not exist yet
    python_model, ensemble_model, sequence_model    what this server does not serve
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from tests import models, savedmodels
from tests.models import tensor
from tests.triton_models import CLASSES, VULTURE, add_sub, classifier

NOT_SERVED = ("python_model", "ensemble_model", "sequence_model")
DENSENET_LABELS = ["VULTURE" if i == VULTURE else f"CLASS {i}" for i in range(CLASSES)]


def write(repo: Path, *names: str) -> Path:
    for name in names or MODELS:
        (repo / name).mkdir(parents=True)
        (repo / name / "config.pbtxt").write_text(MODELS[name](repo / name))
    return repo


def _simple(name: str, datatype: str, graph: onnx.ModelProto) -> Callable[[Path], str]:
    def tensors(side: str) -> str:
        one = '  {{\n    name: "{}{}"\n    data_type: TYPE_{}\n    dims: [ 16 ]\n  }}'
        return ",\n".join(one.format(side, i, datatype) for i in (0, 1))

    def make(directory: Path) -> str:
        models.save(graph, directory / "1/model.onnx")
        return f"""name: "{name}"
platform: "onnxruntime_onnx"
max_batch_size: 8
input [
{tensors("INPUT")}
]
output [
{tensors("OUTPUT")}
]
"""

    return make


def _simple_identity(directory: Path) -> str:
    (directory / "1").mkdir()
    return """
name: "simple_identity"
backend: "identity"
max_batch_size: 8

input [
  {
    name: "INPUT0"
    data_type: TYPE_STRING
    dims: [ -1 ]
  }
]
output [
  {
    name: "OUTPUT0"
    data_type: TYPE_STRING
    dims: [ -1 ]
  }
]
"""


def _densenet(directory: Path) -> str:
    models.save(_network(), directory / "1/model.onnx")
    (directory / "densenet_labels.txt").write_text("".join(f"{label}\n" for label in DENSENET_LABELS))
    return """name: "densenet_onnx"
platform: "onnxruntime_onnx"
max_batch_size : 1
input [
  {
    name: "data_0"
    data_type: TYPE_FP32
    format: FORMAT_NCHW
    dims: [ 3, 224, 224 ]
  }
]
output [
  {
    name: "fc6_1"
    data_type: TYPE_FP32
    dims: [ 1000 ]
    reshape { shape: [ 1000, 1, 1 ] }
    label_filename: "densenet_labels.txt"
  }
]
"""


def _densenet_unbatched(directory: Path) -> str:
    models.save(_network(), directory / "1/model.onnx")
    return """name: "densenet_unbatched"
platform: "onnxruntime_onnx"
max_batch_size: 0
input { name: "data_0" data_type: TYPE_FP32 dims: [ 3, 224, 224 ] reshape { shape: [ 1, 3, 224, 224 ] } }
output { name: "fc6_1" data_type: TYPE_FP32 dims: [ 1000 ] reshape { shape: [ 1, 1000, 1, 1 ] } }
"""


def _network() -> onnx.ModelProto:
    """`classifier` as networks come: one picture `[1, 3, 224, 224]` -> scores `[1, 1000, 1, 1]`."""
    inner = classifier("data_0", (1, 3, 224, 224), "scores", CLASSES, VULTURE)
    nodes = [*inner.graph.node, helper.make_node("Reshape", ["scores", "shape"], ["fc6_1"])]
    shape = np.array([1, CLASSES, 1, 1], np.int64)
    constants = {each.name: onnx.numpy_helper.to_array(each) for each in inner.graph.initializer} | {"shape": shape}
    return models.model(
        nodes,
        [tensor("data_0", "FP32", (1, 3, 224, 224))],
        [tensor("fc6_1", "FP32", (1, CLASSES, 1, 1))],
        constants,
    )


def _digits_savedmodel(directory: Path) -> str:
    savedmodels.write("mlp", directory / "1/model.savedmodel")
    (directory / "labels.txt").write_text("".join(f"digit {i}\n" for i in range(10)))
    return """name: "digits_savedmodel"
platform: "tensorflow_savedmodel"
max_batch_size: 128
input [ { name: "x" data_type: TYPE_FP32 dims: [ 784 ] } ]
output [ { name: "output_0" data_type: TYPE_FP32 dims: [ 10 ] label_filename: "labels.txt" } ]
instance_group [ { kind: KIND_CPU } ]
"""


def _tuned(directory: Path) -> str:
    for version in (1, 2, 3):
        models.save(models.scale(version), directory / str(version) / "net.onnx")
        models.save(models.scale(100 * version), directory / str(version) / "model.onnx")  # not the one that is meant
    (directory / "warmup").mkdir()
    (directory / "warmup/row.bin").write_bytes(np.ones(4, np.float32).tobytes())
    return """
# Everything that can be said of a stateless model.
name: "tuned"
backend: "onnxruntime"
default_model_filename: "net.onnx"
max_batch_size: 16
input [ { name: "x", data_type: TYPE_FP32, dims: [ 4 ] } ]
output [ { name: "y", data_type: TYPE_FP32, dims: [ 4 ] } ]
version_policy: { specific { versions: [ 1, 3 ] } }
instance_group [
  {
    count: 2
    kind: KIND_CPU
  }
]
dynamic_batching {
  preferred_batch_size: [ 4, 8 ]
  max_queue_delay_microseconds: 100
  default_queue_policy { default_timeout_microseconds: 10000000 max_queue_size: 512 }
}
parameters { key: "intra_op_thread_count" value: { string_value: "2" } }
parameters { key: "execution_mode" value: { string_value: "0" } }
model_warmup [
  {
    name: "zeros and random values"
    batch_size: 2
    inputs { key: "x" value: { data_type: TYPE_FP32 dims: [ 4 ] random_data: true } }
  },
  {
    name: "a row of a file"
    batch_size: 4
    count: 3
    inputs { key: "x" value: { data_type: TYPE_FP32 dims: [ 4 ] input_data_file: "row.bin" } }
  },
  {
    name: "zeros"
    batch_size: 1
    inputs { key: "x" value: { data_type: TYPE_FP32 dims: [ 4 ] zero_data: true } }
  }
]
"""


def _one_of_two(directory: Path) -> str:
    models.save(add_sub("INT32", "INT32", ("INT32", "INT32")), directory / "1/model.onnx")
    return """platform: "onnxruntime_onnx"
max_batch_size: 8
input [
  { name: "INPUT0" data_type: TYPE_INT32 dims: [ 16 ] },
  { name: "INPUT1" data_type: TYPE_INT32 dims: [ 16 ] }
]
output [ { name: "OUTPUT1" data_type: TYPE_INT32 dims: [ 16 ] } ]
"""


def _completed(directory: Path) -> str:
    models.save(models.scale(5), directory / "1/model.onnx")
    return 'name: "completed"\n'


def _newer(directory: Path) -> str:
    models.save(models.scale(6), directory / "1/model.onnx")
    return """name: "newer"
platform: "onnxruntime_onnx"
max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 4 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 4 ] } ]
quantum_group [ { count: 2 kind: KIND_QUBIT } ]
response_cache { enable: true }
"""


def _python_model(directory: Path) -> str:
    (directory / "1").mkdir()
    (directory / "1/model.py").write_text("class TritonPythonModel: ...\n")
    return """name: "python_model"
backend: "python"
input [ { name: "x" data_type: TYPE_FP32 dims: [ 4 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 4 ] } ]
"""


def _ensemble_model(directory: Path) -> str:
    (directory / "1").mkdir()
    return """name: "ensemble_model"
platform: "ensemble"
max_batch_size: 1
input [ { name: "IMAGE" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "CLASSIFICATION" data_type: TYPE_FP32 dims: [ 1000 ] } ]
ensemble_scheduling {
  step [
    {
      model_name: "densenet_onnx"
      model_version: -1
      input_map { key: "data_0" value: "IMAGE" }
      output_map { key: "fc6_1" value: "CLASSIFICATION" }
    }
  ]
}
"""


def _sequence_model(directory: Path) -> str:
    models.save(models.scale(1), directory / "1/model.onnx")
    return """name: "sequence_model"
platform: "onnxruntime_onnx"
max_batch_size: 8
sequence_batching {
  max_sequence_idle_microseconds: 5000000
  control_input [
    { name: "START" control [ { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } ] }
  ]
}
input [ { name: "x" data_type: TYPE_FP32 dims: [ 4 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 4 ] } ]
"""


MODELS: Mapping[str, Callable[[Path], str]] = {
    "simple": _simple("simple", "INT32", add_sub("INT32", "INT32", ("INT32", "INT32"))),
    "simple_int8": _simple("simple_int8", "INT8", add_sub("INT32", "INT8", ("INT8", "INT8"))),
    "simple_string": _simple("simple_string", "STRING", add_sub("INT32", "BYTES", ("BYTES", "BYTES"))),
    "simple_identity": _simple_identity,
    "densenet_onnx": _densenet,
    "densenet_unbatched": _densenet_unbatched,
    "digits_savedmodel": _digits_savedmodel,
    "tuned": _tuned,
    "one_of_two": _one_of_two,
    "completed": _completed,
    "newer": _newer,
    "python_model": _python_model,
    "ensemble_model": _ensemble_model,
    "sequence_model": _sequence_model,
}
