"""How answers of the driver are read. There is no GPU here: the module that asks it is a stand-in with its names."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from serving.observe import gpu


class NvmlError(Exception):
    pass


def nvml(count: int = 2, *, parts: bool = False, init: type[Exception] | None = None) -> Any:
    """
    Args:
        parts: the second GPU is a part of one, whose utilization is not told.
        init: the driver cannot be asked.
    """

    def start() -> None:
        if init is not None:
            raise init("Driver Not Loaded")

    def utilization(handle: int) -> Any:
        if parts and handle == 1:
            raise NvmlError("Not Supported")
        return SimpleNamespace(gpu=25 * (handle + 1), memory=3)

    return SimpleNamespace(
        NVMLError=NvmlError,
        nvmlInit=start,
        nvmlDeviceGetCount=lambda: count,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetUUID=lambda handle: f"GPU-{handle}" if handle else b"GPU-0",
        nvmlDeviceGetName=lambda handle: "NVIDIA H100",
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(total=1000, free=600, used=400 + handle),
        nvmlDeviceGetUtilizationRates=utilization,
    )


def scraped(found: gpu.Gpus) -> list[str]:
    registry = CollectorRegistry()
    registry.register(found)
    return [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]


def found(monkeypatch: pytest.MonkeyPatch, module: Any) -> gpu.Gpus | None:
    monkeypatch.setitem(sys.modules, "pynvml", module)
    return gpu.find()


def test_memory_and_utilization_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = found(monkeypatch, nvml())
    assert gpus is not None
    labels = [f'{{device="{n}",name="NVIDIA H100",uuid="GPU-{n}"}}' for n in (0, 1)]
    assert scraped(gpus) == [
        *(f"serving_device_memory_used_bytes{label} {400.0 + n}" for n, label in enumerate(labels)),
        *(f"serving_device_memory_total_bytes{label} 1000.0" for label in labels),
        *(f"serving_device_utilization_ratio{label} {0.25 * (n + 1)}" for n, label in enumerate(labels)),
    ]


def test_what_is_not_told_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = found(monkeypatch, nvml(parts=True))
    assert gpus is not None
    lines = scraped(gpus)
    assert [line.count('device="1"') for line in lines if "utilization" in line] == [0]
    assert sum('device="1"' in line for line in lines) == 2


@pytest.mark.parametrize("module", [None, nvml(init=NvmlError)])
def test_without_a_gpu_there_is_nothing(monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
    assert found(monkeypatch, module) is None
