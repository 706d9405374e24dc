"""Answers: whole, streamed, missing, broken, to clients that read slowly or not at all."""

import asyncio
import logging
from typing import Any

import pytest

from serving.transport.exchange import App
from tests.transport.raw import Gate, a_while, echo, listening, on_loop, reply, request, until

MB = 1024 * 1024


def streaming(*chunks: bytes, headers: tuple[tuple[bytes, bytes], ...] = ()) -> App:
    """An application that sends chunk by chunk."""

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": list(headers)})
        for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return app


class TestWhole:
    @pytest.mark.parametrize("size", [0, 1, 64 * 1024, 5 * MB])
    @on_loop
    async def test_of_every_size(self, size: int) -> None:
        async def app(_scope: Any, _receive: Any, send: Any) -> None:
            await reply(send, b"x" * size)

        async with listening(app) as server:
            answer = await server.ask(request())
            assert answer.headers["content-length"] == str(size) and answer.body == b"x" * size

    @on_loop
    async def test_the_length_is_the_servers_to_count(self) -> None:
        async def app(_scope: Any, _receive: Any, send: Any) -> None:
            await reply(send, b"four", 200, (b"Content-Type", b"text/plain"))

        async with listening(app) as server:
            assert (await server.ask(request())).body == b"four"

    @on_loop
    async def test_head_has_the_header_only(self) -> None:
        async with listening(echo) as server:
            peer = await server.connect()
            await peer.send(request("HEAD", "/") + request("GET", "/next"))
            answer = await peer.answer(bodyless=True)
            assert answer.status == 200 and int(answer.headers["content-length"]) > 0
            assert (await peer.answer()).json["path"] == "/next"

    @on_loop
    async def test_204_has_no_body_and_no_length(self) -> None:
        async def app(_scope: Any, _receive: Any, send: Any) -> None:
            await reply(send, b"", 204)

        async with listening(app) as server:
            peer = await server.connect()
            await peer.send(request() * 2)
            for _ in range(2):
                answer = await peer.answer()
                assert answer.status == 204 and not answer.headers.keys() & {"content-length", "transfer-encoding"}

    @on_loop
    async def test_the_body_is_read_once_and_then_the_client_may_be_gone(self) -> None:
        seen = []

        async def app(_scope: Any, receive: Any, send: Any) -> None:
            seen.append(await receive())
            await reply(send, b"")
            seen.append(await receive())

        async with listening(app) as server:
            await server.ask(request("POST", "/", body=b"abc"))
            await until(lambda: len(seen) == 2)
            assert seen == [{"type": "http.request", "body": b"abc", "more_body": False}, {"type": "http.disconnect"}]


class TestStreamed:
    @on_loop
    async def test_in_chunks(self) -> None:
        async with listening(streaming(b"some ", b"", b"text")) as server:
            peer = await server.connect()
            await peer.send(request() * 2)
            for _ in range(2):
                answer = await peer.answer()
                assert answer.headers["transfer-encoding"] == "chunked" and "content-length" not in answer.headers
                assert answer.body == b"some text"

    @on_loop
    async def test_of_known_length(self) -> None:
        async with listening(streaming(b"some ", b"text", headers=((b"content-length", b"9"),))) as server:
            answer = await server.ask(request())
            assert answer.headers["content-length"] == "9" and "transfer-encoding" not in answer.headers
            assert answer.body == b"some text"

    @on_loop
    async def test_to_http_1_0_until_the_connection_closes(self) -> None:
        async with listening(streaming(b"some ", b"text")) as server:
            answer = await server.ask(b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
            assert answer.headers["connection"] == "close" and "transfer-encoding" not in answer.headers
            assert answer.body == b"some text"

    @on_loop
    async def test_head_has_the_header_only(self) -> None:
        async with listening(streaming(b"some ", b"text")) as server:
            peer = await server.connect()
            await peer.send(request("HEAD", "/") * 2)
            for _ in range(2):
                assert (await peer.answer(bodyless=True)).status == 200


class TestSlowReaders:
    @on_loop
    async def test_a_stream_waits_for_its_reader(self) -> None:
        sent = 0

        async def app(_scope: Any, _receive: Any, send: Any) -> None:
            nonlocal sent
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(64):
                await send({"type": "http.response.body", "body": bytes(MB), "more_body": True})
                sent += 1
            await send({"type": "http.response.body", "body": b""})

        async with listening(app) as server:
            peer = await server.connect()
            peer.stop_reading()
            await peer.send(request())
            await until(lambda: sent > 0)
            await a_while()
            assert sent < 40  # what the sockets between them hold
            peer.resume_reading()
            assert len((await peer.answer()).body) == 64 * MB

    @on_loop
    async def test_a_stream_ends_with_its_reader(self) -> None:
        ended = asyncio.Event()

        async def app(_scope: Any, _receive: Any, send: Any) -> None:
            try:
                await send({"type": "http.response.start", "status": 200, "headers": []})
                while True:
                    await send({"type": "http.response.body", "body": bytes(MB), "more_body": True})
            finally:
                ended.set()

        async with listening(app) as server:
            peer = await server.connect()
            await peer.send(request())
            await peer.head()
            peer.abort()
            await ended.wait()

    @on_loop
    async def test_nothing_more_is_answered_to_a_client_that_does_not_read(self) -> None:
        asked = 0

        async def app(_scope: Any, _receive: Any, send: Any) -> None:
            nonlocal asked
            asked += 1
            await reply(send, bytes(MB))

        async with listening(app) as server:
            peer = await server.connect()
            peer.stop_reading()
            await peer.send(request() * 200)
            await until(lambda: asked > 0)
            await a_while()
            assert asked < 40  # what the sockets between them hold, and not 200 MB in the server
            peer.resume_reading()
            for _ in range(200):
                assert len((await peer.answer()).body) == MB


class TestLeaving:
    @on_loop
    async def test_the_work_of_a_client_that_goes_away_is_cancelled(self) -> None:
        gate = Gate()
        async with listening(gate) as server:
            peer = await server.connect()
            await peer.send(request("GET", "/1") + request("GET", "/2"))
            await until(lambda: gate.begun == ["/1"])
            peer.close()
            await until(lambda: gate.cancelled == ["/1"])
            await until(lambda: not server.connections)
            assert gate.begun == ["/1"]


class TestHalfClosed:
    """Clients that say that they will send no more, and wait for what they have asked for."""

    @on_loop
    async def test_is_answered_and_closed(self) -> None:
        async with listening(echo) as server:
            peer = await server.connect()
            await peer.send(request("POST", "/1", body=b"one") + request("POST", "/2", body=b"two"))
            peer.close_half()
            while (status := (await peer.head())[0]) == 100:
                pass
            assert status == 200
            assert b'"body": "one"' in (rest := await peer.rest()) and b'"body": "two"' in rest
            await until(lambda: not server.connections)

    @on_loop
    async def test_may_wait_for_long(self) -> None:
        gate = Gate()
        async with listening(gate) as server:
            peer = await server.connect()
            await peer.send(request("GET", "/1"))
            await until(lambda: gate.begun == ["/1"])
            peer.close_half()
            assert (await peer.head())[0] == 100
            await a_while()
            assert gate.cancelled == []
            gate.opened.set()
            assert (await peer.answer()).body == b"/1" and await peer.rest() == b""

    @on_loop
    async def test_clients_of_http_1_0_get_nothing_before_their_answer(self) -> None:
        gate = Gate()
        async with listening(gate) as server:
            peer = await server.connect()
            await peer.send(b"GET /1 HTTP/1.0\r\n\r\n")
            await until(lambda: gate.begun == ["/1"])
            peer.close_half()
            await a_while()
            gate.opened.set()
            assert (await peer.answer()).body == b"/1" and await peer.rest() == b""

    @pytest.mark.parametrize("sent", [b"", b"GET / HTT", request("POST", "/", "content-length: 5") + b"1234"])
    @on_loop
    async def test_is_not_waited_for_where_a_request_is_not_whole(self, sent: bytes) -> None:
        async with listening(echo) as server:
            peer = await server.connect()
            await peer.send(sent)
            await until(lambda: len(server.connections) == 1)
            peer.close_half()
            assert await peer.rest() == b""
            await until(lambda: not server.connections)

    @on_loop
    async def test_what_is_whole_is_answered_where_the_next_is_not(self) -> None:
        async with listening(echo) as server:
            peer = await server.connect()
            await peer.send(request("GET", "/1") + b"GET /2 HT")
            peer.close_half()
            assert b'"path": "/1"' in await peer.rest()


class TestBroken:
    """Applications that do not keep their side of the contract."""

    @staticmethod
    async def ask(app: App, caplog: pytest.LogCaptureFixture) -> None:
        """An internal error, its cause in the log only, and the connection closed."""
        with caplog.at_level(logging.ERROR):
            async with listening(app) as server:
                peer = await server.connect()
                await peer.send(request("GET", "/broken"))
                answer = await peer.answer()
                assert answer.status == 500 and answer.headers["connection"] == "close"
                assert answer.error == "internal error; the server's log has the details"
                assert await peer.rest() == b""
        assert "GET /broken failed" in caplog.text

    @on_loop
    async def test_raises_before_its_answer(self, caplog: pytest.LogCaptureFixture) -> None:
        async def app(_scope: Any, _receive: Any, _send: Any) -> None:
            raise ValueError("the secret")

        await self.ask(app, caplog)
        assert "the secret" in caplog.text

    @on_loop
    async def test_raises_between_status_and_body(self, caplog: pytest.LogCaptureFixture) -> None:
        async def app(_scope: Any, _receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            raise ValueError

        await self.ask(app, caplog)

    @on_loop
    async def test_ends_without_an_answer(self, caplog: pytest.LogCaptureFixture) -> None:
        async def app(_scope: Any, _receive: Any, _send: Any) -> None:
            return

        await self.ask(app, caplog)

    @on_loop
    async def test_sends_a_body_without_a_status(self, caplog: pytest.LogCaptureFixture) -> None:
        async def app(_scope: Any, _receive: Any, send: Any) -> None:
            await send({"type": "http.response.body", "body": b"x"})

        await self.ask(app, caplog)

    @pytest.mark.parametrize("headers", [[], [(b"content-length", b"100")]])
    @on_loop
    async def test_raises_in_the_middle_of_its_answer(
        self, headers: list[tuple[bytes, bytes]], caplog: pytest.LogCaptureFixture
    ) -> None:
        async def app(_scope: Any, _receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"some", "more_body": True})
            raise ValueError

        with caplog.at_level(logging.ERROR):
            async with listening(app) as server:
                peer = await server.connect()
                await peer.send(request())
                assert (await peer.head())[0] == 200
                # The end is missing, so the client knows that this is not all.
                assert await peer.rest() == (b"some" if headers else b"4\r\nsome\r\n")
        assert "failed" in caplog.text
