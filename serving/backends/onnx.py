"""ONNX models through ONNX Runtime.

Threads and spinning are set on purpose: by default ONNX Runtime takes every core and spins on it, which costs more than
it gives behind a batcher. An execution provider that was asked for and does not come up is an error; nothing falls back
in silence.
"""

import ctypes
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import ml_dtypes
import numpy as np

from serving.backends import devices, onnx_ranks, optimized
from serving.backends.devices import Run
from serving.backends.onnx_graphs import GraphRuns
from serving.core import dtypes
from serving.core.errors import LoadError, invalid
from serving.core.spec import ModelSpec
from serving.core.types import DEFAULT_SIGNATURE, Signature, Tensors, TensorSpec

# Since 1.29 it reports to its maker from a thread of its own, unless told not to before the import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
try:
    import onnxruntime as ort
except ImportError as error:
    raise LoadError(
        "ONNX Runtime is not installed: pip install 'serving[cpu]' (or 'serving[gpu]' for NVIDIA GPUs)"
    ) from error

_CPU = "CPUExecutionProvider"
_FATAL_ONLY = 4  # ONNX Runtime's own lines would only repeat the exception
_BFLOAT16 = 16  # onnx.TensorProto.BFLOAT16


def load(artifact: Path, spec: ModelSpec, scratch: Path | None = None) -> "OnnxSession":
    """Loads one `.onnx` file. May block for seconds; holds the GIL for about a millisecond at a time."""
    refuse_two_runtimes()
    numbers = devices.chosen(spec)
    if devices.needs_gpu(spec):
        ort.preload_dlls()
    missing = [p for p in spec.providers if p not in ort.get_available_providers()]
    if missing:
        raise LoadError(
            f"execution provider {', '.join(missing)} is not in this ONNX Runtime {ort.__version__}; "
            f"available: {', '.join(ort.get_available_providers())}"
        )
    return OnnxSession([_session(artifact, spec, number) for number in numbers], artifact, spec, numbers)


def _session(artifact: Path, spec: ModelSpec, device: int) -> "ort.InferenceSession":
    session = _cached(artifact, spec)
    if session is None:
        try:
            session = ort.InferenceSession(artifact, _options(spec), providers=devices.providers(spec, device))
        except Exception as error:  # its exceptions share no base class
            raise LoadError(f"ONNX Runtime cannot load {artifact.name}: {_first_line(error)}") from error
    session.disable_fallback()
    absent = [p for p in spec.providers if p not in session.get_providers()]
    if absent:
        raise LoadError(
            f"execution provider {', '.join(absent)} did not start; ONNX Runtime would have used "
            f"{', '.join(session.get_providers())}"
        )
    return session


def _options(spec: ModelSpec) -> "ort.SessionOptions":
    options = ort.SessionOptions()
    options.intra_op_num_threads = spec.threads or 1
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


def _cached(artifact: Path, spec: ModelSpec) -> "ort.InferenceSession | None":
    """A session of the graph that an earlier load has optimized; None: there is none."""
    if not spec.cache_optimized or spec.accelerate or spec.providers != (_CPU,):
        return None

    def write(path: Path) -> None:
        options = _options(spec)
        # What comes after this level depends on the processor.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(path)
        ort.InferenceSession(artifact, options, providers=[_CPU])

    path = optimized.find_or_make(artifact, f"onnxruntime {ort.__version__} {_CPU} extended", write)
    if path is None:
        return None
    try:
        return ort.InferenceSession(path, _options(spec), providers=[_CPU])
    except Exception:  # the artifact itself has to do
        optimized.drop(path)
        return None


def refuse_two_runtimes() -> None:
    """onnxruntime and onnxruntime-gpu install into one directory: with both, the one installed last wins by chance.

    Raises:
        LoadError: both are installed.
    """
    try:
        found = [f"{name} {distribution(name).version}" for name in ("onnxruntime", "onnxruntime-gpu")]
    except PackageNotFoundError:
        return
    raise LoadError(
        f"{' and '.join(found)} are both installed and overwrite each other: "
        "uninstall both, then install one of serving[cpu] and serving[gpu]"
    )


class OnnxSession:
    """A loaded graph. See `backends.base.Session`."""

    platform = "onnxruntime_onnx"

    def __init__(
        self, sessions: "Sequence[ort.InferenceSession]", artifact: Path, spec: ModelSpec, numbers: Sequence[int]
    ) -> None:
        """`sessions` are of the same graph, one for each of the devices `numbers`."""
        session = sessions[0]
        without_shape = _without_shape(artifact, session)
        inputs = {node.name: _spec(node, without_shape) for node in session.get_inputs()}
        for node in session.get_overridable_initializers():
            if node.type in dtypes.BY_ONNX:  # one of another type keeps its value
                inputs[node.name] = replace(_spec(node, without_shape), optional=True)
        outputs = {node.name: _spec(node, without_shape) for node in session.get_outputs()}
        signature = Signature(inputs, outputs)
        self.signatures: Mapping[str, Signature] = {DEFAULT_SIGNATURE: signature}
        self.notes: Mapping[str, str] = {}
        specs = (*signature.inputs.values(), *signature.outputs.values())
        self._has_bytes = any(s.dtype is dtypes.BYTES for s in specs)
        self._has_bf16 = any(s.dtype is dtypes.BF16 for s in specs)
        if self._has_bf16 and any(s.dtype is dtypes.BYTES for s in signature.inputs.values()):
            raise LoadError(
                "it takes BYTES and has BF16 tensors, which ONNX Runtime's Python interface cannot pass in one run"
            )
        if spec.cuda_graphs and (self._has_bytes or self._has_bf16):
            raise LoadError("it has BYTES or BF16 tensors, which 'cuda_graphs' cannot pass")
        self._graphs = [
            GraphRuns(ort, each, spec.allowed_batch_sizes, number=number)
            for each, number in zip(sessions, numbers, strict=True)
            if spec.cuda_graphs
        ]
        bind = self._has_bf16
        plain: list[Run] = [partial(_run_bound, each) if bind else each.run for each in sessions]
        self._run = devices.spread(self._graphs or plain, spec.instances or 1)

    def run(self, inputs: Tensors, outputs: Sequence[str], signature: str = DEFAULT_SIGNATURE) -> Tensors:
        if self._has_bytes:
            inputs = {name: _to_text(name, a) if a.dtype == object else a for name, a in inputs.items()}
        results = self._run(outputs, inputs)
        if self._has_bytes:
            results = [_to_bytes(a) if a.dtype == object else a for a in results]
        return dict(zip(outputs, results, strict=True))

    def close(self) -> None:
        for graphs in self._graphs:
            graphs.close()
        del self._run, self._graphs


def _run_bound(session: "ort.InferenceSession", outputs: Sequence[str], inputs: Tensors) -> list[np.ndarray]:
    """numpy has no bfloat16 of its own, so such tensors travel as OrtValues over their 16-bit patterns."""
    binding = session.io_binding()
    for name, array in inputs.items():
        if array.dtype == ml_dtypes.bfloat16:
            bits = np.asarray(array, order="C").view(np.uint16)
            value = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, _BFLOAT16)
        else:
            value = ort.OrtValue.ortvalue_from_numpy(np.asarray(array, order="C"))
        binding.bind_ortvalue_input(name, value)
    for name in outputs:
        binding.bind_output(name, "cpu")
    session.run_with_iobinding(binding)
    return [_bf16_array(v) if v.element_type() == _BFLOAT16 else v.numpy() for v in binding.get_outputs()]


def _bf16_array(value: "ort.OrtValue") -> np.ndarray:
    data = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(data, ml_dtypes.bfloat16).reshape(value.shape())


def _spec(node: "ort.NodeArg", without_shape: frozenset[str]) -> TensorSpec:
    dtype = dtypes.BY_ONNX.get(node.type)
    if dtype is None:
        raise LoadError(f"tensor '{node.name}' is of type {node.type}, which no protocol here can carry")
    # A dimension is a number, a name, or None if the graph says nothing about it.
    shape = tuple(d if isinstance(d, int) else -1 for d in node.shape)
    return TensorSpec(node.name, dtype, None if node.name in without_shape else shape, graph_name=node.name)


def _without_shape(artifact: Path, session: "ort.InferenceSession") -> frozenset[str]:
    """ONNX Runtime gives no dimensions for scalars, and for tensors whose number of dimensions is open."""
    nodes = (*session.get_inputs(), *session.get_outputs(), *session.get_overridable_initializers())
    bare = {node.name for node in nodes if not node.shape}
    return frozenset(bare & onnx_ranks.without_shape(artifact)) if bare else frozenset()


def _to_text(name: str, array: np.ndarray) -> np.ndarray:
    """bytes -> str. ONNX Runtime would turn bytes into the text of their Python literal, so this is not left to it."""
    text = np.empty(array.shape, dtype=object)
    for i, element in enumerate(array.flat):
        try:
            text.flat[i] = element.decode()
        except UnicodeDecodeError as error:
            raise invalid(
                f"input '{name}' element {i} is not UTF-8 ({error.reason} at byte {error.start}), "
                "and ONNX strings can hold nothing else"
            ) from None
    return text


def _to_bytes(array: np.ndarray) -> np.ndarray:
    data = np.empty(array.shape, dtype=object)
    for i, element in enumerate(array.flat):
        data.flat[i] = element.encode()
    return data


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
