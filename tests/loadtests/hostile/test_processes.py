"""The processes beside the server: the honest client, and the one that does nothing."""

import asyncio
import io
import json
import os
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Any

import pytest

from loadtests.hostile import healthy, measure, nothing
from loadtests.hostile.wire import Target, connect
from tests.transport.raw import on_loop

REQUEST = b"POST /p HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n0123456789"


async def answers(*pieces: bytes) -> bytes:
    """What the process that does nothing answers to these pieces, on one connection."""
    server = await asyncio.get_running_loop().create_server(nothing.Nothing, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.01)
        writer.write_eof()
        found = await reader.read()
        writer.close()
    return found


@on_loop
async def test_nothing_answers_each_request_once_however_it_comes() -> None:
    assert await answers(REQUEST) == nothing.ANSWER
    assert await answers(REQUEST * 3 + b"GET / HTTP/1.1\r\n\r\n") == nothing.ANSWER * 4
    assert await answers(*(bytes((byte,)) for byte in REQUEST[:-1])) == b""
    assert await answers(REQUEST[:20], REQUEST[20:50], REQUEST[50:]) == nothing.ANSWER


@on_loop
async def test_nothing_keeps_no_header_that_never_ends() -> None:
    server = await asyncio.get_running_loop().create_server(nothing.Nothing, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"x" * 200_000)
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()


class Server:
    """Takes one connection, and gives these answers."""

    def __init__(self, *answers: bytes) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, args=(answers,))
        self._thread.start()

    def _serve(self, answers: tuple[bytes, ...]) -> None:
        connection, _ = self._listener.accept()
        with connection, connection.makefile("rb") as requests:
            for answer in answers:
                while requests.readline().strip():
                    pass
                requests.read(2)
                connection.sendall(answer)

    def end(self) -> None:
        self._thread.join()
        self._listener.close()


def task(port: int) -> dict[str, Any]:
    return {"protocol": "http", "port": port, "per_s": 200, "path": "/p", "body": "{}", "headers": {"x": "y"}}


def test_the_honest_client_tells_what_it_met(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    refused = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy"
    server = Server(refused)
    told = healthy.main(task(server.port))
    server.end()
    assert told["samples"] == [] and "503" in told["failure"] and capsys.readouterr().out == ""
    told = healthy.main(task(server.port))
    assert told["failure"].startswith("ConnectionRefusedError")


def test_the_honest_client_goes_on_until_it_is_told_to_end() -> None:
    server = Server(*[nothing.ANSWER] * 30)
    command = [sys.executable, "-m", "loadtests.hostile.healthy", json.dumps(task(server.port))]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdin is not None
    assert process.stdout.readline() == "begun\n"
    server.end()  # it has given all its answers, and the next request fails
    told = json.loads(process.stdout.readline())
    process.communicate()
    assert len(told["samples"]) == 29 and told["failure"]
    assert all(ms > 0 for _, ms in told["samples"])


@on_loop
async def test_what_became_of_a_connection() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 408 Request Timeout\r\n\r\n" if await reader.read(1) else b""
        )
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        until = asyncio.get_running_loop().time() + 60
        target = Target("127.0.0.1", port, until, 1.0, "/", "/", {})
        peer = await connect(target)
        assert peer is not None and peer.http_outcome == "open"
        await peer.send(b"x")
        await peer.wait(60)
        assert peer.http_outcome == "answered 408" and not peer.open
        target.port = 1
        assert await connect(target) is None and target.seen == {"not connected": 1}


def test_the_footprint_of_a_process() -> None:
    with socket.socket(), socket.socket():
        size, files = measure.footprint(os.getpid())
    assert size > 10 and files >= 5
