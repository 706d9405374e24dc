"""What the connections of one HTTP listener have in common: its limits, what they hold together, and their sweep."""

import asyncio
from email.utils import formatdate
from typing import TYPE_CHECKING

from serving.protocols.record import Watch
from serving.transport.admission import Admission
from serving.transport.exchange import Admit, App, Handles
from serving.transport.known import Headings
from serving.transport.limits import HttpLimits
from serving.transport.slices import Slices

if TYPE_CHECKING:
    from serving.transport.connection import Connection


class Shared:
    """On the event loop."""

    def __init__(
        self,
        app: App,
        limits: HttpLimits,
        loop: asyncio.AbstractEventLoop,
        admit: Admit | None = None,
        admission: Admission | None = None,
        watch: Watch | None = None,
    ) -> None:
        """
        Args:
            watch: says which requests are noted; None: those that say an id.
            admit: says of a request, by its header alone, whether it is refused; None: none is.
            admission: what the listeners of the server have in common; None: this one is alone, and takes all.
        """
        self.app = app
        self.known = Headings(app.handler if isinstance(app, Handles) else None)
        self.admit = admit
        self.admission = admission or Admission()
        self.watch = watch or Watch()
        self.limits = limits
        self.loop = loop
        self.connections: set[Connection] = set()
        self.held_bytes = 0  # of bodies
        self.arriving: dict[Connection, None] = {}  # those with half a body, the one that began first in front
        self.draining = False
        self.date_line = _date_line()
        # What one client, or ten thousand, could have done in one turn of the loop would hold up all others.
        self._swept: Slices[Connection] = Slices(loop, self._sweep_one, most=100, pause_s=0.002)
        self._leaving: Slices[Connection] = Slices(loop, lambda connection: connection.close(), most=20)
        self._reading: Slices[Connection] = Slices(loop, lambda connection: connection.go_on_reading(), most=4)
        self._pipelined: Slices[Connection] = Slices(loop, lambda connection: connection.answer_next(), most=4)

    def sweep(self) -> None:
        """Called about once a second: closes connections that have used up their time."""
        self.date_line = _date_line()
        if not self._swept:
            self._swept.add(self.connections)

    def _sweep_one(self, connection: "Connection") -> None:
        if not connection.closed:
            connection.close_if_overdue(self.loop.time())

    def leave(self, connection: "Connection") -> None:
        """The client has gone, and nothing is left to do for it: closes in a moment."""
        self._leaving.add((connection,))

    def go_on_later(self, connection: "Connection") -> None:
        """It has more to parse than is good for others."""
        self._reading.add((connection,))

    @property
    def rests(self) -> bool:
        """Whether others wait to go on."""
        return bool(self._reading)

    def answer_later(self, connection: "Connection") -> None:
        """It has more requests, which came before the answer to its last one."""
        self._pipelined.add((connection,))

    def make_room(self) -> None:
        """Called when all bodies together are too large. The one that has been arriving for longest gives way: an
        honest client sends what it has and is done, and whoever would fill the memory has to wait with the rest."""
        while self.held_bytes > self.limits.max_bodies_bytes and self.arriving:
            next(iter(self.arriving)).give_way()


def _date_line() -> bytes:
    return b"date: %b\r\n" % formatdate(usegmt=True).encode()
