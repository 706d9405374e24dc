"""What a client can make the server hold, and for how long."""

import asyncio
from typing import Any

import pytest

from serving.transport import connection, http
from serving.transport.admission import Admission
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
                assert answer.status == 431
                assert "larger than 32768 bytes" in answer.error or "more than 100 lines" in answer.error
                assert answer.headers["connection"] == "close"
                assert await peer.rest() == b""

    @pytest.mark.parametrize("piece", [100_000, 1_000])
    @on_loop
    async def test_that_is_just_small_enough(self, piece: int) -> None:
        async with listening(echo) as server:
            peer = await server.connect()
            for value in ("y" * 32_000, "y" * 20_000):
                await peer.send_slowly(request("GET", "/", f"x: {value}"), piece)
                assert (await peer.answer()).json["headers"]["x"] == value

    @on_loop
    async def test_of_too_many_lines(self) -> None:
        async with listening(echo, max_headers=5) as server:
            lines = [f"x-{n}: y" for n in range(5)]
            assert (await server.ask(request("GET", "/", *lines[:4]))).status == 200  # and host
            answer = await server.ask(request("GET", "/", *lines))
            assert answer.status == 431 and "more than 5 lines" in answer.error

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
    async def test_of_many_pieces_holds_up_nobody(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(connection, "SLICE_S", 0.0)
        async with listening(echo) as server:
            long, other = await server.connect(), await server.connect()
            chunks = b"1\r\na\r\n" * 60_000 + b"0\r\n\r\n"
            answer = asyncio.create_task(long.ask(request("POST", "/", "transfer-encoding: chunked") + chunks))
            await until(lambda: server.held_bytes > 0)
            assert (await other.ask(request())).status == 200
            assert not answer.done()
            assert len((await answer).json["body"]) == 60_000

    @on_loop
    async def test_that_gives_way_before_all_of_it_was_looked_at(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(connection, "SLICE_S", 0.0)
        async with listening(echo, max_bodies_bytes=50_000, linger_s=0.1) as server:
            chunks = request("POST", "/", "transfer-encoding: chunked") + b"1\r\na\r\n" * 60_000
            assert (await server.ask(chunks)).status == 503
            peer = await server.connect()
            assert (await peer.ask(chunks)).status == 503  # and it stays connected
            await until(lambda: not server.connections and not server.held_bytes)

    @on_loop
    async def test_that_is_half_sent(self) -> None:
        async with listening(echo, body_timeout_s=0.1) as server:
            for sent in (b"", b"half"):
                answer = await server.ask(request("POST", "/", "content-length: 8") + sent)
                assert answer.status == 408 and "body did not arrive within 0.1 s" in answer.error
            answer = await server.ask(request("POST", "/", "transfer-encoding: chunked") + b"8\r\nhalf")
            assert answer.status == 408

    @on_loop
    async def test_that_comes_too_slowly(self) -> None:
        async with listening(echo, min_body_bytes_per_s=100_000, body_grace_s=0.1) as server:
            peer = await server.connect()
            async with peer.sending(request("POST", "/", "content-length: 1000") + bytes(900), 1):
                answer = await peer.answer()
                assert answer.status == 408 and "less than 100000 bytes per second" in answer.error

    @on_loop
    async def test_that_comes_fast_enough_may_take_its_time(self) -> None:
        async with listening(echo, min_body_bytes_per_s=10, body_grace_s=0.05) as server:
            peer = await server.connect()
            await peer.send_slowly(request("POST", "/", body=b"x" * 300))
            assert (await peer.answer()).status == 200

    @on_loop
    async def test_that_waits_for_its_turn_is_not_slow(self) -> None:
        """The server itself does not read on where too many requests wait."""
        gate = Gate()
        async with listening(gate, body_timeout_s=0.05, header_timeout_s=0.05) as server:
            peer = await server.connect()
            for n in range(17):
                await peer.send(request("GET", f"/{n}"))
            await until(lambda: gate.begun == ["/0"])
            await peer.send(request("POST", "/last", "content-length: 4") + b"so")
            await a_while()
            await a_while()
            await peer.send(b"me")
            gate.opened.set()
            answers = [await peer.answer() for _ in range(18)]
            assert [answer.status for answer in answers] == [200] * 18 and answers[17].body == b"/last"

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


class TestBodiesTogether:
    @on_loop
    async def test_the_one_that_arrives_for_longest_gives_way(self) -> None:
        refused: list[tuple[str, str]] = []
        admission = Admission(refused=lambda *what: refused.append(what))
        async with listening(echo, admission, max_bodies_bytes=10_000) as server:
            slow, quick = await server.connect(), await server.connect()
            await slow.send(request("POST", "/slow", "content-length: 20000") + bytes(8_000))
            await until(lambda: server.held_bytes > 8_000)
            await quick.send(request("POST", "/quick", body=b"x" * 6_000))
            assert (await quick.answer()).json["path"] == "/quick"
            answer = await slow.answer()
            assert answer.status == 503 and answer.headers["retry-after"] == "1" and "no memory" in answer.error
            assert await slow.rest() == b""
            assert server.held_bytes == 0 and refused == [("http", "memory")]

    @on_loop
    async def test_what_is_under_way_counts_until_it_is_answered(self) -> None:
        gate = Gate()
        async with listening(gate, max_bodies_bytes=10_000) as server:
            first = await server.connect()
            await first.send(request("POST", "/first", body=bytes(8_000)))
            await until(lambda: gate.begun == ["/first"])
            assert (await server.ask(request("POST", "/second", body=bytes(3_000)))).status == 503
            peer = await server.connect()
            await peer.send(request("POST", "/third", body=bytes(500)))
            await until(lambda: "/third" in gate.begun)
            gate.opened.set()
            assert (await first.answer()).status == (await peer.answer()).status == 200
            assert (await server.ask(request("POST", "/fourth", body=bytes(8_000)))).status == 200
            assert server.held_bytes == 0

    @pytest.mark.parametrize("sent", [b"half", b"whole more "])
    @on_loop
    async def test_nothing_is_held_of_who_leaves(self, sent: bytes) -> None:
        gate = Gate()
        async with listening(gate) as server:
            peer = await server.connect()
            await peer.send(request("POST", "/", "content-length: 11") + sent)
            await until(lambda: server.held_bytes > 0)
            peer.abort()
            await until(lambda: not server.connections)
            assert server.held_bytes == 0

    @on_loop
    async def test_nothing_is_held_of_what_is_refused(self) -> None:
        async with listening(echo, max_body_bytes=5_000) as server:
            peer = await server.connect()
            await peer.send(request("POST", "/", "transfer-encoding: chunked") + b"f00\r\n%b\r\n" % bytes(0xF00) * 2)
            assert (await peer.answer()).status == 400
            assert server.held_bytes == 0


class TestConcurrency:
    @on_loop
    async def test_requests_that_are_too_many(self) -> None:
        refused: list[tuple[str, str]] = []
        gate, admission = Gate(), Admission(2, lambda *what: refused.append(what))
        async with listening(gate, admission) as server:
            peers = [await server.connect() for _ in range(2)]
            for n, peer in enumerate(peers):
                await peer.send(request("POST", f"/{n}", body=b"x"))
            await until(lambda: admission.under_way == 2)
            peer = await server.connect()
            for _ in range(2):  # and the connection stays
                await peer.send(request("POST", "/more", body=b"x"))
                answer = await peer.answer()
                assert answer.status == 503 and answer.headers["retry-after"] == "1"
                assert "has its 2 requests under way already" in answer.error
            assert refused == [("http", "concurrency")] * 2
            for path in ("/serving/models/m/rollback", "/v2/repository/models/m/unload"):
                operator = await server.connect()
                await operator.send(request("POST", path, body=b"{}"))
            probe = await server.connect()
            await probe.send(request("GET", "/v2/health/ready"))
            await until(lambda: len(gate.begun) == 5)
            gate.opened.set()
            assert [(await peer.answer()).status for peer in (*peers, operator, probe)] == [200] * 4
            assert admission.under_way == 0

    @on_loop
    async def test_who_leaves_makes_room(self) -> None:
        gate, admission = Gate(), Admission(1)
        async with listening(gate, admission) as server:
            peer = await server.connect()
            await peer.send(request("POST", "/gone", body=b"x"))
            await until(lambda: admission.under_way == 1)
            peer.abort()
            await until(lambda: admission.under_way == 0)


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
    async def test_that_are_far_too_many_are_not_even_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(connection, "_MAX_TURNED_AWAY", 2)
        async with listening(echo, max_connections=1, linger_s=60.0) as server:
            peers = [await server.connect() for _ in range(5)]
            assert [await peer.rest() != b"" for peer in peers[1:]] == [True, True, False, False]
            assert (await peers[0].ask(request())).status == 200

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

    @pytest.mark.parametrize("requests", [1, 3])
    @on_loop
    async def test_that_never_read_their_answers(self, requests: int) -> None:
        """Whatever they have asked for besides, and will not read either."""
        refused: list[tuple[str, str]] = []
        admission = Admission(refused=lambda *what: refused.append(what))
        async with listening(_large, admission, idle_timeout_s=0.2) as server:
            peer = await server.connect()
            peer.stop_reading()
            await peer.send(request() * requests)
            await until(lambda: len(server.connections) == 1)
            await until(lambda: not server.connections)
            assert refused == [("http", "slow")]

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
