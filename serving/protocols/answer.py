"""The course of one inference that every protocol shares: decode, infer, encode, and count what came of it."""

import asyncio
import logging
from collections.abc import Callable
from time import perf_counter
from typing import TypeVar

from serving.core.errors import ErrorKind, ServingError
from serving.core.types import InferRequest, InferResponse
from serving.engine import Engine

log = logging.getLogger(__name__)

Wants = TypeVar("Wants")
Reply = TypeVar("Reply")


async def answer(
    engine: Engine,
    protocol: str,
    model: str,
    decode: Callable[[], tuple[InferRequest, Wants]],
    encode: Callable[[InferResponse, Wants], Reply],
    started: float,
) -> Reply:
    """Answers one inference request.

    Args:
        protocol: the metric label, such as `oip_rest`.
        model: the name that the request gives, known before it is decoded.
        decode: makes the request, and whatever `encode` has to know about the form of the answer.
        started: `time.perf_counter()` when the request had arrived.

    Raises:
        ServingError: what went wrong, for the client. An exception that nobody foresaw becomes a fixed text here, and a
            trace in the log.
        asyncio.CancelledError: the client went away.
    """
    request = None
    try:
        request, wants = decode()
        decoded = perf_counter()
        response = await engine.infer(request)
        inferred = perf_counter()
        reply = encode(response, wants)
        engine.metrics.requests(model, str(response.version), protocol).answered(
            decoded - started, response.timing, perf_counter() - inferred
        )
        return reply
    except ServingError as error:
        _count(engine, protocol, model, request, error.kind)
        if request is not None and error.kind in (ErrorKind.INVALID, ErrorKind.QUEUE_FULL):
            raise ServingError(error.kind, f"[request id: {request.id or '<id_unknown>'}] {error.message}") from None
        raise
    except asyncio.CancelledError:
        _count(engine, protocol, model, request, ErrorKind.CANCELLED)
        raise
    except Exception as error:
        log.exception("a request for model '%s' failed [request id: %s]", model, request.id if request else "")
        _count(engine, protocol, model, request, ErrorKind.INTERNAL)
        raise ServingError(ErrorKind.INTERNAL, "internal error; the server's log has the details") from error


def _count(engine: Engine, protocol: str, model: str, request: InferRequest | None, kind: ErrorKind) -> None:
    name, version = engine.known(model, request.version if request else None)
    engine.metrics.requests(name, version, protocol).failed(kind.value)
