"""Load on a cluster, over both protocol families and both transports, and what became of each request. One event loop.

Every request carries the same rows, so that every answer is known. A request that failed in a way that allows it is
sent once more, to another node: what is counted as lost for good failed twice, or failed in a way that does not.
"""

import asyncio
import itertools
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import grpc
import grpc.aio
import httpx
import numpy as np

from deploy.ray.proxy import LOST
from serving.protocols import messages as m

_LIMIT_S = 30.0
_CUT = re.compile(
    "socket closed|connection reset|stream removed|end of tcp stream|recvmsg", re.IGNORECASE
)  # gRPC's words


class Outcome(Enum):
    """What became of one attempt."""

    ANSWERED = "answered"
    IN_FLIGHT = "in flight"  # 503 or UNAVAILABLE: its replica died with it
    CUT = "connection cut"  # the proxy died with it
    NOT_SENT = "not connected"  # nobody listens there
    BUSY = "busy"  # 503 or UNAVAILABLE for another reason
    WRONG = "wrong"  # any other status, another answer than expected, or none in time

    @property
    def retryable(self) -> bool:
        return self not in (Outcome.ANSWERED, Outcome.WRONG)


@dataclass(frozen=True)
class Attempt:
    outcome: Outcome
    text: str = ""


@dataclass(frozen=True)
class Model:
    """What is asked of which model: rows of float32, and what they give."""

    name: str
    input: str
    output: str
    rows: np.ndarray
    expected: np.ndarray

    def judged(self, values: Any) -> Attempt:
        found = np.asarray(values, np.float32).reshape(-1)
        if found.shape == self.expected.reshape(-1).shape and np.allclose(found, self.expected.reshape(-1), atol=1e-4):
            return Attempt(Outcome.ANSWERED)
        return Attempt(Outcome.WRONG, f"another answer: {found[:4]}...")


# A way to ask: one attempt at a node, which is given as its HTTP and its gRPC client.
Ask = Callable[["Connections", Model], Awaitable[Attempt]]


class Connections:
    """The clients of one node. One user, one connection each."""

    def __init__(self, http: str, grpc_address: str) -> None:
        self._base = f"http://{http}"
        self._http = httpx.AsyncClient(timeout=_LIMIT_S, trust_env=False)
        # Connections of their own, and no pause before they are tried again.
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 200)]
        self._channel = grpc.aio.insecure_channel(grpc_address, options=options)

    async def post(self, path: str, body: bytes) -> Attempt | httpx.Response:
        try:
            response = await self._http.post(self._base + path, content=body)
        except httpx.ConnectError as error:
            return Attempt(Outcome.NOT_SENT, str(error))
        except httpx.TimeoutException as error:
            return Attempt(Outcome.WRONG, f"no answer in {_LIMIT_S:g} s ({type(error).__name__})")
        except httpx.TransportError as error:
            return Attempt(Outcome.CUT, f"{type(error).__name__}: {error}")
        if response.status_code == 200:
            return response
        text = f"{response.status_code}: {response.text[:200]}"
        if response.status_code != 503:
            return Attempt(Outcome.WRONG, text)
        return Attempt(Outcome.IN_FLIGHT if LOST in text else Outcome.BUSY, text)

    async def call(self, path: str, message: bytes) -> Attempt | bytes:
        call = self._channel.unary_unary(path, None, None)
        try:
            answer: bytes = await call(message, timeout=_LIMIT_S)
            return answer
        except grpc.aio.AioRpcError as error:
            text = f"{error.code().name}: {(error.details() or '')[:200]}"
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                return Attempt(Outcome.WRONG, text)
            if "failed to connect" in text.lower():
                return Attempt(Outcome.NOT_SENT, text)
            if LOST in text:
                return Attempt(Outcome.IN_FLIGHT, text)
            return Attempt(Outcome.CUT if _CUT.search(text) else Outcome.BUSY, text)

    async def close(self) -> None:
        await self._http.aclose()
        await self._channel.close(None)


async def oip_rest(node: Connections, model: Model) -> Attempt:
    tensor = {"name": model.input, "shape": model.rows.shape, "datatype": "FP32", "data": model.rows.ravel().tolist()}
    body = json.dumps({"inputs": [tensor], "outputs": [{"name": model.output}]}).encode()
    answer = await node.post(f"/v2/models/{model.name}/infer", body)
    return answer if isinstance(answer, Attempt) else model.judged(answer.json()["outputs"][0]["data"])


async def tfs_rest(node: Connections, model: Model) -> Attempt:
    body = json.dumps({"inputs": {model.input: model.rows.tolist()}}).encode()
    answer = await node.post(f"/v1/models/{model.name}:predict", body)
    if isinstance(answer, Attempt):
        return answer
    outputs = answer.json()["outputs"]
    return model.judged(outputs[model.output] if isinstance(outputs, dict) else outputs)


async def oip_grpc(node: Connections, model: Model) -> Attempt:
    request = m.oip.ModelInferRequest(model_name=model.name)
    request.inputs.add(name=model.input, datatype="FP32", shape=model.rows.shape)
    request.outputs.add(name=model.output)
    request.raw_input_contents.append(model.rows.tobytes())
    answer = await node.call("/inference.GRPCInferenceService/ModelInfer", request.SerializeToString())
    if isinstance(answer, Attempt):
        return answer
    return model.judged(np.frombuffer(m.oip.ModelInferResponse.FromString(answer).raw_output_contents[0], np.float32))


async def tfs_grpc(node: Connections, model: Model) -> Attempt:
    request = m.tfs.PredictRequest()
    request.model_spec.name = model.name
    tensor = request.inputs[model.input]
    tensor.dtype = m.tf.DataType.DT_FLOAT
    for size in model.rows.shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = model.rows.tobytes()
    request.output_filter.append(model.output)
    answer = await node.call("/tensorflow.serving.PredictionService/Predict", request.SerializeToString())
    if isinstance(answer, Attempt):
        return answer
    found = m.tfs.PredictResponse.FromString(answer).outputs[model.output]
    return model.judged(found.float_val or np.frombuffer(found.tensor_content, np.float32))


ASKS: dict[str, Ask] = {"OIP REST": oip_rest, "OIP gRPC": oip_grpc, "TFS REST": tfs_rest, "TFS gRPC": tfs_grpc}


@dataclass
class User:
    """Sends one request after the other to its node, and what fails once more to another one."""

    place: str
    kind: str
    node: tuple[str, str]
    others: Sequence[tuple[str, str]]
    first: Counter[Outcome] = field(default_factory=Counter)  # attempts at its own node
    second: Counter[Outcome] = field(default_factory=Counter)  # at another one, of what failed there
    texts: Counter[str] = field(default_factory=Counter)
    answers: list[tuple[float, float]] = field(default_factory=list)  # of its own node: when, after how many seconds
    failures: list[float] = field(default_factory=list)  # of its own node: when, by time.monotonic()

    @property
    def sent(self) -> int:
        return self.first.total()

    async def run(self, model: Model, stop: threading.Event, pause_s: float) -> None:
        ask = ASKS[self.kind]
        own = Connections(*self.node)
        others = [Connections(*other) for other in self.others]
        turn = itertools.cycle(others)
        try:
            while not stop.is_set():
                began = time.monotonic()
                attempt = await ask(own, model)
                ended = time.monotonic()
                self.first[attempt.outcome] += 1
                if attempt.outcome is Outcome.ANSWERED:
                    self.answers.append((ended, ended - began))
                else:
                    self.failures.append(ended)
                    self.texts[f"{attempt.outcome.value}: {attempt.text}"] += 1
                if attempt.outcome.retryable:
                    again = await ask(next(turn), model)
                    self.second[again.outcome] += 1
                    if again.outcome is not Outcome.ANSWERED:
                        self.texts[f"again, {again.outcome.value}: {again.text}"] += 1
                await asyncio.sleep(pause_s)
        finally:
            for connections in (own, *others):
                await connections.close()
