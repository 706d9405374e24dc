"""The generator's connections: non-blocking sockets on one epoll, each with one request at a time.

Runs on one thread, which calls `turn` again and again. A request takes the connection that was free last, or a new one;
if there are as many as allowed, it waits here. Knows neither schedule nor tensors: requests come encoded.
"""

import select
import socket
from collections import deque
from collections.abc import Callable
from typing import Protocol

from loadtests.openloop.outcomes import Verdict

PIECE = 1 << 18


class Wire(Protocol):
    """A connection's protocol: http1.Http1 or grpc1.Grpc1."""

    out: bytes
    closing: bool
    failure: str

    def start(self, kind: int) -> None: ...

    def feed(self, data: bytes) -> Verdict: ...


Ended = Callable[[int, Verdict, str], object]  # the request's number, how it ended, and what was wrong if it failed


class Connection:
    """`request` is the number of the one that is under way, -1 if it is free."""

    __slots__ = ("connected", "request", "socket", "waits", "wire")

    def __init__(self, wire: Wire, port: int) -> None:
        self.wire = wire
        self.request = -1
        self.connected = False
        self.waits = True  # to be told when it can be written to
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect_ex(("127.0.0.1", port))


class Pool:
    """
    Args:
        wire: makes the protocol of a new connection to `port` on loopback.
        most: connections at a time.
        begun, ended: told of each request when it is sent, and when its answer is whole or will not come.

    Attributes:
        in_flight: requests that were sent and have not ended.
        held: of those that were ever sent, how many had to wait for a connection.
        opened: connections, all in all.
    """

    def __init__(
        self, port: int, wire: Callable[[], Wire], most: int, begun: Callable[[int], object], ended: Ended
    ) -> None:
        self._port = port
        self._wire = wire
        self._most = most
        self._begun = begun
        self._ended = ended
        self._epoll = select.epoll()
        self._connections: dict[int, Connection] = {}
        self._free: list[Connection] = []
        self._waiting: deque[tuple[int, int]] = deque()
        self.in_flight = 0
        self.held = 0
        self.opened = 0

    @property
    def idle(self) -> bool:
        return not self.in_flight and not self._waiting

    def open(self, count: int) -> None:
        """Connections, before there is any use for them."""
        self._free += [self._connect() for _ in range(min(count, self._most - len(self._connections)))]

    def watch(self, descriptor: int) -> None:
        """Have `turn` return when there is something to read here."""
        self._epoll.register(descriptor, select.EPOLLIN)

    def send(self, number: int, kind: int) -> None:
        """A request of a kind, now or when there is a connection for it."""
        if self._free:
            self._start(self._free.pop(), number, kind)
        elif len(self._connections) < self._most:
            self._start(self._connect(), number, kind)
        else:
            self.held += 1
            self._waiting.append((number, kind))

    def turn(self, seconds: float) -> None:
        """What can be read and written now, or else within `seconds`."""
        # epoll.poll itself waits whole milliseconds.
        if seconds > 0:
            select.select([self._epoll], [], [], seconds)
        for descriptor, events in self._epoll.poll(0):
            connection = self._connections.get(descriptor)
            if connection is None:
                continue
            if events & select.EPOLLOUT:
                connection.connected = True
                self._write(connection)
            if events & ~select.EPOLLOUT and descriptor in self._connections:
                self._read(connection)

    def close(self) -> None:
        for connection in self._connections.values():
            connection.socket.close()
        self._epoll.close()

    def _connect(self) -> Connection:
        connection = Connection(self._wire(), self._port)
        self.opened += 1
        self._connections[connection.socket.fileno()] = connection
        self._epoll.register(connection.socket, select.EPOLLIN | select.EPOLLOUT)
        return connection

    def _start(self, connection: Connection, number: int, kind: int) -> None:
        self.in_flight += 1
        connection.request = number
        connection.wire.start(kind)
        self._begun(number)
        if connection.connected:
            self._write(connection)

    def _write(self, connection: Connection) -> None:
        wire = connection.wire
        if wire.out:
            try:
                written = connection.socket.send(wire.out)
            except BlockingIOError:
                written = 0
            except OSError as error:
                self._lost(connection, str(error))
                return
            wire.out = wire.out[written:] if written < len(wire.out) else b""
        waits = bool(wire.out)
        if waits is not connection.waits:
            connection.waits = waits
            self._epoll.modify(connection.socket, select.EPOLLIN | (select.EPOLLOUT if waits else 0))

    def _read(self, connection: Connection) -> None:
        try:
            data = connection.socket.recv(PIECE)
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(connection, str(error))
            return
        if not data:
            self._lost(connection, "the server closed the connection")
            return
        wire = connection.wire
        verdict = wire.feed(data)
        if wire.out and connection.connected:
            self._write(connection)
        if verdict is not Verdict.PENDING and connection.request >= 0:
            self._finish(connection, verdict, wire.failure)
            if not wire.closing:
                self._free.append(connection)
        if wire.closing and connection.request < 0:
            self._drop(connection)
        self._admit()

    def _finish(self, connection: Connection, verdict: Verdict, failure: str) -> None:
        number, connection.request = connection.request, -1
        self.in_flight -= 1
        self._ended(number, verdict, failure)

    def _lost(self, connection: Connection, why: str) -> None:
        if connection.request >= 0:
            self._finish(connection, Verdict.FAILED, why)
        self._drop(connection)
        self._admit()

    def _drop(self, connection: Connection) -> None:
        if self._connections.pop(connection.socket.fileno(), None) is None:
            return
        if connection in self._free:
            self._free.remove(connection)
        self._epoll.unregister(connection.socket)
        connection.socket.close()

    def _admit(self) -> None:
        """One that waits, if there is room: each that ends makes room for one."""
        if self._waiting and self._free:
            self._start(self._free.pop(), *self._waiting.popleft())
        elif self._waiting and len(self._connections) < self._most:
            self._start(self._connect(), *self._waiting.popleft())
