"""The one exception that crosses module borders.

Raised where the fact is known, translated once at the edge (protocols/status.py). A message names the thing, what was
expected and what came; it is written for the client that reads it.
"""

from enum import Enum


class ErrorKind(Enum):
    """What went wrong, in terms that every protocol can translate."""

    INVALID = "invalid"  # the request cannot be served as it is written
    NOT_FOUND = "not_found"  # no such model, version or tensor
    NOT_READY = "not_ready"  # it exists and may serve later
    PRECONDITION = "precondition"  # valid, and not for what is loaded now
    EXISTS = "exists"  # the name is taken
    QUEUE_FULL = "queue_full"  # refused at admission
    EXPIRED = "expired"  # waited longer than it allowed
    CANCELLED = "cancelled"  # the client went away
    UNSUPPORTED = "unsupported"  # understood, and not offered
    UNAUTHENTICATED = "unauthenticated"  # who asks has to say who he is, and has not
    FORBIDDEN = "forbidden"  # offered, and not allowed here
    TOO_MANY = "too_many"  # more than whoever asks may have
    UNAVAILABLE = "unavailable"  # the server is starting or stopping
    MODEL = "model"  # the model itself failed
    INTERNAL = "internal"  # our own fault


class ServingError(Exception):
    """
    Args:
        retry_after_s: when it may be worth while to ask again; None: nothing is known of that.
    """

    def __init__(self, kind: ErrorKind, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.retry_after_s = retry_after_s

    def __repr__(self) -> str:
        return f"ServingError({self.kind.value}: {self.message})"

    def __reduce__(self) -> tuple[type["ServingError"], tuple[ErrorKind, str, float | None]]:
        # An exception's own would call it with the message alone.
        return type(self), (self.kind, self.message, self.retry_after_s)


def invalid(message: str) -> ServingError:
    """The most common kind, spelled short."""
    return ServingError(ErrorKind.INVALID, message)


class LoadError(Exception):
    """A version cannot be served; the message is the one-line reason that operators see.

    `retry` says whose fault it is. False: the version's, which stays as bad as it is until its content changes. True:
    that of its surroundings (memory, a disk), so that the same content may load later.
    """

    def __init__(self, message: str, *, retry: bool = False) -> None:
        super().__init__(message)
        self.retry = retry

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self),), {"retry": self.retry}
