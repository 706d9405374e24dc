"""The ASGI application: inference in front, FastAPI behind it for everything that is not hot.

The documented routes and the hot one call the same codec; FastAPI's router and request objects would cost an inference
more than all the rest of it.
"""

import re
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException

from serving.core.errors import ServingError
from serving.protocols.oip_rest import HEADER_LENGTH, HttpReply, OipRest, error_reply
from serving.transport import openapi

_INFER = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")
_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class HttpApp:
    """Plain ASGI. `infer` requests are answered here, all others by FastAPI."""

    def __init__(self, rest: OipRest, metrics_text: Callable[[], bytes], examples: openapi.Examples) -> None:
        self._rest = rest
        self._fastapi = _documented(rest, metrics_text, examples)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            match = _INFER.fullmatch(scope["path"])
            if match is not None:
                await self._infer(match[1], match[2], scope["headers"], receive, send)
                return
        await self._fastapi(scope, receive, send)

    async def _infer(self, model: str, version: str | None, headers: Any, receive: Any, send: Any) -> None:
        header_length = encoding = None
        for name, value in headers:
            if name == HEADER_LENGTH:
                header_length = value
            elif name == b"content-encoding":
                encoding = value
        message = await receive()
        body = message["body"]
        while message.get("more_body"):  # not from our own listener, which sends it whole
            message = await receive()
            body += message.get("body", b"")
        try:
            reply = await self._rest.infer(model, version, body, header_length, encoding)
        except ServingError as error:
            reply = error_reply(error)
        headers = [*reply.headers, (b"content-length", b"%d" % len(reply.body))]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})


def _documented(rest: OipRest, metrics_text: Callable[[], bytes], examples: openapi.Examples) -> FastAPI:
    app = FastAPI(docs_url=None, redoc_url=None, redirect_slashes=False, default_response_class=Response)
    errors: Any = {400: openapi.ERROR, 404: openapi.ERROR, 503: openapi.ERROR}

    @app.exception_handler(ServingError)
    async def serving_error(_request: Request, error: ServingError) -> Response:
        return _response(error_reply(error))

    @app.exception_handler(HTTPException)
    async def http_error(_request: Request, error: HTTPException) -> Response:
        response = _response(openapi.plain_error(error.status_code))
        response.headers.update(error.headers or {})  # such as Allow
        return response

    @app.exception_handler(Exception)
    async def unforeseen(_request: Request, _error: Exception) -> Response:
        return _response(openapi.plain_error(500))  # the trace goes to the log, where the connection writes it

    health: dict[str, Any] = {"tags": ["health"]}

    @app.get("/v2/health/live", summary="Is the process up?", **health)
    async def live() -> Response:
        return _response(rest.live())

    @app.get("/v2/health/ready", summary="Does the server take requests?", responses={400: openapi.NOT_READY}, **health)
    async def ready() -> Response:
        return _response(rest.ready())

    @app.get("/v2/models/{model}/ready", summary="Can the model be asked?", responses={400: openapi.ERROR}, **health)
    async def model_ready(model: str) -> Response:
        return _response(rest.model_ready(model, None))

    @app.get(
        "/v2/models/{model}/versions/{version}/ready",
        summary="Can this version be asked?",
        responses={400: openapi.ERROR},
        **health,
    )
    async def version_ready(model: str, version: str) -> Response:
        return _response(rest.model_ready(model, version))

    metadata: dict[str, Any] = {"tags": ["metadata"]}

    @app.get("/v2/", include_in_schema=False)
    @app.get("/v2", summary="Name, version and extensions of the server", **metadata)
    async def server_metadata() -> Response:
        return _response(rest.server_metadata())

    @app.get("/v2/models/{model}", summary="Inputs and outputs of a model", responses=errors, **metadata)
    async def model_metadata(model: str) -> Response:
        return _response(rest.model_metadata(model, None))

    @app.get(
        "/v2/models/{model}/versions/{version}", summary="Inputs and outputs of a version", responses=errors, **metadata
    )
    async def version_metadata(model: str, version: str) -> Response:
        return _response(rest.model_metadata(model, version))

    # Documented here, answered by HttpApp before a request gets this far.
    infer: dict[str, Any] = {
        "tags": ["inference"],
        "responses": {**errors, 500: openapi.ERROR, 501: openapi.ERROR},
        "openapi_extra": {"requestBody": openapi.INFER_BODY},
    }

    @app.post("/v2/models/{model}/infer", summary="Run the model", **infer)
    async def infer_latest(model: str, request: Request) -> Response:
        return _response(await rest.infer(model, None, await request.body()))

    @app.post("/v2/models/{model}/versions/{version}/infer", summary="Run this version", **infer)
    async def infer_version(model: str, version: str, request: Request) -> Response:
        return _response(await rest.infer(model, version, await request.body()))

    repository: dict[str, Any] = {"tags": ["repository"]}

    @app.post(
        "/v2/repository/index",
        summary="All models and versions with their states",
        responses={400: openapi.ERROR},
        openapi_extra={"requestBody": openapi.INDEX_BODY},
        **repository,
    )
    async def index(request: Request) -> Response:
        return _response(rest.repository_index(await request.body()))

    @app.post(
        "/v2/repository/models/{model}/load",
        summary="Read the model's directory now, and wait until it is served",
        responses={400: openapi.ERROR, 501: openapi.ERROR},
        **repository,
    )
    async def load(model: str, request: Request) -> Response:
        return _response(await rest.load(model, await request.body()))

    @app.post(
        "/v2/repository/models/{model}/unload",
        summary="Take the model out of service until it is loaded again",
        responses={400: openapi.ERROR},
        **repository,
    )
    async def unload(model: str) -> Response:
        return _response(await rest.unload(model))

    @app.get("/metrics", summary="Prometheus metrics", tags=["observability"])
    async def metrics() -> Response:
        return Response(metrics_text(), media_type=_METRICS_TYPE)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(openapi.docs_page())

    app.openapi = lambda: openapi.document(app, examples())  # type: ignore[method-assign]
    return app


def _response(reply: HttpReply) -> Response:
    response = Response(reply.body, reply.status)
    for name, value in reply.headers:
        response.headers[name.decode()] = value.decode()
    return response
