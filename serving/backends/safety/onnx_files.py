"""What an ONNX model would do besides computing: files that it names, and operators that would need a library.

Read without ONNX Runtime, which looks at paths in its own way, and differently from version to version. Looked at are
all tensors, with those of graphs inside of nodes, functions, sparse tensors and what is for training alone. Weights are
skipped.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from serving.backends import protobuf
from serving.backends.protobuf import Bytes, Span, fields, last_text, parts, text

# Those whose operators ONNX Runtime has itself. Nothing here ever registers a library with others.
_KNOWN = frozenset(
    (
        "",
        "ai.onnx",
        "ai.onnx.ml",
        "ai.onnx.preview.training",
        "ai.onnx.training",
        "com.microsoft",
        "com.microsoft.dml",
        "com.microsoft.experimental",
        "com.microsoft.nchwc",
        "com.ms.internal.nhwc",
    )
)
# Operators that bring a program of a device's maker, and may name a file of it.
_PROGRAMS = frozenset(("EPContext",))

# Numbers of fields in onnx.proto.
_MODEL_GRAPH, _MODEL_TRAINING, _MODEL_FUNCTIONS = 7, 20, 25
_TRAINING_GRAPHS = (1, 2)
_GRAPH_NODES, _GRAPH_TENSORS, _GRAPH_SPARSE = 1, 5, 15
_FUNCTION_NODES, _FUNCTION_DOMAIN, _FUNCTION_DEFAULTS = 7, 10, 11
_NODE_NAME, _NODE_OP, _NODE_ATTRIBUTES, _NODE_DOMAIN = 3, 4, 5, 7
_ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS, _ATTRIBUTE_SPARSE = (5, 10), (6, 11), (22, 23)
_SPARSE_TENSORS = (1, 2)
_TENSOR_NAME, _TENSOR_EXTERNAL = 8, 13
_KEY, _VALUE = 1, 2
_MAX_DEPTH = 100  # of graphs within graphs; protobuf's own limit
_IN_MEMORY = "_ORT_MEM_ADDR_"  # how ONNX Runtime marks an address in memory, which no file has to name


def problems(artifact: Path) -> list[str]:
    """What keeps an ONNX file from being mere data, a sentence each; none: nothing is known.

    Raises:
        ValueError: it is no ONNX file.
        OSError: it cannot be read.
    """
    with protobuf.opened(artifact) as data:
        return list(dict.fromkeys(_Model(data, artifact).problems()))


class _Model:
    def __init__(self, data: Bytes, artifact: Path) -> None:
        self._data = data
        self._directory = artifact.parent
        # A link to the model leads to where its other files are, too.
        self._roots = {self._directory.resolve(), artifact.resolve().parent}
        self._whole = (0, len(data))
        self._domains = _KNOWN | {
            last_text(data, function, _FUNCTION_DOMAIN) for function in parts(data, self._whole, _MODEL_FUNCTIONS)
        }

    def problems(self) -> Iterator[str]:
        data = self._data
        for number, start, end in fields(data, *self._whole):
            if number == _MODEL_GRAPH:
                yield from self._graph((start, end), 0)
            elif number == _MODEL_FUNCTIONS:
                for kind, *span in fields(data, start, end):
                    if kind == _FUNCTION_NODES:
                        yield from self._node((span[0], span[1]), 0)
                    elif kind == _FUNCTION_DEFAULTS:
                        yield from self._attribute((span[0], span[1]), 0)
            elif number == _MODEL_TRAINING:
                for kind, *span in fields(data, start, end):
                    if kind in _TRAINING_GRAPHS:
                        yield from self._graph((span[0], span[1]), 0)

    def _graph(self, graph: Span, depth: int) -> Iterator[str]:
        if depth > _MAX_DEPTH:
            raise ValueError("graphs are nested too deeply")
        for number, start, end in fields(self._data, *graph):
            if number == _GRAPH_NODES:
                yield from self._node((start, end), depth)
            elif number == _GRAPH_TENSORS:
                yield from self._tensor((start, end))
            elif number == _GRAPH_SPARSE:
                yield from self._sparse((start, end))

    def _node(self, node: Span, depth: int) -> Iterator[str]:
        name = op = domain = ""
        for number, start, end in fields(self._data, *node):
            if number == _NODE_ATTRIBUTES:
                yield from self._attribute((start, end), depth)
            elif number == _NODE_NAME:
                name = text(self._data, start, end)
            elif number == _NODE_OP:
                op = text(self._data, start, end)
            elif number == _NODE_DOMAIN:
                domain = text(self._data, start, end)
        if domain not in self._domains:
            what = f"is of the domain '{domain}', for which ONNX Runtime would need a library"
            yield f"operator {op} (node '{name}') {what}"
        elif op in _PROGRAMS:
            yield f"operator {op} (node '{name}') runs a program that is hidden in a value or a file"

    def _attribute(self, attribute: Span, depth: int) -> Iterator[str]:
        for number, start, end in fields(self._data, *attribute):
            if number in _ATTRIBUTE_TENSORS:
                yield from self._tensor((start, end))
            elif number in _ATTRIBUTE_GRAPHS:
                yield from self._graph((start, end), depth + 1)
            elif number in _ATTRIBUTE_SPARSE:
                yield from self._sparse((start, end))

    def _sparse(self, sparse: Span) -> Iterator[str]:
        for number, start, end in fields(self._data, *sparse):
            if number in _SPARSE_TENSORS:
                yield from self._tensor((start, end))

    def _tensor(self, tensor: Span) -> Iterator[str]:
        for entry in parts(self._data, tensor, _TENSOR_EXTERNAL):
            if last_text(self._data, entry, _KEY) == "location":
                file = last_text(self._data, entry, _VALUE)
                if not self._inside(file):
                    name = last_text(self._data, tensor, _TENSOR_NAME)
                    yield f"the values of tensor '{name}' are in '{file}', outside of the model's directory"

    def _inside(self, file: str) -> bool:
        """Also after every link in the path has been followed."""
        path = PurePosixPath(file)
        if not file or path.is_absolute() or PureWindowsPath(file).drive or ".." in path.parts or _IN_MEMORY in file:
            return False
        try:
            target = (self._directory / path).resolve()
        except (OSError, RuntimeError, ValueError):  # a link that loops, a NUL in the name
            return False
        return any(target.is_relative_to(root) for root in self._roots)
