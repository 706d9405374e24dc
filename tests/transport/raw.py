"""A listener and clients on one loop. The clients write bytes as they are told, which no HTTP library would."""

import asyncio
import functools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, ParamSpec

import uvloop

from serving.transport.admission import Admission
from serving.transport.connection import Connection
from serving.transport.exchange import App
from serving.transport.http import HttpListener
from serving.transport.limits import HttpLimits

LIMIT_S = 15.0  # when a test gives up; far beyond what anything here takes

P = ParamSpec("P")


def on_loop(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """Runs a test on the kind of loop that the server has."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def limited() -> None:
            async with asyncio.timeout(LIMIT_S):
                await test(*args, **kwargs)

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(limited())

    return run


async def until(condition: Callable[[], bool]) -> None:
    """Returns when the condition holds; the test's own limit ends the wait."""
    while not condition():  # noqa: ASYNC110  (what is waited for sets no event)
        await asyncio.sleep(0.005)


async def a_while() -> None:
    """Time enough for what must not happen to happen. Passing too early makes a test weaker, never fail."""
    await asyncio.sleep(0.3)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The message of an error, which has the one shape that all errors have."""
        assert self.headers["content-type"] == "application/json"
        assert list(self.json) == ["error"]
        return str(self.json["error"])


class Peer:
    """The client's end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def send_slowly(self, data: bytes, size: int = 1) -> None:
        """In pieces that arrive one by one."""
        for at in range(0, len(data), size):
            await self.send(data[at : at + size])
            await asyncio.sleep(0.001)

    @asynccontextmanager
    async def sending(self, data: bytes, size: int) -> AsyncIterator[None]:
        """Goes on sending, piece by piece, while the block runs."""
        task = asyncio.create_task(self.send_slowly(data, size))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait((task,))

    async def ask(self, data: bytes) -> Answer:
        await self.send(data)
        return await self.answer()

    def close_half(self) -> None:
        self._writer.write_eof()

    def stop_reading(self) -> None:
        self._writer.transport.pause_reading()  # type: ignore[attr-defined]

    def resume_reading(self) -> None:
        self._writer.transport.resume_reading()  # type: ignore[attr-defined]

    async def head(self) -> tuple[int, dict[str, str]]:
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        assert lines[0].startswith("HTTP/1.1 ")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:-2])
        return int(lines[0].split()[1]), {k: v if k != "date" else "" for k, v in headers.items()}

    async def answer(self, bodyless: bool = False) -> Answer:
        """The next answer; `bodyless` to a HEAD request."""
        status, headers = await self.head()
        if bodyless:
            body = b""
        elif headers.get("transfer-encoding") == "chunked":
            body = b"".join([chunk async for chunk in self._chunks()])
        elif "content-length" in headers:
            body = await self._reader.readexactly(int(headers["content-length"]))
        else:
            body = b"" if status == 204 else await self._reader.read()
        return Answer(status, headers, body)

    async def _chunks(self) -> AsyncIterator[bytes]:
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            yield await self._reader.readexactly(size)
            assert await self._reader.readexactly(2) == b"\r\n"
        assert await self._reader.readexactly(2) == b"\r\n"

    async def read(self, size: int) -> bytes:
        return await self._reader.readexactly(size)

    async def rest(self) -> bytes:
        """All that comes until the server closes."""
        try:
            return await self._reader.read()
        except ConnectionResetError:  # it did not read all of what was sent
            return b""

    def close(self) -> None:
        self._writer.close()

    def abort(self) -> None:
        self._writer.transport.abort()


@dataclass
class Listening:
    listener: HttpListener
    port: int
    peers: list[Peer]

    async def connect(self) -> Peer:
        peer = Peer(*await asyncio.open_connection("127.0.0.1", self.port))
        self.peers.append(peer)
        return peer

    async def ask(self, data: bytes, bodyless: bool = False) -> Answer:
        """The first answer to `data` on a new connection."""
        peer = await self.connect()
        await peer.send(data)
        answer = await peer.answer(bodyless)
        peer.close()
        return answer

    @property
    def connections(self) -> set[Connection]:
        return self.listener._shared.connections

    @property
    def held_bytes(self) -> int:
        """Of bodies, by all connections."""
        return self.listener._shared.held_bytes


@asynccontextmanager
async def listening(app: App, admission: Admission | None = None, **limits: Any) -> AsyncIterator[Listening]:
    listener = HttpListener(app, HttpLimits(**limits), admission=admission)
    server = Listening(listener, await listener.listen("127.0.0.1", 0), [])
    try:
        yield server
    finally:
        for peer in server.peers:
            peer.abort()
        await listener.stop(1.0)


def request(method: str = "GET", path: str = "/", *headers: str, body: bytes | None = None) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "host: test", *headers]
    if body is not None:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


async def reply(send: Any, body: bytes, status: int = 200, *headers: tuple[bytes, bytes]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": body})


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with what it was asked."""
    message = await receive()
    assert message["type"] == "http.request" and not message["more_body"]
    asked = {
        "method": scope["method"],
        "path": scope["path"],
        "raw_path": scope["raw_path"].decode("latin-1"),
        "query": scope["query_string"].decode("latin-1"),
        "version": scope["http_version"],
        "headers": {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]},
        "body": message["body"].decode("latin-1"),
    }
    await reply(send, json.dumps(asked).encode(), 200, (b"content-type", b"application/json"))


class Gate:
    """An application that answers a path when it is opened. Its events say what became of each request."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.cancelled: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        self.begun.append(path)
        try:
            await self.opened.wait()
        except asyncio.CancelledError:
            self.cancelled.append(path)
            raise
        await reply(send, path.encode())
        self.ended.append(path)
