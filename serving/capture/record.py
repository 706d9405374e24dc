"""One request, what came of it, and how both lie on disk. Pure.

A record on disk is a fixed head, a JSON object and the raw bytes of all tensors, in the order in which the object lists
them:

    4 bytes  SCR1
    4 bytes  length of the JSON object    little endian, as the other numbers
    8 bytes  length of the tensors
    4 bytes  CRC-32 of the object and the tensors

So a record is whole or it is seen not to be. Tensors are as in the Open Inference Protocol: row major, little endian,
BYTES with the length before each element.
"""

import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from serving.core import dtypes
from serving.core.errors import ServingError
from serving.core.types import Parameters, Tensors
from serving.protocols import jsonio
from serving.protocols.oip import tensors

_MAGIC = b"SCR1"
_HEAD = struct.Struct("<4sIQI")
HEAD_BYTES = _HEAD.size


class DamagedError(Exception):
    """These bytes are no whole record. `size`: of the whole record, where its head can be believed; 0: it cannot."""

    def __init__(self, size: int = 0) -> None:
        super().__init__("no whole record")
        self.size = size


@dataclass(frozen=True, eq=False)
class Record:
    """
    Attributes:
        at: when it arrived, in seconds since the epoch.
        took_s: from its arrival until its answer was ready to be sent; of that `queue_s` waiting for an instance, and
            `compute_s` in a batch of `batch_rows`.
        version: what the request meant, which TensorFlow Serving's API finds out first; None: the server chose.
        outputs: the names that were asked for; empty: all.
        parameters: as over the Open Inference Protocol, `signature_name`, `priority` and `timeout` among them.
        answered_by: the version that did; 0: none, and `error` has the kind of failure.
    """

    at: float
    took_s: float
    protocol: str
    model: str
    version: int | None
    id: str
    inputs: Tensors
    outputs: tuple[str, ...] = ()
    parameters: Parameters = field(default_factory=dict)
    answered_by: int = 0
    error: str = ""
    answer: Tensors = field(default_factory=dict)
    queue_s: float = 0.0
    compute_s: float = 0.0
    batch_rows: int = 0

    @property
    def rows(self) -> int:
        """The length of the first input's first axis; 1 if it has none."""
        return next((array.shape[0] for array in self.inputs.values() if array.ndim), 1)

    @property
    def lane(self) -> str:
        """Equal for requests that may share a run, as far as can be seen from here."""
        inputs = (f"{name}{list(array.shape[1:])}" for name, array in sorted(self.inputs.items()))
        return " ".join((str(self.parameters.get("signature_name", "")), *inputs, *self.outputs)).strip()

    def nbytes(self) -> int:
        """Roughly, what it keeps in memory."""
        return 1024 + sum(map(_kept_bytes, (*self.inputs.values(), *self.answer.values())))


def _kept_bytes(array: np.ndarray) -> int:
    """Of a view, all that it is a view of."""
    if array.dtype == object:
        return array.nbytes + sum(map(len, array.flat))
    return array.base.nbytes if isinstance(array.base, np.ndarray) else array.nbytes


def encode(record: Record) -> list[bytes | memoryview]:
    """A record's bytes in parts, of which large ones are views of its arrays."""
    payload = [tensors.raw_view(array) for array in (*record.inputs.values(), *record.answer.values())]
    sizes = iter([len(data) for data in payload])
    about = {
        "at": record.at,
        "took_s": record.took_s,
        "protocol": record.protocol,
        "model": record.model,
        "version": record.version,
        "id": record.id,
        "outputs": list(record.outputs),
        "parameters": dict(record.parameters),
        "inputs": _described(record.inputs, sizes),
        "answered_by": record.answered_by,
        "error": record.error,
        "answer": _described(record.answer, sizes),
        "queue_s": record.queue_s,
        "compute_s": record.compute_s,
        "batch_rows": record.batch_rows,
    }
    text = jsonio.dump(about)
    check = zlib.crc32(text)
    for data in payload:
        check = zlib.crc32(data, check)
    head = _HEAD.pack(_MAGIC, len(text), sum(len(data) for data in payload), check)
    return [head + text, *payload]


def _described(arrays: Tensors, sizes: Iterable[int]) -> list[dict[str, Any]]:
    return [
        {**tensors.tensor_head(name, array), "bytes": size}
        for (name, array), size in zip(arrays.items(), sizes, strict=False)
    ]


def size_of(head: bytes, left: int) -> int:
    """The bytes of a whole record whose head is given.

    Args:
        left: bytes that there are, the head among them.

    Raises:
        DamagedError: it is no head, or of more than there is.
    """
    if len(head) < HEAD_BYTES:
        raise DamagedError
    magic, text_size, payload_size, _ = _HEAD.unpack_from(head)
    size: int = HEAD_BYTES + text_size + payload_size
    if magic != _MAGIC or size > left:
        raise DamagedError
    return size


def decode(data: bytes) -> Record:
    """The record that `data` is. Arrays are views of it.

    Raises:
        DamagedError
    """
    size = size_of(data[:HEAD_BYTES], len(data))
    _, text_size, _, check = _HEAD.unpack_from(data)
    view = memoryview(data)[:size]
    if zlib.crc32(view[HEAD_BYTES:]) != check:
        raise DamagedError(size)
    at = HEAD_BYTES + text_size
    try:
        about = jsonio.parse(view[HEAD_BYTES:at])
        inputs, at = _arrays(about.pop("inputs"), view, at)
        answer, at = _arrays(about.pop("answer"), view, at)
        about["outputs"] = tuple(about["outputs"])
        return Record(inputs=inputs, answer=answer, **about)
    except (ServingError, KeyError, TypeError, ValueError, AttributeError):
        raise DamagedError(size) from None


def _arrays(described: Iterable[Mapping[str, Any]], view: memoryview, at: int) -> tuple[dict[str, np.ndarray], int]:
    arrays: dict[str, np.ndarray] = {}
    for each in described:
        end = at + each["bytes"]
        dtype = dtypes.BY_NAME[each["datatype"]]
        arrays[each["name"]] = tensors.from_raw(each["name"], "", dtype, tuple(each["shape"]), view[at:end])
        at = end
    return arrays, at
