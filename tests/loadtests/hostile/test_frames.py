"""Frames as bytes: what is written can be read again, and gRPC takes it for what it is."""

import asyncio
import gzip

import pytest

from loadtests.hostile import frames
from tests.transport.raw import on_loop
from tests.transport.test_grpc import Answerer
from tests.transport.test_grpc_bounds import listening


def test_frames_are_read_as_they_were_written() -> None:
    first = frames.frame(frames.PING, b"12345678", frames.ACK)
    second = frames.frame(frames.DATA, b"data", frames.END_STREAM, 5)
    found, rest = frames.split(first + second + first[:-1])
    assert found == [(frames.PING, frames.ACK, 0, b"12345678"), (frames.DATA, frames.END_STREAM, 5, b"data")]
    assert rest == first[:-1]


def test_a_frame_may_lie_about_its_length() -> None:
    assert frames.frame(frames.DATA, b"data", length=2**24 - 1)[:3] == b"\xff\xff\xff"


@pytest.mark.parametrize(("value", "written"), [(10, b"\x0a"), (31, b"\x1f\x00"), (1337, b"\x1f\x9a\x0a")])
def test_numbers_are_written_as_in_the_examples_of_hpack(value: int, written: bytes) -> None:
    assert frames._number(value, 5) == written


@pytest.mark.parametrize("compressed", [False, True])
@on_loop
async def test_a_call_of_these_frames_is_answered(compressed: bool) -> None:
    async with listening(Answerer()) as caller:
        reader, writer = await asyncio.open_connection("127.0.0.1", caller.port)
        data = gzip.compress(b"hello") if compressed else b"hello"
        more = ((b"grpc-encoding", b"gzip"), (b"some", b"more" * 100)) if compressed else ()
        block = frames.request("/test.Service/Ask", *more)
        writer.write(frames.PREFACE + frames.settings(window=1000))
        writer.write(frames.frame(frames.HEADERS, block, frames.END_HEADERS, 1))
        writer.write(frames.frame(frames.DATA, frames.message(data, compressed), frames.END_STREAM, 1))
        received = b""
        while frames.message(b"hello!") not in received:
            more_received = await reader.read(1000)
            assert more_received, received
            received += more_received
        writer.close()
