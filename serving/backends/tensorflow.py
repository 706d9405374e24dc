"""SavedModels through TensorFlow.

A SavedModel becomes a graph in a session, as in TensorFlow Serving, whichever version wrote it. Each signature is one
prepared call that runs on the caller's thread: several times cheaper than a call of the signature's function, and
tensors go in and come out without a copy where their memory is aligned for TensorFlow (64 bytes).

Two things are TensorFlow's and hold for the whole process: the threads that operators share are made for the first
model, and its first lines on standard error are written before it can be told to be quiet.
"""

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serving.backends.recorded import Recorded, requests
from serving.core import dtypes
from serving.core.errors import LoadError, invalid
from serving.core.spec import ModelSpec
from serving.core.types import DEFAULT_SIGNATURE, Signature, SignatureMethod, Tensors, TensorSpec

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # errors only; read once, at import
# Otherwise its build with oneDNN never gives back what weights took: up to twice their size. Runs take the same time.
os.environ.setdefault("TF_ONEDNN_USE_SYSTEM_ALLOCATOR", "1")
try:
    import tensorflow as tf
    from tensorflow.core.framework import tensor_pb2, types_pb2
    from tensorflow.core.protobuf import config_pb2, meta_graph_pb2, saved_model_pb2
except ImportError as error:
    raise LoadError("TensorFlow is not installed: pip install 'serving[tensorflow]'") from error
try:
    from tensorflow.python.framework.ops import dismantle_graph
except ImportError:  # not public; without it a closed model's graph waits for the garbage collector
    dismantle_graph = None

log = logging.getLogger(__name__)
tf.get_logger().setLevel(logging.ERROR)

_DTYPES = {dtype.tensorflow: dtype for dtype in dtypes.ALL}
_METHODS = {method.value: method for method in SignatureMethod}
_INTERNAL = ("__saved_model_init_op", "__saved_model_train_op")  # how TensorFlow finds what it runs itself
_ON_THE_CALLERS_THREAD = -1

_threads_lock = threading.Lock()
_threads: int | None = None  # of this process, once a model was loaded


def load(artifact: Path, spec: ModelSpec, scratch: Path | None = None) -> "TensorFlowSession":
    """Loads the directory of a SavedModel. May block for seconds; holds the GIL for tens of milliseconds at a time."""
    graph = tf.Graph()
    session = tf.compat.v1.Session(graph=graph, config=_config(artifact, spec.threads or 1))
    try:
        with graph.as_default():
            meta = tf.compat.v1.saved_model.load(session, list(spec.tags), str(artifact))
            return TensorFlowSession(session, meta.signature_def)
    except Exception as error:  # its exceptions share no base class
        session.close()
        if isinstance(error, LoadError):
            raise
        raise LoadError(_why_not(artifact, spec, error)) from error


def recorded(artifact: Path) -> Iterator[Recorded]:
    """Requests that the SavedModel brings along for its warm-up. Raises: LoadError: they cannot be read."""
    return requests(artifact, _array)


def _array(data: bytes) -> np.ndarray:
    """Raises: ValueError: it is no TensorProto."""
    try:
        array: np.ndarray = tf.make_ndarray(tensor_pb2.TensorProto.FromString(data))
    except Exception as error:  # of many kinds
        raise ValueError(f"no tensor: {error}") from None
    return array


def _config(artifact: Path, threads: int) -> "config_pb2.ConfigProto":
    global _threads
    with _threads_lock:
        if _threads is None:
            _threads = threads
        elif threads > _threads:
            log.warning(
                "%s: 'threads' is %d, but SavedModels share the threads of the first one in a process, which are %d",
                artifact,
                threads,
                _threads,
            )
        shared = _threads
    return config_pb2.ConfigProto(
        intra_op_parallelism_threads=shared,
        inter_op_parallelism_threads=_ON_THE_CALLERS_THREAD,
        allow_soft_placement=True,  # a graph that was made on a GPU runs without one
        gpu_options=config_pb2.GPUOptions(allow_growth=True),
    )


def _why_not(artifact: Path, spec: ModelSpec, error: Exception) -> str:
    try:
        graphs = saved_model_pb2.SavedModel.FromString((artifact / "saved_model.pb").read_bytes()).meta_graphs
    except Exception:  # the file system's and protobuf's
        return "TensorFlow cannot load it: saved_model.pb cannot be read as a SavedModel"
    tags = [set(graph.meta_info_def.tags) for graph in graphs]
    if set(spec.tags) not in tags:
        there = " and ".join(_tags(each) for each in tags) or "none"
        return f"the SavedModel has no graph for tags: {_tags(spec.tags)}; it has {there}"
    return f"TensorFlow cannot load it: {_one_line(error)}"


def _tags(tags: Sequence[str] | set[str]) -> str:
    return "[" + ", ".join(sorted(tags)) + "]"


@dataclass(frozen=True)
class _Call:
    """A signature, ready to run: arrays of `inputs` in order -> arrays, or numpy's scalars, of `outputs` in order."""

    run: Callable[..., Sequence[Any]]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class TensorFlowSession:
    """A loaded SavedModel. See `backends.base.Session`.

    An output that the model only passes through may share its input's memory.
    """

    platform = "tensorflow_savedmodel"

    def __init__(
        self, session: "tf.compat.v1.Session", definitions: "Mapping[str, meta_graph_pb2.SignatureDef]"
    ) -> None:
        self._session = session
        self.signatures: Mapping[str, Signature]
        self.signatures, self.notes = read_signatures(definitions)
        self._calls = {name: _prepare(session, signature) for name, signature in self.signatures.items()}

    def run(self, inputs: Tensors, outputs: Sequence[str], signature: str = DEFAULT_SIGNATURE) -> Tensors:
        call = self._calls[signature]
        try:
            results = call.run(*[inputs.get(spec.name, spec.default) for spec in call.inputs])
        except (tf.errors.InvalidArgumentError, tf.errors.OutOfRangeError) as error:
            raise invalid(_one_line(error)) from error
        # All outputs are computed, because every choice of them would be a graph to optimize and to keep.
        arrays = {
            spec.name: array if isinstance(array, np.ndarray) else np.array(array, spec.dtype.numpy)
            for spec, array in zip(call.outputs, results, strict=True)
        }
        return {name: arrays[name] for name in outputs}

    def close(self) -> None:
        graph = self._session.graph
        self._calls = {}
        self._session.close()
        del self._session
        if dismantle_graph is not None:
            dismantle_graph(graph)


def _prepare(session: "tf.compat.v1.Session", signature: Signature) -> _Call:
    inputs, outputs = tuple(signature.inputs.values()), tuple(signature.outputs.values())
    feeds = [spec.graph_name for spec in inputs]
    fetches = [spec.graph_name for spec in outputs]
    for i, fetch in enumerate(fetches):
        if fetch in feeds:  # TensorFlow does not fetch what it is fed
            fetches[i] = tf.identity(session.graph.get_tensor_by_name(fetch)).name
    return _Call(_callable(session, feeds, fetches), inputs, outputs)


def _callable(session: "tf.compat.v1.Session", feeds: list[str], fetches: list[str]) -> Callable[..., Sequence[Any]]:
    """The public way costs five times as much per call and serves if the other one should ever be gone."""
    make = getattr(session, "_make_callable_from_options", None)
    if make is None:
        return session.make_callable(fetches, feed_list=feeds)  # type: ignore[no-any-return]
    return make(config_pb2.CallableOptions(feed=feeds, fetch=fetches))  # type: ignore[no-any-return]


def read_signatures(
    definitions: "Mapping[str, meta_graph_pb2.SignatureDef]",
) -> tuple[dict[str, Signature], dict[str, str]]:
    """All signatures that can be served, and notes on those that cannot; inputs and outputs by name.

    Raises:
        LoadError: there is no signature, or the default one cannot be served.
    """
    signatures: dict[str, Signature] = {}
    problems: dict[str, str] = {}
    for name in sorted(definitions):
        definition = definitions[name]
        if name in _INTERNAL:
            continue
        try:
            signatures[name] = Signature(
                {i: _spec(i, info, definition.defaults) for i, info in sorted(definition.inputs.items())},
                {o: _spec(o, info, {}) for o, info in sorted(definition.outputs.items())},
                _METHODS.get(definition.method_name, SignatureMethod.PREDICT),
            )
        except LoadError as error:
            problems[name] = f"signature '{name}': {error}"
    if not signatures and not problems:
        raise LoadError("the SavedModel has no signatures: save it with `signatures=`, or with Keras's `export`")
    if not signatures or DEFAULT_SIGNATURE in problems:
        raise LoadError(problems.get(DEFAULT_SIGNATURE, "; ".join(problems.values())))
    return signatures, {"left out": "; ".join(problems.values())} if problems else {}


def _spec(name: str, info: Any, defaults: Mapping[str, Any]) -> TensorSpec:
    """Args: info: meta_graph_pb2.TensorInfo."""
    encoding = info.WhichOneof("encoding")
    if encoding != "name":
        raise LoadError(f"tensor '{name}' is a {encoding or 'nothing'}, which no protocol here can carry")
    said = types_pb2.DataType.Name(info.dtype) if info.dtype in types_pb2.DataType.values() else str(info.dtype)
    dtype = _DTYPES.get(said)
    if dtype is None:
        raise LoadError(f"tensor '{name}' is of type {said}, which no protocol here can carry")
    # A scalar has a shape without dimensions; where nothing is said of the shape, it is unknown.
    known = info.HasField("tensor_shape") and not info.tensor_shape.unknown_rank
    return TensorSpec(
        name,
        dtype,
        tuple(dim.size for dim in info.tensor_shape.dim) if known else None,
        optional=name in defaults,
        default=np.asarray(tf.make_ndarray(defaults[name]), dtype.numpy) if name in defaults else None,
        graph_name=info.name,
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(getattr(error, "message", error)).split()) or type(error).__name__
