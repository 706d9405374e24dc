"""What clients may make a listener hold, and for how long; docs/limits.md tells of it from their side."""

from dataclasses import dataclass

INT32_MAX = 2**31 - 1


@dataclass(frozen=True)
class HttpLimits:
    max_body_bytes: int = 64 * 1024 * 1024
    max_bodies_bytes: int = 1024 * 1024 * 1024  # of all connections together, whole or not, until they are answered
    max_header_bytes: int = 32 * 1024
    max_headers: int = 100
    max_connections: int = 10_000
    header_timeout_s: float = 10.0  # from the first byte of a request to the end of its header
    body_timeout_s: float = 60.0  # from the end of the header to the end of the body
    min_body_bytes_per_s: int = 1024  # on average, from `body_grace_s` on; 0: any
    body_grace_s: float = 5.0  # in which a body may come as slowly as it likes
    idle_timeout_s: float = 75.0  # between requests
    linger_s: float = 2.0  # from a refusal to the end of the connection


@dataclass(frozen=True)
class GrpcLimits:
    """What gRPC itself holds clients to; decompressed bytes and, once more, metadata are ours to bound. None: no bound.

    gRPC closes a connection whose client pings more often than every five minutes without a call, or resets calls
    faster than they can be begun; these bounds are its own.
    """

    max_message_bytes: int = INT32_MAX
    max_decompressed_bytes: int = 64 * 1024 * 1024  # of a message that comes compressed
    max_connections: int = 4000
    max_concurrent_streams: int = 1000  # per connection
    max_open_calls: int = 20_000  # of all connections, with those whose message has not come
    max_metadata_bytes: int = 16 * 1024
    handshake_timeout_s: float = 10.0  # until the first frame of HTTP/2 is there
    idle_timeout_s: float = 300.0  # without a call
    max_age_s: float | None = None  # of a connection; its calls may then take as long again
    keepalive_s: float = 60.0  # between pings that find out whether a client is still there
    keepalive_timeout_s: float = 20.0

    @property
    def options(self) -> list[tuple[str, int]]:
        """As arguments of gRPC's core."""
        found = [
            ("grpc.max_receive_message_length", self.max_message_bytes),
            ("grpc.max_send_message_length", INT32_MAX),
            ("grpc.max_allowed_incoming_connections", self.max_connections),
            ("grpc.max_concurrent_streams", self.max_concurrent_streams),
            # Beyond 1,000 that wait to be looked at, also such as were reset long ago, it would drop some by chance.
            ("grpc.server.max_pending_requests", self.max_open_calls),
            ("grpc.server.max_pending_requests_hard_limit", self.max_open_calls),
            # From the first to the second one gRPC would refuse some by chance.
            ("grpc.max_metadata_size", self.max_metadata_bytes),
            ("grpc.absolute_max_metadata_size", self.max_metadata_bytes),
            ("grpc.server_handshake_timeout_ms", _ms(self.handshake_timeout_s)),
            ("grpc.max_connection_idle_ms", _ms(self.idle_timeout_s)),
            ("grpc.keepalive_time_ms", _ms(self.keepalive_s)),
            ("grpc.keepalive_timeout_ms", _ms(self.keepalive_timeout_s)),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.per_message_decompression", 0),  # it knows no bound but that of a message: see _inflated
            ("grpc.so_reuseport", 0),  # a port that is taken is an error, not half of the traffic
        ]
        if self.max_age_s is not None:
            age = _ms(self.max_age_s)
            found += [("grpc.max_connection_age_ms", age), ("grpc.max_connection_age_grace_ms", age)]
        return found


def _ms(seconds: float) -> int:
    return min(max(round(seconds * 1000), 1), INT32_MAX)
