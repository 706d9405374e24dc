"""Clients that keep a server busy from threads of their own, and remember what came of it."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from tests.e2e.clients import Asker
from tests.e2e.server import LIMIT_S, Server, wait_for


class Traffic:
    """What the clients of a model whose version n multiplies by n have seen."""

    def __init__(self) -> None:
        self.answers: Counter[str] = Counter()  # by the version that an answer names
        self.wrong: list[str] = []  # answers that are not wholly of the version that they name
        self.failed: list[str] = []
        self._lock = threading.Lock()

    def answered(self, version: str, x: np.ndarray, y: np.ndarray) -> None:
        with self._lock:
            self.answers[version] += 1
            if not np.array_equal(y, x * int(version)):
                self.wrong.append(f"version {version} answered {y} for {x}")

    def fail(self, error: Exception) -> None:
        with self._lock:
            self.failed.append(repr(error))

    def wait_for_more(self, count: int, version: str | None = None) -> None:
        """Returns when that many more answers have come, of one version or of any."""

        def counted() -> int:
            return self.answers[version] if version else self.answers.total()

        goal = counted() + count
        wait_for(lambda: counted() >= goal or self.failed, f"{count} more answers")


@contextmanager
def traffic(server: Server, model: str, clients: int = 16, width: int = 4) -> Iterator[Traffic]:
    """Runs `clients` threads, half of them REST with binary tensors and half gRPC, until the block ends."""
    seen = Traffic()
    stop = threading.Event()

    def run(number: int) -> None:
        try:
            asker = Asker(server, "grpc" if number % 2 else "binary")
            x = np.full((1 + number % 3, width), number, np.float32)
            while not stop.is_set():
                x = x + np.float32(1 / 8)
                answer = asker.infer(model, {"x": x})
                seen.answered(answer.version, x, answer.outputs["y"])
            asker.close()
        except Exception as error:  # whatever it is, the test shall see it
            seen.fail(error)

    threads = in_threads(run, clients)
    try:
        yield seen
    finally:
        stop.set()
        join(threads)


def in_threads(run: Callable[[int], object], count: int) -> list[threading.Thread]:
    """Starts run(0), run(1), ... each in a thread."""
    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(count)]
    for thread in threads:
        thread.start()
    return threads


def join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(LIMIT_S)
        assert not thread.is_alive(), "a client still waits"
