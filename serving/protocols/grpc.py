"""What a codec offers to the gRPC listener: methods from message bytes to message bytes. Free of any transport."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from serving.core.errors import invalid
from serving.protocols.status import Family
from serving.repository.catalog import Catalog


@dataclass(slots=True)
class Call:
    """What a method may know of its call. `deadline` is on the monotonic clock.

    `sent` gives the metadata; it is called only if somebody wants to know, which is rare.
    """

    deadline: float | None = None
    sent: Callable[[], Iterable[tuple[str, str | bytes]] | None] = tuple

    @property
    def metadata(self) -> dict[str, str]:
        return {key: value for key, value in self.sent() or () if isinstance(value, str)}


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
