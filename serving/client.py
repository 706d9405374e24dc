"""Small clients for the command line: metadata and inference over REST (binary tensors) or gRPC, operation over REST.

Blocking. Programs should use `tritonclient` or any other client of the Open Inference Protocol.
"""

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any, Protocol
from urllib.parse import quote, urlencode

import grpc
import numpy as np

from serving.core import dtypes
from serving.core.types import Signature, Tensors, TensorSpec
from serving.protocols.messages import oip as m
from serving.protocols.oip import tensors

_TIMEOUT_S = 60.0


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

    def infer(self, model: str, version: str, inputs: Tensors) -> Answer: ...

    def index(self) -> list[dict[str, str]]: ...

    def metadata(self, model: str, version: str) -> dict[str, Any]: ...


def connect(url: str) -> Client:
    """A client for `http://host:port`, or for `grpc://host:port` and plain `host:port`."""
    if url.startswith(("http://", "https://")):
        return RestClient(url.rstrip("/"))
    return GrpcClient(url.removeprefix("grpc://").rstrip("/"))


class RestClient:
    def __init__(self, url: str) -> None:
        self._url = url

    def index(self) -> list[dict[str, str]]:
        entries: list[dict[str, str]] = json.loads(_call(self._url, "/v2/repository/index", b"")[0])
        return entries

    def metadata(self, model: str, version: str) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(_call(self._url, _path(model, version))[0])
        return value

    def signature(self, model: str, version: str) -> Signature:
        return _signature(self.metadata(model, version))

    def infer(self, model: str, version: str, inputs: Tensors) -> Answer:
        raw = [tensors.to_raw(array) for array in inputs.values()]
        entries = [
            {**tensors.tensor_head(name, array), "parameters": {"binary_data_size": len(data)}}
            for (name, array), data in zip(inputs.items(), raw, strict=True)
        ]
        header = json.dumps({"inputs": entries, "parameters": {"binary_data_output": True}}).encode()
        body, length = _call(
            self._url,
            _path(model, version) + "/infer",
            b"".join((header, *raw)),
            {"Inference-Header-Content-Length": str(len(header)), "Content-Type": "application/octet-stream"},
        )
        size = len(body) if length is None else int(length)
        value, at = json.loads(body[:size]), size
        outputs: Tensors = {}
        for entry in value["outputs"]:
            end = at + entry.get("parameters", {}).get("binary_data_size", 0)
            outputs[entry["name"]] = _array(entry, body[at:end])
            at = end
        return Answer(value["model_name"], value["model_version"], outputs)


class Operator:
    """Asks and changes what a server serves. Models and events are as its REST API gives them."""

    def __init__(self, url: str) -> None:
        """Raises: ClientError: not the address of a REST API."""
        if not url.startswith(("http://", "https://")):
            raise ClientError(f"this goes over REST alone: expected --url http://host:port, got {url}")
        self._url = url.rstrip("/")

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
            answer: dict[str, Any] = json.loads(_call(self._url, path, body, headers, timeout_s)[0])
        except ClientError as error:
            if error.status in (404, 405, 501) and str(error).startswith(("HTTP ", "Not Found", "Malformed request")):
                raise ClientError(
                    f"the server at {self._url} has no {path.split('?')[0]}; is it an older one?"
                ) from None
            raise
        except ValueError:
            raise ClientError(f"what answers at {self._url} is no such server") from None
        return answer


class GrpcClient:
    def __init__(self, target: str) -> None:
        self._target = target
        size = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._channel = grpc.insecure_channel(target, options=size)

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

    def infer(self, model: str, version: str, inputs: Tensors) -> Answer:
        request = m.ModelInferRequest(model_name=model, model_version=version)
        for name, array in inputs.items():
            request.inputs.add(**tensors.tensor_head(name, array))
            request.raw_input_contents.append(tensors.to_raw(array))
        answer = self._call("ModelInfer", request, m.ModelInferResponse)
        outputs = {
            t.name: _array({"name": t.name, "datatype": t.datatype, "shape": list(t.shape)}, raw)
            for t, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)
        }
        return Answer(answer.model_name, answer.model_version, outputs)

    def _call(self, method: str, request: Any, answer: Any) -> Any:
        call = self._channel.unary_unary(
            f"/{m.GRPCInferenceService.full_name}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        try:
            return call(request, timeout=_TIMEOUT_S)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                raise ClientError(f"no server answers at {self._target}: {error.details()}") from None
            raise ClientError(str(error.details())) from None


def _call(
    url: str,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    timeout_s: float | None = _TIMEOUT_S,
) -> tuple[bytes, str | None]:
    """A body, and how much of it is JSON if raw tensors follow."""
    try:
        request = urllib.request.Request(url + path, body, headers or {})
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            return response.read(), response.headers.get("Inference-Header-Content-Length")
    except urllib.error.HTTPError as error:
        with error:
            raise ClientError(_reason(error.read(), f"HTTP {error.code} {error.reason}"), error.code) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise ClientError(f"no server answers at {url}: {reason}") from None
    except HTTPException:  # its text is whatever came
        raise ClientError(f"what answers at {url} does not speak HTTP; is it the port for REST?") from None


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
