"""ModelStreamInfer: many requests on one call. They run at the same time, and are answered in their order."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeVar

from serving.core.errors import ErrorKind, ServingError
from serving.protocols import wire
from serving.protocols.asks import retry_after_ms
from serving.protocols.grpc import Call
from serving.protocols.messages import oip
from serving.protocols.oip.grpc_codec import Asked, Parts, joined

# Errors of a run; all others come before it.
WHILE_RUNNING = frozenset((ErrorKind.MODEL, ErrorKind.INTERNAL, ErrorKind.EXPIRED, ErrorKind.CANCELLED))

_AHEAD = 64  # requests of one stream that are under way, or answered and not yet sent
_INFER_RESPONSE = oip.ModelStreamInferResponse.INFER_RESPONSE_FIELD_NUMBER

Item = TypeVar("Item")
Result = TypeVar("Result")


async def answers(
    requests: AsyncIterator[bytes],
    call: Call,
    read: Callable[[bytes, Call], Asked],
    infer: Callable[[Asked], Awaitable[Parts]],
) -> AsyncGenerator[bytes, None]:
    """The answers to a stream of ModelInferRequests.

    An error is an answer, and the stream goes on; where the client asks for it with the metadata `triton_grpc_error`,
    one of a run ends the stream with a status.

    Args:
        read: reads a ModelInferRequest.
        infer: answers one with the parts of a ModelInferResponse.

    Raises:
        ServingError: the error that ends the stream.
    """
    errors_end = call.metadata.get("triton_grpc_error", "").lower() == "true"

    async def answered(data: bytes) -> bytes:
        asked = None
        try:
            asked = read(data, call)
            response = await infer(asked)
            return joined([wire.field(_INFER_RESPONSE, sum(map(len, response))), *response])
        except ServingError as error:
            if errors_end and error.kind in WHILE_RUNNING:
                raise
            return _in_band(asked, error)

    async with aclosing(in_order(requests, answered, _AHEAD)) as found:
        async for answer in found:
            yield answer


def _in_band(asked: Asked | None, error: ServingError) -> bytes:
    answer = oip.ModelStreamInferResponse(error_message=error.message)
    answer.infer_response.id = asked.id if asked else ""
    wait_ms = retry_after_ms(error)
    if wait_ms is not None:
        answer.infer_response.parameters["retry_after_ms"].int64_param = wait_ms
    if error.kind in WHILE_RUNNING:
        answer.infer_response.model_name = asked.model if asked else ""
        answer.infer_response.parameters["triton_final_response"].bool_param = True
    data: bytes = answer.SerializeToString()
    return data


async def in_order(
    items: AsyncIterator[Item], work: Callable[[Item], Awaitable[Result]], ahead: int
) -> AsyncGenerator[Result, None]:
    """The results of `work` in the order of `items`, of which up to `ahead` are worked on at the same time.

    The first exception, of the items or of the work, ends it. However it ends, work that is under way is cancelled.
    """
    free = asyncio.Semaphore(ahead)
    begun: asyncio.Queue[asyncio.Task[Any]] = asyncio.Queue()
    under_way: set[asyncio.Task[Any]] = set()

    async def one(item: Item) -> Result:
        return await work(item)

    async def read_all() -> None:
        async for item in items:
            await free.acquire()
            task = asyncio.create_task(one(item))
            under_way.add(task)
            begun.put_nowait(task)

    reader: asyncio.Task[Any] = asyncio.create_task(read_all())
    task = reader
    reader.add_done_callback(begun.put_nowait)  # the last in the queue: there are no more items
    try:
        while (task := await begun.get()) is not reader:
            yield await task
            under_way.discard(task)
            free.release()
        await reader
    finally:
        for each in (reader, *under_way):
            each.cancel()
        await asyncio.gather(reader, *under_way, return_exceptions=True)
        # An error holds this frame, a task the error, and both what was read: so no task stays here.
        while not begun.empty():
            begun.get_nowait()
        under_way.clear()
        del reader, task, each
