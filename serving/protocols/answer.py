"""The course of one inference that every protocol shares: decode, infer, encode, and count what came of it."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Generic, TypeVar

from serving.core.errors import ErrorKind, ServingError
from serving.core.types import InferRequest, InferResponse
from serving.engine import Engine, Times
from serving.protocols import record
from serving.protocols.asks import server_timing
from serving.protocols.offload import Offload
from serving.repository.version import Version

log = logging.getLogger(__name__)

# What is told of a request that is not as the version's signature has it.
_UNREADABLE = frozenset((ErrorKind.INVALID, ErrorKind.PRECONDITION))

Wants = TypeVar("Wants")
Reply = TypeVar("Reply")


@dataclass(slots=True)
class Heavy(Generic[Wants]):
    """Which of a codec's functions would keep the event loop for too long. These run in a helper process, so all that
    they are given and all that they give has to be picklable.

    Attributes:
        decode: this request's.
        encode: says it of an answer.
    """

    offload: Offload
    decode: bool
    encode: Callable[[InferResponse, Wants], bool]


async def answer(
    engine: Engine,
    protocol: str,
    model: str,
    decode: Callable[[], tuple[InferRequest, Wants]],
    encode: Callable[[InferResponse, Wants], Reply],
    started: float,
    *,
    heavy: Heavy[Wants] | None = None,
    version: Version | None = None,
    route_key: str | None = None,
    deadline: float | None = None,
    timed: Callable[[Reply, str], Reply] | None = None,
    name_request: bool = True,
) -> Reply:
    """Answers one inference request.

    Args:
        protocol: the metric label, such as `oip_rest`.
        model: the name that the request gives, known before it is decoded.
        decode: makes the request, and whatever `encode` has to know about the form of the answer.
        started: `time.perf_counter()` when the request had arrived.
        heavy: None: nothing is.
        version: what model and version were resolved to, if `decode` had to know.
        route_key: see `InferRequest`, if they were not; `decode` does not give it.
        deadline: the request's, in addition to any that `decode` gives it.
        timed: adds to a reply where the time went, as `asks.server_timing` says it.
        name_request: whether refusals that depend on the model begin with the request's id.

    Raises:
        ServingError: what went wrong, for the client. An exception that nobody foresaw becomes a fixed text here, and a
            trace in the log.
        asyncio.CancelledError: the client went away.
    """
    request = None
    held = version if heavy and heavy.decode else None  # it must not be unloaded while it is waited for
    if held is not None:
        held.lease()
    try:
        request, wants = await heavy.offload.run(decode) if heavy and heavy.decode else decode()
        if route_key is not None:
            request.route_key = route_key
        if deadline is not None:
            request.deadline = deadline if request.deadline is None else min(deadline, request.deadline)
        decoded = perf_counter()
        response = await engine.infer(request, version)
        inferred = perf_counter()
        if heavy and heavy.encode(response, wants):
            reply = await heavy.offload.run(encode, response, wants, refuse=False)  # the work is done
        else:
            reply = encode(response, wants)
        encoded = perf_counter()
        engine.metrics.requests(model, str(response.version), protocol).answered(
            decoded - started, response.timing, encoded - inferred, encoded - started
        )
        if engine.observers:
            times = Times(started, decoded, inferred, encoded)
            for observer in engine.observers:
                observer(protocol, request, response, times)
        if timed is not None:
            text = server_timing(decoded - started, response.timing, encoded - inferred, encoded - started)
            return timed(reply, text)
        return reply
    except ServingError as error:
        if request is None and version is not None and error.kind in _UNREADABLE:
            engine.refused(version)
        _count(engine, protocol, model, version, request, error.kind, started)
        if name_request and request is not None and error.kind in (ErrorKind.INVALID, ErrorKind.QUEUE_FULL):
            text = f"[request id: {request.id or '<id_unknown>'}] {error.message}"
            raise ServingError(error.kind, text, error.retry_after_s) from None
        raise
    except asyncio.CancelledError:
        _count(engine, protocol, model, version, request, ErrorKind.CANCELLED, started)
        raise
    except Exception as error:
        about = {"request_id": record.acceptable(request.id)} if request else {}
        log.exception("a request for model '%s' failed", model, extra=about)
        _count(engine, protocol, model, version, request, ErrorKind.INTERNAL, started)
        raise ServingError(ErrorKind.INTERNAL, "internal error; the server's log has the details") from error
    finally:
        if held is not None:
            held.release()


def _count(
    engine: Engine,
    protocol: str,
    model: str,
    version: Version | None,
    request: InferRequest | None,
    kind: ErrorKind,
    started: float,
) -> None:
    number = version.number if version else request.version if request else None
    known = engine.known(model, number)
    engine.metrics.requests(*known, protocol).failed(kind.value)
    if engine.failures is not None and request is not None:
        engine.failures(protocol, request, kind, started)
    record.failed(protocol, *known, kind, request.id if request else "", started)
