"""The ASGI application: inference in front, FastAPI behind it for everything that is not hot.

The documented routes and the hot ones call the same codecs; FastAPI's router and request objects would cost an
inference more than all the rest of it.
"""

import re
from collections.abc import Callable, Iterable
from inspect import isawaitable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException

from serving.core.errors import ServingError
from serving.protocols.http import HttpReply, error_reply
from serving.protocols.manage import Manage
from serving.protocols.oip.rest import HEADER_LENGTH, OipRest
from serving.protocols.status import Family
from serving.protocols.tfs.rest import TfsRest
from serving.transport import openapi, routes
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
    ) -> None:
        """`metrics_path` is where metrics are, besides at `/metrics`."""
        self._oip = oip
        self._tfs = tfs
        table = (*routes.oip(oip), *routes.tfs(tfs), *routes.manage(own))
        self._metrics_path = metrics_path
        self._fastapi = _documented(table, metrics_text, examples, metrics_path)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            path = scope["path"]
            if scope["method"] == "POST" and (match := _INFER.fullmatch(path)) is not None:
                await self._infer(match[1], match[2], scope["headers"], receive, send)
                return
            if _TFS.match(path) is not None and path != self._metrics_path:
                await self._serve_tfs(scope, receive, send)
                return
        await self._fastapi(scope, receive, send)

    async def _infer(self, model: str, version: str | None, headers: Any, receive: Any, send: Any) -> None:
        header_length = encoding = accept = None
        for name, value in headers:
            if name == HEADER_LENGTH:
                header_length = value
            elif name == b"content-encoding":
                encoding = value
            elif name == b"accept-encoding":
                accept = value
        body = await _whole_body(receive)
        try:
            reply = await self._oip.infer(model, version, body, header_length, encoding, accept, headers)
        except ServingError as error:
            reply = error_reply(error, Family.OIP)
        await _send(reply, send)

    async def _serve_tfs(self, scope: Any, receive: Any, send: Any) -> None:
        encoding = origin = None
        headers = scope["headers"]
        for name, value in headers:
            if name == b"content-encoding":
                encoding = value
            elif name == b"origin":
                origin = value
        body = await _whole_body(receive)
        await _send(await self._tfs.handle(scope["method"], _raw_path(scope), body, encoding, origin, headers), send)


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
    table: Iterable[Route], metrics_text: Callable[[], bytes], examples: openapi.Examples, metrics_path: str
) -> FastAPI:
    app = FastAPI(docs_url=None, redoc_url=None, redirect_slashes=False, default_response_class=Response)

    @app.exception_handler(HTTPException)
    async def http_error(_request: Request, error: HTTPException) -> Response:
        response = _response(openapi.plain_error(error.status_code))
        response.headers.update(error.headers or {})  # such as Allow
        return response

    @app.exception_handler(Exception)
    async def unforeseen(_request: Request, _error: Exception) -> Response:
        return _response(openapi.plain_error(500))  # the trace goes to the log, where the connection writes it

    for route in table:
        _add(app, route)

    @app.get("/metrics/", include_in_schema=False)
    @app.get("/metrics", summary="Prometheus metrics", tags=["observability"])
    async def metrics() -> Response:
        return Response(metrics_text(), media_type=_METRICS_TYPE)

    if metrics_path != "/metrics":
        app.add_api_route(metrics_path, metrics, include_in_schema=False)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(openapi.docs_page())

    app.openapi = lambda: openapi.document(app, examples())  # type: ignore[method-assign]
    return app


def _add(app: FastAPI, route: Route) -> None:
    async def endpoint(request: Request) -> Response:
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


def _response(reply: HttpReply) -> Response:
    response = Response(reply.body, reply.status)
    for name, value in reply.headers:
        response.headers[name.decode()] = value.decode()
    return response
