"""Accepts connections that begin with a TLS handshake, and bounds how many are at it, and for how long.

asyncio's own servers hand a connection over when its handshake is done; until then nobody would count it. On the event
loop.
"""

import asyncio
import logging
import random
import socket
import ssl
from collections.abc import Callable

log = logging.getLogger(__name__)

_BACKLOG = 2048
_AT_ONCE = 32  # connections that are accepted before others have their turn
_REST_S = 1.0  # after the system had no room for another one
_SHUTDOWN_S = 2.0  # for a client to agree that the connection ends


class Handshakes:
    """
    Args:
        make: the protocol of a new connection.
        context: what it begins with.
        full: whether there is no room for another one beside so many that are not made yet.
        refused: called with the reason for each connection that comes to nothing.
        limit_s: how long a handshake may take.
    """

    def __init__(
        self,
        make: Callable[[], asyncio.Protocol],
        context: Callable[[], ssl.SSLContext],
        full: Callable[[int], bool],
        refused: Callable[[str], None],
        limit_s: float,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._make = make
        self._context = context
        self._full = full
        self._refused = refused
        self._limit_s = limit_s
        self._under_way: set[asyncio.Task[None]] = set()
        self.sockets: list[socket.socket] = []

    def __len__(self) -> int:
        return len(self._under_way)

    async def listen(self, host: str, port: int) -> None:
        """Raises: OSError."""
        found = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        try:
            for family, _, _, _, address in dict.fromkeys(found):
                listening = socket.create_server(address, family=family, backlog=_BACKLOG)
                listening.setblocking(False)
                self.sockets.append(listening)
        except OSError:
            self.close()
            raise
        for listening in self.sockets:
            self._loop.add_reader(listening, self._accept, listening)

    def close(self) -> None:
        """Accepts no more; handshakes go on."""
        for listening in self.sockets:
            self._loop.remove_reader(listening)
            listening.close()
        self.sockets.clear()

    def end(self) -> None:
        """Gives up on those that are under way."""
        for task in self._under_way:
            task.cancel()

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            try:
                accepted, _address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                log.error("cannot accept a connection: %s", error.strerror)
                self._loop.remove_reader(listening)
                self._loop.call_later(_REST_S, self._accept_again, listening)
                return
            if self._full(len(self._under_way)):
                accepted.close()
                self._refused("connections")
                continue
            task = self._loop.create_task(self._shake_hands(accepted))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    def _accept_again(self, listening: socket.socket) -> None:
        if listening in self.sockets:
            self._loop.add_reader(listening, self._accept, listening)

    async def _shake_hands(self, accepted: socket.socket) -> None:
        accepted.setblocking(False)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await self._loop.connect_accepted_socket(
                self._make,
                accepted,
                ssl=self._context(),
                ssl_handshake_timeout=self._limit_s * random.uniform(1.0, 1.1),  # so that many do not end at once
                ssl_shutdown_timeout=_SHUTDOWN_S,
            )
        except (TimeoutError, ConnectionAbortedError):  # asyncio has the one for it, and uvloop the other
            self._refused("slow")
        except OSError as error:  # ssl.SSLError is one; or the client has gone
            log.debug("a TLS handshake failed: %s", error)
            self._refused("malformed")
