"""Triton's ModelConfig of a version that is loaded, and the names that both directions use. Pure.

Triton describes in it what this server knows from the model itself, and much that it does not have.
`config_meaning` goes the other way.
"""

from typing import Any

from google.protobuf.json_format import ParseDict

from serving.core import dtypes
from serving.core.declared import Declared, Sample
from serving.core.dtypes import DType
from serving.core.spec import Latest, Versions
from serving.core.types import TensorSpec
from serving.protocols import jsonio
from serving.protocols.messages import oip as m
from serving.repository.version import Version

# Ours by Triton's name, and the file that Triton would look for.
PLATFORMS = {"onnxruntime_onnx": "onnxruntime", "tensorflow_savedmodel": "tensorflow", "identity": "identity"}
FILES = {"onnxruntime": "model.onnx", "tensorflow": "model.savedmodel", "identity": "identity.yaml"}
WARMUP = "warmup"  # the directory of files for warm-up, beside the versions

# Settings that have no field of their own go among the parameters, as JSON.
AS_PARAMETERS = (
    "threads", "providers", "version_labels", "tags", "accelerate", "accelerate_tolerance", "warmup",
    "max_request_rows", "latency_limit", "allowed_batch_sizes", "padding", "batching", "slo_ms", "share",
    "cache_optimized", "devices", "device_memory_mb", "cuda_graphs",
)  # fmt: skip

_GPU_PROVIDERS = ("CUDA", "Tensorrt", "NvTensorRTRTX")


def of_version(version: Version) -> dict[str, Any]:
    """The ModelConfig of a loaded version as JSON has it: every field that Triton fills in, enums by name."""
    spec, contract = version.spec, version.contract
    batched = contract.max_batch_size > 0
    backend = PLATFORMS.get(version.platform, version.platform)
    on_gpu = any(provider.startswith(_GPU_PROVIDERS) for provider in spec.providers)
    config: dict[str, Any] = {
        "name": version.model,
        "platform": version.platform,
        "backend": backend,
        "runtime": "",
        "version_policy": _version_policy(spec.versions),
        "max_batch_size": contract.max_batch_size,
        "input": [_input(tensor, batched, spec.inputs.get(tensor.name)) for tensor in contract.inputs],
        "output": [
            _output(tensor, batched, spec.outputs.get(name), spec.class_labels.get(name, ""))
            for name, tensor in contract.signature.outputs.items()
        ],
        "batch_input": [],
        "batch_output": [],
        "optimization": {
            "priority": "PRIORITY_DEFAULT",
            "input_pinned_memory": {"enable": True},
            "output_pinned_memory": {"enable": True},
            "gather_kernel_buffer_threshold": 0,
            "eager_batching": False,
        },
    }
    if batched:
        config["dynamic_batching"] = {
            "preferred_batch_size": [contract.max_batch_size],
            "max_queue_delay_microseconds": round(spec.max_queue_delay_ms * 1000),
            "preserve_ordering": False,
            "priority_levels": spec.priority_levels,
            "default_priority_level": spec.default_priority_level or spec.priority_levels,
            "default_queue_policy": {
                "timeout_action": "REJECT",
                "default_timeout_microseconds": round((spec.queue_timeout_ms or 0) * 1000),
                "allow_timeout_override": True,
                "max_queue_size": spec.max_queue_rows,
            },
            "priority_queue_policy": {},
        }
    return config | {
        "instance_group": [
            {
                "name": f"{version.model}_0",
                "kind": "KIND_GPU" if on_gpu else "KIND_CPU",
                "count": spec.instances or version.execution.setting.instances,
                "gpus": [],
                "secondary_devices": [],
                "profile": [],
                "passive": False,
                "host_policy": "",
            }
        ],
        "default_model_filename": spec.file or FILES.get(backend, ""),
        "cc_model_filenames": {},
        "metric_tags": {},
        "parameters": {
            key: {"string_value": jsonio.dump(value).decode()}
            for key, value in spec.model_dump(mode="json", include=set(AS_PARAMETERS), exclude_defaults=True).items()
        },
        "model_warmup": [_warmup_told(sample, batched) for sample in spec.samples],
    }


def message(config: dict[str, Any]) -> Any:
    """The same as a ModelConfig message."""
    return ParseDict(config, m.ModelConfig())


def _version_policy(versions: Versions) -> dict[str, Any]:
    if versions == "all":
        return {"all": {}}
    if isinstance(versions, Latest):
        return {"latest": {"num_versions": versions.latest}}
    return {"specific": {"versions": list(versions)}}


def _dims(tensor: TensorSpec, batched: bool) -> list[int]:
    """Without the batch axis. A number of dimensions that is open cannot be said; one open dimension stands for it."""
    if tensor.shape is None:
        return [-1]
    return list(tensor.shape[1:] if batched and tensor.shape[:1] == (-1,) else tensor.shape)


def _data_type(dtype: DType) -> str:
    return "TYPE_STRING" if dtype is dtypes.BYTES else f"TYPE_{dtype.name}"


def _input(tensor: TensorSpec, batched: bool, declared: Declared | None) -> dict[str, Any]:
    picture = declared.format if declared else None
    return {
        "name": tensor.name,
        "data_type": _data_type(tensor.dtype),
        "format": f"FORMAT_{picture or 'NONE'}",
        "dims": _dims(tensor, batched),
        **_reshape(tensor, declared, batched),
        "is_shape_tensor": False,
        "allow_ragged_batch": False,
        "optional": tensor.optional,
        "is_non_linear_format_io": False,
    }


def _output(tensor: TensorSpec, batched: bool, declared: Declared | None, labels: str) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "data_type": _data_type(tensor.dtype),
        "dims": _dims(tensor, batched),
        **_reshape(tensor, declared, batched),
        "label_filename": labels,
        "is_shape_tensor": False,
        "is_non_linear_format_io": False,
    }


def _reshape(tensor: TensorSpec, declared: Declared | None, batched: bool) -> dict[str, Any]:
    """With the sizes that the model fixes, as the dims have them too."""
    if declared is None or declared.reshape is None or tensor.shape is None:
        return {}
    sizes = (size for size, said in zip(tensor.shape, declared.shape or (), strict=True) if said == -1)
    shape = [next(sizes) if size == -1 else size for size in declared.reshape]
    return {"reshape": {"shape": shape[1:] if batched else shape}}


def _warmup_told(sample: Sample, batched: bool) -> dict[str, Any]:
    rows = {each.shape[0] for each in sample.inputs.values() if each.shape} if batched else set()
    return {
        "name": sample.name,
        "batch_size": max(rows, default=1),
        "inputs": {
            name: {
                "data_type": _data_type(dtypes.BY_NAME[each.datatype]),
                "dims": list(each.shape[1:] if batched else each.shape),
                **(
                    {"input_data_file": each.file.removeprefix(f"{WARMUP}/")}
                    if each.file is not None
                    else {f"{each.values}_data": True}
                ),
            }
            for name, each in sample.inputs.items()
        },
        "count": sample.runs,
    }
