import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from serving.protocols.http import Handler, Headers, HttpReply
from serving.protocols.record import Record, Watch
from serving.transport.admission import Admission
from serving.transport.exchange import Refusal
from serving.transport.http import HttpListener
from serving.transport.known import MAX_BODY_BYTES, MAX_BYTES, worth_knowing
from serving.transport.limits import HttpLimits
from tests.transport.raw import Answer, Listening, Peer, a_while, listening, on_loop, reply, request, until


class Both:
    """Says how it was asked: as an application, or by the handler of a header, and with which body."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, bytes, Headers]] = []
        self.gate: asyncio.Event | None = None
        self.padding = b""
        self.begun = 0
        self.cancelled = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        await reply(send, b"app " + message["body"])

    def handler(self, method: str, target: bytes, headers: Headers) -> Handler | None:
        self.asked.append((method, target, headers))
        if target == b"/plain":
            return None

        async def answer(body: bytes) -> HttpReply:
            self.begun += 1
            if self.gate is not None:
                try:
                    await self.gate.wait()
                except asyncio.CancelledError:
                    self.cancelled += 1
                    raise
            if body == b"bad":
                raise ValueError("body")
            return HttpReply(200, b"handler " + body + self.padding, [(b"x-a", b"b")])

        return answer


@asynccontextmanager
async def guarded(app: Both, admit: Any = None, watch: Watch | None = None) -> AsyncIterator[Peer]:
    """A client of a listener with a guard, or with somebody who notes what happens."""
    listener = HttpListener(app, HttpLimits(), admit, watch=watch)
    server = Listening(listener, await listener.listen("127.0.0.1", 0), [])
    peer = await server.connect()
    try:
        yield peer
    finally:
        peer.abort()
        await listener.stop(1.0)


ASK = request("POST", "/a", body=b"one")


@asynccontextmanager
async def under_way(
    app: Both, admission: Admission | None = None
) -> AsyncIterator[tuple[Listening, Peer, asyncio.Event]]:
    """A known request that waits in its handler for the event."""
    async with listening(app, admission) as server:
        await server.ask(ASK)
        app.gate = asyncio.Event()
        peer = await server.connect()
        await peer.send(ASK)
        await until(lambda: app.begun == 1)
        yield server, peer, app.gate


async def twice(app: Both, data: bytes = ASK, again: bytes | None = None, **limits: Any) -> tuple[Answer, Answer]:
    async with listening(app, **limits) as server:
        peer = await server.connect()
        return await peer.ask(data), await peer.ask(again or data)


@on_loop
async def test_a_header_that_came_before_is_not_parsed_again() -> None:
    app = Both()
    first, second = await twice(app, again=request("POST", "/a", body=b"two"))
    assert (first.body, second.body) == (b"app one", b"handler two")
    assert (second.status, second.headers["x-a"], second.headers["content-length"]) == (200, "b", "11")
    assert app.asked == [("POST", b"/a", [(b"host", b"test"), (b"content-length", b"3")])]


@on_loop
async def test_it_is_known_to_all_connections_and_no_body_is_held_after_the_answer() -> None:
    app = Both()
    async with listening(app) as server:
        await server.ask(ASK)
        peers = [await server.connect() for _ in range(3)]
        for body in (b"abc", b"def"):
            answers = [await peer.ask(request("POST", "/a", body=body)) for peer in peers]
            assert {answer.body for answer in answers} == {b"handler " + body}
        assert server.held_bytes == 0 and len(app.asked) == 1


@pytest.mark.parametrize(
    "other",
    [
        request("POST", "/b", body=b"one"),
        request("POST", "/a", "x-more: 1", body=b"one"),
        request("POST", "/a", body=b"four"),
        request("PUT", "/a", body=b"one"),
        ASK.replace(b"host", b"HOST"),
    ],
    ids=["path", "header", "length", "method", "case"],
)
@on_loop
async def test_any_other_byte_is_another_header(other: bytes) -> None:
    first, second = await twice(Both(), again=other)
    assert first.body == b"app one" and second.body.startswith(b"app ")


@pytest.mark.parametrize(
    "data",
    [
        request("POST", "/plain", body=b"one"),
        request("PUT", "/a", body=b"one"),
        request("GET", "/a", body=b"one"),
        request("POST", "/a", "x-request-id: 7", body=b"one"),
        request("POST", "/a", "traceparent: 00-1-1-00", body=b"one"),
        request("POST", "/a", f"x-long: {'x' * MAX_BYTES}", body=b"one"),
        request("POST", "/a", "transfer-encoding: chunked") + b"3\r\none\r\n0\r\n\r\n",
        request("POST", "/a", body=b"o" * (MAX_BODY_BYTES + 1)),
    ],
    ids=["no handler", "PUT", "GET", "id", "trace", "long", "chunks", "large body"],
)
@on_loop
async def test_what_is_not_worth_knowing(data: bytes) -> None:
    first, second = await twice(Both(), data)
    assert first.body == second.body and first.body.startswith(b"app o")


@on_loop
async def test_a_connection_that_is_to_close_closes_each_time() -> None:
    async with listening(Both()) as server:
        for _ in range(2):
            peer = await server.connect()
            answer = await peer.ask(request("POST", "/a", "connection: close", body=b"one"))
            assert answer.body == b"app one" and await peer.rest() == b""


@pytest.mark.parametrize("at", [5, len(ASK) - 4, len(ASK) - 1])
@on_loop
async def test_a_known_header_that_comes_in_pieces(at: int) -> None:
    async with listening(Both()) as server:
        await server.ask(ASK)
        peer = await server.connect()
        await peer.send(ASK[:at])
        await asyncio.sleep(0.02)
        assert (await peer.ask(ASK[at:])).body == b"app one"
        assert (await peer.ask(ASK)).body == b"handler one"  # the connection is as good as any


@on_loop
async def test_two_at_once_are_answered_in_order() -> None:
    async with listening(Both()) as server:
        await server.ask(ASK)
        peer = await server.connect()
        await peer.send(ASK + request("POST", "/a", body=b"two"))
        assert [(await peer.answer()).body for _ in range(2)] == [b"app one", b"app two"]


@on_loop
async def test_one_that_comes_while_another_is_answered_waits() -> None:
    app = Both()
    async with under_way(app) as (_, peer, gate):
        await peer.send(request("POST", "/a", body=b"two"))
        await asyncio.sleep(0.02)
        gate.set()
        assert [(await peer.answer()).body for _ in range(2)] == [b"handler one", b"app two"]


@on_loop
async def test_who_does_not_read_gets_no_more_answers() -> None:
    app = Both()
    async with listening(app) as server:
        await server.ask(ASK)
        app.padding = bytes(16_000_000)
        peer = await server.connect()
        peer.stop_reading()
        await peer.send(ASK)
        await until(lambda: app.begun == 1)
        await peer.send(ASK)
        await a_while()
        assert app.begun == 1
        peer.resume_reading()
        first, second = await peer.answer(), await peer.answer()
        assert first.body == b"handler one" + app.padding and second.body == b"app one"


@on_loop
async def test_who_goes_away_is_not_waited_for() -> None:
    app = Both()
    async with under_way(app) as (server, peer, _):
        peer.abort()
        await until(lambda: app.cancelled == 1 and not server.connections)
        assert server.held_bytes == 0


@on_loop
async def test_a_handler_that_fails_is_an_internal_error_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    async with listening(Both()) as server:
        await server.ask(ASK)
        answer = await server.ask(request("POST", "/a", body=b"bad"))
        assert answer.status == 500 and "internal error" in answer.error
        assert (await server.ask(ASK)).body == b"handler one"
    assert "POST /a failed" in caplog.text


@on_loop
async def test_no_more_bodies_than_there_is_room_for() -> None:
    app = Both()
    async with listening(app, max_bodies_bytes=300) as server:
        await server.ask(ASK)
        app.gate = asyncio.Event()
        peers = [await server.connect() for _ in range(5)]
        for peer in peers:
            await peer.send(ASK)  # 67 bytes are held for each
        await until(lambda: app.begun == 4)
        refused = await peers[4].answer()
        assert refused.status == 503 and "no memory for more bodies" in refused.error
        app.gate.set()
        assert [(await peer.answer()).status for peer in peers[:4]] == [200] * 4


@on_loop
async def test_no_more_requests_at_a_time_than_may_be() -> None:
    app = Both()
    admission = Admission(1)
    async with under_way(app, admission) as (server, peer, gate):
        assert (await server.ask(ASK)).status == 503
        gate.set()
        assert (await peer.answer()).status == 200
        assert admission.under_way == 0


@on_loop
async def test_the_guard_is_asked_each_time() -> None:
    refusals: list[Refusal | None] = [None, None, Refusal(401, "no key", [(b"x-c", b"d")]), None]
    asked: list[tuple[str, bytes, Headers]] = []

    def admit(method: str, target: bytes, headers: Headers) -> Refusal | None:
        asked.append((method, target, headers))
        return refusals[len(asked) - 1]

    async with guarded(Both(), admit) as peer:
        answers = [await peer.ask(ASK) for _ in refusals]
    assert [answer.status for answer in answers] == [200, 200, 401, 200]
    assert answers[2].error == "no key" and answers[2].headers["x-c"] == "d"
    assert [answer.body for answer in answers if answer.status == 200] == [b"app one", *[b"handler one"] * 2]
    assert asked == [("POST", b"/a", [(b"host", b"test"), (b"content-length", b"3")])] * 4


@on_loop
async def test_all_are_noted_alike() -> None:
    records: list[Record] = []
    async with guarded(Both(), watch=Watch(every=True, sinks=[records.append])) as peer:
        answers = [await peer.ask(ASK) for _ in range(2)]
    assert [answer.body for answer in answers] == [b"app one", b"handler one"]
    for record, answer in zip(records, answers, strict=True):
        noted = (record.method, record.path, record.status, record.received_bytes, record.sent_bytes)
        assert noted == ("POST", "/a", 200, 3, len(answer.body))


@on_loop
async def test_when_the_server_stops_the_answer_says_that_the_connection_ends() -> None:
    app = Both()
    async with under_way(app) as (server, peer, gate):
        stopping = asyncio.create_task(server.listener.stop(2.0))
        await asyncio.sleep(0)
        gate.set()
        answer = await peer.answer()
        assert (answer.body, answer.headers["connection"]) == (b"handler one", "close")
        assert await peer.rest() == b"" and await stopping


class Echo:
    """Answers with all that it was asked, the same in both ways."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        said = repr((scope["method"], scope["raw_path"], scope["headers"], message["body"]))
        await reply(send, said.encode())

    def handler(self, method: str, target: bytes, headers: Headers) -> Handler | None:
        async def answer(body: bytes) -> HttpReply:
            return HttpReply(200, repr((method, target, headers, body)).encode(), [])

        return answer


class Plain:
    """The same, and nobody can ask it by the header alone."""

    def __init__(self) -> None:
        self._echo = Echo()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._echo(scope, receive, send)


@pytest.mark.parametrize("seed", range(5))
@on_loop
async def test_the_answers_are_those_of_the_application(seed: int) -> None:
    """Whatever is asked in whatever order, and in however many pieces it comes."""
    chance = random.Random(seed)
    streams = []
    for _ in range(4):
        requests = []
        for _ in range(60):
            headers = chance.sample(["a: 1", "A:  1 ", "b: 2", "x-request-id: i"], 1)
            body = chance.choice([b"", b"one", b"two", b"\r\n\r\n", b"POST /a HTTP/1.1\r\n\r\n"])
            requests.append(request(chance.choice(["POST", "POST", "PUT"]), "/a", *headers, body=body))
        streams.append(requests)
    answers = []
    for app in (Echo(), Plain()):
        cut = random.Random(seed)
        async with listening(app) as server:
            found = []
            for requests in streams:
                peer = await server.connect()
                for data in requests:
                    at = cut.randrange(len(data)) if cut.random() < 0.3 else 0
                    if at:
                        await peer.send(data[:at])
                        await asyncio.sleep(0.001)
                    await peer.send(data[at:])
                    found.append(await peer.answer())
            answers.append([(answer.status, answer.body) for answer in found])
    assert answers[0] == answers[1]


def test_worth_knowing() -> None:
    assert worth_knowing("POST", [(b"host", b"a")], 1)
    assert not worth_knowing("POST", [(b"host", b"a")], 0)
    assert not worth_knowing("POST", [(b"expect", b"100-continue")], 1)
