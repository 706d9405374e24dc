# mypy: disable-error-code="import-not-found,misc"
"""mosec: a front end in Rust, workers in Python that are handed batches and decode the bodies.

`/json` is JSON as mosec does it, with the standard library. `/orjson` is the same with the fastest parser that Python
has, which mosec's documentation does not mention, but anybody may put there. `/raw` takes and gives a row's bytes.
The environment variable ROUTES names those to serve: a worker that nobody asks would count as memory.
"""

import json
import os
from typing import Any

import numpy as np
import orjson
from mosec import Server, Worker

from loadtests.compare.peers.model import Model, Rows, max_batch_size, max_wait_ms


class MlpWorker(Worker):
    def __init__(self) -> None:
        super().__init__()
        self._model = Model()

    def forward(self, data: list[Rows]) -> list[Rows]:
        return list(self._model(np.concatenate(data))[:, np.newaxis])


class JsonWorker(MlpWorker):
    def deserialize(self, data: bytes) -> Rows:
        return np.array(json.loads(data)["x"], np.float32)

    def serialize(self, data: Any) -> bytes:
        return json.dumps({"y": data.tolist()}).encode()


class OrjsonWorker(MlpWorker):
    def deserialize(self, data: bytes) -> Rows:
        return np.array(orjson.loads(data)["x"], np.float32)

    def serialize(self, data: Any) -> bytes:
        return orjson.dumps({"y": data}, option=orjson.OPT_SERIALIZE_NUMPY)


class RawWorker(MlpWorker):
    resp_mime_type = "application/octet-stream"

    def deserialize(self, data: bytes) -> Rows:
        return np.frombuffer(data, np.float32).reshape(1, -1)

    def serialize(self, data: Any) -> bytes:
        return bytes(data.tobytes())


WORKERS = {"/json": JsonWorker, "/orjson": OrjsonWorker, "/raw": RawWorker}

if __name__ == "__main__":
    server = Server()
    for route in os.environ["ROUTES"].split(","):
        server.append_worker(WORKERS[route], max_batch_size=max_batch_size(), max_wait_time=max_wait_ms(), route=route)
    server.run()
