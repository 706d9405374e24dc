# mypy: disable-error-code="import-not-found,misc"
"""LitServe: FastAPI in one process, the model in another, batches formed there.

One API server and one worker; `fast_queue` (ZeroMQ between them) is what its documentation advises for high load.
"""

import sys
from typing import Any

import litserve
import numpy as np

from loadtests.compare.peers.model import Model, Rows, max_batch_size, max_wait_ms


class Api(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self._model = Model()

    def decode_request(self, request: dict[str, Any]) -> Rows:
        return np.array(request["x"][0], np.float32)

    def batch(self, inputs: list[Rows]) -> Rows:
        return np.stack(inputs)

    def predict(self, x: Rows) -> Rows:
        return self._model(x)

    def unbatch(self, output: Rows) -> list[Rows]:
        return list(output)

    def encode_response(self, output: Rows) -> dict[str, Any]:
        return {"y": [output.tolist()]}


if __name__ == "__main__":
    api = Api(max_batch_size=max_batch_size(), batch_timeout=max_wait_ms() / 1e3, api_path="/json")
    server = litserve.LitServer(api, accelerator="cpu", devices=1, workers_per_device=1, fast_queue=True)
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
        access_log=False,
    )
