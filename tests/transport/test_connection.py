"""Requests as they come over a socket, and what the application gets of them."""

import asyncio
from typing import Any

import pytest

from tests.transport.raw import Gate, a_while, echo, listening, on_loop, reply, request, until


class TestRequests:
    @on_loop
    async def test_what_the_application_gets(self) -> None:
        async with listening(echo) as server:
            answer = await server.ask(request("PUT", "/a/b?c=d&e", "X-One: 1", "x-one:2 ", body=b"text"))
            assert answer.status == 200 and answer.headers["content-type"] == "application/json"
            assert "date" in answer.headers and "connection" not in answer.headers
            assert answer.json == {
                "method": "PUT",
                "path": "/a/b",
                "raw_path": "/a/b",
                "query": "c=d&e",
                "version": "1.1",
                "headers": {"host": "test", "x-one": "2", "content-length": "4"},
                "body": "text",
            }

    @on_loop
    async def test_requests_follow_each_other_on_one_connection(self) -> None:
        async with listening(echo) as server:
            peer = await server.connect()
            for n in range(3):
                await peer.send(request("POST", f"/{n}", body=b"%d" % n))
                answer = await peer.answer()
                assert (answer.json["path"], answer.json["body"]) == (f"/{n}", f"{n}")
            assert len(server.connections) == 1

    @on_loop
    async def test_the_client_may_ask_to_close(self) -> None:
        async with listening(echo) as server:
            peer = await server.connect()
            await peer.send(request("GET", "/", "connection: close"))
            assert (await peer.answer()).headers["connection"] == "close"
            assert await peer.rest() == b""

    @on_loop
    async def test_http_1_0_closes_unless_asked_not_to(self) -> None:
        async with listening(echo) as server:
            peer = await server.connect()
            await peer.send(b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
            assert (await peer.answer()).headers["connection"] == "keep-alive"
            await peer.send(b"GET / HTTP/1.0\r\n\r\n")
            answer = await peer.answer()
            assert answer.headers["connection"] == "close" and answer.json["version"] == "1.0"
            assert await peer.rest() == b""

    @on_loop
    async def test_one_byte_at_a_time(self) -> None:
        async with listening(echo) as server:
            peer = await server.connect()
            await peer.send_slowly(request("POST", "/some/path", "x-header: some value", body=b"some body"))
            answer = await peer.answer()
            assert answer.json["path"] == "/some/path" and answer.json["body"] == "some body"
            assert answer.json["headers"]["x-header"] == "some value"

    @on_loop
    async def test_empty_lines_before_a_request_are_left_alone(self) -> None:
        async with listening(echo) as server:
            assert (await server.ask(b"\r\n\r\n" + request("GET", "/a"))).json["path"] == "/a"

    @on_loop
    async def test_a_large_body(self) -> None:
        body = bytes(range(256)) * 20_000

        async def size(_scope: Any, receive: Any, send: Any) -> None:
            received = (await receive())["body"]
            await reply(send, b"%d" % len(received) + b" same" * (received == body))

        async with listening(size) as server:
            answer = await server.ask(request("POST", "/", body=body))
            assert answer.body == b"%d same" % len(body)

    @on_loop
    async def test_chunked_bodies(self) -> None:
        chunked = b"4\r\nsome\r\n6;name=value\r\n text \r\n00\r\n\r\n"
        async with listening(echo) as server:
            peer = await server.connect()
            for size in (1000, 1):
                await peer.send_slowly(request("POST", "/", "transfer-encoding: chunked") + chunked, size)
                assert (await peer.answer()).json["body"] == "some text "

    @on_loop
    async def test_trailers_are_no_headers(self) -> None:
        trailed = b"1\r\na\r\n0\r\nInference-Header-Content-Length: 5\r\n\r\n"
        async with listening(echo) as server:
            answer = await server.ask(request("POST", "/", "transfer-encoding: chunked") + trailed)
            assert answer.json["body"] == "a" and "inference-header-content-length" not in answer.json["headers"]

    @pytest.mark.parametrize(
        ("target", "path", "query"),
        [
            ("/v2/models/a%20b", "/v2/models/a b", ""),
            ("/v2/models/%C3%BC", "/v2/models/ü", ""),
            ("/v2/models/a%2Fb", "/v2/models/a/b", ""),
            ("/v2/models/%ff", "/v2/models/\ufffd", ""),
            ("/v2/models/%zz", "/v2/models/%zz", ""),
            ("/v2/../v2//x/.", "/v2/../v2//x/.", ""),
            ("//v2/models", "//v2/models", ""),
            ("/a?b?c=%20", "/a", "b?c=%20"),
            ("http://host:80/a/b?c", "/a/b", "c"),
            ("http://host", "/", ""),
        ],
    )
    @on_loop
    async def test_targets(self, target: str, path: str, query: str) -> None:
        async with listening(echo) as server:
            asked = (await server.ask(request("GET", target))).json
            assert (asked["path"], asked["query"]) == (path, query)

    @pytest.mark.parametrize("line", ["OPTIONS *", "CONNECT host:443", "GET http://[", "GET http://[::1"])
    @on_loop
    async def test_targets_that_are_no_path(self, line: str) -> None:
        async with listening(echo) as server:
            assert (await server.ask(request(*line.split()))).status == 400


class TestContinue:
    @on_loop
    async def test_who_asks_first_is_told_to_go_on(self) -> None:
        async with listening(echo) as server:
            peer = await server.connect()
            await peer.send(request("POST", "/", "expect: 100-continue", "content-length: 4"))
            assert await peer.head() == (100, {})
            await peer.send(b"body")
            assert (await peer.answer()).json["body"] == "body"

    @on_loop
    async def test_unless_the_body_would_be_refused(self) -> None:
        async with listening(echo, max_body_bytes=3) as server:
            peer = await server.connect()
            await peer.send(request("POST", "/", "expect: 100-continue", "content-length: 4"))
            assert (await peer.answer()).status == 400
            assert await peer.rest() == b""

    @on_loop
    async def test_the_word_to_go_on_waits_for_the_answers_before_it(self) -> None:
        gate = Gate()
        async with listening(gate) as server:
            peer = await server.connect()
            await peer.send(request("GET", "/1"))
            await until(lambda: gate.begun == ["/1"])
            await peer.send(request("POST", "/2", "expect: 100-continue", "content-length: 1"))
            await a_while()
            gate.opened.set()
            assert (await peer.answer()).body == b"/1"
            assert (await peer.head())[0] == 100
            await peer.send(b"b")
            assert (await peer.answer()).body == b"/2"


class TestUpgrade:
    """Other protocols are not spoken here; such a request is answered like any other (RFC 9110, 7.8)."""

    HEADERS = ("connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAMAAABkAAQAoAAAAAIAAAAA")

    @on_loop
    async def test_without_a_body(self) -> None:
        async with listening(echo) as server:
            answer = await server.ask(request("GET", "/a", *self.HEADERS))
            assert (answer.status, answer.json["path"]) == (200, "/a")

    @pytest.mark.parametrize("size", [1000, 1])
    @on_loop
    async def test_with_a_body(self, size: int) -> None:
        async with listening(echo) as server:
            peer = await server.connect()
            await peer.send_slowly(request("POST", "/a", *self.HEADERS, body=b"some body"), size)
            answer = await peer.answer()
            assert (answer.status, answer.json["path"], answer.json["body"]) == (200, "/a", "some body")

    @pytest.mark.parametrize("size", [1000, 1])
    @on_loop
    async def test_with_a_chunked_body(self, size: int) -> None:
        async with listening(echo) as server:
            peer = await server.connect()
            header = request("POST", "/a", "transfer-encoding: chunked", *self.HEADERS)
            await peer.send_slowly(header + b"5\r\nsome \r\n4\r\nbody\r\n0\r\n\r\n", size)
            answer = await peer.answer()
            assert (answer.status, answer.json["path"], answer.json["body"]) == (200, "/a", "some body")

    @on_loop
    async def test_with_a_body_that_is_too_large(self) -> None:
        async with listening(echo, max_body_bytes=5) as server:
            answer = await server.ask(request("POST", "/a", *self.HEADERS, body=b"some body"))
            assert answer.status == 400 and "exceeds the maximum allowed input size of 5" in answer.error

    @on_loop
    async def test_with_a_body_that_is_half_sent_by_a_client_that_goes_away(self) -> None:
        async with listening(echo) as server:
            peer = await server.connect()
            await peer.send(request("POST", "/a", "content-length: 9", *self.HEADERS) + b"some")
            await until(lambda: "body" in str(server.connections))
            peer.close()
            await until(lambda: not server.connections)


class TestPipelining:
    @on_loop
    async def test_answers_come_in_the_order_of_the_requests(self) -> None:
        async def slow_first(scope: Any, _receive: Any, send: Any) -> None:
            if scope["path"] == "/0":
                await asyncio.sleep(0.05)
            await reply(send, scope["path"].encode())

        async with listening(slow_first) as server:
            peer = await server.connect()
            await peer.send(b"".join(request("GET", f"/{n}") for n in range(100)))
            assert [(await peer.answer()).body for _ in range(100)] == [b"/%d" % n for n in range(100)]

    @on_loop
    async def test_one_at_a_time(self) -> None:
        gate = Gate()
        async with listening(gate) as server:
            peer = await server.connect()
            await peer.send(request("GET", "/1") + request("GET", "/2"))
            await until(lambda: "answering pipelined=1" in str(server.connections))
            await a_while()
            assert gate.begun == ["/1"]
            gate.opened.set()
            assert [(await peer.answer()).body for _ in range(2)] == [b"/1", b"/2"]

    @on_loop
    async def test_what_waits_is_bounded(self) -> None:
        gate = Gate()
        one = request("GET", "/", "x: " + "y" * 1000)
        async with listening(gate) as server:
            peer = await server.connect()
            sending = asyncio.create_task(peer.send(one * 20_000))
            await until(lambda: "answering pipelined=" in str(server.connections))
            await a_while()
            waiting = int(str(server.connections).split("pipelined=")[1].split(">")[0])
            assert waiting < 200  # of small ones fit as many into what the parser gets at once
            sending.cancel()

    @on_loop
    async def test_a_flood_is_answered_in_its_order(self) -> None:
        """Beyond what may wait, what has been read is parsed when there is room, and bodies find their requests."""
        async with listening(echo) as server:
            peer = await server.connect()
            flood = b"".join(request("POST", f"/{n}", body=b"%d" % n * (n % 50)) for n in range(1000))
            async with peer.sending(flood, len(flood)):
                for n in range(1000):
                    answer = (await peer.answer()).json
                    assert (answer["path"], answer["body"]) == (f"/{n}", f"{n}" * (n % 50))
            assert server.held_bytes == 0

    @on_loop
    async def test_large_bodies_in_a_flood(self) -> None:
        async with listening(echo) as server:
            peer = await server.connect()
            flood = b"".join(request("POST", f"/{n}", body=b"%d" % n * 20_000) for n in range(20))
            async with peer.sending(flood, len(flood)):
                for n in range(20):
                    assert (await peer.answer()).json["body"] == f"{n}" * 20_000

    @on_loop
    async def test_a_bad_request_is_refused_after_the_good_ones_before_it(self) -> None:
        gate = Gate()
        async with listening(gate) as server:
            peer = await server.connect()
            await peer.send(request("GET", "/1") + request("GET", "/2") + b"nonsense\r\n\r\n" + request("GET", "/3"))
            await until(lambda: gate.begun == ["/1"])
            gate.opened.set()
            assert [(await peer.answer()).body for _ in range(2)] == [b"/1", b"/2"]
            answer = await peer.answer()
            assert (answer.status, answer.headers["connection"]) == (400, "close")
            assert await peer.rest() == b"" and gate.begun == ["/1", "/2"]

    @on_loop
    async def test_nothing_is_answered_behind_a_close(self) -> None:
        async with listening(echo) as server:
            peer = await server.connect()
            await peer.send(request("GET", "/1", "connection: close") + request("GET", "/2"))
            assert (await peer.answer()).json["path"] == "/1"
            assert await peer.rest() == b""
