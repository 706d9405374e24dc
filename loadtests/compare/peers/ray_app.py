# mypy: disable-error-code="import-not-found,attr-defined,misc,untyped-decorator"
"""Ray Serve: its proxy, one replica, `serve.batch`; no access log.

What its documentation advises for throughput are environment variables, set by who starts this.
"""

import signal
import sys

import numpy as np
import orjson
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from loadtests.compare.peers.model import Model, Rows, max_batch_size, max_wait_ms

QUIET = {"enable_access_log": False, "log_level": "WARNING"}


@serve.deployment(num_replicas=1, max_ongoing_requests=256, logging_config=QUIET, ray_actor_options={"num_cpus": 1})
class Mlp:
    def __init__(self) -> None:
        self._model = Model()

    @serve.batch(max_batch_size=max_batch_size(), batch_wait_timeout_s=max_wait_ms() / 1e3)
    async def infer(self, rows: list[Rows]) -> list[Rows]:
        return list(self._model(np.concatenate(rows))[:, np.newaxis])

    async def __call__(self, request: Request) -> Response:
        body = await request.body()
        if request.url.path == "/raw":
            y = await self.infer(np.frombuffer(body, np.float32).reshape(1, -1))
            return Response(y.tobytes(), media_type="application/octet-stream")
        y = await self.infer(np.array(orjson.loads(body)["x"], np.float32))
        return Response(orjson.dumps({"y": y}, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


if __name__ == "__main__":
    ray.init(include_dashboard=False, num_cpus=2, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])}, logging_config=QUIET)
    serve.run(Mlp.bind(), name="mlp", route_prefix="/")
    print("ready", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    ray.shutdown()
