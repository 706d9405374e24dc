"""The listener's beginning and its orderly end."""

import asyncio
import socket
from typing import Any

import pytest

from serving.transport.http import HttpListener
from serving.transport.limits import HttpLimits
from tests.transport.raw import Gate, echo, listening, on_loop, reply, request, until


@on_loop
async def test_a_port_that_is_taken() -> None:
    async with listening(echo) as server:
        with pytest.raises(OSError, match="ddress already in use"):
            await HttpListener(echo, HttpLimits()).listen("127.0.0.1", server.port)


@on_loop
async def test_a_host_that_is_not_of_this_machine() -> None:
    with pytest.raises(OSError):  # noqa: PT011  (the texts of systems differ)
        await HttpListener(echo, HttpLimits()).listen("192.0.2.1", 0)


@on_loop
async def test_with_nothing_to_wait_for() -> None:
    listener = HttpListener(echo, HttpLimits())
    port = await listener.listen("127.0.0.1", 0)
    assert await listener.stop(10.0) is True
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


@on_loop
async def test_what_was_begun_is_answered() -> None:
    gate = Gate()
    async with listening(gate) as server:
        busy, half, idle = [await server.connect() for _ in range(3)]
        await busy.send(request("GET", "/busy"))
        await half.send(request("POST", "/half", "content-length: 4"))
        await until(lambda: gate.begun == ["/busy"] and len(server.connections) == 3)
        stopping = asyncio.create_task(server.listener.stop(20.0))
        assert await idle.rest() == b""
        with pytest.raises(ConnectionRefusedError):
            await server.connect()
        gate.opened.set()
        await half.send(b"body")
        for peer, body in ((busy, b"/busy"), (half, b"/half")):
            answer = await peer.answer()
            assert (answer.status, answer.body, answer.headers["connection"]) == (200, body, "close")
            assert await peer.rest() == b""
        assert await stopping is True


@on_loop
async def test_a_request_that_crosses_the_stop_is_answered() -> None:
    async with listening(echo) as server:
        peer = await server.connect()
        await until(lambda: len(server.connections) == 1)
        stopping = asyncio.create_task(server.listener.stop(20.0))
        await asyncio.sleep(0)
        await peer.send(request("GET", "/late"))
        answer = await peer.answer()
        assert (answer.json["path"], answer.headers["connection"]) == ("/late", "close")
        assert await stopping is True


@on_loop
async def test_what_takes_too_long_is_cut_off() -> None:
    gate = Gate()
    async with listening(gate) as server:
        peer = await server.connect()
        await peer.send(request("GET", "/long"))
        await until(lambda: gate.begun == ["/long"])
        assert await server.listener.stop(0.1) is False
        assert await peer.rest() == b""
        await until(lambda: gate.cancelled == ["/long"])
        assert server.listener.connections == 0


@on_loop
async def test_a_client_that_does_not_read_cannot_hold_the_stop() -> None:
    async def large(_scope: Any, _receive: Any, send: Any) -> None:
        await reply(send, bytes(50_000_000))

    async with listening(large) as server:
        peer = await server.connect()
        peer.stop_reading()
        await peer.send(request())
        await until(lambda: "free" in str(server.connections))
        assert await server.listener.stop(0.7) is False
        await until(lambda: not server.connections)


@on_loop
async def test_ipv6() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    listener = HttpListener(echo, HttpLimits())
    try:
        port = await listener.listen("::1", 0)
    except OSError:
        pytest.skip("no IPv6 loopback here")
    reader, writer = await asyncio.open_connection("::1", port)
    writer.write(request())
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.close()
    assert await listener.stop(10.0) is True
