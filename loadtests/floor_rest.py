"""The REST floor: the least that a batching server for one ONNX model does, to divide the real server's by.

Raw ASGI, one event loop and one worker thread. Takes an infer request in JSON or with one binary tensor (input `x`,
output `y`) and runs what waits (at most 64 rows) whenever the worker is free. Knows no validation, metrics, versions or
errors, on purpose.

    MODEL=model.onnx uvicorn loadtests.floor_rest:app --no-access-log
"""

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from queue import SimpleQueue
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import orjson

Rows = npt.NDArray[np.float32]
Message = dict[str, Any]
Waiting = tuple[Rows, asyncio.Future[Rows]]

MAX_ROWS = 64


class Batcher:
    """A list that fills on the event loop while a daemon thread runs the batch before it."""

    def __init__(self, model: str, loop: asyncio.AbstractEventLoop) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._loop = loop
        self._waiting: list[Waiting] = []
        self._running = False
        self._batches: SimpleQueue[list[Waiting]] = SimpleQueue()
        threading.Thread(target=self._work, daemon=True).start()

    def infer(self, rows: Rows) -> asyncio.Future[Rows]:
        answer: asyncio.Future[Rows] = self._loop.create_future()
        self._waiting.append((rows, answer))
        if not self._running:
            # One turn of the loop later, so that requests read in the same turn share a batch.
            self._running = True
            self._loop.call_soon(self._hand_over)
        return answer

    def _hand_over(self) -> None:
        batch, self._waiting = self._waiting[:MAX_ROWS], self._waiting[MAX_ROWS:]
        self._running = bool(batch)
        if batch:
            self._batches.put(batch)

    def _work(self) -> None:
        while True:
            batch = self._batches.get()
            rows = batch[0][0] if len(batch) == 1 else np.concatenate([rows for rows, _ in batch])
            (result,) = self._session.run(["y"], {"x": rows})
            self._loop.call_soon_threadsafe(self._answer, batch, result)

    def _answer(self, batch: list[Waiting], result: Rows) -> None:
        start = 0
        for rows, answer in batch:
            stop = start + len(rows)
            if not answer.done():
                answer.set_result(result[start:stop])
            start = stop
        self._hand_over()


async def infer_json(batcher: Batcher, body: bytes) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """An OIP infer request in JSON to its answer's body and headers."""
    tensor = orjson.loads(body)["inputs"][0]
    y = await batcher.infer(np.array(tensor["data"], np.float32).reshape(tensor["shape"]))
    output = {"name": "y", "datatype": "FP32", "shape": y.shape, "data": y.reshape(-1)}
    answer = {"model_name": "mlp", "model_version": "1", "outputs": [output]}
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY), [(b"content-type", b"application/json")]


async def infer_binary(batcher: Batcher, body: bytes, json_bytes: int) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """The same with the tensor's bytes after `json_bytes` of JSON, both ways."""
    shape = orjson.loads(body[:json_bytes])["inputs"][0]["shape"]
    y = await batcher.infer(np.frombuffer(body, np.float32, offset=json_bytes).reshape(shape))
    raw = y.tobytes()
    output = {"name": "y", "datatype": "FP32", "shape": y.shape, "parameters": {"binary_data_size": len(raw)}}
    head = orjson.dumps({"model_name": "mlp", "model_version": "1", "outputs": [output]})
    return head + raw, [
        (b"content-type", b"application/octet-stream"),
        (b"inference-header-content-length", str(len(head)).encode()),
    ]


class App:
    def __init__(self) -> None:
        self._batcher: Batcher | None = None

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        if scope["type"] == "lifespan":
            await receive()
            self._batcher = Batcher(os.environ["MODEL"], asyncio.get_running_loop())
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        assert self._batcher is not None
        message = await receive()
        body = message["body"]
        while message["more_body"]:
            message = await receive()
            body += message["body"]
        for name, value in scope["headers"]:
            if name == b"inference-header-content-length":
                answer, headers = await infer_binary(self._batcher, body, int(value))
                break
        else:
            answer, headers = await infer_json(self._batcher, body)
        headers.append((b"content-length", str(len(answer)).encode()))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


app = App()
