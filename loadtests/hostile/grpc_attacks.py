"""Attacks on the gRPC listener, with frames of our own. Each runs until its target's time is up, and counts what it
saw."""

import asyncio
import gzip
import itertools
import random

from loadtests.hostile import frames
from loadtests.hostile.wire import Peer, Target, connect, crowd

MB = 1024 * 1024
BOMB_EXPANDED = 48 * MB  # about as much as fits compressed into the window that a server gives at first
SMALL = b"\x0a\x04copy"  # a ModelInferRequest with nothing but a model


async def _begin(target: Target, reads: bool = True, **settings: int) -> Peer | None:
    peer = await connect(target, reads)
    if peer is not None:
        await peer.send(frames.PREFACE + frames.settings(**settings))
    return peer


def _call(target: Target, stream: int, *more: tuple[bytes, bytes], flags: int = frames.END_HEADERS) -> bytes:
    return frames.frame(frames.HEADERS, frames.request(target.method, *more), flags, stream)


async def bombs(target: Target) -> None:
    """Compressed messages that expand a thousandfold."""
    bomb = frames.message(gzip.compress(bytes(BOMB_EXPANDED), 9), compressed=True)

    async def one(target: Target) -> None:
        peer = await _begin(target)
        if peer is None:
            return
        await peer.send(_call(target, 1, (b"grpc-encoding", b"gzip")))
        pieces = [bomb[at : at + 16_384] for at in range(0, len(bomb), 16_384)]
        for piece in pieces:
            last = frames.END_STREAM if piece is pieces[-1] else 0
            await peer.send(frames.frame(frames.DATA, piece, last, 1))
        said = await _said(peer, target, b"when it is decompressed", b"larger than max")
        target.seen[said] += said != "open"
        peer.close()

    await crowd(target, target.many(2), one, pause_s=0.2)


async def _said(peer: Peer, target: Target, *texts: bytes) -> str:
    """What came of it, as soon as anything has."""
    for _ in range(100):
        outcome = peer.grpc_outcome(*texts)
        if outcome != "open" or target.over:
            break
        await asyncio.sleep(0.02)
    return outcome


async def metadata(target: Target) -> None:
    """Calls with more metadata than a server takes, in one frame and in many."""
    value = (b"key", b"v" * 60_000)

    async def one(target: Target) -> None:
        peer = await _begin(target)
        if peer is None:
            return
        block = frames.request(target.method, *[value] * random.choice((1, 20)))
        await peer.send(frames.frame(frames.HEADERS, block[:16_000], 0, 1))
        for at in range(16_000, len(block), 16_000):
            last = frames.END_HEADERS if at + 16_000 >= len(block) else 0
            if not await peer.send(frames.frame(frames.CONTINUATION, block[at : at + 16_000], last, 1)):
                break
        await peer.send(frames.frame(frames.DATA, frames.message(SMALL), frames.END_STREAM, 1))
        said = await _said(peer, target, b"metadata size exceeds")
        target.seen[said] += said != "open"
        peer.close()

    await crowd(target, target.many(10), one, pause_s=0.05)


async def endless_header(target: Target) -> None:
    """A header that goes on in frame after frame, and never ends."""

    async def one(target: Target) -> None:
        peer = await _begin(target)
        if peer is None:
            return
        await peer.send(frames.frame(frames.HEADERS, frames.request(target.method), 0, 1))
        more = frames.frame(frames.CONTINUATION, frames.field(b"x", b"y" * 1000) * 15, 0, 1)
        while not target.over and await peer.send(more):
            await peer.wait(0.001)
        said = peer.grpc_outcome()
        target.seen[said] += 1
        peer.close()

    await crowd(target, target.many(10), one, pause_s=0.05)


async def rapid_resets(target: Target) -> None:
    """Calls that are begun and reset at once, as many as can be written."""

    async def one(target: Target) -> None:
        peer = await _begin(target)
        if peer is None:
            return
        stream = 1
        while not target.over and stream < 200_000:
            burst = bytearray()
            for _ in range(100):
                burst += _call(target, stream)
                burst += frames.frame(frames.RST_STREAM, frames.CANCEL.to_bytes(4, "big"), 0, stream)
                stream += 2
            if not await peer.send(bytes(burst)):
                break
            target.seen["calls reset"] += 100
            await asyncio.sleep(0.01)
        target.seen[peer.grpc_outcome()] += 1
        peer.close()

    await crowd(target, target.many(4), one, pause_s=0.1)


async def pings(target: Target) -> None:
    """Pings without end, and settings that have to be acknowledged."""
    kinds = itertools.cycle((frames.frame(frames.PING, bytes(8)), frames.settings(window=65_535)))

    async def one(target: Target) -> None:
        peer = await _begin(target)
        if peer is None:
            return
        kind = next(kinds)
        for _ in range(50):
            if target.over or b"too_many_pings" in peer.received or not await peer.send(kind * 100):
                break
            await asyncio.sleep(0.02)
        target.seen[peer.grpc_outcome(b"too_many_pings")] += 1
        peer.close()

    await crowd(target, target.many(4), one, pause_s=0.2)


def nonsense(target: Target) -> list[bytes]:
    start = frames.PREFACE + frames.settings()
    return [
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        bytes(200),
        b"\xff" * 200,
        frames.PREFACE + b"\xff" * 100,
        start + frames.frame(frames.DATA, b"x" * 100, 0, 0),  # data of no stream
        start + frames.frame(frames.HEADERS, frames.request(target.method), frames.END_HEADERS, 2),  # an even one
        start + frames.frame(frames.HEADERS, b"\xff" * 50, frames.END_HEADERS, 1),  # no HPACK
        start + frames.frame(frames.HEADERS, b"", frames.END_HEADERS, 1, length=2**24 - 1),  # a length that is too much
        start + frames.frame(frames.SETTINGS, b"12345"),
        start + frames.frame(frames.PING, b"1234567"),
        start + frames.frame(frames.WINDOW_UPDATE, bytes(4), 0, 0),
        start + frames.frame(frames.WINDOW_UPDATE, (2**31 - 1).to_bytes(4, "big"), 0, 0) * 2,
        start + frames.frame(frames.CONTINUATION, b"", frames.END_HEADERS, 1),
        start + frames.frame(200, b"x" * 100, 0xFF, 1) + _call(target, 1)[:20],
    ]


async def malformed(target: Target) -> None:
    """What is no HTTP/2."""

    async def one(target: Target) -> None:
        peer = await connect(target)
        if peer is not None:
            await peer.send(random.choice(nonsense(target)))
            await peer.wait(min(target.left_s, 1.0))
            said = peer.grpc_outcome()
            target.seen[said] += 1
            peer.close()

    await crowd(target, target.many(20), one, pause_s=0.02)


async def broken_messages(target: Target) -> None:
    """Calls whose message is no message: a length that is not true, a flag that is none, garbage."""
    bodies = [b"\x00\xff\xff\xff\xff", b"\x07\x00\x00\x00\x01x", frames.message(b"\xff" * 100), b"\x00\x00"]

    async def one(target: Target) -> None:
        peer = await _begin(target)
        if peer is None:
            return
        for number in range(50):
            stream = 2 * number + 1
            body = frames.frame(frames.DATA, random.choice(bodies), frames.END_STREAM, stream)
            if target.over or not await peer.send(_call(target, stream) + body):
                break
        await asyncio.sleep(min(0.2, max(target.left_s, 0.0)))
        found, _ = frames.split(bytes(peer.received))
        answered = sum(kind == frames.HEADERS and bool(flags & frames.END_STREAM) for kind, flags, _, _ in found)
        target.seen["answered with a status"] += answered
        peer.close()

    await crowd(target, target.many(4), one, pause_s=0.2)


async def half_calls(target: Target) -> None:
    """Calls whose message never comes, on every stream that there is and on more."""

    async def one(target: Target) -> None:
        peer = await _begin(target)
        if peer is None:
            return
        for first in range(0, 1200, 50):
            calls = b"".join(_call(target, 2 * (first + n) + 1) for n in range(50))
            if target.over or not await peer.send(calls):
                break
            await asyncio.sleep(0.01)
        await peer.wait(target.left_s)
        found, _ = frames.split(bytes(peer.received))
        target.seen["streams refused"] += sum(kind == frames.RST_STREAM for kind, _, _, _ in found)
        target.seen[peer.grpc_outcome()] += 1
        peer.close()

    await crowd(target, target.many(8), one)


async def never_reading(target: Target) -> None:
    """Calls whose answers may not be sent: their window is nothing, and nothing is read."""

    async def one(target: Target) -> None:
        peer = await _begin(target, reads=False, window=0)
        if peer is None:
            return
        body = frames.message(SMALL)
        stream = 1
        while not target.over and peer.open and stream < 2 * 5000:
            burst = b""
            for _ in range(20):
                burst += _call(target, stream) + frames.frame(frames.DATA, body, frames.END_STREAM, stream)
                stream += 2
            sending = asyncio.ensure_future(peer.send(burst))
            await asyncio.wait((sending,), timeout=min(max(target.left_s, 0.0), 0.5))
            if not sending.done():
                sending.cancel()
                break
            await asyncio.sleep(0.01)
        await peer.wait(target.left_s)
        target.seen["held" if peer.open else "closed"] += 1
        peer.close()

    await crowd(target, target.many(8), one)


async def idle(target: Target) -> None:
    """More connections than the server takes, on which no call is made."""
    peers: list[Peer] = []
    count = target.many(3000)
    while len(peers) < count and not target.over:
        made = await asyncio.gather(*(_begin(target) for _ in range(min(100, count - len(peers)))))
        peers += [peer for peer in made if peer is not None]
    await asyncio.sleep(max(target.left_s, 0.0))
    for peer in peers:
        target.seen["held" if peer.open else "closed"] += 1
        peer.close()
