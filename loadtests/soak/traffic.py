"""A steady rate of requests over every protocol, each of which is kept with what came of it.

A thread for each client. A client sends when a request is due, or as soon as the one before it has ended, so what it
offers falls behind only while the server holds it up; `Record.sent_s` is when it really began.
"""

import random
import threading
import time
from collections.abc import Sequence

from loadtests.soak import wire
from loadtests.soak.clients import TIMEOUT_S, connect
from loadtests.soak.outcomes import Record


class Traffic:
    """Use as a context: leaving it ends the clients when their last request has ended.

    Args:
        per_s: requests a second of each protocol. The large ones are a tenth of that.
        clients: of each protocol.
    """

    def __init__(
        self,
        http_port: int,
        grpc_port: int,
        per_s: float,
        clients: int = 2,
        protocols: Sequence[str] = wire.PROTOCOLS,
    ) -> None:
        self._ports = http_port, grpc_port
        self._stop = threading.Event()
        self._records: list[list[Record]] = []
        self._sending: list[float] = []  # when each client began its request, 0: it has none under way
        self._problems: list[BaseException] = []
        self._threads: list[threading.Thread] = []
        asks = wire.asks()
        for protocol in protocols:
            pace_s = clients / per_s * (10 if protocol.endswith("large") else 1)
            for _ in range(clients):
                number = len(self._threads)
                self._records.append([])
                self._sending.append(0.0)
                argument = (number, asks[protocol], pace_s)
                self._threads.append(threading.Thread(target=self._run, args=argument, daemon=True))

    def __enter__(self) -> "Traffic":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends the clients. Raises what went wrong in one of them, apart from what came of its requests."""
        self._stop.set()
        for thread in self._threads:
            thread.join(2 * TIMEOUT_S)
        if self._problems:
            raise self._problems[0]
        if alive := sum(thread.is_alive() for thread in self._threads):
            raise TimeoutError(f"{alive} clients still wait {2 * TIMEOUT_S:g} s after the end")

    def records(self) -> list[Record]:
        """All requests that have ended so far, by when they were sent."""
        return sorted((record for each in self._records for record in list(each)), key=lambda record: record.sent_s)

    @property
    def ended(self) -> int:
        return sum(map(len, self._records))

    @property
    def under_way(self) -> int:
        return sum(since > 0 for since in self._sending)

    def _run(self, number: int, asks: Sequence[wire.Ask], pace_s: float) -> None:
        try:
            self._send(number, asks, pace_s)
        except BaseException as error:  # whatever it is: `stop` raises it
            self._problems.append(error)

    def _send(self, number: int, asks: Sequence[wire.Ask], pace_s: float) -> None:
        chance = random.Random(number)
        client = connect(asks[0].transport, *self._ports)
        due_s = time.monotonic() + pace_s * chance.random()
        while not self._stop.wait(max(0.0, due_s - time.monotonic())):
            ask = chance.choice(asks)
            sent_s = self._sending[number] = time.monotonic()
            ending = client.ask(ask)
            self._records[number].append(Record(ask.protocol, sent_s, time.monotonic(), ending))
            self._sending[number] = 0.0
            due_s = max(due_s + pace_s, time.monotonic())
        client.close()
