"""A server with real models, as its management endpoints see it: both forms of the protocol, one state behind them."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np

from serving.core.metrics import Metrics
from serving.engine import Engine
from serving.protocols.grpc import Call
from serving.protocols.http import HttpReply
from serving.protocols.messages import oip as m
from serving.protocols.oip.grpc import OipGrpc
from serving.protocols.oip.metadata import ServerIdentity
from serving.protocols.oip.rest import OipRest
from serving.protocols.oip.settings import Logs
from serving.protocols.oip.trace import Tracer
from serving.repository.manager import Manager, Source
from tests import models


class Served:
    """A repository with the model `simple`, version 1: INT32 sums and differences of rows of 16."""

    def __init__(self, repo: Path, *, allow_upload: bool = False, trace: Path | None = None, logs: Logs | None = None):
        if not (repo / "simple").exists():
            models.save(models.add_sub(), repo / "simple/1/model.onnx")
        metrics = Metrics()
        self.engine = Engine(metrics)
        self.manager = Manager(
            [Source(repo)], self.engine.publish, metrics, settle_s=0.0, watch=False, allow_upload=allow_upload
        )
        self.tracer = Tracer(self.engine, trace)
        identity = ServerIdentity("s", "0")
        shared: dict[str, Any] = {"tracer": self.tracer, "logs": logs or Logs()}
        self.rest = OipRest(self.engine, self.manager, identity, **shared)
        self.grpc = OipGrpc(self.engine, self.manager, identity, **shared)

    async def call(self, method: str, request: Any = None, **fields: Any) -> Any:
        """Calls a gRPC method with a message, or with one made of `fields`; its answer."""
        request = request or getattr(m, f"{method}Request")(**fields)
        data = await self.grpc.methods[method](request.SerializeToString(), Call())
        return getattr(m, f"{method}Response").FromString(data)

    async def infer(self, rows: int = 1, request_id: str = "", number: int | None = None) -> HttpReply:
        x = {"datatype": "INT32", "shape": [rows, 16], "data": np.ones(16 * rows, int).tolist()}
        body = {"id": request_id, "inputs": [{"name": name, **x} for name in ("INPUT0", "INPUT1")]}
        return await self.rest.infer("simple", None if number is None else str(number), json.dumps(body).encode())


@asynccontextmanager
async def serving(repo: Path, **settings: Any) -> AsyncIterator[Served]:
    served = Served(repo, **settings)
    await served.manager.start()
    served.engine.started = True
    try:
        yield served
    finally:
        served.tracer.close()
        await served.manager.close()


def value(reply: HttpReply) -> Any:
    """The JSON of a reply that says that all is well."""
    assert reply.status == 200
    return json.loads(reply.body)
