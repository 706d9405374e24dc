"""What a codec offers to the gRPC listener: methods from message bytes to message bytes. Free of any transport."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from serving.core.errors import invalid
from serving.protocols.status import Family


@dataclass(slots=True)
class Call:
    """What a method may know of its call. `deadline` is on the monotonic clock; `metadata` is that of streams only."""

    deadline: float | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


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
