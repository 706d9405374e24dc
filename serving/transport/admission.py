"""What all listeners of a server share of their limits: how many requests are under way, and the count of refusals.

On the event loop. Knows no protocol: a listener asks before it hands a request on.
"""

from collections.abc import Callable

from serving.core.errors import ErrorKind, ServingError

RETRY_AFTER_S = 1.0  # said to those who come when there are too many; most requests take far less


def _nobody(_protocol: str, _reason: str) -> None:
    pass


class Admission:
    """Takes requests in, up to so many at a time, and counts who is sent away.

    Attributes:
        limit: requests under way at once, of all listeners together; None: any number.
        under_way: requests that were taken in and not answered yet.
        refused: told the protocol (`http`, `grpc`) and the reason of each refusal; see `Metrics.refused`.
    """

    __slots__ = ("limit", "refused", "under_way")

    def __init__(self, limit: int | None = None, refused: Callable[[str, str], None] = _nobody) -> None:
        self.limit = limit
        self.under_way = 0
        self.refused = refused

    def __repr__(self) -> str:
        return f"<Admission {self.under_way} of {self.limit}>"

    def enter(self, protocol: str) -> ServingError | None:
        """Takes a request in, and `leave` must follow; or the error (QUEUE_FULL) that it is refused with, because there
        are as many as there may be."""
        if self.limit is not None and self.under_way >= self.limit:
            self.refused(protocol, "concurrency")
            return ServingError(
                ErrorKind.QUEUE_FULL, f"the server has its {self.limit} requests under way already", RETRY_AFTER_S
            )
        self.under_way += 1
        return None

    def leave(self) -> None:
        self.under_way -= 1
