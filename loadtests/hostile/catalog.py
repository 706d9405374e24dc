"""The table of attacks: what each needs of the server, what has to be seen of it, and what it may cost."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from loadtests.hostile import grpc_attacks, http_attacks, tls_attacks
from loadtests.hostile.wire import Target

MB = 1024 * 1024


@dataclass(frozen=True)
class Attack:
    """
    Attributes:
        expected: outcomes of which each has to be seen; `allowed` are those that may be.
        flags: of the server, so that limits are reached within the time of the attack.
        may_cost_mb: memory at its worst moment, over what the server had before.
        needs: `keys` or `tls`; the attack is left out where the server cannot be started with them.
    """

    name: str
    grpc: bool
    run: Callable[[Target], Awaitable[None]]
    expected: tuple[str, ...]
    allowed: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    may_cost_mb: int = 100
    needs: str | None = None

    @property
    def what(self) -> str:
        return (self.run.__doc__ or "").strip()


_GOAWAYS = tuple(f"GOAWAY {name}" for name in ("PROTOCOL_ERROR", "FRAME_SIZE_ERROR", "COMPRESSION_ERROR"))
_QUICK = ("--http-header-timeout-s", "1", "--http-body-timeout-s", "2", "--http-idle-timeout-s", "2")

_ALL = (
    Attack("slowloris", False, http_attacks.slowloris, ("answered 408",), flags=_QUICK),
    Attack("slow-body", False, http_attacks.slow_body, ("answered 408",), flags=_QUICK),
    Attack("half-open", False, http_attacks.half_open, ("closed", "answered 408"), flags=_QUICK),
    Attack("idle-connections", False, http_attacks.idle, ("held",), ("answered 503",), may_cost_mb=200),
    Attack(
        "too-many-connections",
        False,
        http_attacks.too_many_connections,
        ("answered 503", "held"),
        ("closed", "not connected"),
        flags=("--http-max-connections", "200"),
    ),
    Attack("large-headers", False, http_attacks.large_headers, ("answered 431",), ("closed",)),
    Attack(
        "large-bodies",
        False,
        http_attacks.large_bodies,
        ("answered 400",),
        ("closed", "answered 503"),
        may_cost_mb=500,
    ),
    Attack(
        "many-bodies",
        False,
        http_attacks.many_bodies,
        ("answered 503",),
        ("closed",),
        flags=("--http-max-bodies-size", str(128 * MB)),
        may_cost_mb=250,
    ),
    Attack("chunks", False, http_attacks.chunks, ("answered 400",), ("closed",)),
    Attack("pipelining", False, http_attacks.pipelining, ("not read any more",), flags=_QUICK),
    Attack("never-reading", False, http_attacks.never_reading, ("held",), ("closed",), may_cost_mb=200),
    Attack("malformed", False, http_attacks.malformed, ("answered 400",), ("closed",)),
    Attack("bombs", False, http_attacks.bombs, ("answered 400",), may_cost_mb=400),
    Attack("tokens", False, http_attacks.tokens, ("answered 401",), ("answered 403",), needs="keys"),
    Attack(
        "grpc-bombs",
        True,
        grpc_attacks.bombs,
        ("'when it is decompressed'",),
        flags=("--grpc-max-decompressed-size", str(16 * MB)),
        may_cost_mb=150,
    ),
    Attack("grpc-metadata", True, grpc_attacks.metadata, ("'metadata size exceeds'",), ("closed", *_GOAWAYS)),
    Attack(
        "grpc-endless-header", True, grpc_attacks.endless_header, (), ("closed", "open", *_GOAWAYS), may_cost_mb=400
    ),
    Attack("rapid-resets", True, grpc_attacks.rapid_resets, ("calls reset",), ("closed", "open"), may_cost_mb=200),
    Attack("grpc-pings", True, grpc_attacks.pings, ("'too_many_pings'",), ("closed", "open")),
    Attack("grpc-malformed", True, grpc_attacks.malformed, ("closed",), ("open", *_GOAWAYS)),
    Attack("grpc-broken-messages", True, grpc_attacks.broken_messages, ("answered with a status",)),
    Attack(
        "grpc-half-calls",
        True,
        grpc_attacks.half_calls,
        ("streams refused",),
        ("open", "closed", *_GOAWAYS),
        may_cost_mb=300,
    ),
    Attack("grpc-never-reading", True, grpc_attacks.never_reading, ("held",), ("closed",), may_cost_mb=200),
    Attack(
        "grpc-idle-connections",
        True,
        grpc_attacks.idle,
        ("closed", "held"),
        ("not connected",),
        flags=("--grpc-max-connections", "400"),
        may_cost_mb=200,
    ),
    Attack("tls-stalls", False, tls_attacks.stalls, ("closed",), ("open",), flags=_QUICK, needs="tls"),
    Attack("tls-plain", False, tls_attacks.plain, ("closed",), ("answered 400",), needs="tls"),
    Attack(
        "wrong-certificates", False, tls_attacks.wrong_certificates, ("not let in",), ("not connected",), needs="tls"
    ),
)
ATTACKS = {attack.name: attack for attack in _ALL}
