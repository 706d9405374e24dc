"""The requests of the mix, encoded once, and how an answer over each protocol is read. Pure."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from loadtests import oip, tfs
from loadtests.soak import law
from serving.core import dtypes
from serving.core.types import Tensors
from serving.protocols.messages import oip as m
from serving.protocols.messages import tfs as t

GRPC_STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"

Transport = Literal["http", "grpc", "stream"]


@dataclass(frozen=True)
class Ask:
    """One request, and the product that its answer must be a multiple of.

    `read` gives an answer's outputs and the version that it names, None if it names none. It raises ValueError,
    KeyError or TypeError for an answer that it cannot read.
    """

    protocol: str
    transport: Transport
    path: str
    body: bytes
    base: np.ndarray
    read: Callable[[Mapping[str, str], bytes], tuple[Tensors, int | None]]
    headers: Mapping[str, str] = field(default_factory=dict)


def version_of(ask: Ask, headers: Mapping[str, str], body: bytes) -> int:
    """The version that gave this answer. ValueError, KeyError, TypeError: it is wrong, or another's than it says."""
    outputs, named = ask.read(headers, body)
    version = law.factor(ask.base, outputs)
    if named not in (None, version):
        raise ValueError(f"the values of version {version} in an answer of version {named}")
    return version


def asks() -> dict[str, list[Ask]]:
    """Some requests of each protocol, of 1 to 8 rows; the large ones go through the server's helper processes."""
    few = [law.rows(count, seed) for seed, count in enumerate((1, 1, 2, 4, 8))]
    return {
        "oip-json": [_json("oip-json", x) for x in few],
        "oip-json-large": [_json("oip-json-large", law.rows(law.MOST_ROWS, 99))],
        "oip-binary": [_binary(x) for x in few],
        "oip-grpc": [_grpc("oip-grpc", "grpc", oip.GRPC_INFER, x) for x in few],
        "oip-stream": [_grpc("oip-stream", "stream", GRPC_STREAM, x) for x in few],
        "tfs-rest": [_tfs_rest(x) for x in few],
        "tfs-grpc": [_tfs_grpc(x) for x in few],
    }


PROTOCOLS = ("oip-json", "oip-json-large", "oip-binary", "oip-grpc", "oip-stream", "tfs-rest", "tfs-grpc")

_JSON = {"content-type": "application/json"}


def _json(name: str, x: np.ndarray) -> Ask:
    return Ask(
        name,
        "http",
        oip.infer_path(law.NAME),
        oip.encode_json({law.INPUT: x}),
        law.product(x),
        _read_rest,
        _JSON,
    )


def _binary(x: np.ndarray) -> Ask:
    body, json_bytes = oip.encode_binary({law.INPUT: x})
    headers = {"content-type": "application/octet-stream", oip.JSON_LENGTH: str(json_bytes)}
    return Ask("oip-binary", "http", oip.infer_path(law.NAME), body, law.product(x), _read_rest, headers)


def _grpc(name: str, transport: Transport, path: str, x: np.ndarray) -> Ask:
    body = oip.encode_grpc(law.NAME, {law.INPUT: x})
    read = _read_grpc if transport == "grpc" else _read_stream
    return Ask(name, transport, path, body, law.product(x), read)


def _tfs_rest(x: np.ndarray) -> Ask:
    return Ask(
        "tfs-rest",
        "http",
        tfs.predict_path(law.NAME),
        tfs.encode_rows({law.INPUT: x}),
        law.product(x),
        lambda headers, body: (tfs.decode_rows(body, {law.OUTPUT: dtypes.FP32}), None),
        _JSON,
    )


def _tfs_grpc(x: np.ndarray) -> Ask:
    body = tfs.encode_predict(law.NAME, {law.INPUT: x})
    return Ask("tfs-grpc", "grpc", tfs.GRPC_PREDICT, body, law.product(x), _read_predict)


def _read_rest(headers: Mapping[str, str], body: bytes) -> tuple[Tensors, int]:
    json_bytes = int(headers.get(oip.JSON_LENGTH, len(body)))
    return oip.decode_rest(headers, body), int(json.loads(body[:json_bytes])["model_version"])


def _read_grpc(_: Mapping[str, str], body: bytes) -> tuple[Tensors, int]:
    return oip.decode_grpc(body), int(m.ModelInferResponse.FromString(body).model_version)


def _read_stream(_: Mapping[str, str], body: bytes) -> tuple[Tensors, int]:
    return _read_grpc({}, m.ModelStreamInferResponse.FromString(body).infer_response.SerializeToString())


def _read_predict(_: Mapping[str, str], body: bytes) -> tuple[Tensors, int]:
    return tfs.decode_predict(body), int(t.PredictResponse.FromString(body).model_spec.version.value)
