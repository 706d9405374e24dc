"""Runs of an ONNX model whose buffers stay where they are, as CUDA graphs need it: one graph for each batch size.

A graph replays what was captured, with the addresses of then, and belongs to the thread that captured it. So each
session has one thread, which does all of its runs. Other batch sizes run without a graph. Close it when it has ended.
"""

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving.core.types import Tensors

_GRAPH_ID = "gpu_graph_id"
_NO_GRAPH = "-1"


@dataclass(frozen=True)
class _Buffers:
    """What one graph reads and writes."""

    inputs: dict[str, Any]  # OrtValues on the device
    outputs: list[Any]
    binding: Any
    options: Any


class GraphRuns:
    """
    Args:
        ort: the onnxruntime module.
        session: of ONNX Runtime, with graphs enabled.
        rows: the batch sizes that get a graph.
        device: what the session's provider calls it; with "cpu" all is the same but that nothing is captured.
    """

    def __init__(self, ort: Any, session: Any, rows: Collection[int], device: str = "cuda", number: int = 0) -> None:
        self._ort = ort
        self._session = session
        self._rows = frozenset(rows)
        self._place = (device, number)
        self._buffers: dict[object, _Buffers] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="graphs")

    def __call__(self, outputs: Sequence[str], inputs: Tensors) -> list[np.ndarray]:
        return self._thread.submit(self._run, tuple(outputs), inputs).result()

    def close(self) -> None:
        self._thread.shutdown()
        self._buffers.clear()

    def _run(self, outputs: tuple[str, ...], inputs: Tensors) -> list[np.ndarray]:
        if not all(array.ndim and array.shape[0] in self._rows for array in inputs.values()):
            return self._plain(outputs, inputs)
        key = (outputs, *sorted((name, array.shape) for name, array in inputs.items()))
        buffers = self._buffers.get(key)
        if buffers is None:
            answers = self._plain(outputs, inputs)  # tells the shapes of outputs, and takes the memory that a run needs
            self._buffers[key] = self._allocated(outputs, inputs, answers)
            return answers
        for name, value in buffers.inputs.items():
            value.update_inplace(np.ascontiguousarray(inputs[name]))
        self._session.run_with_iobinding(buffers.binding, buffers.options)
        return [_kept(value.numpy()) for value in buffers.outputs]

    def _plain(self, outputs: tuple[str, ...], inputs: Tensors) -> list[np.ndarray]:
        answers: list[np.ndarray] = self._session.run(outputs, inputs, self._options(_NO_GRAPH))
        return answers

    def _allocated(self, outputs: tuple[str, ...], inputs: Tensors, answers: Sequence[np.ndarray]) -> _Buffers:
        binding = self._session.io_binding()
        given = {name: self._value(array) for name, array in inputs.items()}
        gives = [self._value(array) for array in answers]
        for name, value in given.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in zip(outputs, gives, strict=True):
            binding.bind_ortvalue_output(name, value)
        return _Buffers(given, gives, binding, self._options(str(len(self._buffers) + 1)))

    def _value(self, array: np.ndarray) -> Any:
        return self._ort.OrtValue.ortvalue_from_shape_and_type(array.shape, array.dtype.type, *self._place)

    def _options(self, graph: str) -> Any:
        options = self._ort.RunOptions()
        options.add_run_config_entry(_GRAPH_ID, graph)
        return options


def _kept(array: np.ndarray) -> np.ndarray:
    """Answers outlive the run, and the buffer is written to by the next one."""
    return array if array.flags.owndata else array.copy()
