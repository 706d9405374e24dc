"""Both protocols of the generator, byte by byte; and gRPC against a real server."""

import asyncio
import struct
from typing import Any

import grpc
import pytest

from loadtests.openloop import grpc1
from loadtests.openloop.grpc1 import (
    ACK,
    DATA,
    END_STREAM,
    HEADERS,
    PADDED,
    PING,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Grpc1,
    frame,
    status,
)
from loadtests.openloop.http1 import Http1, request
from loadtests.openloop.outcomes import Verdict

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nx: y\r\n\r\nok"


def http() -> Http1:
    wire = Http1([b"first", b"second"], [2, None])
    wire.start(0)
    return wire


def test_a_post_is_whole() -> None:
    assert request("/p", {"a": "b"}, b"body") == (
        b"POST /p HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 4\r\na: b\r\n\r\nbody"
    )


def test_kinds_have_their_own_bytes() -> None:
    wire = http()
    assert wire.out == b"first"
    wire.start(1)
    assert wire.out == b"second"


@pytest.mark.parametrize("step", [1, 3, 20, 100])
def test_an_answer_may_come_in_pieces(step: int) -> None:
    wire = http()
    verdicts = [wire.feed(GOOD[at : at + step]) for at in range(0, len(GOOD), step)]
    assert verdicts[-1] is Verdict.ANSWERED
    assert set(verdicts[:-1]) <= {Verdict.PENDING}
    assert not wire.closing


@pytest.mark.parametrize(
    ("answer", "verdict", "closing", "part"),
    [
        (b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\nretry-after: 1\r\n\r\n", Verdict.REFUSED, False, ""),
        (b"HTTP/1.1 429 Busy\r\ncontent-length: 0\r\n\r\n", Verdict.REFUSED, False, ""),
        (
            b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: Close\r\n\r\n",
            Verdict.REFUSED,
            True,
            "",
        ),
        (b"HTTP/1.1 400 Bad\r\ncontent-length: 3\r\n\r\nwhy", Verdict.FAILED, False, "status 400: b'why'"),
        (b"HTTP/1.1 200 OK\r\n\r\n", Verdict.FAILED, True, "without a length"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nwhy", Verdict.FAILED, False, "3 bytes, not 2"),
        (GOOD + b"!", Verdict.FAILED, True, "more than was asked for"),
    ],
)
def test_what_is_no_right_answer(answer: bytes, verdict: Verdict, closing: bool, part: str) -> None:
    wire = http()
    assert wire.feed(answer) is verdict
    assert wire.closing is closing
    assert part in wire.failure


def call(message: bytes = b"m" * 10, answer_bytes: int | None = 3) -> Grpc1:
    """A connection with its preface sent and a call begun."""
    wire = Grpc1("/s/m", [message], [answer_bytes])
    wire.out = b""
    wire.start(0)
    return wire


def data_bytes(out: bytes) -> tuple[int, bool]:
    """Bytes of DATA frames, and whether the last of them ends the stream."""
    at, total, ended = 0, 0, False
    while at < len(out):
        length, kind, flags = int.from_bytes(out[at : at + 3], "big"), out[at + 3], out[at + 4]
        if kind == DATA:
            total, ended = total + length, bool(flags & END_STREAM)
        at += 9 + length
    return total, ended


TRAILERS_OK = frame(HEADERS, END_STREAM | 4, 1, b"\x00\x0bgrpc-status\x010")
ANSWER = frame(HEADERS, 4, 1, b"\x88") + frame(DATA, 0, 1, b"\0\0\0\0\x03abc")


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_a_call_is_answered_when_its_trailers_came(step: int) -> None:
    wire, stream = call(), ANSWER + TRAILERS_OK
    verdicts = [wire.feed(stream[at : at + step]) for at in range(0, len(stream), step)]
    assert verdicts[-1] is Verdict.ANSWERED and set(verdicts[:-1]) <= {Verdict.PENDING}


def test_a_reset_behind_the_trailers_changes_nothing() -> None:
    wire = call()
    assert wire.feed(ANSWER + TRAILERS_OK + frame(RST_STREAM, 0, 1, bytes(4))) is Verdict.ANSWERED


def test_padding_does_not_count() -> None:
    wire = call()
    padded = frame(HEADERS, 4, 1, b"\x88") + frame(DATA, PADDED, 1, b"\x02\0\0\0\0\x03abcPP")
    assert wire.feed(padded + TRAILERS_OK) is Verdict.ANSWERED


@pytest.mark.parametrize(
    ("stream", "verdict"),
    [
        (frame(HEADERS, END_STREAM | 4, 1, b"\x00\x0bgrpc-status\x0214"), Verdict.REFUSED),
        (frame(HEADERS, END_STREAM | 4, 1, b"\x00\x0bgrpc-status\x014"), Verdict.REFUSED),
        (frame(HEADERS, END_STREAM | 4, 1, b"\x00\x0bgrpc-status\x013"), Verdict.FAILED),
        (frame(HEADERS, END_STREAM | 4, 1, b"huffman"), Verdict.FAILED),  # no status and no message
        (TRAILERS_OK, Verdict.FAILED),  # no message
        (frame(DATA, 0, 1, b"\0\0\0\0\x01a") + TRAILERS_OK, Verdict.FAILED),  # a shorter one
        (frame(RST_STREAM, 0, 1, bytes(4)), Verdict.FAILED),
    ],
)
def test_other_ends_of_a_call(stream: bytes, verdict: Verdict) -> None:
    wire = call()
    assert wire.feed(stream) is verdict
    assert bool(wire.failure) is (verdict is Verdict.FAILED)


def test_pings_and_settings_are_acknowledged() -> None:
    wire = call()
    wire.out = b""
    assert wire.feed(frame(SETTINGS, 0, 0) + frame(PING, 0, 0, b"12345678")) is Verdict.PENDING
    assert wire.out == frame(SETTINGS, ACK, 0) + frame(PING, ACK, 0, b"12345678")


def test_no_more_is_sent_than_the_windows_allow() -> None:
    wire = call(bytes(100_000))
    assert data_bytes(wire.out) == (65_535, False)
    wire.out = b""
    wire.feed(frame(WINDOW_UPDATE, 0, 0, struct.pack("!I", 20_000)))
    assert wire.out == b""  # the call's own window is still shut
    wire.feed(frame(WINDOW_UPDATE, 0, 1, struct.pack("!I", 10_000)))
    assert data_bytes(wire.out) == (10_000, False)
    wire.out = b""
    # More for every call, and the rest for this connection.
    settings = struct.pack("!HI", grpc1.INITIAL_WINDOW_SIZE, 1 << 20)
    wire.feed(frame(SETTINGS, 0, 0, settings) + frame(WINDOW_UPDATE, 0, 0, struct.pack("!I", 1 << 20)))
    assert data_bytes(wire.out) == (100_005 - 75_535, True)


def test_a_status_is_read_where_it_stands_as_text() -> None:
    assert status(b"\x00\x0bgrpc-status\x0214\x00\x0cgrpc-message\x01x") == 14
    assert status(b"\x88\x00") is None and status(b"grpc-status") is None


class _Handler(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """Answers with three bytes, or ends with the status that stands in the message."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        async def reply(message: bytes, context: Any) -> bytes:
            if message[:1] == b"!":
                await context.abort(getattr(grpc.StatusCode, message[1:].decode()), "no")
            return b"abc"

        return grpc.unary_unary_rpc_method_handler(reply)


MESSAGES = [b"m" * 10, b"!UNAVAILABLE", b"!INVALID_ARGUMENT", bytes(300_000)]
ENDS = [Verdict.ANSWERED, Verdict.REFUSED, Verdict.FAILED, Verdict.ANSWERED]


def test_a_real_server_understands_it() -> None:
    async def session() -> list[Verdict]:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((_Handler(),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        wire = Grpc1("/s/m", MESSAGES, [3] * len(MESSAGES))
        found = []
        for kind in [0, 1, 2, 3, 0, 3]:
            wire.start(kind)
            verdict = Verdict.PENDING
            while verdict is Verdict.PENDING:
                writer.write(wire.out)
                wire.out = b""
                data = await asyncio.wait_for(reader.read(65_536), 20)
                assert data, "the server closed the connection"
                verdict = wire.feed(data)
            found.append(verdict)
        writer.close()
        await writer.wait_closed()
        await server.stop(None)
        return found

    assert asyncio.run(session()) == [*ENDS, Verdict.ANSWERED, Verdict.ANSWERED]
