"""The guard before HTTP: says of a request's header whether the request may pass. The body has not come yet."""

from collections.abc import Callable
from functools import partial

from serving.core.errors import ErrorKind, ServingError
from serving.protocols.http import Headers, retry_headers
from serving.protocols.status import Family, http_status
from serving.transport.access.cors import Cors
from serving.transport.access.guard import Guard, note_change
from serving.transport.access.scopes import of_http
from serving.transport.exchange import Refusal, split

_BEARER = b"bearer "
REASONS = {
    ErrorKind.UNAUTHENTICATED: "unauthenticated",
    ErrorKind.FORBIDDEN: "forbidden",
    ErrorKind.TOO_MANY: "rate",
}


class HttpDoor:
    """Called with each header; see `exchange.Admit`."""

    def __init__(
        self, guard: Guard, refused: Callable[[str], None], metrics_path: str = "/metrics", cors: Cors | None = None
    ) -> None:
        """
        Args:
            refused: called with the reason for each refusal.
            cors: what browsers may read of a refusal; None: nothing.
        """
        self._guard = guard
        self._refused = refused
        self._need = partial(of_http, metrics_path=metrics_path)
        self._cors = cors

    def __call__(self, method: str, target: bytes, headers: Headers) -> Refusal | None:
        parts = split(target)
        if parts is None or (self._cors is not None and self._cors.is_preflight(method, headers)):
            return None  # no path, which nothing answers; or a question that the wrapper of the application answers
        path, raw_path, _ = parts
        need = self._need(method, path, raw_path.decode("latin-1"))
        token = token_of(headers)
        try:
            key = self._guard.identify(need.scope, token)
            self._guard.check(key, need)
            self._guard.count(key)
        except ServingError as error:
            self._refused(REASONS[error.kind])
            lines = retry_headers(error)
            if error.kind is ErrorKind.UNAUTHENTICATED:
                lines.append((b"www-authenticate", _challenge(token)))
            if self._cors is not None:
                lines += self._cors.headers(headers)
            return Refusal(http_status(error.kind, Family.OWN), error.message, lines)
        note_change(key, need.scope, f"{method} {raw_path.decode('latin-1')}")
        return None


def _challenge(token: bytes | None) -> bytes:
    return b'Bearer realm="serving"' + (b"" if token is None else b', error="invalid_token"')


def token_of(headers: Headers) -> bytes | None:
    """What a request gives as its key: the first that there is."""
    for name, value in headers:
        if name == b"authorization" and value[: len(_BEARER)].lower() == _BEARER:
            return value[len(_BEARER) :].strip()
        if name == b"x-api-key":
            return value
    return None
