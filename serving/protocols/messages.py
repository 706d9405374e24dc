"""Protobuf message classes from the packaged descriptor sets, in a pool of their own.

`tritonclient`, `kserve` and `tensorflow-serving-api` register messages of the same names in protobuf's global pool,
where a second definition is an error. In a private pool ours can share a process with any of them.
"""

from importlib.resources import files
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_pool = descriptor_pool.DescriptorPool()


def _load(name: str) -> None:
    data = files("serving.protocols").joinpath("descriptors", f"{name}.binpb").read_bytes()
    for file in descriptor_pb2.FileDescriptorSet.FromString(data).file:
        _pool.Add(file)


def _message(name: str) -> Any:  # the classes are made at run time, so their fields are unknown to a type checker
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(name))


_load("open_inference_grpc")

OIP_SERVICE = _pool.FindServiceByName("inference.GRPCInferenceService")

ServerLiveRequest = _message("inference.ServerLiveRequest")
ServerLiveResponse = _message("inference.ServerLiveResponse")
ServerReadyRequest = _message("inference.ServerReadyRequest")
ServerReadyResponse = _message("inference.ServerReadyResponse")
ModelReadyRequest = _message("inference.ModelReadyRequest")
ModelReadyResponse = _message("inference.ModelReadyResponse")
ServerMetadataRequest = _message("inference.ServerMetadataRequest")
ServerMetadataResponse = _message("inference.ServerMetadataResponse")
ModelMetadataRequest = _message("inference.ModelMetadataRequest")
ModelMetadataResponse = _message("inference.ModelMetadataResponse")
ModelInferRequest = _message("inference.ModelInferRequest")
ModelInferResponse = _message("inference.ModelInferResponse")
RepositoryIndexRequest = _message("inference.RepositoryIndexRequest")
RepositoryIndexResponse = _message("inference.RepositoryIndexResponse")
RepositoryModelLoadRequest = _message("inference.RepositoryModelLoadRequest")
RepositoryModelLoadResponse = _message("inference.RepositoryModelLoadResponse")
RepositoryModelUnloadRequest = _message("inference.RepositoryModelUnloadRequest")
RepositoryModelUnloadResponse = _message("inference.RepositoryModelUnloadResponse")
