"""Connections of an attacker, and what became of each. On the attacker's event loop."""

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from loadtests.hostile import frames

_STATUS = re.compile(rb"HTTP/1\.1 (\d\d\d)")
_KEPT = 1 << 20  # of what comes back


@dataclass
class Target:
    """What is attacked, for how long, how hard (1: as documented), and what of it was seen: how often each outcome."""

    host: str
    port: int
    until: float  # on the loop's clock
    scale: float
    path: str
    method: str
    options: dict[str, str]
    seen: Counter[str] = field(default_factory=Counter)

    def many(self, count: int) -> int:
        return max(1, round(count * self.scale))

    @property
    def left_s(self) -> float:
        return self.until - asyncio.get_running_loop().time()

    @property
    def over(self) -> bool:
        return self.left_s <= 0


class Peer(asyncio.Protocol):
    """One connection: what came back is kept up to a megabyte, unless nothing is read at all."""

    def __init__(self, reads: bool = True) -> None:
        self.transport: Any = None
        self.received = bytearray()
        self.ended = asyncio.get_running_loop().create_future()
        self._reads = reads
        self._room = asyncio.Event()
        self._room.set()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        if not self._reads:
            transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        if len(self.received) < _KEPT:
            self.received += data

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._room.set()
        if not self.ended.done():
            self.ended.set_result(None)

    @property
    def open(self) -> bool:
        return not self.ended.done()

    async def send(self, data: bytes) -> bool:
        """Waits while the other side does not take it. False: the connection has ended."""
        if self.open and not self.transport.is_closing():
            self.transport.write(data)
            if not self._room.is_set():
                room = asyncio.ensure_future(self._room.wait())
                await asyncio.wait((room, self.ended), return_when=asyncio.FIRST_COMPLETED)
                room.cancel()
        return self.open

    async def wait(self, limit_s: float) -> None:
        """For its end."""
        await asyncio.wait((self.ended,), timeout=max(limit_s, 0.0))

    @property
    def http_outcome(self) -> str:
        """`answered 431`, the last status of all; or that it was closed without one, or is open still."""
        statuses = [match[1].decode() for match in _STATUS.finditer(self.received)]
        if statuses:
            return f"answered {statuses[-1]}"
        return "open" if self.open else "closed"

    def grpc_outcome(self, *texts: bytes) -> str:
        """The first of the texts that was said; or why the connection was told to end; or else whether it has."""
        for text in texts:
            if text in self.received:
                return f"'{text.decode()}'"
        found, _ = frames.split(bytes(self.received))
        for kind, _, _, payload in found:
            if kind == frames.GOAWAY and (code := int.from_bytes(payload[4:8], "big")):
                return f"GOAWAY {frames.NAMES.get(code, code)}"
        return "open" if self.open else "closed"

    def close(self) -> None:
        if self.transport is not None and self.open:
            self.transport.abort()


async def connect(target: Target, reads: bool = True, **more: Any) -> Peer | None:
    """None: it could not be made, which counts as `not connected`."""
    loop = asyncio.get_running_loop()
    try:
        _, peer = await loop.create_connection(lambda: Peer(reads), target.host, target.port, **more)
    except OSError:
        target.seen["not connected"] += 1
        return None
    return peer


async def crowd(target: Target, count: int, one: Callable[[Target], Awaitable[None]], pause_s: float = 0.0) -> None:
    """So many at a time, each again and again until the time is up."""

    async def again() -> None:
        while not target.over:
            try:
                await one(target)
            except OSError:
                target.seen["not connected"] += 1
            await asyncio.sleep(max(pause_s, 0.001))

    await asyncio.gather(*(again() for _ in range(count)))
