"""Which model and version is asked, its requests in the form of each protocol, and how their answers are read. Pure,
apart from `prepare`, which asks for the metadata and for the answers that are expected later.

Locust patches what blocks, so `prepare` may run on gevent's loop.
"""

import json
import ssl
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote

from loadtests import oip, tfs
from loadtests.locust.samples import Check, Sample, random_samples, read
from loadtests.payloads import parse_signature
from serving.core.types import Tensors
from serving.protocols.messages import oip as m
from serving.protocols.messages import tfs as t

TIMEOUT_S = 30.0
GRPC_STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
JSON = {"content-type": "application/json"}
METHODS = {"oip-grpc": oip.GRPC_INFER, "oip-stream": GRPC_STREAM, "tfs-grpc": tfs.GRPC_PREDICT}


class TargetError(Exception):
    """There is nothing to load: the message is one line."""


@dataclass(frozen=True)
class Request:
    """`number` of the sample; `path` is empty over gRPC."""

    number: int
    body: bytes
    path: str = ""
    headers: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Access:
    """What a server wants before it talks to us. `context` is None without TLS."""

    headers: Mapping[str, str]
    context: ssl.SSLContext | None


@dataclass(frozen=True)
class Target:
    """`requests` by protocol; a protocol that cannot carry the model's datatypes has none."""

    samples: tuple[Sample, ...]
    check: Check
    requests: Mapping[str, tuple[Request, ...]]

    def read(self, protocol: str, headers: Mapping[str, str], body: bytes) -> Tensors:
        """ValueError, KeyError, TypeError for what is no answer; AnswerError for an error within a stream."""
        if protocol == "oip-grpc":
            return oip.decode_grpc(body)
        if protocol == "oip-stream":
            message = m.ModelStreamInferResponse.FromString(body)
            if message.error_message:
                raise oip.AnswerError(message.error_message)
            return oip.decode_grpc(message.infer_response.SerializeToString())
        if protocol == "tfs-grpc":
            return tfs.decode_predict(body)
        if protocol == "tfs-rest":
            return tfs.decode_rows(body, {name: spec.dtype for name, spec in self.check.signature.outputs.items()})
        return oip.decode_rest(headers, body)


def access(options: Any) -> Access:
    headers = {"authorization": f"Bearer {options.api_key}"} if options.api_key else {}
    if not str(options.host).startswith("https://"):
        return Access(headers, None)
    context = ssl.create_default_context(cafile=options.tls_ca)
    if options.client_cert is not None:
        context.load_cert_chain(options.client_cert, options.client_key)
    return Access(headers, context)


def prepare(host: str, options: Any) -> Target:
    """TargetError: the model is not there, the file is none, an answer could not be had."""
    allowed = access(options)
    if options.label and options.model_version is not None:
        raise TargetError("a version and a label at the same time")
    metadata = json.loads(_ask(host, _oip_path(options.model, options.model_version), None, {}, allowed)[1])
    try:
        signature = parse_signature(metadata)
        samples = read(Path(options.payload), signature) if options.payload else random_samples(signature, options.rows)
    except (ValueError, OSError) as error:
        raise TargetError(str(error)) from error
    check = Check(options.check, signature, options.atol, options.rtol)
    target = Target(tuple(samples), check, encoded(samples, options.model, options.model_version, options.label))
    if options.check == "shape":
        return target
    if options.check == "golden":
        if any(sample.expected is None for sample in samples):
            raise TargetError("--check golden needs a payload file that holds the expected outputs too")
        return target
    return replace(target, samples=tuple(_expected(host, target, number, allowed) for number in range(len(samples))))


def _expected(host: str, target: Target, number: int, allowed: Access) -> Sample:
    """The sample with the answer that the server gives now, unless its file says what it has to be."""
    sample = target.samples[number]
    if sample.expected is not None:
        return sample
    protocol = next((name for name in ("oip-binary", "tfs-rest") if target.requests[name]), "")
    if not protocol:
        raise TargetError("with a label and these datatypes no answer can be had over REST: take --check shape")
    request = target.requests[protocol][number]
    headers, body = _ask(host, request.path, request.body, request.headers or {}, allowed)
    try:
        return replace(sample, expected=target.read(protocol, headers, body))
    except (ValueError, KeyError, TypeError) as error:
        raise TargetError(f"an answer that cannot be read: {error}") from error


def encoded(samples: list[Sample], model: str, version: int | None, label: str) -> dict[str, tuple[Request, ...]]:
    """The same requests for each protocol. OIP has no labels, so with one its protocols have no requests."""
    forms: dict[str, Callable[[int, Sample], Request]] = {
        "oip-json": lambda n, s: Request(n, oip.encode_json(s.inputs), _oip_path(model, version, "/infer"), JSON),
        "oip-binary": lambda n, s: _binary(n, s, _oip_path(model, version, "/infer")),
        "oip-grpc": lambda n, s: Request(n, _oip_message(model, version, s)),
        "oip-stream": lambda n, s: Request(n, _oip_message(model, version, s)),
        "tfs-rest": lambda n, s: Request(n, tfs.encode_rows(s.inputs), _tfs_path(model, version, label), JSON),
        "tfs-grpc": lambda n, s: Request(n, _tfs_message(model, version, label, s)),
    }
    found: dict[str, tuple[Request, ...]] = {}
    for name, form in forms.items():
        try:
            can = not (label and name.startswith("oip"))
            found[name] = tuple(form(number, sample) for number, sample in enumerate(samples)) if can else ()
        except ValueError:  # a datatype that this protocol has no form for
            found[name] = ()
    return found


def _binary(number: int, sample: Sample, path: str) -> Request:
    body, json_bytes = oip.encode_binary(sample.inputs)
    return Request(number, body, path, {"content-type": "application/octet-stream", oip.JSON_LENGTH: str(json_bytes)})


def _oip_path(model: str, version: int | None, rest: str = "") -> str:
    chosen = "" if version is None else f"/versions/{version}"
    return f"/v2/models/{quote(model, safe='')}{chosen}{rest}"


def _tfs_path(model: str, version: int | None, label: str) -> str:
    chosen = f"/labels/{quote(label, safe='')}" if label else "" if version is None else f"/versions/{version}"
    return f"/v1/models/{quote(model, safe='')}{chosen}:predict"


def _oip_message(model: str, version: int | None, sample: Sample) -> bytes:
    body = oip.encode_grpc(model, sample.inputs)
    if version is None:
        return body
    message = m.ModelInferRequest.FromString(body)
    message.model_version = str(version)
    return bytes(message.SerializeToString())


def _tfs_message(model: str, version: int | None, label: str, sample: Sample) -> bytes:
    message = t.PredictRequest.FromString(tfs.encode_predict(model, sample.inputs))
    if label:
        message.model_spec.version_label = label
    elif version is not None:
        message.model_spec.version.value = version
    return bytes(message.SerializeToString())


def _ask(
    host: str, path: str, body: bytes | None, headers: Mapping[str, str], allowed: Access
) -> tuple[dict[str, str], bytes]:
    """A GET, or a POST of `body`: headers in lower case and body of the answer. TargetError."""
    url = host.rstrip("/") + path
    request = urllib.request.Request(url, body, {**headers, **allowed.headers})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=allowed.context) as answer:
            return {name.lower(): value for name, value in answer.headers.items()}, answer.read()
    except HTTPError as error:
        raise TargetError(f"{url}: status {error.code}: {error.read()[:300]!r}") from error
    except (URLError, OSError, ValueError) as error:
        raise TargetError(f"no answer from {url}: {error}") from error


def scrape(host: str, allowed: Access) -> str:
    """The server's metrics. TargetError."""
    return _ask(host, "/metrics", None, {}, allowed)[1].decode(errors="replace")
