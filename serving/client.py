"""Small clients for the command line: metadata and inference over REST (binary tensors) or gRPC, operation over REST.

Blocking. Programs should use `tritonclient` or any other client of the Open Inference Protocol.
"""

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any, Protocol, TypeAlias
from urllib.parse import quote, urlencode

import grpc
import numpy as np

from serving.core import dtypes
from serving.core.types import Signature, Tensors, TensorSpec
from serving.protocols.messages import oip as m
from serving.protocols.oip import tensors

_TIMEOUT_S = 60.0
# Where a parameter's value goes in gRPC, by its type.
_PARAMETERS = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}


class ClientError(Exception):
    """The server refused, or cannot be reached; the message is one line. `status`: of the refusal, if it was HTTP's."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Answer:
    model: str
    version: str
    outputs: Tensors


class Client(Protocol):
    def signature(self, model: str, version: str) -> Signature: ...

    def infer(
        self,
        model: str,
        version: str,
        inputs: Tensors,
        *,
        outputs: Sequence[str] = (),
        parameters: Mapping[str, Any] | None = None,
    ) -> Answer:
        """Args: outputs: the names of those that are wanted; none: all."""

    def index(self) -> list[dict[str, str]]: ...

    def metadata(self, model: str, version: str) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Target:
    """A server, and what it takes to be let in.

    Attributes:
        key: empty: none.
        ca_cert: the roots that the server's certificate may come from; None: those of the system.
        client_cert: a certificate and its key in one file (PEM); None: none.
    """

    url: str
    key: str = field(default="", repr=False)
    ca_cert: Path | None = None
    client_cert: Path | None = None


Where: TypeAlias = Target | str  # a URL alone is a server that lets everybody in


def connect(where: Where) -> Client:
    """A client for `http://host:port` or `https://host:port`; or for `grpc://host:port`, with TLS
    `grpcs://host:port`, and plain `host:port`.

    Raises:
        ClientError: a certificate cannot be read.
    """
    target = _target(where)
    if target.url.startswith(("http://", "https://")):
        return RestClient(_Rest(target))
    return GrpcClient(target)


def _target(where: Where) -> Target:
    return where if isinstance(where, Target) else Target(where)


class RestClient:
    def __init__(self, rest: "_Rest") -> None:
        self._rest = rest

    def index(self) -> list[dict[str, str]]:
        entries: list[dict[str, str]] = json.loads(self._rest.call("/v2/repository/index", b"")[0])
        return entries

    def metadata(self, model: str, version: str) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self._rest.call(_path(model, version))[0])
        return value

    def signature(self, model: str, version: str) -> Signature:
        return _signature(self.metadata(model, version))

    def infer(
        self,
        model: str,
        version: str,
        inputs: Tensors,
        *,
        outputs: Sequence[str] = (),
        parameters: Mapping[str, Any] | None = None,
    ) -> Answer:
        raw = [tensors.to_raw(array) for array in inputs.values()]
        entries = [
            {**tensors.tensor_head(name, array), "parameters": {"binary_data_size": len(data)}}
            for (name, array), data in zip(inputs.items(), raw, strict=True)
        ]
        head: dict[str, Any] = {"inputs": entries, "parameters": {**(parameters or {}), "binary_data_output": True}}
        if outputs:
            head["outputs"] = [{"name": name, "parameters": {"binary_data": True}} for name in outputs]
        header = json.dumps(head).encode()
        body, length = self._rest.call(
            _path(model, version) + "/infer",
            b"".join((header, *raw)),
            {"Inference-Header-Content-Length": str(len(header)), "Content-Type": "application/octet-stream"},
        )
        size = len(body) if length is None else int(length)
        value, at = json.loads(body[:size]), size
        answer: Tensors = {}
        for entry in value["outputs"]:
            end = at + entry.get("parameters", {}).get("binary_data_size", 0)
            answer[entry["name"]] = _array(entry, body[at:end])
            at = end
        return Answer(value["model_name"], value["model_version"], answer)


class Operator:
    """Asks and changes what a server serves. Models and events are as its REST API gives them."""

    def __init__(self, where: Where) -> None:
        """Raises: ClientError: not the address of a REST API; or a certificate cannot be read."""
        target = _target(where)
        if not target.url.startswith(("http://", "https://")):
            raise ClientError(f"this goes over REST alone: expected --url http://host:port, got {target.url}")
        self._rest = _Rest(target)

    def models(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._ask("/serving/models")["models"]
        return found

    def model(self, name: str) -> dict[str, Any]:
        return self._ask(f"/serving/models/{quote(name, safe='')}")

    def events(
        self, after: int = 0, model: str = "", limit: int = 100, wait_s: float = 0
    ) -> tuple[list[dict[str, Any]], int]:
        """The newest events behind number `after`, oldest first, and the number to ask with the next time.

        Args:
            wait_s: how long to wait for the first one, if there is none.
        """
        query = urlencode({"after": after, "model": model, "limit": limit, "wait_s": wait_s})
        answer = self._ask(f"/serving/events?{query}", timeout_s=_TIMEOUT_S + wait_s)
        return answer["events"], answer["after"]

    def explain(self, name: str, version: str = "") -> dict[str, Any]:
        """What the batcher of a version did, by default of the one that requests go to."""
        return self._ask(f"{_path(name, version)}/batching/explain")

    def change(self, name: str, what: str, body: Any) -> dict[str, Any]:
        """Waits for the end of a change, such as `load`, however long it takes; how the model stands then."""
        path = f"/serving/models/{quote(name, safe='')}/{what}"
        return self._ask(path, json.dumps(body).encode(), timeout_s=None)

    def _ask(self, path: str, body: bytes | None = None, timeout_s: float | None = _TIMEOUT_S) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"} if body else {}
        try:
            answer: dict[str, Any] = json.loads(self._rest.call(path, body, headers, timeout_s)[0])
        except ClientError as error:
            if error.status in (404, 405, 501) and str(error).startswith(("HTTP ", "Not Found", "Malformed request")):
                raise ClientError(
                    f"the server at {self._rest.url} has no {path.split('?')[0]}; is it an older one?"
                ) from None
            raise
        except ValueError:
            raise ClientError(f"what answers at {self._rest.url} is no such server") from None
        return answer


class GrpcClient:
    def __init__(self, target: Target) -> None:
        """Raises: ClientError: a certificate cannot be read."""
        self._target = target.url.removeprefix("grpcs://").removeprefix("grpc://").rstrip("/")
        self._metadata = (("authorization", f"Bearer {target.key}"),) if target.key else ()
        size = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        if target.url.startswith("grpcs://"):
            roots, own = _content(target.ca_cert), _content(target.client_cert)
            self._channel = grpc.secure_channel(self._target, grpc.ssl_channel_credentials(roots, own, own), size)
        else:
            self._channel = grpc.insecure_channel(self._target, options=size)

    def index(self) -> list[dict[str, str]]:
        answer = self._call("RepositoryIndex", m.RepositoryIndexRequest(), m.RepositoryIndexResponse)
        return [{"name": e.name, "version": e.version, "state": e.state, "reason": e.reason} for e in answer.models]

    def metadata(self, model: str, version: str) -> dict[str, Any]:
        answer = self._call(
            "ModelMetadata", m.ModelMetadataRequest(name=model, version=version), m.ModelMetadataResponse
        )
        sides = {
            side: [{"name": t.name, "datatype": t.datatype, "shape": list(t.shape)} for t in getattr(answer, side)]
            for side in ("inputs", "outputs")
        }
        return {"name": answer.name, "versions": list(answer.versions), "platform": answer.platform, **sides}

    def signature(self, model: str, version: str) -> Signature:
        return _signature(self.metadata(model, version))

    def infer(
        self,
        model: str,
        version: str,
        inputs: Tensors,
        *,
        outputs: Sequence[str] = (),
        parameters: Mapping[str, Any] | None = None,
    ) -> Answer:
        request = m.ModelInferRequest(model_name=model, model_version=version)
        for name in outputs:
            request.outputs.add(name=name)
        for name, value in (parameters or {}).items():
            setattr(request.parameters[name], _PARAMETERS[type(value)], value)
        for name, array in inputs.items():
            request.inputs.add(**tensors.tensor_head(name, array))
            request.raw_input_contents.append(tensors.to_raw(array))
        answer = self._call("ModelInfer", request, m.ModelInferResponse)
        arrays = {
            t.name: _array({"name": t.name, "datatype": t.datatype, "shape": list(t.shape)}, raw)
            for t, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)
        }
        return Answer(answer.model_name, answer.model_version, arrays)

    def _call(self, method: str, request: Any, answer: Any) -> Any:
        call = self._channel.unary_unary(
            f"/{m.GRPCInferenceService.full_name}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        try:
            return call(request, timeout=_TIMEOUT_S, metadata=self._metadata)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                raise ClientError(f"no server answers at {self._target}: {error.details()}") from None
            raise ClientError(str(error.details())) from None


class _Rest:
    """Requests to one server."""

    def __init__(self, target: Target) -> None:
        """Raises: ClientError: a certificate cannot be read."""
        self.url = target.url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {target.key}"} if target.key else {}
        self._context = _context(target) if self.url.startswith("https://") else None

    def call(
        self,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        timeout_s: float | None = _TIMEOUT_S,
    ) -> tuple[bytes, str | None]:
        """A body, and how much of it is JSON if raw tensors follow."""
        url = self.url
        try:
            request = urllib.request.Request(url + path, body, self._headers | (headers or {}))
            with urllib.request.urlopen(request, timeout=timeout_s, context=self._context) as response:
                return response.read(), response.headers.get("Inference-Header-Content-Length")
        except urllib.error.HTTPError as error:
            with error:
                raise ClientError(_reason(error.read(), f"HTTP {error.code} {error.reason}"), error.code) from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise ClientError(f"no server answers at {url}: {reason}") from None
        except HTTPException:  # its text is whatever came
            raise ClientError(f"what answers at {url} does not speak HTTP; is it the port for REST?") from None


def _context(target: Target) -> ssl.SSLContext:
    roots = _content(target.ca_cert)
    try:
        context = ssl.create_default_context(cadata=None if roots is None else roots.decode("ascii", "replace"))
    except ssl.SSLError:
        raise ClientError(f"'{target.ca_cert}' holds no certificates in PEM form") from None
    if target.client_cert is not None:
        try:
            context.load_cert_chain(target.client_cert, password=_no_password)
        except (OSError, ValueError):  # ssl.SSLError is the first
            raise ClientError(f"'{target.client_cert}' holds no certificate with its key in PEM form") from None
    return context


def _no_password() -> str:
    raise ValueError("the key is encrypted")


def _content(file: Path | None) -> bytes | None:
    """Raises: ClientError: it cannot be read."""
    try:
        return None if file is None else file.read_bytes()
    except OSError as error:
        raise ClientError(f"cannot read '{file}': {error.strerror}") from None


def _path(model: str, version: str) -> str:
    return f"/v2/models/{quote(model, safe='')}" + (f"/versions/{quote(version, safe='')}" if version else "")


def _array(entry: dict[str, Any], data: bytes) -> np.ndarray:
    dtype = dtypes.BY_NAME[entry["datatype"]]
    return tensors.from_raw(entry["name"], "", dtype, tuple(entry["shape"]), data)


def _signature(metadata: dict[str, Any]) -> Signature:
    def specs(side: str) -> dict[str, TensorSpec]:
        return {
            t["name"]: TensorSpec(t["name"], dtypes.BY_NAME[t["datatype"]], tuple(t["shape"])) for t in metadata[side]
        }

    return Signature(specs("inputs"), specs("outputs"))


def _reason(body: bytes, otherwise: str) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return otherwise
