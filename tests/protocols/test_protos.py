"""Our protos declare what the official ones declare: names, numbers, types, labels, oneofs, enums and services.

The official descriptors are read out of the sources of the installed libraries. Importing those would register them in
protobuf's global pool, where some of them clash with each other.
"""

import ast
from collections.abc import Iterator
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet

Declared = dict[str, tuple[Any, ...]]  # full name: all that is said of it

# Each of our packages, and the library and those of its files that hold the official one.
OFFICIAL = {
    "inference": ("tritonclient", ["grpc/*_pb2.py"]),
    "tensorflow": (
        "tensorflow",
        [
            "core/framework/resource_handle_pb2.py",
            "core/framework/tensor_pb2.py",
            "core/framework/tensor_shape_pb2.py",
            "core/framework/types_pb2.py",
            "core/protobuf/meta_graph_pb2.py",
            "core/protobuf/struct_pb2.py",
            "core/example/*_pb2.py",
        ],
    ),
    "tensorflow.error": ("tensorflow", ["compiler/xla/tsl/protobuf/error_codes_pb2.py"]),
    "tensorflow.serving": ("tensorflow_serving", ["apis/*_pb2.py", "config/*_pb2.py"]),
    "grpc.health.v1": ("grpc_health", ["v1/health_pb2.py"]),
    "grpc.reflection.v1alpha": ("grpc_reflection", ["v1alpha/reflection_pb2.py"]),
}

# Of files that TensorFlow Serving's own server reads; its package for clients leaves them out.
_OF_FILES = {
    "BatchingParameters": (
        "max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads", "thread_pool_name",
        "allowed_batch_sizes", "pad_variable_length_inputs", "enable_large_batch_splitting", "max_execution_batch_size",
    ),
    "MonitoringConfig": ("prometheus_config",),
    "PrometheusConfig": ("enable", "path"),
}  # fmt: skip

# What ours have beyond the official ones.
ADDED = {
    *(f"tensorflow.serving.{message}" for message in _OF_FILES),
    *(f"tensorflow.serving.{message}.{field}" for message, fields in _OF_FILES.items() for field in fields),
    # The Open Inference Protocol has it, Triton has not.
    "inference.ModelMetadataResponse.properties",
    "inference.ModelMetadataResponse.PropertiesEntry",
    "inference.ModelMetadataResponse.PropertiesEntry.key",
    "inference.ModelMetadataResponse.PropertiesEntry.value",
    # grpcio-health-checking has it since 1.82, which needs a newer protobuf than other libraries take.
    "grpc.health.v1.Health.List",
    "grpc.health.v1.HealthListRequest",
    "grpc.health.v1.HealthListResponse",
    "grpc.health.v1.HealthListResponse.statuses",
    "grpc.health.v1.HealthListResponse.StatusesEntry",
    "grpc.health.v1.HealthListResponse.StatusesEntry.key",
    "grpc.health.v1.HealthListResponse.StatusesEntry.value",
}


@pytest.mark.parametrize("package", OFFICIAL)
def test_what_is_declared_is_what_the_official_protos_declare(package: str) -> None:
    ours, official = _ours(package), _official(package)
    assert ours
    # All of each declaration that ours have; other declarations may be left out, where no other needs them.
    expected = {name: said for name, said in official.items() if name in ours or _parent(name) in ours}
    assert {name: said for name, said in ours.items() if name in official or name not in ADDED} == expected


def test_every_service_is_there() -> None:
    services = {name for package in OFFICIAL for name, said in _ours(package).items() if said == ("service",)}
    assert services == {
        "inference.GRPCInferenceService",
        "tensorflow.serving.PredictionService",
        "tensorflow.serving.ModelService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }


def test_nothing_of_triton_is_left_out() -> None:
    assert set(_official("inference")) <= set(_ours("inference"))


def test_reflection_v1_differs_from_v1alpha_by_its_name_alone() -> None:
    renamed = str(_ours("grpc.reflection.v1alpha")).replace("v1alpha", "v1")
    assert str(_ours("grpc.reflection.v1")) == renamed


def test_every_package_is_compared() -> None:
    packages = {file.package for file in _our_files()}
    assert packages - {"google.protobuf"} == {*OFFICIAL, "grpc.reflection.v1"}


def _our_files() -> list[FileDescriptorProto]:
    data = (files("serving.protocols") / "descriptors" / "all.binpb").read_bytes()
    return list(FileDescriptorSet.FromString(data).file)


def _ours(package: str) -> Declared:
    return _declared(file for file in _our_files() if file.package == package)


def _official(package: str) -> Declared:
    library, patterns = OFFICIAL[package]
    spec = find_spec(library)
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip(f"{library} is not installed")
    paths = [
        path for root in spec.submodule_search_locations for pattern in patterns for path in Path(root).glob(pattern)
    ]
    return _declared(_written_in(path) for path in paths)


def _written_in(path: Path) -> FileDescriptorProto:
    """The descriptor that the generated module at `path` would register."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Call(func=ast.Attribute(attr="AddSerializedFile"), args=[ast.Constant(value=bytes(data))]):
                return FileDescriptorProto.FromString(data)
    raise AssertionError(f"no descriptor in {path}")


def _declared(protos: Iterator[FileDescriptorProto]) -> Declared:
    found: Declared = {}
    for file in protos:
        for message in file.message_type:
            found |= _message(file.package, message)
        for enum in file.enum_type:
            found |= _enum(file.package, enum)
        for service in file.service:
            name = f"{file.package}.{service.name}"
            found[name] = ("service",)
            for method in service.method:
                kinds = (method.client_streaming, method.server_streaming)
                found[f"{name}.{method.name}"] = ("method", method.input_type, method.output_type, *kinds)
    return found


def _message(scope: str, message: DescriptorProto) -> Declared:
    name = f"{scope}.{message.name}"
    found: Declared = {name: ("message", message.options.map_entry)}
    for field in message.field:
        found[f"{name}.{field.name}"] = (
            "field",
            field.number,
            field.Type.Name(field.type),
            field.type_name,
            field.Label.Name(field.label),
            message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else None,
            field.proto3_optional,
            field.json_name or _json_name(field.name),
        )
    for nested in message.nested_type:
        found |= _message(name, nested)
    for enum in message.enum_type:
        found |= _enum(name, enum)
    return found


def _enum(scope: str, enum: EnumDescriptorProto) -> Declared:
    name = f"{scope}.{enum.name}"
    return {name: ("enum",)} | {f"{name}.{value.name}": ("value", value.number) for value in enum.value}


def _json_name(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word[:1].upper() + word[1:] for word in rest)


def _parent(name: str) -> str:
    return name.rpartition(".")[0]
