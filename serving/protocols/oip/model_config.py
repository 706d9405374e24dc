"""Triton's ModelConfig: what it says of a version that is loaded, and the settings that one means. Pure.

Triton describes in it what this server knows from the model itself, and much that it does not have. What is asked for
and changes no answer is named and left; what would change answers is refused.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.json_format import ParseDict
from pydantic import ValidationError

from serving.core import dtypes
from serving.core.dtypes import DType
from serving.core.errors import ServingError, invalid
from serving.core.spec import Latest, ModelSpec, Versions, explain
from serving.core.types import TensorSpec
from serving.protocols import jsonio
from serving.protocols.jsonio import describe
from serving.protocols.messages import oip as m
from serving.repository.version import Version

_GPU_PROVIDERS = ("CUDA", "Tensorrt", "NvTensorRTRTX")

# Ours by Triton's name, and the file that Triton would look for.
_BACKENDS = {"onnxruntime": "onnx", "tensorflow": "tensorflow", "identity": "identity"}
_PLATFORMS = {"onnxruntime_onnx": "onnxruntime", "tensorflow_savedmodel": "tensorflow", "identity": "identity"}
_FILES = {"onnxruntime": "model.onnx", "tensorflow": "model.savedmodel", "identity": "identity.yaml"}

# Settings that have no field of their own go among the parameters, as JSON.
_AS_PARAMETERS = ("threads", "providers", "version_labels", "tags", "accelerate", "accelerate_tolerance", "warmup")
_ALIASES = {"intra_op_thread_count": "threads"}  # what Triton's ONNX Runtime backend calls it

_QUEUE = "dynamic_batching.default_queue_policy"

_READ = {
    "name", "platform", "backend", "default_model_filename", "version_policy", "max_batch_size", "parameters",
    "input.name", "input.data_type", "output.name", "output.data_type", "output.label_filename",
    "instance_group.count", "instance_group.kind",
    "dynamic_batching.max_queue_delay_microseconds",
    f"{_QUEUE}.default_timeout_microseconds", f"{_QUEUE}.max_queue_size",
}  # fmt: skip

# Facts that the model itself tells, names that nothing depends on, and what is so here anyway.
_OF_NO_EFFECT = {
    "input.dims", "input.format", "input.optional", "output.dims", "instance_group.name",
    "optimization.input_pinned_memory", "optimization.output_pinned_memory",
    "dynamic_batching.preferred_batch_size", f"{_QUEUE}.allow_timeout_override",
}  # fmt: skip

_REFUSED = {
    "sequence_batching": "stateful models are not served",
    "ensemble_scheduling": "ensembles are not served",
    "model_transaction_policy.decoupled": "every request is answered once",
    "model_repository_agents": "repository agents are not run",
    "model_operations": "custom operators are not loaded",
    "batch_input": "inputs are those that clients send",
    "batch_output": "outputs are those that the model gives",
    "input.reshape": "tensors have the shape that the model gives them",
    "output.reshape": "tensors have the shape that the model gives them",
    "input.is_shape_tensor": "shape tensors are not served",
    "output.is_shape_tensor": "shape tensors are not served",
    f"{_QUEUE}.timeout_action": "a request that has waited too long is refused",
    "cc_model_filenames": "a version has one model file",
}


def of_version(version: Version) -> dict[str, Any]:
    """The ModelConfig of a loaded version as JSON has it: every field that Triton fills in, enums by name."""
    spec, contract = version.spec, version.contract
    batched = contract.max_batch_size > 0
    backend = _PLATFORMS.get(version.platform, version.platform)
    on_gpu = any(provider.startswith(_GPU_PROVIDERS) for provider in spec.providers)
    config: dict[str, Any] = {
        "name": version.model,
        "platform": version.platform,
        "backend": backend,
        "runtime": "",
        "version_policy": _version_policy(spec.versions),
        "max_batch_size": contract.max_batch_size,
        "input": [_input(tensor, batched) for tensor in contract.inputs],
        "output": [
            _output(tensor, batched, spec.class_labels.get(name, ""))
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
            "priority_levels": 0,
            "default_priority_level": 0,
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
                "count": spec.instances,
                "gpus": [],
                "secondary_devices": [],
                "profile": [],
                "passive": False,
                "host_policy": "",
            }
        ],
        "default_model_filename": _FILES.get(backend, ""),
        "cc_model_filenames": {},
        "metric_tags": {},
        "parameters": {
            key: {"string_value": jsonio.dump(value).decode()}
            for key, value in spec.model_dump(mode="json", include=set(_AS_PARAMETERS), exclude_defaults=True).items()
        },
        "model_warmup": [],
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


def _input(tensor: TensorSpec, batched: bool) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "data_type": _data_type(tensor.dtype),
        "format": "FORMAT_NONE",
        "dims": _dims(tensor, batched),
        "is_shape_tensor": False,
        "allow_ragged_batch": False,
        "optional": tensor.optional,
        "is_non_linear_format_io": False,
    }


def _output(tensor: TensorSpec, batched: bool, labels: str) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "data_type": _data_type(tensor.dtype),
        "dims": _dims(tensor, batched),
        "label_filename": labels,
        "is_shape_tensor": False,
        "is_non_linear_format_io": False,
    }


@dataclass(frozen=True)
class Meaning:
    """What a config means here: the settings that it sets, and what it asks for in vain."""

    spec: ModelSpec
    ignored: tuple[str, ...]


def read(model: str, config: Any) -> Meaning:
    """The settings that a ModelConfig means.

    Args:
        config: as parsed from JSON; field names in either of protobuf's spellings, 64-bit integers as text or not.

    Raises:
        ServingError: INVALID: no ModelConfig, not of this model, or it asks for what would change answers.
    """
    if type(config) is not dict:
        raise invalid(f"expected an object, got {describe(config)}")
    try:
        parsed = ParseDict(config, m.ModelConfig(), max_recursion_depth=100)
    except Exception as error:  # ParseError, and whatever else odd values raise in it
        raise invalid(f"not a ModelConfig: {str(error).splitlines()[0]}") from None
    asked = dict.fromkeys(_paths(parsed))
    for path, why in _REFUSED.items():
        if any(_within(each, path) for each in asked):
            raise invalid(f"'{path}' is not supported: {why}")
    values = _values(model, parsed, config)
    ignored = [path for path in asked if not any(_within(path, known) for known in (*_READ, *_OF_NO_EFFECT))]
    ignored += [f"parameters.{key}" for key in parsed.parameters if _ALIASES.get(key, key) not in _AS_PARAMETERS]
    if any(group.kind == 1 for group in parsed.instance_group) and "providers" not in parsed.parameters:
        ignored.append("instance_group.kind KIND_GPU (the setting 'providers' says on what a model runs)")
    try:
        return Meaning(ModelSpec.model_validate(values), tuple(ignored))
    except ValidationError as error:
        raise invalid(explain(error, tuple(ModelSpec.model_fields))) from None


def _values(model: str, parsed: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """What the config sets, by the names of our settings."""
    if parsed.name not in ("", model):
        raise invalid(f"it is of the model '{parsed.name}'")
    values: dict[str, Any] = _backend(parsed)
    if not {"max_batch_size", "maxBatchSize"}.isdisjoint(config):
        values["max_batch_size"] = parsed.max_batch_size
    policy = parsed.version_policy
    match policy.WhichOneof("policy_choice"):
        case "all":
            values["versions"] = "all"
        case "latest":
            values["versions"] = {"latest": policy.latest.num_versions or 1}
        case "specific":
            if not policy.specific.versions:
                raise invalid("version_policy.specific names no version")
            values["versions"] = tuple(policy.specific.versions)
    if parsed.HasField("dynamic_batching"):
        batching, queue = parsed.dynamic_batching, parsed.dynamic_batching.default_queue_policy
        values["max_queue_delay_ms"] = batching.max_queue_delay_microseconds / 1000
        if queue.default_timeout_microseconds:
            values["queue_timeout_ms"] = queue.default_timeout_microseconds / 1000
        if queue.max_queue_size:
            values["max_queue_rows"] = queue.max_queue_size
    if parsed.instance_group:
        values["instances"] = sum(group.count or 1 for group in parsed.instance_group)
    for side, tensors in (("inputs", parsed.input), ("outputs", parsed.output)):
        if tensors:
            values[side] = {tensor.name: _datatype(tensor) for tensor in tensors}
    if labels := {tensor.name: tensor.label_filename for tensor in parsed.output if tensor.label_filename}:
        values["class_labels"] = labels
    for key, parameter in parsed.parameters.items():
        if (setting := _ALIASES.get(key, key)) in _AS_PARAMETERS:
            values[setting] = _parameter(parameter.string_value)
    return values


def _backend(parsed: Any) -> dict[str, Any]:
    name = parsed.backend or _PLATFORMS.get(parsed.platform, parsed.platform)
    if name and name not in _BACKENDS:
        raise invalid(f"backend '{name}' is not supported; there are {', '.join(_BACKENDS)}")
    file, files = parsed.default_model_filename, [_FILES[name]] if name else list(_FILES.values())
    if file and file not in files:
        raise invalid(f"default_model_filename '{file}' is not supported, a version holds {' or '.join(files)}")
    return {"backend": _BACKENDS[name]} if name else {}


def _datatype(tensor: Any) -> str:
    known = {int(each): each.name for each in m.DataType}  # JSON may have any number
    name = known.get(tensor.data_type, "TYPE_INVALID").removeprefix("TYPE_")
    if not tensor.name or name == "INVALID":
        raise invalid(f"tensor '{tensor.name}' needs a name and a data_type")
    return "BYTES" if name == "STRING" else name


def _parameter(text: str) -> Any:
    """JSON if it is any, otherwise the text itself."""
    try:
        return jsonio.parse(text.encode())
    except ServingError:
        return text


def _paths(config: Any, prefix: str = "") -> Iterator[str]:
    """The fields that are set, as `output.label_filename`; those of lists without numbers, maps as a whole. A group of
    fields that are not set asks for nothing, but where it is refused."""
    for field, value in config.ListFields():
        path = prefix + field.name
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            yield path
            continue
        if path in _REFUSED:
            yield path
        for each in value if field.is_repeated else (value,):
            yield from _paths(each, path + ".")


def _within(path: str, outer: str) -> bool:
    return path == outer or path.startswith(outer + ".")
