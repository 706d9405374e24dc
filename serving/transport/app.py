"""The ASGI application: inference in front, FastAPI behind it for everything that is not hot.

The documented routes and the hot ones call the same codecs; FastAPI's router and request objects would cost an
inference more than all the rest of it.
"""

import re
from collections.abc import Callable, Iterable, Sequence, Set
from inspect import isawaitable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from serving.core.errors import ErrorKind, ServingError
from serving.protocols.http import Handler, Headers, HttpReply, error_reply
from serving.protocols.manage import Manage
from serving.protocols.oip.rest import OipRest
from serving.protocols.tfs.rest import TfsRest
from serving.transport import openapi, routes
from serving.transport.access.scopes import Scope, of_http
from serving.transport.exchange import split
from serving.transport.routes import Ask, Route

_INFER = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")
_TFS = re.compile(r"/v1/", re.IGNORECASE)
_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class HttpApp:
    """Plain ASGI. Inference is answered here, all else by FastAPI."""

    def __init__(
        self,
        oip: OipRest,
        tfs: TfsRest,
        own: Manage,
        metrics_text: Callable[[], bytes],
        examples: openapi.Examples,
        metrics_path: str = "/metrics",
        cors_origins: Sequence[str] = (),
    ) -> None:
        """
        Args:
            metrics_path: where metrics are, besides at `/metrics`.
            cors_origins: of the pages that may change something, besides our own; `*`: any.
        """
        self._oip = oip
        self._tfs = tfs
        table = (*routes.oip(oip), *routes.tfs(tfs), *routes.manage(own))
        self._metrics_path = metrics_path
        self._fastapi = _documented(table, metrics_text, examples, metrics_path, frozenset(cors_origins))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        handler = None
        if scope["type"] == "http":
            handler = self._hot(scope["method"], scope["path"], _raw_path(scope), scope["headers"])
        if handler is None:
            await self._fastapi(scope, receive, send)
        else:
            await _send(await handler(await _whole_body(receive)), send)

    def handler(self, method: str, target: bytes, headers: Headers) -> Handler | None:
        """See `exchange.Handles`."""
        parts = split(target)
        return None if parts is None else self._hot(method, parts[0], parts[1].decode("latin-1"), headers)

    def _hot(self, method: str, path: str, raw_path: str, headers: Headers) -> Handler | None:
        if method == "POST" and (match := _INFER.fullmatch(path)) is not None:
            return self._oip.inference(match[1], match[2], headers)
        if _TFS.match(path) is not None and path != self._metrics_path:
            said = dict(headers)
            encoding, origin = said.get(b"content-encoding"), said.get(b"origin")
            return lambda body: self._tfs.handle(method, raw_path, body, encoding, origin, headers)
        return None


async def _whole_body(receive: Any) -> bytes:
    message = await receive()
    body: bytes = message["body"]
    while message.get("more_body"):  # not from our own listener, which sends it whole
        message = await receive()
        body += message.get("body", b"")
    return body


async def _send(reply: HttpReply, send: Any) -> None:
    headers = [*reply.headers, (b"content-length", b"%d" % len(reply.body))]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})


def _raw_path(scope: Any) -> str:
    raw: bytes | None = scope.get("raw_path")
    return scope["path"] if raw is None else raw.decode("latin-1")


def _documented(
    table: Iterable[Route],
    metrics_text: Callable[[], bytes],
    examples: openapi.Examples,
    metrics_path: str,
    origins: Set[str],
) -> FastAPI:
    app = FastAPI(
        openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False, default_response_class=Response
    )
    document = openapi.Document(app, examples)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        response = _response(openapi.plain_error(error.status_code))
        response.headers.update(error.headers or {})
        if error.status_code == 405:  # Starlette names the methods of one route, and of ours each has one
            response.headers["allow"] = ", ".join(_methods(app, request))
        return response

    @app.exception_handler(Exception)
    async def unforeseen(_request: Request, _error: Exception) -> Response:
        return _response(openapi.plain_error(500))  # the trace goes to the log, where the connection writes it

    for route in table:
        _add(app, route, origins)

    @app.get("/metrics/", include_in_schema=False)
    @app.get("/metrics", summary="Prometheus metrics", tags=["observability"])
    async def metrics() -> Response:
        return Response(metrics_text(), media_type=_METRICS_TYPE)

    if metrics_path != "/metrics":
        app.add_api_route(metrics_path, metrics, include_in_schema=False)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(openapi.docs_page())

    @app.get("/openapi.json", include_in_schema=False)
    async def described() -> Response:
        return Response(document.text(), media_type="application/json")

    return app


def _methods(app: FastAPI, request: Request) -> list[str]:
    """Those that the path of a request has."""
    found: set[str] = set()
    for route in app.routes:
        if route.matches(request.scope)[0] is not Match.NONE:
            found |= getattr(route, "methods", None) or set()
    return sorted(found)


def _add(app: FastAPI, route: Route, origins: Set[str]) -> None:
    changes = of_http(route.method, route.path, route.path).scope is Scope.MANAGE

    async def endpoint(request: Request) -> Response:
        if changes and _is_of_another_page(request, origins):
            text = "a page of another origin asks for a change; allow it by --cors-origins if it shall"
            return _response(error_reply(ServingError(ErrorKind.FORBIDDEN, text), route.family))
        ask = Ask(
            request.method,
            _raw_path(request.scope),
            request.path_params,
            request.query_params.multi_items(),
            dict(request.headers.raw),
            await request.body(),
        )
        try:
            reply = route.answer(ask)
            return _response(await reply if isawaitable(reply) else reply)
        except ServingError as error:
            return _response(error_reply(error, route.family))

    app.add_api_route(
        route.path,
        endpoint,
        methods=[route.method],
        summary=route.summary,
        tags=[route.tag],
        responses={status: openapi.error(status, route.path) for status in route.errors},
        openapi_extra=openapi.extra(route.path, route.body, route.query),
        include_in_schema=route.documented,
        name=f"{route.method} {route.path}",
    )


def _is_of_another_page(request: Request, allowed: Set[str]) -> bool:
    """A browser lets any page send simple requests to any server, and so to one on its own machine that asks for no
    key; it only keeps the answers from it. But it says where a request comes from.
    """
    origin = request.headers.get("origin")
    if origin is None or origin in allowed or "*" in allowed:
        return False
    return origin.partition("://")[2].lower() != request.headers.get("host", "").lower()


def _response(reply: HttpReply) -> Response:
    response = Response(reply.body, reply.status)
    for name, value in reply.headers:
        response.headers[name.decode()] = value.decode()
    return response
