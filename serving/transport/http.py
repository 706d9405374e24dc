"""The HTTP listener: a socket, the connections on it, and their orderly end."""

import asyncio
import ctypes
import logging
import os
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from serving.protocols.record import Watch
from serving.transport.admission import Admission
from serving.transport.connection import Connection
from serving.transport.exchange import Admit, App
from serving.transport.handshakes import Handshakes
from serving.transport.limits import HttpLimits
from serving.transport.shared import Shared
from serving.transport.tls import Tls

log = logging.getLogger(__name__)

_SO_ATTACH_FILTER = 26
_SWEEP_S = 1.0
_TURN_AWAY_S = 0.1  # longer than a connection takes to be made
_LINGER_S = 0.5  # an idle client may be about to send; it gets an answer, and `connection: close`, for this long


class HttpListener:
    """Serves one ASGI application."""

    def __init__(
        self,
        app: App,
        limits: HttpLimits,
        admit: Admit | None = None,
        tls: Tls | None = None,
        refused: Callable[[str], None] = lambda reason: None,
        admission: Admission | None = None,
        watch: Watch | None = None,
    ) -> None:
        """
        Args:
            admit, admission, watch: see `Shared`.
            tls: None: connections are plain.
            refused: called with the reason for each connection that is not let in.
        """
        self._loop = asyncio.get_running_loop()
        self._shared = Shared(app, limits, self._loop, admit, admission, watch)
        self._tls = tls
        self._refused = refused
        self._server: asyncio.Server | None = None
        self._handshakes: Handshakes | None = None
        self._sweep: asyncio.TimerHandle | None = None

    @property
    def connections(self) -> int:
        return len(self._shared.connections)

    async def listen(self, host: str, port: int) -> int:
        """Binds and accepts; returns the port, which the system chose if `port` is 0.

        Raises:
            OSError: the port is taken, or the host is not one of this machine.
        """
        if self._tls is not None:
            limits, tls = self._shared.limits, self._tls
            self._handshakes = Handshakes(
                self._make, lambda: tls.context, self._full, self._refused, limits.header_timeout_s
            )
            await self._handshakes.listen(host, port)
        else:
            self._server = await self._loop.create_server(self._make, host, port, backlog=2048)
        self._plan_sweep()
        return int(self._sockets[0].getsockname()[1])

    def _make(self) -> Connection:
        return Connection(self._shared)

    def _full(self, more: int) -> bool:
        return len(self._shared.connections) + more >= self._shared.limits.max_connections

    @property
    def _sockets(self) -> Sequence[Any]:
        if self._handshakes is not None:
            return self._handshakes.sockets
        return self._server.sockets if self._server is not None else ()

    def _plan_sweep(self) -> None:
        self._shared.sweep()
        self._sweep = self._loop.call_later(_SWEEP_S, self._plan_sweep)

    async def stop(self, limit_s: float) -> bool:
        """Accepts no more connections, answers what has begun, and closes.

        Returns:
            True if everything was answered within `limit_s`.
        """
        self._shared.draining = True
        deadline = self._loop.time() + limit_s
        if self._sockets:
            for listening in self._sockets:
                _turn_away(listening.fileno())
            await asyncio.sleep(min(_TURN_AWAY_S, limit_s))
        for accepting in (self._server, self._handshakes):
            if accepting is not None:
                accepting.close()
        linger_until = min(self._loop.time() + _LINGER_S, deadline)
        while (self._shared.connections or self._handshakes) and self._loop.time() < deadline:
            if self._loop.time() >= linger_until:
                if self._handshakes is not None:
                    self._handshakes.end()
                for connection in list(self._shared.connections):
                    if connection.idle:
                        connection.close()
            await asyncio.sleep(0.01)
        if self._handshakes is not None:
            self._handshakes.end()
        left = list(self._shared.connections)
        for connection in left:
            connection.abort()
        if self._sweep is not None:
            self._sweep.cancel()
        if left:
            log.warning("%d HTTP connections were cut off at the drain limit", len(left))
        return not left


def _turn_away(listening: int) -> None:
    """Lets no further connection begin. The system resets those that are made but not accepted when a socket closes,
    and a client whose request was on its way would take it for lost: with this they all get in first. Who comes now
    hears nothing until he asks again after a second, and is refused then.
    """
    if sys.platform != "linux":
        return
    with_syn = [(0x30, 0, 0, 13), (0x45, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF)]  # classic BPF
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *instruction) for instruction in with_syn))
    attached = struct.pack("@HP", len(with_syn), ctypes.addressof(program))
    with socket.socket(fileno=os.dup(listening)) as own, suppress(OSError):  # a sandbox may not allow it
        own.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, attached)
