"""The settings that a Triton ModelConfig means, which a client has sent or a `config.pbtxt` holds. Pure.

What is asked for and changes no answer is named and left; what would change answers is refused.
`model_config` goes the other way.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from google.protobuf.json_format import ParseDict
from pydantic import ValidationError

from serving.backends import registry
from serving.core.errors import ServingError, invalid
from serving.core.spec import ModelSpec, explain
from serving.core.types import DEFAULT_SIGNATURE
from serving.protocols import jsonio
from serving.protocols.jsonio import describe
from serving.protocols.messages import oip as m
from serving.protocols.oip.model_config import AS_PARAMETERS, FILES, PLATFORMS, WARMUP

_ON_GPU = ("CUDAExecutionProvider", "CPUExecutionProvider")
# Ours by Triton's name.
_BACKENDS = {"onnxruntime": "onnx", "tensorflow": "tensorflow", "identity": "identity"}
_FORMATS = {1: "NHWC", 2: "NCHW"}

_PARAMETERS = {key: key for key in (*AS_PARAMETERS, "traffic")} | {
    "intra_op_thread_count": "threads",  # what Triton's backends call it
    "TF_NUM_INTRA_THREADS": "threads",
    "TF_GRAPH_TAG": "tags",
}

_QUEUE = "dynamic_batching.default_queue_policy"

_READ = {
    "name", "platform", "backend", "default_model_filename", "version_policy", "max_batch_size", "parameters",
    "input.name", "input.data_type", "input.dims", "input.reshape", "input.format",
    "output.name", "output.data_type", "output.dims", "output.reshape", "output.label_filename",
    "instance_group.count", "instance_group.kind", "dynamic_batching.preferred_batch_size",
    "dynamic_batching.max_queue_delay_microseconds", "dynamic_batching.priority_levels",
    "dynamic_batching.default_priority_level",
    f"{_QUEUE}.default_timeout_microseconds", f"{_QUEUE}.max_queue_size", f"{_QUEUE}.timeout_action",
    "model_warmup", "cc_model_filenames",
}  # fmt: skip

# Names that nothing depends on, and what is so here anyway.
_OF_NO_EFFECT = {
    "input.optional", "instance_group.name", "optimization.input_pinned_memory", "optimization.output_pinned_memory",
    f"{_QUEUE}.allow_timeout_override",
}  # fmt: skip

_REFUSED = {
    "sequence_batching": "stateful models are not served",
    "ensemble_scheduling": "ensembles are not served",
    "model_transaction_policy.decoupled": "every request is answered once",
    "model_repository_agents": "repository agents are not run",
    "model_operations": "custom operators are not loaded",
    "batch_input": "inputs are those that clients send",
    "batch_output": "outputs are those that the model gives",
    "input.is_shape_tensor": "shape tensors are not served",
    "output.is_shape_tensor": "shape tensors are not served",
}

# Where a setting comes from, if that is one field; it is named if the value cannot be had.
_FIELDS = {
    "file": "default_model_filename",
    "versions": "version_policy",
    "max_batch_size": "max_batch_size",
    "max_queue_delay_ms": "dynamic_batching.max_queue_delay_microseconds",
    "priority_levels": "dynamic_batching.priority_levels",
    "default_priority_level": "dynamic_batching.default_priority_level",
    "max_queue_rows": f"{_QUEUE}.max_queue_size",
    "queue_timeout_ms": f"{_QUEUE}.default_timeout_microseconds",
    "instances": "instance_group",
    "inputs": "input",
    "outputs": "output",
    "class_labels": "output.label_filename",
    "samples": "model_warmup",
}


@dataclass(frozen=True)
class Meaning:
    """What a config means here: the settings that it sets, and what it asks for in vain."""

    spec: ModelSpec
    ignored: tuple[str, ...]


class ConfigError(Exception):
    """A config asks for what cannot be had; the message is one line. `field` is the one that does, if it is one."""

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


def read(model: str, config: Any) -> Meaning:
    """The settings that a ModelConfig means, which a client has sent; what it leaves out stays as it is.

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
    told = not {"max_batch_size", "maxBatchSize"}.isdisjoint(config)
    try:
        return meaning(parsed, (model,), parsed.max_batch_size if told else None)
    except ConfigError as error:
        raise invalid(str(error)) from None


def meaning(parsed: Any, names: Collection[str], max_batch_size: int | None) -> Meaning:
    """The settings that a ModelConfig message means.

    Args:
        names: what the model may be called in it.
        max_batch_size: None: it says nothing of that, so nobody knows whether shapes leave the batch axis out.

    Raises:
        ConfigError: it is not of this model, or asks for what would change answers.
    """
    asked = dict.fromkeys(_paths(parsed))
    for path, why in _REFUSED.items():
        if any(_within(each, path) for each in asked):
            raise ConfigError(f"'{path}' is not supported: {why}", path)
    if parsed.name and parsed.name not in names:
        raise ConfigError(f"it is of the model '{parsed.name}'", "name")
    ignored = [path for path in asked if not any(_within(path, known) for known in (*_READ, *_OF_NO_EFFECT))]
    values: dict[str, Any] = _backend(parsed)
    if max_batch_size is not None:
        values["max_batch_size"] = max_batch_size
    if parsed.HasField("version_policy"):
        values["versions"] = _versions(parsed.version_policy)
    if parsed.HasField("dynamic_batching"):
        ignored += _batching(values, parsed.dynamic_batching, max_batch_size)
    ignored += _instances(values, parsed)
    ignored += _tensors(values, parsed, max_batch_size)
    ignored += _parameters(values, parsed)
    if parsed.cc_model_filenames:
        if _ON_GPU[0] in values.get("providers", ()):
            raise ConfigError("'cc_model_filenames' is not supported: a version has one model", "cc_model_filenames")
        ignored.append("cc_model_filenames")
    try:
        return Meaning(ModelSpec.model_validate(values), tuple(ignored))
    except ValidationError as error:
        key = str(error.errors()[0]["loc"][0])
        field, text = _FIELDS.get(key, "parameters"), explain(error, tuple(ModelSpec.model_fields))
        raise ConfigError(text if field == key else f"{field}: {text}", field) from None


# Each of these adds settings to `values` by name, and returns what is asked for in vain.


def _batching(values: dict[str, Any], batching: Any, max_batch_size: int | None) -> list[str]:
    ignored, queue = [], batching.default_queue_policy
    values["max_queue_delay_ms"] = batching.max_queue_delay_microseconds / 1000
    if batching.priority_levels or batching.default_priority_level:
        values["priority_levels"] = batching.priority_levels
        values["default_priority_level"] = batching.default_priority_level
    if queue.default_timeout_microseconds:
        if queue.timeout_action == 0:
            values["queue_timeout_ms"] = queue.default_timeout_microseconds / 1000
        else:  # it would be answered after the others, and here in its turn
            ignored.append(f"{_QUEUE}.timeout_action DELAY, and its timeout with it")
    if queue.max_queue_size:
        values["max_queue_rows"] = queue.max_queue_size
    if list(batching.preferred_batch_size) not in ([], [max_batch_size]):
        ignored.append("dynamic_batching.preferred_batch_size (a free instance takes what waits)")
    return ignored


def _instances(values: dict[str, Any], parsed: Any) -> list[str]:
    if parsed.instance_group:
        values["instances"] = sum(group.count or 1 for group in parsed.instance_group)
    on_gpu = any(group.kind == m.ModelInstanceGroup.KIND_GPU for group in parsed.instance_group)
    if not on_gpu or "providers" in parsed.parameters or values.get("backend", "onnx") != "onnx":
        return []
    if registry.has_gpu_runtime():
        values["providers"] = _ON_GPU
        return []
    return ["instance_group.kind KIND_GPU (no onnxruntime-gpu is installed, so the model runs on the processor)"]


def _tensors(values: dict[str, Any], parsed: Any, max_batch_size: int | None) -> list[str]:
    for side, field, tensors in (("inputs", "input", parsed.input), ("outputs", "output", parsed.output)):
        if tensors:
            values[side] = {tensor.name: _declared(field, tensor, max_batch_size) for tensor in tensors}
    if labels := {tensor.name: tensor.label_filename for tensor in parsed.output if tensor.label_filename}:
        values["class_labels"] = labels
    if parsed.model_warmup:
        if max_batch_size is None:
            return ["model_warmup (without max_batch_size nobody knows its shapes)"]
        values["samples"] = tuple(_sample(one, max_batch_size) for one in parsed.model_warmup if one.batch_size)
    return []


def _parameters(values: dict[str, Any], parsed: Any) -> list[str]:
    ignored = []
    for key, parameter in parsed.parameters.items():
        text, setting = parameter.string_value, _PARAMETERS.get(key)
        if key == "TF_INIT_OPS_FILE" or (key == "TF_SIGNATURE_DEF" and text != DEFAULT_SIGNATURE):
            raise ConfigError(f"parameter {key} '{text[:200]}' is not supported", "parameters")
        if setting is None:
            if key != "TF_SIGNATURE_DEF":
                ignored.append(f"parameters.{key}")
            continue
        value = _parameter(text)
        if setting != key and value == 0:  # as many threads as there are processors
            ignored.append(f"parameters.{key} 0 (one thread, unless it says more)")
        else:
            values[setting] = [value] if setting == "tags" and isinstance(value, str) else value
    return ignored


def _versions(policy: Any) -> Any:
    match policy.WhichOneof("policy_choice"):
        case "all":
            return "all"
        case "specific":
            if not policy.specific.versions:
                raise ConfigError("version_policy.specific names no version", "version_policy.specific")
            return tuple(policy.specific.versions)
    return {"latest": policy.latest.num_versions or 1}


def _backend(parsed: Any) -> dict[str, Any]:
    name = parsed.backend or PLATFORMS.get(parsed.platform, parsed.platform)
    if name and name not in _BACKENDS:
        field = "backend" if parsed.backend else "platform"
        raise ConfigError(f"{field} '{name}' is not supported; there are {', '.join(_BACKENDS)}", field)
    values = {"backend": _BACKENDS[name]} if name else {}
    if parsed.default_model_filename not in ("", FILES.get(name)):
        values["file"] = parsed.default_model_filename
    return values


def _declared(field: str, tensor: Any, max_batch_size: int | None) -> dict[str, Any]:
    """The input or output as clients see it. An optional one has no batch axis, and no dims at all are no shape."""
    said: dict[str, Any] = {"datatype": _datatype(field, tensor)}
    optional = field == "input" and tensor.optional
    reshaped = tensor.HasField("reshape")
    if max_batch_size is not None and (tensor.dims or reshaped) and not optional:
        rows = (-1,) if max_batch_size else ()
        said["shape"] = (*rows, *tensor.dims)
        if reshaped:
            said["reshape"] = (*rows, *tensor.reshape.shape)
    elif reshaped:
        raise ConfigError(f"'{field}.reshape' needs max_batch_size, and a required tensor", f"{field}.reshape")
    if field == "input" and tensor.format in _FORMATS:
        said["format"] = _FORMATS[tensor.format]
    return said


def _sample(one: Any, max_batch_size: int) -> dict[str, Any]:
    inputs = {}
    for name, given in one.inputs.items():
        said: dict[str, Any] = {
            "datatype": _datatype("model_warmup.inputs", given, name),
            "shape": (one.batch_size, *given.dims) if max_batch_size else tuple(given.dims),
        }
        match given.WhichOneof("input_data_type"):
            case "zero_data":
                said["values"] = "zero"
            case "input_data_file":
                said["file"] = str(PurePosixPath(WARMUP, given.input_data_file))
            case None:
                raise ConfigError(
                    f"model_warmup '{one.name}': '{name}' needs zero_data, random_data or input_data_file",
                    "model_warmup.inputs",
                )
        inputs[name] = said
    return {"name": one.name, "inputs": inputs, "runs": one.count or 1}


def _datatype(field: str, tensor: Any, name: str | None = None) -> str:
    known = {int(each): each.name for each in m.DataType}  # JSON may have any number
    datatype = known.get(tensor.data_type, "TYPE_INVALID").removeprefix("TYPE_")
    name = tensor.name if name is None else name
    if not name or datatype == "INVALID":
        raise ConfigError(f"tensor '{name}' needs a name and a data_type", f"{field}.data_type")
    return "BYTES" if datatype == "STRING" else datatype


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
