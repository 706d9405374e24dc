"""One kind of inference request over REST: those whose path and header are the same, byte by byte.

A client says the same with each request but for its body, so what path and header come to is worked out once, and what
is left to do for each body is here. On the event loop.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from serving.core.errors import ErrorKind, ServingError
from serving.core.types import InferRequest, InferResponse
from serving.engine import Engine
from serving.protocols import compression
from serving.protocols.answer import Heavy, answer
from serving.protocols.asks import NOTHING, may_ask, of_headers
from serving.protocols.http import Headers, HttpReply, add_timing, error_reply, route_key
from serving.protocols.jsonio import LIGHT_TEXT
from serving.protocols.offload import Offload
from serving.protocols.oip.outputs import Wants
from serving.protocols.oip.parameters import parse_version
from serving.protocols.oip.rest_codec import (
    HEADER_LENGTH,
    Reader,
    Writer,
    decode,
    decode_raw,
    header_size,
    is_heavy_to_read,
    is_heavy_to_write,
)
from serving.protocols.status import Family

PROTOCOL = "oip_rest"


@dataclass(frozen=True, slots=True)
class Means:
    """What all inference requests share.

    Attributes:
        offload: where large bodies are read and written; None: here.
        max_body_bytes: how large a compressed body may become.
    """

    engine: Engine
    reader: Reader
    writer: Writer
    offload: Offload | None
    max_body_bytes: int


class Inference:
    """Call it with a body.

    Args:
        headers: names in lower case.
    """

    def __init__(self, means: Means, model: str, version: str | None, headers: Headers) -> None:
        said = dict(headers)
        self._means = means
        self._engine = means.engine
        self._model = model
        self._version = version
        self._headers = headers
        self._asks = None if may_ask(headers) else NOTHING
        self._header_length = said.get(HEADER_LENGTH)
        self._encoding = said.get(b"content-encoding")
        self._coding = compression.choose(said.get(b"accept-encoding"))
        self._write: Callable[[InferResponse, Wants], HttpReply] = partial(means.writer.encode, coding=self._coding)
        self._is_heavy_to_write = partial(is_heavy_to_write, self._coding)
        self._light = None if means.offload is None else Heavy(means.offload, False, self._is_heavy_to_write)

    async def __call__(self, body: bytes) -> HttpReply:
        """The answer, also if it is an error."""
        try:
            return await self.answer(body)
        except ServingError as error:
            return error_reply(error, Family.OIP)

    async def answer(self, body: bytes) -> HttpReply:
        """Raises: ServingError, asyncio.CancelledError: see `answer`."""
        started = time.perf_counter()
        engine, model, version = self._engine, self._model, self._version
        try:
            asks = self._asks or of_headers(self._headers)
            if self._encoding is not None:
                body = await self._inflated(body)
            size = header_size(self._header_length, len(body))
            is_raw = size == 0 or not body
            if is_raw and engine.catalog.asleep:  # the model says how to read it
                await engine.awake(model, asks.deadline)
        except ServingError as error:
            refused(engine, model, version, error)
            if error.kind is not ErrorKind.UNSUPPORTED:
                raise
            reply = error_reply(error, Family.OIP)  # with the header that says what there is
            return HttpReply(reply.status, reply.body, [*reply.headers, (b"accept-encoding", b"gzip, deflate")])
        heavy, write = self._light, self._write
        key = route_key(engine.catalog, model, self._headers)
        read: Callable[[], tuple[InferRequest, Wants]]
        if is_raw:
            read = partial(self._read_raw, body, key)
        elif heavy is not None and len(body) > LIGHT_TEXT and is_heavy_to_read(body, size):
            read = partial(decode, model, version, body, size)
            heavy = Heavy(heavy.offload, True, self._is_heavy_to_write)
        else:
            read = partial(self._means.reader.decode, model, version, body, size)
        return await answer(
            engine,
            PROTOCOL,
            model,
            read,
            write,
            started,
            heavy=heavy,
            route_key=key,
            deadline=asks.deadline,
            timed=add_timing if asks.timing else None,
        )

    def _read_raw(self, body: bytes, key: str | None) -> tuple[InferRequest, Wants]:
        found = self._engine.catalog.route(self._model, parse_version(self._version), key)
        request, wants = decode_raw(found.contract, self._version, body)
        request.version = found.number  # the next choice might be another
        return request, wants

    async def _inflated(self, body: bytes) -> bytes:
        """The body as it was before it was compressed.

        Raises:
            ServingError: see `compression.decompress`.
        """
        means, encoding = self._means, self._encoding
        if means.offload is not None and compression.is_heavy_to_decompress(encoding, body):
            return await means.offload.run(compression.decompress, encoding, body, means.max_body_bytes)
        return compression.decompress(encoding, body, means.max_body_bytes)


def refused(engine: Engine, model: str, version: str | None, error: ServingError) -> None:
    """Counts a request that is refused before it can be answered as others are."""
    try:
        number = parse_version(version)
    except ServingError:
        number = None
    engine.metrics.requests(*engine.known(model, number), PROTOCOL).failed(error.kind.value)
