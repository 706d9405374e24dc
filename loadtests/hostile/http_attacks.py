"""Attacks on the HTTP listener. Each runs until its target's time is up, and counts what it saw."""

import asyncio
import gzip
import random
import zlib
from functools import cache

from loadtests.hostile.wire import Peer, Target, connect, crowd

MB = 1024 * 1024
PAUSE_S = 0.2
EXPANDED = 256 * MB


def post(target: Target, *lines: str, path: str | None = None) -> bytes:
    return "\r\n".join([f"POST {path or target.path} HTTP/1.1", "host: x", *lines, "", ""]).encode()


async def _trickle(target: Target, first: bytes, drop: bytes) -> None:
    """Goes on sending a little, until the server has had enough."""
    peer = await connect(target)
    if peer is None:
        return
    await peer.send(first)
    while not target.over and peer.open and not peer.received:
        await peer.send(drop)
        await peer.wait(PAUSE_S)
    if peer.received or not peer.open:
        target.seen[peer.http_outcome] += 1
    peer.close()


async def slowloris(target: Target) -> None:
    """A header that comes a line at a time, and never ends."""
    await crowd(target, target.many(500), lambda t: _trickle(t, post(t).rstrip() + b"\r\n", b"x: y\r\n"))


async def slow_body(target: Target) -> None:
    """A body of which a byte comes now and then."""
    await crowd(target, target.many(500), lambda t: _trickle(t, post(t, "content-length: 1000000"), b" "))


async def half_open(target: Target) -> None:
    """Connections that say nothing, or half of something, and whose clients close their half."""

    async def one(target: Target) -> None:
        peer = await connect(target)
        if peer is not None:
            await peer.send(random.choice((b"", b"POST /v2", post(target, "content-length: 10") + b"half")))
            if random.random() < 0.5:
                peer.transport.write_eof()
            await peer.wait(target.left_s)
            if not peer.open or peer.received:
                target.seen[peer.http_outcome] += 1
            peer.close()

    await crowd(target, target.many(300), one)


async def idle(target: Target) -> None:
    """As many connections as the server takes, on which nothing is ever sent."""
    peers: list[Peer] = []
    count = target.many(10_000)
    while len(peers) < count and not target.over:
        made = await asyncio.gather(*(connect(target) for _ in range(min(200, count - len(peers)))))
        peers += [peer for peer in made if peer is not None]
    await asyncio.sleep(max(target.left_s, 0.0))
    for peer in peers:
        target.seen["held" if peer.open and not peer.received else peer.http_outcome] += 1
        peer.close()


async def too_many_connections(target: Target) -> None:
    """More connections than the server takes."""
    await idle(target)


async def _shout(target: Target, first: bytes, more: bytes = b"", repeat: int = 0) -> None:
    """Sends all that it has, whatever is answered."""
    peer = await connect(target)
    if peer is None:
        return
    await peer.send(first)
    for _ in range(repeat):
        if target.over or peer.received or not await peer.send(more):
            break
    await peer.wait(min(target.left_s, 1.0) if not peer.received else 0.0)
    if peer.received or not peer.open:
        target.seen[peer.http_outcome] += 1
    peer.close()


async def large_headers(target: Target) -> None:
    """Header lines of megabytes, and tens of thousands of them."""
    start = post(target).rstrip() + b"\r\n"

    async def one(target: Target) -> None:
        if random.random() < 0.5:
            await _shout(target, start + b"x: ", b"y" * 65_536, repeat=64)
        else:
            await _shout(target, start, b"".join(b"x-%d: y\r\n" % n for n in range(1000)), repeat=50)

    await crowd(target, target.many(20), one, pause_s=0.05)


async def large_bodies(target: Target) -> None:
    """Bodies that say that they are too large, and such as do not say it."""

    async def one(target: Target) -> None:
        if random.random() < 0.5:
            await _shout(target, post(target, "content-length: 10000000000"), bytes(65_536), repeat=16)
        else:
            chunk = b"10000\r\n" + bytes(65_536) + b"\r\n"
            await _shout(target, post(target, "transfer-encoding: chunked"), chunk, repeat=4000)

    await crowd(target, target.many(5), one, pause_s=0.2)


async def many_bodies(target: Target) -> None:
    """Bodies of the largest size that is allowed, all at once, each without its last byte."""

    async def one(target: Target) -> None:
        peer = await connect(target)
        if peer is None:
            return
        await peer.send(post(target, f"content-length: {8 * MB}"))
        for _ in range(127):
            if target.over or peer.received or not await peer.send(bytes(65_536)):
                break
            await asyncio.sleep(0.02)
        await peer.wait(min(target.left_s, 1.0) if not peer.received else 0.0)
        if peer.received or not peer.open:
            target.seen[peer.http_outcome] += 1
        peer.close()

    await crowd(target, target.many(100), one, pause_s=0.1)


async def chunks(target: Target) -> None:
    """Bodies in chunks of one byte."""
    piece = b"1\r\n \r\n" * 10_000

    async def one(target: Target) -> None:
        await _shout(target, post(target, "transfer-encoding: chunked"), piece, repeat=10)

    await crowd(target, target.many(5), one, pause_s=0.2)


async def pipelining(target: Target) -> None:
    """Thousands of requests on a connection, whose answers nobody reads."""
    flood = b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n" * 1000

    async def one(target: Target) -> None:
        peer = await connect(target, reads=False)
        if peer is None:
            return
        sent = 0
        while not target.over and peer.open:
            sending = asyncio.ensure_future(peer.send(flood))
            await asyncio.wait((sending,), timeout=min(max(target.left_s, 0.0), 0.5))
            if not sending.done():
                sending.cancel()
                target.seen["not read any more"] += 1
                await peer.wait(target.left_s)
                break
            sent += 1
        peer.close()

    await crowd(target, target.many(50), one)


async def never_reading(target: Target) -> None:
    """Large answers, asked for again and again, and never read."""
    page = b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n"

    async def one(target: Target) -> None:
        peer = await connect(target, reads=False)
        if peer is None:
            return
        await peer.send(page * 50)
        await asyncio.sleep(max(target.left_s, 0.0))
        peer.transport.resume_reading()
        await peer.wait(0.2)
        target.seen["held" if peer.open else "closed"] += 1
        peer.close()

    await crowd(target, target.many(50), one)


NONSENSE = (
    b"nonsense\r\n\r\n",
    bytes(200),
    b"\xff" * 200,
    bytes.fromhex("16030100c2010000be0303") + bytes(200),  # TLS
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET /\r\nhost : x\r\n\r\n",
    b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
    b"GET / HTTP/1.1\r\nx: a\x00b\r\n\r\n",
    b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
    b"POST / HTTP/1.1\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
    b"POST / HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nnonsense\r\n",
    b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n" + b"f" * 30 + b"\r\n",
)


async def malformed(target: Target) -> None:
    """What is no HTTP."""
    await crowd(target, target.many(20), lambda t: _shout(t, random.choice(NONSENSE)), pause_s=0.02)


@cache
def bomb(encoding: str) -> bytes:
    if encoding == "gzip":  # of many members, which are quickly made
        return gzip.compress(bytes(EXPANDED // 16)) * 16
    return zlib.compress(bytes(EXPANDED // 2), 1)


async def bombs(target: Target) -> None:
    """Compressed bodies that expand a thousandfold."""

    async def one(target: Target) -> None:
        encoding = random.choice(("gzip", "deflate"))
        body = bomb(encoding)
        lines = (f"content-encoding: {encoding}", f"content-length: {len(body)}", "connection: close")
        peer = await connect(target)
        if peer is None:
            return
        await peer.send(post(target, *lines) + body)
        await peer.wait(target.left_s)
        if peer.received or not peer.open:
            target.seen[peer.http_outcome] += 1
        peer.close()

    await crowd(target, target.many(2), one, pause_s=0.5)


async def tokens(target: Target) -> None:
    """Requests without a key, with one that is made up, with one that has expired, and with one for something else."""
    keys = [None, "made-up", *(target.options[name] for name in ("expired_key", "other_key") if name in target.options)]

    async def one(target: Target) -> None:
        key = random.choice(keys)
        lines = ["content-length: 2", "connection: close", *([f"authorization: Bearer {key}"] if key else [])]
        await _shout(target, post(target, *lines) + b"{}")

    await crowd(target, target.many(20), one, pause_s=0.02)
