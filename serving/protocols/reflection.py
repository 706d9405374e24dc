"""gRPC's server reflection: a client asks for the descriptors of what the server offers. Free of any transport."""

from collections.abc import AsyncIterator, Iterable
from types import SimpleNamespace
from typing import Any

from google.protobuf.descriptor import FileDescriptor
from grpc import StatusCode

from serving.protocols import messages as m
from serving.protocols.grpc import Call, Method, StreamMethod, read, write
from serving.protocols.status import Family


def reflections(services: Iterable[str]) -> list["Reflection"]:
    """Reflection in both its versions, telling of `services` (full names) and of itself."""
    versions = (m.reflection, m.reflection_v1alpha)
    names = [*services, *(version.ServerReflection.full_name for version in versions)]
    return [Reflection(version, names) for version in versions]


class Reflection:
    """The one method of `ServerReflection`, in the version that `declared` declares."""

    family = Family.OIP

    def __init__(self, declared: SimpleNamespace, services: Iterable[str]) -> None:
        self._declared = declared
        self._services = sorted(services)
        self.service: str = declared.ServerReflection.full_name
        self.methods: dict[str, Method] = {}
        self.streams: dict[str, StreamMethod] = {"ServerReflectionInfo": self.info}

    async def info(self, requests: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        """One answer to each request, in order. What cannot be found is told in the answer; the stream goes on.

        Raises:
            ServingError: INVALID, if what came is no request.
        """
        sent: set[str] = set()
        async for data in requests:
            yield write(self._answer(read(self._declared.ServerReflectionRequest, data), sent))

    def _answer(self, request: Any, sent: set[str]) -> Any:
        """Adds the names of the files in the answer to `sent`."""
        answer = self._declared.ServerReflectionResponse(valid_host=request.host, original_request=request)
        asked = request.WhichOneof("message_request")
        try:
            match asked:
                case "list_services":
                    services = [self._declared.ServiceResponse(name=name) for name in self._services]
                    answer.list_services_response.service.extend(services)
                case "file_by_filename":
                    file = m.pool.FindFileByName(request.file_by_filename)
                    answer.file_descriptor_response.file_descriptor_proto.extend(_with_imports(file, sent))
                case "file_containing_symbol":
                    file = _declaring(request.file_containing_symbol)
                    answer.file_descriptor_response.file_descriptor_proto.extend(_with_imports(file, sent))
                case "all_extension_numbers_of_type":  # a type that is known has none: our protos extend no message
                    found = m.pool.FindMessageTypeByName(request.all_extension_numbers_of_type)
                    answer.all_extension_numbers_response.base_type_name = found.full_name
                case "file_containing_extension":
                    raise KeyError
                case _:
                    _fail(answer, StatusCode.INVALID_ARGUMENT, "the request asks for nothing")
        except KeyError:
            _fail(answer, StatusCode.NOT_FOUND, f"{asked}: not found")
        return answer


def _declaring(symbol: str) -> FileDescriptor:
    """The file that declares a message, field, enum, enum value, service or method.

    Raises:
        KeyError: none does.
    """
    try:
        return m.pool.FindFileContainingSymbol(symbol)
    except KeyError:  # the pool does not look for methods
        service, _, method = symbol.rpartition(".")
        return m.pool.FindServiceByName(service).methods_by_name[method].containing_service.file


def _with_imports(file: FileDescriptor, sent: set[str]) -> list[bytes]:
    """The file, and all that it imports and the client does not have yet."""
    found = [file.serialized_pb]
    sent.add(file.name)
    for needed in file.dependencies:
        if needed.name not in sent:
            found += _with_imports(needed, sent)
    return found


def _fail(answer: Any, code: StatusCode, message: str) -> None:
    number, _ = code.value
    answer.error_response.error_code = number
    answer.error_response.error_message = message
