"""The HTTP listener: a socket, the connections on it, and their orderly end."""

import asyncio
import ctypes
import logging
import os
import socket
import struct
import sys
from contextlib import suppress

from serving.transport.connection import Connection, HttpLimits, Shared
from serving.transport.exchange import App

log = logging.getLogger(__name__)

_SO_ATTACH_FILTER = 26
_SWEEP_S = 1.0
_TURN_AWAY_S = 0.1  # longer than a connection takes to be made
_LINGER_S = 0.5  # an idle client may be about to send; it gets an answer, and `connection: close`, for this long


class HttpListener:
    """Serves one ASGI application."""

    def __init__(self, app: App, limits: HttpLimits) -> None:
        self._loop = asyncio.get_running_loop()
        self._shared = Shared(app, limits, self._loop)
        self._server: asyncio.Server | None = None
        self._sweep: asyncio.TimerHandle | None = None

    @property
    def connections(self) -> int:
        return len(self._shared.connections)

    async def listen(self, host: str, port: int) -> int:
        """Binds and accepts; returns the port, which the system chose if `port` is 0.

        Raises:
            OSError: the port is taken, or the host is not one of this machine.
        """
        self._server = await self._loop.create_server(lambda: Connection(self._shared), host, port, backlog=2048)
        self._plan_sweep()
        return int(self._server.sockets[0].getsockname()[1])

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
        if self._server is not None:
            for listening in self._server.sockets:
                _turn_away(listening.fileno())
            await asyncio.sleep(min(_TURN_AWAY_S, limit_s))
            self._server.close()
        linger_until = min(self._loop.time() + _LINGER_S, deadline)
        while self._shared.connections and self._loop.time() < deadline:
            if self._loop.time() >= linger_until:
                for connection in list(self._shared.connections):
                    if connection.idle:
                        connection.close()
            await asyncio.sleep(0.01)
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
