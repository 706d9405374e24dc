"""TensorFlow Serving's REST API: everything under `/v1/`. Request in, reply out; no sockets."""

import logging
import re
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from google.protobuf.json_format import MessageToDict

from serving.core.errors import ErrorKind, ServingError
from serving.core.types import InferRequest, InferResponse
from serving.engine import Engine
from serving.protocols import jsonio
from serving.protocols import messages as m
from serving.protocols.answer import Heavy, answer
from serving.protocols.asks import Asks, of_headers
from serving.protocols.compression import is_heavy_to_decompress
from serving.protocols.http import HttpReply, add_timing, error_reply, json_reply, route_key
from serving.protocols.offload import Offload
from serving.protocols.status import Family
from serving.protocols.tfs import rest_codec, servables, signatures
from serving.protocols.tfs.rest_codec import Asked, Body, Wants
from serving.protocols.tfs.routes import route
from serving.protocols.tfs.servables import Target

log = logging.getLogger(__name__)

PROTOCOL = "tfs_rest"

_WEB = re.compile(rb"https?://", re.IGNORECASE)

_Decode = Callable[[Body, Asked], tuple[InferRequest, Wants]]
_Encode = Callable[[InferResponse, Wants], HttpReply]

_ACTIONS: dict[str, tuple[_Decode, _Encode]] = {
    "predict": (rest_codec.decode_predict, rest_codec.encode_predict),
    "classify": (rest_codec.decode_classify, rest_codec.encode_classify),
    "regress": (rest_codec.decode_regress, rest_codec.encode_regress),
}


class TfsRest:
    """Answers whatever begins with `/v1/`.

    Args:
        offload: where heavy JSON is read and written; None: here.
        max_body_bytes: what a compressed body may expand to.
        timeout_s: how long a request may wait for the model; None: as the model's settings say.
    """

    def __init__(
        self,
        engine: Engine,
        offload: Offload | None = None,
        max_body_bytes: int = 64 * 1024 * 1024,
        timeout_s: float | None = None,
    ) -> None:
        self._engine = engine
        self._timeout_s = timeout_s
        self._offload = offload
        self._max_body_bytes = max_body_bytes

    async def handle(
        self,
        method: str,
        path: str,
        body: bytes,
        encoding: bytes | None = None,
        origin: bytes | None = None,
        headers: Iterable[tuple[bytes, bytes]] = (),
    ) -> HttpReply:
        """Answers one request, an error as such.

        Args:
            path: as it came: percent-encoded, without the query.
            encoding: the value of Content-Encoding.
            origin: the value of Origin.
            headers: all of them, names in lower case.
        """
        started = time.perf_counter()
        if method == "OPTIONS" and origin is not None and _WEB.match(origin):
            return HttpReply(200, b"")  # what a browser asks first; no header allows it the rest
        try:
            asked = route(method, path)
            if asked.action == "status":
                return self._status(asked.target)
            if asked.action == "metadata":
                return await self._metadata(asked.target)
            codec = _ACTIONS[asked.action]
            content = Body(body, encoding, self._max_body_bytes)
            return await self._infer(asked.target, content, *codec, headers, started)
        except ServingError as error:
            return error_reply(error, Family.TFS)
        except Exception:
            log.exception("a request failed: %s %s", method, path)
            text = "internal error; the server's log has the details"
            return error_reply(ServingError(ErrorKind.INTERNAL, text), Family.TFS)

    async def _infer(
        self,
        target: Target,
        body: Body,
        decode: _Decode,
        encode: _Encode,
        headers: Iterable[tuple[bytes, bytes]],
        started: float,
    ) -> HttpReply:
        version = None
        found: dict[str, Any] | ServingError
        asks = Asks()
        try:
            asks = of_headers(headers, None if self._timeout_s is None else time.monotonic() + self._timeout_s)
            key = route_key(self._engine.catalog, target.model, headers)
            if self._engine.catalog.asleep:
                await self._engine.awake(target.model, asks.deadline)
            version = servables.route(self._engine.catalog, target, key)
            found = signatures.of(version)
        except ServingError as error:
            found = error
        heavy = None
        if self._offload is not None:
            to_read = is_heavy_to_decompress(body.encoding, body.data) or jsonio.is_heavy_to_read(body.data)
            heavy = Heavy(self._offload, to_read, _is_heavy_to_write)
        return await answer(
            self._engine,
            PROTOCOL,
            target.model,
            partial(decode, body, Asked(target.model, version.number if version else None, found)),
            encode,
            started,
            heavy=heavy,
            version=version,
            deadline=asks.deadline,
            timed=add_timing if asks.timing else None,
            name_request=False,
        )

    def _status(self, target: Target) -> HttpReply:
        return json_reply(_as_json(servables.status(self._engine.catalog, target.model, target.version)))

    async def _metadata(self, target: Target) -> HttpReply:
        await self._engine.awake(target.model)
        version = servables.resolve(self._engine.catalog, target)
        spec = m.tfs.ModelSpec(name=target.model)
        spec.version.value = version.number
        described = _as_json(signatures.describe(signatures.of(version)))
        return json_reply({"model_spec": _as_json(spec), "metadata": {"signature_def": described}})


def _is_heavy_to_write(response: InferResponse, _: Wants) -> bool:
    return jsonio.is_heavy_to_write(response.outputs.values())


def _as_json(message: Any) -> dict[str, Any]:
    """A message in protobuf's JSON: 64-bit integers as strings, enums by name, fields at their default too."""
    found: dict[str, Any] = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return found
