"""The table of documented HTTP routes: what each is for, which method of which codec answers it, how it may fail.

One line for a route; FastAPI gets them from here, for its router and for the OpenAPI document.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from serving.protocols.http import HttpReply
from serving.protocols.manage import Manage
from serving.protocols.oip.rest import OipRest
from serving.protocols.status import Family
from serving.protocols.tfs.rest import TfsRest
from serving.transport import schemas


@dataclass(frozen=True, slots=True)
class Ask:
    """A request as routes see it."""

    method: str
    raw_path: str  # as it came, percent-encoded
    path: Mapping[str, str]  # parameters in the path, decoded
    query: Sequence[tuple[str, str]]  # parameters behind it, decoded
    headers: Mapping[bytes, bytes]
    body: bytes

    @property
    def model(self) -> str:
        return self.path["model"]

    @property
    def version(self) -> str | None:
        return self.path.get("version")

    @property
    def encoding(self) -> bytes | None:
        return self.headers.get(b"content-encoding")


Answer = Callable[[Ask], HttpReply | Awaitable[HttpReply]]


@dataclass(frozen=True, slots=True)
class Route:
    """`errors` are the statuses that it may answer with besides 200, `query` the schemas of its parameters."""

    method: str
    path: str
    summary: str
    tag: str
    answer: Answer
    errors: tuple[int, ...] = ()
    body: dict[str, Any] | None = None
    query: Mapping[str, dict[str, Any]] | None = None
    documented: bool = True
    family: Family = Family.OIP  # of its errors


_FOUND = (400, 404, 503)
_RUN = (400, 404, 500, 501, 503)


def oip(rest: OipRest) -> Iterator[Route]:
    """Open Inference Protocol, with Triton's extensions."""
    yield Route("GET", "/v2/health/live", "Is the process up?", "health", lambda _: rest.live())
    yield Route("GET", "/v2/health/ready", "Does the server take requests?", "health", lambda _: rest.ready(), (400,))
    yield from _of_model(
        "GET", "/ready", "Can it be asked?", "health", lambda a: rest.model_ready(a.model, a.version), (400,)
    )
    server = Route(
        "GET", "/v2", "Name, version and extensions of the server", "metadata", lambda _: rest.server_metadata()
    )
    yield server
    yield replace(server, path="/v2/", documented=False)
    yield Route(
        "GET", "/v2/models/stats", "Statistics of all models", "metadata", lambda _: rest.statistics(None, None)
    )
    yield from _of_model(
        "GET", "", "Inputs and outputs", "metadata", lambda a: rest.model_metadata(a.model, a.version), _FOUND
    )
    yield from _of_model(
        "GET", "/config", "Configuration", "metadata", lambda a: rest.model_config(a.model, a.version), _FOUND
    )
    yield from _of_model(
        "GET", "/stats", "Statistics", "metadata", lambda a: rest.statistics(a.model, a.version), (400,)
    )
    yield from _of_model(
        "GET",
        "/batching/explain",
        "What the batcher did and why, and what would help",
        "metadata",
        lambda a: rest.explain(a.model, a.version),
        _FOUND,
    )
    yield from _of_model("POST", "/infer", "Run the model", "inference", lambda a: infer(rest, a), _RUN, schemas.INFER)
    yield from _of_model(
        "POST",
        "/generate",
        "Run the model on plain JSON values",
        "inference",
        lambda a: rest.generate(a.model, a.version, a.body, a.encoding, a.headers.items(), stream=False),
        _RUN,
        schemas.GENERATE,
    )
    yield from _of_model(
        "POST",
        "/generate_stream",
        "The same, answered as server-sent events",
        "inference",
        lambda a: rest.generate(a.model, a.version, a.body, a.encoding, a.headers.items(), stream=True),
        _RUN,
        schemas.GENERATE,
    )
    yield from _repository(rest)
    yield from _settings(rest)
    yield from _shared_memory(rest)


def infer(rest: OipRest, ask: Ask) -> Awaitable[HttpReply]:
    return rest.infer(ask.model, ask.version, ask.body, list(ask.headers.items()))


def _of_model(
    method: str,
    end: str,
    summary: str,
    tag: str,
    answer: Answer,
    errors: tuple[int, ...],
    body: dict[str, Any] | None = None,
) -> Iterator[Route]:
    """For a model, and for one version of it."""
    yield Route(method, "/v2/models/{model}" + end, summary, tag, answer, errors, body)
    yield Route(
        method, "/v2/models/{model}/versions/{version}" + end, f"{summary} (this version)", tag, answer, errors, body
    )


def _repository(rest: OipRest) -> Iterator[Route]:
    index = Route(
        "POST",
        "/v2/repository/index",
        "All models and versions with their states",
        "repository",
        lambda a: rest.repository_index(a.body),
        (400,),
        schemas.INDEX,
    )
    load = Route(
        "POST",
        "/v2/repository/models/{model}/load",
        "Read the model's directory now, and wait until it is served",
        "repository",
        lambda a: rest.load(a.model, a.body, a.path.get("repository")),
        (400, 403, 501),
        schemas.LOAD,
    )
    unload = Route(
        "POST",
        "/v2/repository/models/{model}/unload",
        "Take the model out of service until it is loaded again",
        "repository",
        lambda a: rest.unload(a.model, a.body, a.path.get("repository")),
        (400, 501),
        schemas.UNLOAD,
    )
    yield from (index, load, unload)
    for route in (index, load, unload):
        named = route.path.replace("/repository/", "/repository/{repository}/", 1)
        yield replace(route, path=named, documented=False)


def _settings(rest: OipRest) -> Iterator[Route]:
    for path, of in (("/v2/trace/setting", ""), ("/v2/models/{model}/trace/setting", " of a model")):
        yield Route(
            "GET",
            path,
            f"Trace settings{of}",
            "settings",
            lambda a: rest.trace_settings(a.path.get("model")),
            (400,) if of else (),
        )
        yield Route(
            "POST",
            path,
            f"Change the trace settings{of}",
            "settings",
            lambda a: rest.change_trace_settings(a.path.get("model"), a.body),
            (400, 501),
            schemas.TRACE,
        )
    yield Route("GET", "/v2/logging", "Log settings", "settings", lambda _: rest.log_settings())
    yield Route(
        "POST",
        "/v2/logging",
        "Change the log settings",
        "settings",
        lambda a: rest.change_log_settings(a.body),
        (400, 501),
        schemas.LOGGING,
    )


def _shared_memory(rest: OipRest) -> Iterator[Route]:
    for kind in ("system", "cuda"):
        base, tag = f"/v2/{kind}sharedmemory", f"{kind} shared memory"

        def status(a: Ask, kind: str = kind) -> HttpReply:
            return rest.shm_status(kind, a.path.get("region"))

        def register(a: Ask, kind: str = kind) -> HttpReply:
            return rest.shm_register(kind, a.path["region"], a.body)

        def unregister(a: Ask, kind: str = kind) -> HttpReply:
            return rest.shm_unregister(kind, a.path.get("region"))

        yield Route("GET", f"{base}/status", "Registered regions", tag, status)
        yield Route("GET", base + "/region/{region}/status", "One region", tag, status, (404,))
        yield Route(
            "POST",
            base + "/region/{region}/register",
            "Register a region",
            tag,
            register,
            (400, 404, 500, 501),
            schemas.REGISTER,
        )
        yield Route("POST", base + "/region/{region}/unregister", "Forget a region", tag, unregister, (501,))
        yield Route("POST", f"{base}/unregister", "Forget all regions", tag, unregister, (501,))


def tfs(rest: TfsRest) -> Iterator[Route]:
    """TensorFlow Serving. Its paths are matched by its codec, as that protocol has rules of its own for them; these
    lines are the documentation of it."""

    def answer(ask: Ask) -> Awaitable[HttpReply]:
        return rest.handle(ask.method, ask.raw_path, ask.body, ask.encoding, headers=ask.headers.items())

    tag = "TensorFlow Serving"
    places = (
        ("/v1/models/{model}", ""),
        ("/v1/models/{model}/versions/{version}", " (this version)"),
        ("/v1/models/{model}/labels/{label}", " (the version of this label)"),
    )
    for path, which in places:
        state = "State of this version" if "{version}" in path else "State of all versions"
        yield Route("GET", path, state, tag, answer, (400, 404))
        yield Route("GET", f"{path}/metadata", f"Signatures{which}", tag, answer, (400, 404))
        for verb, summary, body in (
            ("predict", "Run a signature", schemas.PREDICT),
            ("classify", "Run a classification on examples", schemas.EXAMPLES),
            ("regress", "Run a regression on examples", schemas.EXAMPLES),
        ):
            yield Route("POST", f"{path}:{verb}", summary + which, tag, answer, (400, 404, 500, 501, 503, 504), body)


def manage(own: Manage) -> Iterator[Route]:
    """Operation of this server: not part of any protocol."""
    one, all_errors = "/serving/models/{model}", (400, 403, 404, 409, 503)

    def route(method: str, path: str, summary: str, answer: Answer, errors: tuple[int, ...] = (), **more: Any) -> Route:
        return Route(method, path, summary, "operation", answer, errors, family=Family.OWN, **more)

    def change(verb: str, summary: str, answer: Answer, body: dict[str, Any]) -> Route:
        return route("POST", f"{one}/{verb}", summary, answer, all_errors, body=body)

    yield route("GET", "/serving/models", "How all models stand", lambda _: own.models())
    yield route("GET", one, "How a model and its versions stand", lambda a: own.model(a.model), (404,))
    yield route(
        "GET",
        "/serving/events",
        "What has happened, and what happens next",
        lambda a: own.events(a.query),
        (400,),
        query=schemas.EVENTS,
    )
    yield change(
        "load",
        "Read the model's directory now, and wait until it is served",
        lambda a: own.load(a.model, a.body),
        schemas.OWN_LOAD,
    )
    yield change(
        "unload",
        "Take the model out of service until it is loaded again",
        lambda a: own.unload(a.model, a.body),
        schemas.OWN_UNLOAD,
    )
    yield change(
        "promote",
        "Make a version the stable one, which takes all requests",
        lambda a: own.promote(a.model, a.body),
        schemas.PROMOTE,
    )
    yield change(
        "rollback",
        "End what is on trial, or go back to the version that was stable before",
        lambda a: own.rollback(a.model, a.body),
        schemas.ROLLBACK,
    )
    yield change(
        "labels",
        "Give a label to a version, or take it away",
        lambda a: own.label(a.model, a.body),
        schemas.LABEL,
    )
    yield change(
        "traffic",
        "Share the model's requests out among its versions",
        lambda a: own.traffic(a.model, a.body),
        schemas.TRAFFIC,
    )
