"""What runs inside Ray's proxies, one process on each node: our gRPC methods, and answers where a replica has died.

Ray finds both by their import paths: `add_services` in `grpc_options.grpc_servicer_functions` of the Serve
configuration, `middlewares` in the environment variable RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH of each node.

Messages pass as the bytes that they are; only replicas read them. A proxy knows no model, no runtime and no engine.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

import grpc
from starlette.middleware import Middleware

from serving.protocols import messages as m

# Metadata that a proxy adds for the replica: which method is called, and the seconds that are left for it.
METHOD = "x-serving-method"
REMAINING_S = "x-serving-remaining-s"

LOST = "the replica that had this request is gone; the request may be sent again"

_SERVICES = (
    m.oip.GRPCInferenceService,
    m.tfs.PredictionService,
    m.tfs.ModelService,
    m.health.Health,
    m.reflection.ServerReflection,
    m.reflection_v1alpha.ServerReflection,
)


def add_services(_servicer: object, server: Any) -> None:
    """Adds every method of both protocol families to a proxy's gRPC server."""
    server.add_generic_rpc_handlers((_Methods(),))


class _Methods(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in its stubs only
    """All methods by their paths.

    Ray calls the method of the replica that a path ends with, and replaces the handlers in `_method_handlers` by its
    own when they are added. So each of ours has a path there that ends with one of three ways to call, which a replica
    has (`Replica` in app.py), and what is called is told in metadata.
    """

    def __init__(self) -> None:
        self._ways: dict[str, str] = {}
        for service in _SERVICES:
            for method in service.methods:
                path = f"/{service.full_name}/{method.name}"
                way = "stream" if method.client_streaming else "follow" if method.server_streaming else "unary"
                self._ways[path] = f"{path}/{way}"
        kinds = {
            "unary": grpc.unary_unary_rpc_method_handler,
            "follow": grpc.unary_stream_rpc_method_handler,
            "stream": grpc.stream_stream_rpc_method_handler,
        }
        self._method_handlers = {key: kinds[key.rpartition("/")[2]](_replaced) for key in self._ways.values()}
        self._made: dict[str, Any] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        path = handler_call_details.method
        made = self._made.get(path)
        if made is None and path in self._ways:
            made = self._made[path] = _around(self._method_handlers[self._ways[path]], path)
        return made


def _replaced(_request: Any, _context: Any) -> Any:
    raise AssertionError("Ray replaces this handler")


def _around(handler: Any, path: str) -> Any:
    """Ray's handler, with our view of the call in place of the call's own."""
    if not handler.response_streaming:

        async def unary(data: bytes, context: Any) -> bytes:
            answer: bytes = await handler.unary_unary(data, _Context(context, path))
            return answer

        return grpc.unary_unary_rpc_method_handler(unary)

    made = handler.stream_stream if handler.request_streaming else handler.unary_stream

    async def stream(requests: Any, context: Any) -> AsyncIterator[bytes]:
        async with aclosing(made(requests, _Context(context, path))) as answers:
            async for answer in answers:
                yield answer

    if handler.request_streaming:
        return grpc.stream_stream_rpc_method_handler(stream)
    return grpc.unary_stream_rpc_method_handler(stream)


class _Context:
    """A call as Ray's proxy sees it: with our metadata, and UNAVAILABLE where its replica died.

    Ray reports that as INTERNAL, which clients do not retry. What a replica answers, an error or not, comes with
    trailing metadata; what Ray reports by itself does not.
    """

    def __init__(self, context: Any, path: str) -> None:
        self._context = context
        self._answered = self._lost = False
        sent = [pair for pair in context.invocation_metadata() or () if pair[0] not in (METHOD, REMAINING_S)]
        remaining_s = context.time_remaining()
        if remaining_s is not None:
            sent.append((REMAINING_S, f"{remaining_s:.6f}"))
        self._sent = [*sent, (METHOD, path)]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def invocation_metadata(self) -> Sequence[tuple[str, str | bytes]]:
        return self._sent

    def set_trailing_metadata(self, metadata: Sequence[tuple[str, str | bytes]]) -> None:
        self._answered = True
        self._context.set_trailing_metadata(metadata)

    def set_code(self, code: grpc.StatusCode) -> None:
        self._lost = code is grpc.StatusCode.INTERNAL and not self._answered
        self._context.set_code(grpc.StatusCode.UNAVAILABLE if self._lost else code)

    def set_details(self, details: str) -> None:
        self._context.set_details(LOST if self._lost else details)


def middlewares() -> list[Middleware]:
    """What a proxy puts around its HTTP application."""
    return [Middleware(Answered)]


class Answered:
    """Plain ASGI. A request to which Ray has no answer, because its replica died, gets 503 and may be sent again.

    A replica always answers (front.py), and Ray answers for itself where all are busy or none is there yet. Without
    this, what is left becomes 500.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def tell(message: Any) -> None:
            nonlocal started
            started = True
            await send(message)

        await self._app(scope, receive, tell)
        if not started:
            body = b'{"error":"%s"}' % LOST.encode()
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(body)),
                (b"retry-after", b"1"),
            ]
            await send({"type": "http.response.start", "status": 503, "headers": headers})
            await send({"type": "http.response.body", "body": body})
