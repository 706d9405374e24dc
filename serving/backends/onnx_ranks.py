"""Which inputs and outputs of an ONNX file have no shape at all.

ONNX Runtime reports such tensors as it reports scalars. The file tells them apart, and a few lines of protobuf's wire
format are enough to read that, so neither the onnx package nor the weights are needed: what is not a declaration of an
input or output is skipped by its length.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path

# Numbers of fields in onnx.proto.
_MODEL_GRAPH = 7
_GRAPH_INPUTS_AND_OUTPUTS = (11, 12)
_VALUE_NAME = 1
_VALUE_TYPE = 2
_TYPE_TENSOR = 1
_TENSOR_SHAPE = 2

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_FIELDS = 20_000_000  # of a graph, far more than any has nodes and weights


def without_shape(model: Path) -> frozenset[str]:
    """Names of inputs and outputs of the graph for which the file declares no shape. Reads little of the file.

    Raises:
        ValueError: it is no ONNX file.
        OSError: it cannot be read.
    """
    with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        names: set[str] = set()
        for start, end in _parts(data, 0, len(data), (_MODEL_GRAPH,)):
            for value in _parts(data, start, end, _GRAPH_INPUTS_AND_OUTPUTS):
                if not _has_shape(data, *value):
                    names.update(_text(data, *name) for name in _parts(data, *value, (_VALUE_NAME,)))
        return frozenset(names)


def _has_shape(data: mmap.mmap, start: int, end: int) -> bool:
    return any(
        True
        for value_type in _parts(data, start, end, (_VALUE_TYPE,))
        for tensor in _parts(data, *value_type, (_TYPE_TENSOR,))
        for _ in _parts(data, *tensor, (_TENSOR_SHAPE,))
    )


def _text(data: mmap.mmap, start: int, end: int) -> str:
    return data[start:end].decode()


def _parts(data: mmap.mmap, start: int, end: int, wanted: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Where the contents of the fields `wanted` of the message in data[start:end] start and end; all are of bytes."""
    at = start
    for _ in range(_MAX_FIELDS):
        if at == end:
            return
        key, at = _varint(data, at, end)
        number, kind = key >> 3, key & 7
        if kind == _BYTES:
            length, at = _varint(data, at, end)
            if at + length > end:
                raise ValueError(f"{length} bytes at byte {at} do not fit")
            if number in wanted:
                yield at, at + length
            at += length
        elif kind == _VARINT:
            _, at = _varint(data, at, end)
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"no field of protobuf at byte {at}")
        if at > end:
            raise ValueError(f"a number that ends at byte {at} does not fit")
    raise ValueError(f"more than {_MAX_FIELDS} fields")


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError(f"no number at byte {at}")
