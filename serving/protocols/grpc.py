"""What a codec offers to the gRPC listener: methods from message bytes to message bytes. Free of any transport."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from serving.core.errors import ServingError, invalid
from serving.protocols.asks import SERVER_TIMING, retry_after_ms
from serving.protocols.status import Family
from serving.repository.catalog import Catalog

_RETRY = "grpc-retry-pushback-ms"


@dataclass(slots=True)
class Call:
    """What a method may know of its call. `deadline` is on the monotonic clock.

    `sent` gives the metadata; it is called only if somebody wants to know, which is rare.
    """

    deadline: float | None = None
    sent: Callable[[], Iterable[tuple[str, str | bytes]] | None] = tuple
    timing: bool = False  # the client wants to know where the time went
    trailing: tuple[tuple[str, str], ...] = ()  # metadata that follow the answer

    @property
    def metadata(self) -> dict[str, str]:
        return {key: value for key, value in self.sent() or () if isinstance(value, str)}

    @property
    def timed(self) -> Callable[[Any, str], Any] | None:
        """See `answer`."""
        return self._add_timing if self.timing else None

    def _add_timing(self, reply: Any, timing: str) -> Any:
        self.trailing += ((SERVER_TIMING, timing),)
        return reply


def retry_metadata(error: ServingError) -> tuple[tuple[str, str], ...]:
    """When to try again, if that is known; clients of gRPC with a retry policy go by it."""
    wait_ms = retry_after_ms(error)
    return () if wait_ms is None else ((_RETRY, str(wait_ms)),)


Method = Callable[[bytes, Call], Awaitable[bytes]]
StreamMethod = Callable[[AsyncIterator[bytes], Call], AsyncIterator[bytes]]


class Service(Protocol):
    """Its full name, its error family, and its methods by name. A `ServingError` that one raises becomes a status.

    `streams` are those whose requests or answers are a stream; where the client sends one request, the iterator yields
    that one.
    """

    service: str
    family: Family
    methods: dict[str, Method]
    streams: dict[str, StreamMethod]


def read(message_class: Any, data: bytes) -> Any:
    """Raises: ServingError: INVALID, if `data` is no such message."""
    try:
        return message_class.FromString(data)
    except Exception:  # protobuf's DecodeError, or whatever its runtime raises on broken input
        raise invalid(f"the request is not a valid {message_class.DESCRIPTOR.full_name} message") from None


def write(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data


def route_key(catalog: Catalog, model: str, call: Call) -> str | None:
    """What decides which version a request goes to, if the model has a sticky header and the call brings it."""
    name = catalog.sticky(model)
    return None if name is None else call.metadata.get(name)
