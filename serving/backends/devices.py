"""Execution providers as a model's settings ask for them, and runs that are spread over several devices.

Knows ONNX Runtime's names for options, and nothing else of it: all here is plain data and functions.
"""

from collections.abc import Callable, Sequence
from itertools import cycle, islice
from queue import SimpleQueue

import numpy as np

from serving.core.errors import LoadError
from serving.core.spec import ModelSpec
from serving.core.types import Tensors

CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"
_MIB = 1024 * 1024
_WARM_SHAPES = 256  # that are remembered; those beyond are not run on every device first

Run = Callable[[Sequence[str], Tensors], list[np.ndarray]]


def needs_gpu(spec: ModelSpec) -> bool:
    return any(provider.startswith(("CUDA", "Tensorrt", "NvTensorRTRTX")) for provider in spec.providers)


def chosen(spec: ModelSpec) -> tuple[int, ...]:
    """The devices to load a model to, one session each.

    Raises:
        LoadError: settings for devices without a provider that has some, or graphs without batch sizes.
    """
    set_here = [
        name
        for name, value in (
            ("devices", spec.devices),
            ("device_memory_mb", spec.device_memory_mb),
            ("cuda_graphs", spec.cuda_graphs),
        )
        if value
    ]
    if set_here and not needs_gpu(spec):
        raise LoadError(f"'{set_here[0]}' is for NVIDIA GPUs, and 'providers' names {', '.join(spec.providers)} only")
    if spec.cuda_graphs and CUDA not in spec.providers:
        raise LoadError(f"'cuda_graphs' needs {CUDA} among 'providers'")
    if spec.cuda_graphs and not spec.allowed_batch_sizes:
        raise LoadError("'cuda_graphs' needs 'allowed_batch_sizes': there is a graph for each")
    return spec.devices or (0,)


def providers(spec: ModelSpec, device: int) -> list[str | tuple[str, dict[str, str]]]:
    """The providers with their options, in order of preference, for the session on one device."""
    return [(name, options) if (options := _options(name, spec, device)) else name for name in spec.providers]


def _options(provider: str, spec: ModelSpec, device: int) -> dict[str, str]:
    if provider == TENSORRT:
        return {"device_id": str(device)}
    if provider != CUDA:
        return {}
    options = {
        "device_id": str(device),
        # Memory is taken as it is needed: by default it would be doubled each time, beyond what other models leave.
        "arena_extend_strategy": "kSameAsRequested",
        # A search for the best algorithm takes long, for each new shape. Where sizes are few, warm-up sees them all.
        "cudnn_conv_algo_search": "EXHAUSTIVE" if spec.allowed_batch_sizes else "HEURISTIC",
    }
    if spec.device_memory_mb is not None:
        options["gpu_mem_limit"] = str(spec.device_memory_mb * _MIB)
    if spec.cuda_graphs:
        options["enable_cuda_graph"] = "1"
    return options


def spread(runs: Sequence[Run], instances: int) -> Run:
    """One run that goes to a free one of `runs`, so that each has its part of the instances.

    What has a shape for the first time is run by all, one after another, so that none of them is cold.
    """
    if len(runs) == 1:
        return runs[0]
    free: SimpleQueue[Run] = SimpleQueue()
    for run in islice(cycle(runs), max(instances, len(runs))):
        free.put(run)
    warm: set[object] = set()

    def run_anywhere(outputs: Sequence[str], inputs: Tensors) -> list[np.ndarray]:
        shapes = frozenset((name, array.shape) for name, array in inputs.items())
        if shapes not in warm and len(warm) < _WARM_SHAPES:
            answers = [run(outputs, inputs) for run in runs]
            warm.add(shapes)
            return answers[0]
        run = free.get()
        try:
            return run(outputs, inputs)
        finally:
            free.put(run)

    return run_anywhere
