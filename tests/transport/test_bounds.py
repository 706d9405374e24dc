"""What a client can make the server hold, and for how long."""

from typing import Any

import pytest

from serving.transport import http
from tests.transport.raw import Gate, a_while, echo, listening, on_loop, reply, request, until

# The beginning of a TLS handshake, as a client sends it that expects https.
TLS_HELLO = bytes.fromhex("16030100c2010000be0303") + bytes(range(200))


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks for overdue connections more often than once a second, so that no test waits for it."""
    monkeypatch.setattr(http, "_SWEEP_S", 0.02)


class TestHeader:
    @pytest.mark.parametrize(
        "data",
        [
            b"GET / HTTP/1.1\r\nx: " + b"y" * 1_000_000,
            b"GET / HTTP/1.1\r\n" + b"y" * 1_000_000,
            b"GET /" + b"y" * 1_000_000,
            b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 50_000,
            b"GET / HTTP/1.1\r\n" + b"".join(b"x-%d: y\r\n" % n for n in range(50_000)) + b"\r\n",
        ],
        ids=["one value", "one name", "the path", "many lines", "many names"],
    )
    @pytest.mark.parametrize("piece", [1_000_000, 10_000])
    @on_loop
    async def test_that_is_too_large(self, data: bytes, piece: int) -> None:
        async with listening(echo) as server:
            peer = await server.connect()
            async with peer.sending(data, piece):
                answer = await peer.answer()
                assert answer.status == 431 and "larger than 65536 bytes" in answer.error
                assert answer.headers["connection"] == "close"
                assert await peer.rest() == b""

    @pytest.mark.parametrize("piece", [100_000, 1_000])
    @on_loop
    async def test_that_is_just_small_enough(self, piece: int) -> None:
        async with listening(echo) as server:
            peer = await server.connect()
            for value in ("y" * 65_000, "y" * 40_000):
                await peer.send_slowly(request("GET", "/", f"x: {value}"), piece)
                assert (await peer.answer()).json["headers"]["x"] == value

    @on_loop
    async def test_counts_for_each_request_anew(self) -> None:
        async with listening(echo, max_header_bytes=1000) as server:
            peer = await server.connect()
            for _ in range(5):
                await peer.send(request("GET", "/", "x: " + "y" * 800))
                assert (await peer.answer()).status == 200

    @on_loop
    async def test_counts_for_each_request_anew_wherever_the_network_cuts(self) -> None:
        async with listening(echo, max_header_bytes=2000) as server:
            peer = await server.connect()
            data = request("GET", "/", "x: " + "y" * 800) * 50
            async with peer.sending(data, 3_000):
                for _ in range(50):
                    assert (await peer.answer()).status == 200

    @on_loop
    async def test_that_is_half_sent(self) -> None:
        async with listening(echo, header_timeout_s=0.1) as server:
            answer = await server.ask(b"GET / HTTP/1.1\r\nhost: te")
            assert answer.status == 408 and "header did not arrive within 0.1 s" in answer.error

    @on_loop
    async def test_that_trickles(self) -> None:
        async with listening(echo, header_timeout_s=0.2) as server:
            peer = await server.connect()
            async with peer.sending(b"GET / HTTP/1.1\r\nx: " + b"y" * 60_000, 1):
                assert (await peer.answer()).status == 408

    @on_loop
    async def test_of_a_second_request_that_is_half_sent(self) -> None:
        async with listening(echo, header_timeout_s=0.1) as server:
            peer = await server.connect()
            await peer.send(request("GET", "/1") + b"GET /2")
            assert (await peer.answer()).json["path"] == "/1"
            assert (await peer.answer()).status == 408


class TestBody:
    @on_loop
    async def test_of_the_largest_size(self) -> None:
        async with listening(echo, max_body_bytes=1000) as server:
            peer = await server.connect()
            await peer.send(request("POST", "/", body=b"x" * 1000))
            assert (await peer.answer()).status == 200
            await peer.send(
                request("POST", "/", "transfer-encoding: chunked") + b"3e8\r\n%b\r\n0\r\n\r\n" % (b"x" * 1000)
            )
            assert (await peer.answer()).status == 200

    @on_loop
    async def test_that_claims_to_be_larger(self) -> None:
        async with listening(echo, max_body_bytes=1000) as server:
            for size in (1001, 2**31, 2**62):
                answer = await server.ask(request("POST", "/", f"content-length: {size}"))
                assert answer.status == 400 and answer.headers["connection"] == "close"
                assert (
                    f"request JSON size of {size} bytes exceeds the maximum allowed input size of 1000" in answer.error
                )

    @on_loop
    async def test_that_turns_out_to_be_larger(self) -> None:
        async with listening(echo, max_body_bytes=1000) as server:
            chunks = b"1f4\r\n%b\r\n" % (b"x" * 500) * 3
            answer = await server.ask(request("POST", "/", "transfer-encoding: chunked") + chunks)
            assert answer.status == 400 and "exceeds the maximum allowed input size of 1000" in answer.error

    @on_loop
    async def test_that_is_larger_and_keeps_coming(self) -> None:
        async with listening(echo, max_body_bytes=1000) as server:
            peer = await server.connect()
            await peer.send(request("POST", "/", body=bytes(5_000_000)))  # and reads only then, as many clients do
            assert (await peer.answer()).status == 400
            peer.close()
            await until(lambda: not server.connections)

    @on_loop
    async def test_that_is_larger_and_never_ends(self) -> None:
        async with listening(echo, max_body_bytes=1000, linger_s=0.1) as server:
            peer = await server.connect()
            async with peer.sending(request("POST", "/", "content-length: 2000000000") + bytes(5_000_000), 100):
                assert (await peer.answer()).status == 400
                await until(lambda: not server.connections)

    @on_loop
    async def test_of_too_many_pieces(self) -> None:
        """Each piece is an object of its own until the body is complete, many times the size of its bytes."""
        async with listening(echo) as server:
            peer = await server.connect()
            header = request("POST", "/", "transfer-encoding: chunked")
            await peer.send(header + b"2\r\nab\r\n" * 65_000 + b"0\r\n\r\n")
            assert len((await peer.answer()).json["body"]) == 130_000
            await peer.send(header + b"2\r\nab\r\n" * 66_000)
            assert (await peer.answer()).status == 400

    @on_loop
    async def test_that_is_half_sent(self) -> None:
        async with listening(echo, body_timeout_s=0.1) as server:
            for sent in (b"", b"half"):
                answer = await server.ask(request("POST", "/", "content-length: 8") + sent)
                assert answer.status == 408 and "body did not arrive within 0.1 s" in answer.error
            answer = await server.ask(request("POST", "/", "transfer-encoding: chunked") + b"8\r\nhalf")
            assert answer.status == 408

    @on_loop
    async def test_that_is_longer_than_its_length(self) -> None:
        async with listening(echo) as server:
            peer = await server.connect()
            await peer.send(request("POST", "/", "content-length: 4") + b"some and more")
            assert (await peer.answer()).json["body"] == "some"
            assert (await peer.answer()).status == 400  # the rest is no request
            assert await peer.rest() == b""

    @pytest.mark.parametrize("piece", [1_000_000, 10_000])
    @on_loop
    async def test_with_endless_trailers(self, piece: int) -> None:
        async with listening(echo) as server:
            for trailer in (b"x: " + b"y" * 1_000_000, b"x: y\r\n" * 50_000):
                peer = await server.connect()
                data = request("POST", "/", "transfer-encoding: chunked") + b"0\r\n" + trailer
                async with peer.sending(data, piece):
                    assert 400 <= (await peer.answer()).status < 500


class TestNonsense:
    @pytest.mark.parametrize(
        "data",
        [
            b"nonsense\r\n\r\n",
            b"\x00" * 100,
            b"\xff" * 100,
            TLS_HELLO,
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET /\r\nhost : x\r\n\r\n",
            b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
            b"GET / HTTP/1.1\r\nx: a\x00b\r\n\r\n",
            b"GET /\x01 HTTP/1.1\r\n\r\n",
            request("POST", "/", "content-length: -1"),
            request("POST", "/", "content-length: +1"),
            request("POST", "/", "content-length: 1_0"),
            request("POST", "/", "content-length: 0x10"),
            request("POST", "/", "content-length: " + "9" * 40),
            request("POST", "/", "content-length: 3", "content-length: 4") + b"abcd",
            request("POST", "/", "content-length: 3, 4") + b"abcd",
            request("POST", "/", "content-length: 3", "transfer-encoding: chunked") + b"0\r\n\r\n",
            request("POST", "/", "transfer-encoding: chunked", "content-length: 3") + b"0\r\n\r\n",
            request("POST", "/", "transfer-encoding: chunked") + b"nonsense\r\n",
            request("POST", "/", "transfer-encoding: chunked") + b"-1\r\n",
            request("POST", "/", "transfer-encoding: chunked") + b"f" * 30 + b"\r\n",
            request("POST", "/", "transfer-encoding: chunked") + b"1\r\nab\r\n",
        ],
    )
    @on_loop
    async def test_is_refused(self, data: bytes) -> None:
        async with listening(echo) as server:
            peer = await server.connect()
            await peer.send(data)
            answer = await peer.answer()
            assert answer.status == 400 and answer.error
            assert answer.headers["connection"] == "close"
            assert await peer.rest() == b""
            assert (await server.ask(request("GET", "/a"))).json["path"] == "/a"  # and nothing else suffers

    @on_loop
    async def test_that_is_refused_once(self) -> None:
        async with listening(echo) as server:
            peer = await server.connect()
            await peer.send(b"nonsense\r\n\r\n" * 100)
            assert (await peer.answer()).status == 400
            assert await peer.rest() == b""


class TestConnections:
    @on_loop
    async def test_that_are_too_many(self) -> None:
        async with listening(echo, max_connections=3, linger_s=0.1) as server:
            peers = [await server.connect() for _ in range(3)]
            await until(lambda: len(server.connections) == 3)
            refused = await server.connect()
            answer = await refused.answer()
            assert answer.status == 503 and "has its 3 connections already" in answer.error
            assert await refused.rest() == b""
            peers[0].close()
            await until(lambda: len(server.connections) == 2)
            assert (await server.ask(request())).status == 200
            await peers[1].send(request())
            assert (await peers[1].answer()).status == 200

    @on_loop
    async def test_that_are_idle(self) -> None:
        async with listening(echo, idle_timeout_s=0.2) as server:
            silent, used = await server.connect(), await server.connect()
            await used.send(request())
            assert (await used.answer()).status == 200
            assert await silent.rest() == b"" and await used.rest() == b""
            await until(lambda: not server.connections)

    @on_loop
    async def test_that_wait_for_an_answer_are_not_idle(self) -> None:
        gate = Gate()
        async with listening(gate, idle_timeout_s=0.05, header_timeout_s=0.05, body_timeout_s=0.05) as server:
            peer = await server.connect()
            await peer.send(request("GET", "/long"))
            other = await server.connect()
            assert await other.rest() == b""  # idle for longer than that, and closed
            gate.opened.set()
            assert (await peer.answer()).body == b"/long"

    @on_loop
    async def test_that_are_refused_and_never_read(self) -> None:
        """What waits for such a client must not wait for ever."""
        async with listening(_large, idle_timeout_s=0.2, header_timeout_s=0.2, linger_s=0.1) as server:
            peer = await server.connect()
            peer.stop_reading()
            await peer.send(request() + b"nonsense\r\n\r\n")
            await until(lambda: len(server.connections) == 1)
            await until(lambda: not server.connections)

    @pytest.mark.parametrize("header", [[], ["connection: close"]])
    @on_loop
    async def test_that_read_slowly_are_not_idle(self, header: list[str]) -> None:
        """As long as something is taken, an answer may take its time."""
        async with listening(_large, idle_timeout_s=1.0) as server:
            peer = await server.connect()
            await peer.send(request("GET", "/", *header))
            await peer.head()
            for _ in range(6):
                assert len(await peer.read(LARGE // 6)) == LARGE // 6
                await a_while()


LARGE = 60_000_000


async def _large(_scope: Any, _receive: Any, send: Any) -> None:
    await reply(send, bytes(LARGE))
