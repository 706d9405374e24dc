"""The whole application over sockets, with real models, in one process."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from serving.core.scrape import exporter
from serving.engine import Engine
from serving.protocols import examples
from serving.protocols.manage import Manage
from serving.protocols.oip import metadata
from serving.protocols.oip.rest import OipRest
from serving.protocols.tfs.rest import TfsRest
from serving.transport.app import HttpApp
from tests.protocols.build import serving_engine
from tests.transport.raw import Answer, Listening, listening, request


class Site:
    """A listener with the application behind it."""

    def __init__(self, server: Listening, engine: Engine) -> None:
        self.server = server
        self.engine = engine

    async def ask(self, method: str, path: str, body: bytes | None = None, *headers: str) -> Answer:
        return await self.server.ask(request(method, path, *headers, body=body), bodyless=method == "HEAD")

    async def document(self) -> Any:
        answer = await self.ask("GET", "/openapi.json")
        assert answer.status == 200 and answer.headers["content-type"] == "application/json"
        return answer.json


@asynccontextmanager
async def site(repository: Path, metrics_path: str = "/metrics") -> AsyncIterator[Site]:
    async with serving_engine(repository) as (engine, control):
        rest = OipRest(engine, control, metadata.ServerIdentity("serving", "0.0"))
        app = HttpApp(
            rest,
            TfsRest(engine),
            Manage(control),
            exporter(engine.metrics),
            lambda: examples.infer_examples(engine.catalog),
            metrics_path,
        )
        async with listening(app) as server:
            yield Site(server, engine)
