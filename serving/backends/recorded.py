"""Requests that a SavedModel brings along for its warm-up, as TensorFlow Serving reads them: a TFRecord file of
`tensorflow.serving.PredictionLog`s in `assets.extra`. Blocking; in a loading thread.

Source of the names and numbers: TensorFlow Serving's public `prediction_log.proto`, `predict.proto`, `input.proto`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from serving.backends.protobuf import Span, last_text, parts
from serving.core.errors import LoadError
from serving.core.types import DEFAULT_SIGNATURE, Tensors

FILE = Path("assets.extra", "tf_serving_warmup_requests")
MOST = 1000  # requests of one file, as there

# Fields by number.
_CLASSIFY, _REGRESS, _MULTI, _PREDICT = 2, 3, 4, 6  # of PredictionLog
_REQUEST = 1  # of each of these
_MODEL, _INPUTS = 1, 2  # of PredictRequest; of the others `input` has the second number too
_SIGNATURE_NAME = 3  # of ModelSpec
_TASKS = 1  # of MultiInferenceRequest
_KEY, _VALUE = 1, 2  # of a map's entry
_EXAMPLES, _EXAMPLES_WITH_CONTEXT = 1, 2  # of Input
_LIST, _CONTEXT = 1, 2  # of both

# TFRecord: its length, and a checksum of that; the record, and a checksum of that.
_LENGTH, _CHECKSUM = 8, 4
_MAX_BYTES = 2**31 - 1  # of a protobuf message


@dataclass(frozen=True)
class Recorded:
    """One request. `inputs` by name, or `examples`: BYTES [rows] for the only input that there is."""

    what: str  # for messages
    signature: str
    inputs: Tensors = field(default_factory=dict)
    examples: np.ndarray | None = None


def requests(artifact: Path, array: Callable[[bytes], np.ndarray]) -> Iterator[Recorded]:
    """The requests in their order; none if there is no such file. Other kinds of log are passed over.

    Args:
        artifact: the directory of the SavedModel.
        array: makes one of a serialized TensorProto. Raises ValueError.

    Raises:
        LoadError: the file cannot be read, or has something else in it, or more than `MOST` of them.
    """
    path = artifact / FILE
    if not path.is_file():
        return
    number = 0
    try:
        with path.open("rb") as file:
            while (record := _record(file)) is not None:
                number += 1
                if number > MOST:
                    raise LoadError(f"{FILE}: more than {MOST} requests")
                yield from _logged(record, f"request {number} of {FILE}", array)
    except OSError as error:
        raise LoadError(f"{FILE}: cannot be read: {error.strerror}") from None
    except (ValueError, TypeError) as error:
        raise LoadError(f"{FILE}: request {number}: {error}") from None


def _record(file: BinaryIO) -> bytes | None:
    """The next one; None at the end. Raises: ValueError: it is cut short. Checksums are not looked at."""
    head = file.read(_LENGTH + _CHECKSUM)
    if not head:
        return None
    length = int.from_bytes(head[:_LENGTH], "little")
    if length > _MAX_BYTES:
        raise ValueError("no TFRecord file")
    body = file.read(length + _CHECKSUM)
    if len(head) + len(body) < _LENGTH + length + 2 * _CHECKSUM:
        raise ValueError("the file ends in the middle of a record")
    return body[:length]


def _logged(log: bytes, what: str, array: Callable[[bytes], np.ndarray]) -> Iterator[Recorded]:
    whole = 0, len(log)
    for request in parts(log, whole, _PREDICT, _REQUEST):
        inputs = {}
        for entry in parts(log, request, _INPUTS):
            for value in parts(log, entry, _VALUE):
                inputs[last_text(log, entry, _KEY)] = array(log[slice(*value)])
        yield Recorded(what, _signature(log, request), inputs)
    for kind in (_CLASSIFY, _REGRESS):
        for request in parts(log, whole, kind, _REQUEST):
            yield Recorded(what, _signature(log, request), examples=_examples(log, request))
    for request in parts(log, whole, _MULTI, _REQUEST):
        for task in parts(log, request, _TASKS):
            yield Recorded(what, _signature(log, task), examples=_examples(log, request))


def _signature(log: bytes, span: Span) -> str:
    name = DEFAULT_SIGNATURE
    for model in parts(log, span, _MODEL):
        name = last_text(log, model, _SIGNATURE_NAME) or name
    return name


def _examples(log: bytes, request: Span) -> np.ndarray:
    """Serialized `tf.Example`s: BYTES [rows]. What joins serialized messages, the context and each, joins their
    features."""
    found = [log[slice(*one)] for one in parts(log, request, _INPUTS, _EXAMPLES, _LIST)]
    for listed in parts(log, request, _INPUTS, _EXAMPLES_WITH_CONTEXT):
        context = b"".join(log[slice(*one)] for one in parts(log, listed, _CONTEXT))
        found += [context + log[slice(*one)] for one in parts(log, listed, _LIST)]
    return np.array(found, object)
