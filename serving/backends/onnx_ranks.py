"""Which inputs and outputs of an ONNX file have no shape at all.

ONNX Runtime reports such tensors as it reports scalars. The file tells them apart, and neither the onnx package nor the
weights are needed to read that: what is not a declaration of an input or output is skipped by its length.
"""

from pathlib import Path

from serving.backends import protobuf
from serving.backends.protobuf import Bytes, Span

# Numbers of fields in onnx.proto.
_MODEL_GRAPH = 7
_GRAPH_INPUT, _GRAPH_OUTPUT = 11, 12
_VALUE_NAME = 1
_VALUE_TYPE = 2
_TYPE_TENSOR = 1
_TENSOR_SHAPE = 2


def without_shape(model: Path) -> frozenset[str]:
    """Names of inputs and outputs of the graph for which the file declares no shape. Reads little of the file.

    Raises:
        ValueError: it is no ONNX file.
        OSError: it cannot be read.
    """
    with protobuf.opened(model) as data:
        names: set[str] = set()
        for graph in protobuf.parts(data, (0, len(data)), _MODEL_GRAPH):
            for number, *value in protobuf.fields(data, *graph):
                if number in (_GRAPH_INPUT, _GRAPH_OUTPUT) and not _has_shape(data, (value[0], value[1])):
                    names.add(protobuf.last_text(data, (value[0], value[1]), _VALUE_NAME))
        return frozenset(names)


def _has_shape(data: Bytes, value: Span) -> bool:
    return any(True for _ in protobuf.parts(data, value, _VALUE_TYPE, _TYPE_TENSOR, _TENSOR_SHAPE))
