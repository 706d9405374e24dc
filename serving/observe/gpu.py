"""Metrics of the machine's NVIDIA GPUs, read from the driver (NVML) when a scrape comes. On the event loop: each of
these calls takes some ten microseconds.

Without a GPU, its driver or the library `nvidia-ml-py` there are none of these metrics.
"""

import logging
from collections.abc import Iterable
from importlib import import_module
from typing import Any

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

log = logging.getLogger(__name__)

LABELS = ("device", "uuid", "name")


class Gpus(Collector):
    """
    Args:
        nvml: the module `pynvml`, initialised.
    """

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        self._gpus = [
            ((str(index), _text(nvml.nvmlDeviceGetUUID(handle)), _text(nvml.nvmlDeviceGetName(handle))), handle)
            for index, handle in enumerate(handles)
        ]

    def collect(self) -> Iterable[Metric]:
        used = GaugeMetricFamily("serving_device_memory_used_bytes", "Memory of a GPU that is in use.", labels=LABELS)
        total = GaugeMetricFamily("serving_device_memory_total_bytes", "Memory that a GPU has.", labels=LABELS)
        busy = GaugeMetricFamily(
            "serving_device_utilization_ratio",
            "Share of the last moments in which a GPU ran something, from 0 to 1.",
            labels=LABELS,
        )
        for labels, handle in self._gpus:
            try:
                memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
                used.add_metric(labels, memory.used)
                total.add_metric(labels, memory.total)
                busy.add_metric(labels, self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100)
            except self._nvml.NVMLError as error:  # such as of a part of a GPU, which has no utilization
                log.debug("GPU %s: %s", labels[0], error)
        return used, total, busy


def find() -> Gpus | None:
    """None: there is none, or nothing that could tell of it."""
    try:
        nvml = import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
        gpus = Gpus(nvml)
    except nvml.NVMLError as error:
        log.debug("no GPU metrics: %s", error)
        return None
    return gpus


def _text(value: str | bytes) -> str:
    """Older libraries give bytes."""
    return value.decode() if isinstance(value, bytes) else value
