"""Protobuf messages, enums and services from the packaged descriptors, in a pool of their own.

`tritonclient`, `kserve`, `tensorflow` and `tensorflow-serving-api` register messages of the same names in protobuf's
global pool, where a second definition is an error. In a private pool ours can share a process with any of them.

A namespace holds what one protobuf package declares: `oip.ModelInferRequest` is a message class (with the messages and
enums nested in it as its own attributes), `tf.DataType` an IntEnum, `tfs.ModelService` a service descriptor.
"""

from enum import IntEnum
from importlib.resources import files
from types import SimpleNamespace  # made at run time, so what it holds is unknown to a type checker

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

pool = DescriptorPool()
_packages: dict[str, SimpleNamespace] = {}


def _load() -> None:
    data = (files("serving.protocols") / "descriptors" / "all.binpb").read_bytes()
    for proto in FileDescriptorSet.FromString(data).file:  # a file comes after those that it imports
        pool.Add(proto)
        file = pool.FindFileByName(proto.name)
        package = _packages.setdefault(file.package, SimpleNamespace())
        for name, message in file.message_types_by_name.items():
            setattr(package, name, GetMessageClass(message))
        for name, enum in file.enum_types_by_name.items():
            setattr(package, name, IntEnum(name, [(value.name, value.number) for value in enum.values]))
        for name, service in file.services_by_name.items():
            setattr(package, name, service)


_load()

oip = _packages["inference"]
tf = _packages["tensorflow"]
tf_error = _packages["tensorflow.error"]
tfs = _packages["tensorflow.serving"]
health = _packages["grpc.health.v1"]
reflection = _packages["grpc.reflection.v1"]
reflection_v1alpha = _packages["grpc.reflection.v1alpha"]
protobuf = _packages["google.protobuf"]
