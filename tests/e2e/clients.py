"""The official clients behind one small face, so that a test runs the same over every form of the protocol."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from serving.core.dtypes import BY_NUMPY
from tests.e2e.server import LIMIT_S, Server

FORMS = ("json", "binary", "grpc")


class RefusedError(Exception):
    """The server refused: the HTTP status or the name of the gRPC code, and the text."""

    def __init__(self, status: int | str, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status
        self.text = text


class Asker:
    """An unmodified `tritonclient`: `form` is `json` or `binary` (REST), or `grpc`. For one thread."""

    def __init__(self, server: Server, form: str) -> None:
        self.form = form
        self.library: Any = tritonclient.grpc if form == "grpc" else tritonclient.http
        self.client: Any = (
            tritonclient.grpc.InferenceServerClient(server.grpc)
            if form == "grpc"
            else tritonclient.http.InferenceServerClient(
                server.http, connection_timeout=LIMIT_S, network_timeout=LIMIT_S
            )
        )

    def close(self) -> None:
        self.client.close()

    def inputs(self, tensors: Mapping[str, np.ndarray] | Sequence[tuple[str, np.ndarray]]) -> list[Any]:
        """The client's inputs; pairs instead of a mapping may name one twice."""
        made = []
        for name, array in tensors.items() if isinstance(tensors, Mapping) else tensors:
            datatype = BY_NUMPY[array.dtype].name
            one = self.library.InferInput(name, list(array.shape), datatype)
            one.set_data_from_numpy(array, **({} if self.form == "grpc" else {"binary_data": self.form == "binary"}))
            made.append(one)
        return made

    def outputs(self, names: Sequence[str], classes: int = 0) -> list[Any]:
        """`classes`: how many of the highest values are wanted as text instead of the tensor; 0: the tensor."""
        more = {} if self.form == "grpc" else {"binary_data": self.form == "binary"}
        return [self.library.InferRequestedOutput(name, class_count=classes, **more) for name in names]

    def infer(
        self,
        model: str,
        tensors: Mapping[str, np.ndarray] | Sequence[tuple[str, np.ndarray]],
        *,
        version: str = "",
        outputs: Sequence[str] | None = None,
        classes: int = 0,
        request_id: str = "",
        parameters: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> "Answer":
        """Raises: RefusedError."""
        try:
            result = self.client.infer(
                model,
                self.inputs(tensors),
                model_version=version,
                outputs=None if outputs is None else self.outputs(outputs, classes),
                request_id=request_id,
                parameters=parameters,
                **more,
            )
        except InferenceServerException as error:
            raise refusal(error) from None
        return Answer(result, self.form)

    def ask(self, method: str, *args: Any, **more: Any) -> Any:
        """Another method of the client, and its answer as plain values whatever the form.

        Raises: RefusedError.
        """
        try:
            answer = getattr(self.client, method)(*args, **more)
        except InferenceServerException as error:
            raise refusal(error) from None
        return plain(answer) if hasattr(answer, "DESCRIPTOR") else answer


class Answer:
    """What came back. `outputs` in the order of the answer."""

    def __init__(self, result: Any, form: str) -> None:
        response = result.get_response()
        if form == "grpc":
            self.model, self.version, self.id = response.model_name, response.model_version, response.id
            described = [(t.name, t.datatype, list(t.shape)) for t in response.outputs]
        else:
            self.model, self.version = response["model_name"], response["model_version"]
            self.id = response.get("id", "")
            described = [(t["name"], t["datatype"], t["shape"]) for t in response["outputs"]]
        self.names = [name for name, _, _ in described]
        self.datatypes = {name: datatype for name, datatype, _ in described}
        self.shapes = {name: shape for name, _, shape in described}
        self.outputs: dict[str, np.ndarray] = {name: result.as_numpy(name) for name in self.names}


def plain(message: Any) -> dict[str, Any]:
    """A protobuf message as REST shows it: every field that has a value or a default, numbers as numbers."""
    found = {}
    for field in message.DESCRIPTOR.fields:
        nested = field.message_type
        value = getattr(message, field.name)
        if field.enum_type and not field.is_repeated:
            found[field.name] = field.enum_type.values_by_number[value].name
        elif nested and nested.GetOptions().map_entry:
            is_message = nested.fields_by_name["value"].message_type is not None
            found[field.name] = {key: plain(value[key]) if is_message else value[key] for key in value}
        elif field.is_repeated:
            found[field.name] = [plain(one) if nested else one for one in value]
        elif not field.has_presence or message.HasField(field.name):
            found[field.name] = plain(value) if nested else value
    return found


def refusal(error: InferenceServerException) -> RefusedError:
    status = error.status()
    return RefusedError(int(status) if status.isdigit() else status.removeprefix("StatusCode."), error.message())


def grpc_code(http_status: int) -> str:
    """The gRPC code that goes with an HTTP status in this family of protocols."""
    return {400: "INVALID_ARGUMENT", 404: "NOT_FOUND", 500: "INTERNAL", 501: "UNIMPLEMENTED", 503: "UNAVAILABLE"}[
        http_status
    ]
