"""Says of a request whether it may pass: from what it needs and who asks. Knows no protocol."""

import logging
import time
from collections.abc import Callable

from serving.core.errors import ErrorKind, ServingError
from serving.transport.access.keys import Key, KeyRing
from serving.transport.access.rates import Buckets
from serving.transport.access.scopes import Need, Scope

log = logging.getLogger(__name__)

_HOW = "send it as 'Authorization: Bearer KEY' or as 'X-Api-Key: KEY'"


class Guard:
    """Of one listener, or of several that are asked for the same. Who asks is a key; None: none is needed."""

    def __init__(
        self,
        keys: Callable[[], KeyRing | None],
        buckets: Buckets,
        *,
        elsewhere: bool = False,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            keys: those that count now; None: everybody may ask.
            buckets: shared by all guards of a server.
            elsewhere: management has an address of its own, and this is another one.
        """
        self._keys = keys
        self._buckets = buckets
        self._elsewhere = elsewhere
        self._wall = wall
        self._clock = clock

    def identify(self, scope: Scope | None, token: bytes | None) -> Key | None:
        """Who asks, if it is somebody. What every request to a method needs is said here, before its body is read.

        Args:
            scope: None: no key is needed.

        Raises:
            ServingError: FORBIDDEN: not at this address; UNAUTHENTICATED.
        """
        if scope is None:
            return None
        if self._elsewhere and scope is not Scope.INFER:
            text = "management and metrics have an address of their own (--manage-port); this one is for inference"
            raise ServingError(ErrorKind.FORBIDDEN, text)
        keys = self._keys()
        if keys is None:
            return None
        if token is None:
            raise ServingError(ErrorKind.UNAUTHENTICATED, f"a key is needed; {_HOW}")
        key = keys.find(token)
        if key is None:
            raise ServingError(ErrorKind.UNAUTHENTICATED, f"the key is not known; {_HOW}")
        if key.expires is not None and self._wall() >= key.expires:
            raise ServingError(ErrorKind.UNAUTHENTICATED, f"the key '{key.name}' has expired")
        return key

    def check(self, key: Key | None, need: Need) -> None:
        """Raises: ServingError: FORBIDDEN: the key is not for this."""
        if key is None or need.scope is None:
            return
        if need.scope not in key.scopes:
            raise ServingError(ErrorKind.FORBIDDEN, f"the key '{key.name}' has not the scope '{need.scope.value}'")
        if key.models is not None:
            for model in need.models:
                if model not in key.models:
                    what = f"not for '{model}'" if model else "not for what is about all models"
                    own = ", ".join(f"'{name}'" for name in sorted(key.models))
                    raise ServingError(ErrorKind.FORBIDDEN, f"the key '{key.name}' is for {own}, and {what}")

    def count(self, key: Key | None) -> None:
        """One more request of this key. Raises: ServingError: TOO_MANY, with the time after which there may be one."""
        if key is None or key.rate is None:
            return
        wait_s = self._buckets.take(key.name, key.rate, self._clock())
        if wait_s:
            text = f"the key '{key.name}' may be used {key.rate.per_s:g} times a second"
            raise ServingError(ErrorKind.TOO_MANY, text, retry_after_s=wait_s)


def note_change(key: Key | None, scope: Scope | None, what: str) -> None:
    """Says who has asked for a change; never the key itself."""
    if scope is Scope.MANAGE and key is not None:
        log.info("key '%s': %s", key.name, what)
