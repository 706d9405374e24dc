"""All that protects one server, put together: its certificate, its keys, and a door for each listener.

Two sides: `main` is where requests come; `management` is the address of its own that management and metrics may have.
"""

import asyncio
import ipaddress
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from serving.transport.access import grpc, http, keys
from serving.transport.access.cors import Cors
from serving.transport.access.grpc import GrpcDoor
from serving.transport.access.guard import Guard
from serving.transport.access.http import HttpDoor
from serving.transport.access.keys import KeyRing
from serving.transport.access.rates import Buckets
from serving.transport.exchange import App
from serving.transport.tls import Tls, TlsFiles
from serving.transport.watched import Watched

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Protection:
    """What is asked for.

    Attributes:
        key_file: None: none.
        key: one more, which is for everything, or its hash; None: none.
        cors_origins: of pages that may read answers; `*`: any.
        separate: management has an address of its own.
    """

    tls: TlsFiles | None = None
    key_file: Path | None = None
    key: str | None = None
    cors_origins: Sequence[str] = ()
    separate: bool = False


class Doors:
    """
    Attributes:
        tls: None: connections are plain.
    """

    def __init__(self, asked: Protection, refused: Callable[[str, str], None] = lambda protocol, reason: None) -> None:
        """
        Args:
            refused: called with protocol and reason for each refusal.

        Raises:
            UnusableError: a file, or the key.
        """
        self._asked = asked
        self._refused = refused
        self._buckets = Buckets()
        self.tls = None if asked.tls is None else Tls(asked.tls)
        own = () if asked.key is None else (keys.of_environment(asked.key),)
        self._own = KeyRing(own)
        self._file: Watched[KeyRing] | None = None
        if asked.key_file is not None:
            path = asked.key_file
            self._file = Watched("keys", [path], lambda: KeyRing([*keys.read(path), *own]), _told)

    @property
    def has_keys(self) -> bool:
        return self._file is not None or bool(self._own.keys)

    @property
    def certificate_expiry(self) -> float | None:
        return None if self.tls is None else self.tls.expires()

    def http(self, app: App, *, management: bool, metrics_path: str = "/metrics") -> dict[str, Any]:
        """What `HttpListener` gets: an application, who may ask it, and what connections begin with."""
        cors = None
        if self._asked.cors_origins and not management:
            app = cors = Cors(app, self._asked.cors_origins)
        guard, refused = self._guard(management), partial(self._refused, "http")
        admit = None if guard is None else HttpDoor(guard, refused, metrics_path, cors)
        return {"app": app, "admit": admit, "tls": self.tls, "refused": refused}

    def grpc(self, *, management: bool) -> dict[str, Any]:
        """The same for `GrpcListener`."""
        guard = self._guard(management)
        door = None if guard is None else GrpcDoor(guard, partial(self._refused, "grpc"))
        return {"door": door, "tls": self.tls}

    def name_of(self, transport: str, said: Any) -> str:
        """What the key is called that a request gives; empty: it gives none that is known.

        Args:
            transport: `http` or `grpc`.
            said: its headers or metadata.
        """
        token = http.token_of(said) if transport == "http" else grpc.token_of(said)
        ring = self._keys()
        key = None if ring is None or token is None else ring.find(token)
        return "" if key is None else key.name

    def _guard(self, management: bool) -> Guard | None:
        """None: everybody may ask for everything, and requests pay for no question."""
        elsewhere = self._asked.separate and not management
        if not self.has_keys and not elsewhere:
            return None
        return Guard(self._keys, self._buckets, elsewhere=elsewhere)

    def _keys(self) -> KeyRing | None:
        if self._file is not None:
            return self._file.value
        return self._own if self._own.keys else None

    async def follow(self) -> None:
        """Reads files again when they change, until it is cancelled."""
        if self.tls is not None and self.tls.expired:
            log.warning("TLS: %s", self.tls.describe())
        watched = [] if self.tls is None else [self.tls.watched.follow()]
        if self._file is not None:
            watched.append(self._file.follow())
        await asyncio.gather(*watched)

    def exposed(self, host: str) -> str | None:
        """What an operator should know of a server that listens on `host`; None: nothing."""
        if is_loopback(host):
            return None
        asks_who = self.has_keys or (self._asked.tls is not None and self._asked.tls.client_ca is not None)
        if not asks_who:
            missing = "--api-keys" if self.tls is not None else "--api-keys, and no TLS, --tls-cert"
            return f"whoever can reach {host} can use this server: it has no keys, {missing} (docs/security.md)"
        if self.tls is None:
            return f"keys and data can be read on their way to {host}: it has no TLS, --tls-cert (docs/security.md)"
        return None


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _told(ring: KeyRing) -> str:
    return f": {', '.join(key.name for key in ring.keys)}"
