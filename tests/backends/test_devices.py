"""What execution providers are told, and how runs are spread over devices. No GPU is needed."""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from serving.backends import devices
from serving.backends.devices import Run
from serving.core.errors import LoadError
from serving.core.spec import ModelSpec
from serving.core.types import Tensors

CUDA, TENSORRT, CPU = "CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"


def spec(*providers: str, **settings: Any) -> ModelSpec:
    return ModelSpec.model_validate({"providers": providers, **settings})


# Settings


def test_the_processor_has_no_options() -> None:
    assert devices.chosen(ModelSpec()) == (0,)
    assert devices.providers(ModelSpec(), 0) == [CPU]
    assert not devices.needs_gpu(ModelSpec())


def test_cuda() -> None:
    ((name, options), cpu) = devices.providers(spec(CUDA, CPU), 3)
    assert (name, cpu) == (CUDA, CPU)
    assert options == {
        "device_id": "3",
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
    }


def test_cuda_with_all_that_can_be_set() -> None:
    wanted = spec(CUDA, devices=[1, 2], device_memory_mb=512, cuda_graphs=True, allowed_batch_sizes=[4, 8])
    assert devices.chosen(wanted) == (1, 2)
    ((_, options),) = devices.providers(wanted, 2)
    assert options["device_id"] == "2"
    assert options["gpu_mem_limit"] == str(512 * 1024 * 1024)
    assert options["enable_cuda_graph"] == "1"
    assert options["cudnn_conv_algo_search"] == "EXHAUSTIVE"  # once for each of two sizes


def test_tensorrt_goes_to_the_same_device() -> None:
    given = devices.providers(spec(TENSORRT, CUDA), 1)
    assert [name for name, _ in given] == [TENSORRT, CUDA]
    assert {options["device_id"] for _, options in given} == {"1"}  # type: ignore[index]


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (spec(CPU, devices=[0]), "'devices' is for NVIDIA GPUs, and 'providers' names CPUExecutionProvider only"),
        (spec(CPU, device_memory_mb=5), "'device_memory_mb' is for NVIDIA GPUs"),
        (spec(CPU, cuda_graphs=True, allowed_batch_sizes=[4]), "'cuda_graphs' is for NVIDIA GPUs"),
        (spec(TENSORRT, cuda_graphs=True, allowed_batch_sizes=[4]), f"'cuda_graphs' needs {CUDA} among 'providers'"),
        (spec(CUDA, cuda_graphs=True), "'cuda_graphs' needs 'allowed_batch_sizes'"),
    ],
)
def test_settings_that_cannot_be(wanted: ModelSpec, told: str) -> None:
    with pytest.raises(LoadError) as error:
        devices.chosen(wanted)
    assert str(error.value).startswith(told)


# Spreading


class Device:
    """Answers with its number. Runs of more than nine rows wait until they are let go."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.rows: list[int] = []
        self.under_way = threading.Semaphore(0)
        self.go = threading.Event()

    def __call__(self, outputs: Sequence[str], inputs: Tensors) -> list[np.ndarray]:
        rows = len(inputs["x"])
        self.rows.append(rows)
        if rows > 9:
            self.under_way.release()
            self.go.wait(10)
        if rows == 0:
            raise RuntimeError("no rows")
        return [np.array(self.number)]


def answer(run: Run, rows: int) -> int:
    (array,) = run(("y",), {"x": np.zeros(rows)})
    return int(array)


def test_one_device_is_called_as_it_is() -> None:
    only = Device(0)
    assert devices.spread([only], 5) is only


def test_each_device_is_warm_before_it_is_chosen() -> None:
    both = Device(0), Device(1)
    run = devices.spread(both, 2)
    answer(run, 3)
    assert [device.rows for device in both] == [[3], [3]]
    assert {answer(run, 3), answer(run, 3)} == {0, 1}
    assert [device.rows for device in both] == [[3, 3], [3, 3]]


def test_instances_that_run_at_once_are_on_different_devices() -> None:
    both = Device(0), Device(1)
    for device in both:
        device.go.set()
    run = devices.spread(both, 2)
    answer(run, 10)  # warm
    for device in both:
        assert device.under_way.acquire(timeout=10)
        device.go.clear()
    threads = [threading.Thread(target=answer, args=(run, 10)) for _ in both]
    for thread in threads:
        thread.start()
    try:
        assert all(device.under_way.acquire(timeout=10) for device in both)
    finally:
        for device in both:
            device.go.set()
        for thread in threads:
            thread.join()


def test_a_device_is_free_again_after_an_error() -> None:
    both = Device(0), Device(1)
    run = devices.spread(both, 2)
    answer(run, 3)
    for _ in range(3):
        with pytest.raises(RuntimeError, match="no rows"):
            answer(run, 0)
    assert {answer(run, 3), answer(run, 3)} == {0, 1}


def test_shapes_that_are_remembered_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_WARM_SHAPES", 2)
    both = Device(0), Device(1)
    run = devices.spread(both, 2)
    for rows in (1, 2, 3):
        answer(run, rows)
    assert sum(device.rows.count(3) for device in both) == 1
