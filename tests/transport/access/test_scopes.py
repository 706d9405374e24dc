"""The table of scopes: all that the server offers stands in it, and no way of writing a path goes around it."""

import re
from collections.abc import Iterator
from typing import Any, cast
from urllib.parse import unquote

import pytest
from fastapi.routing import APIRoute
from hypothesis import given
from hypothesis import strategies as st
from starlette.routing import Match

from serving.protocols import messages as m
from serving.protocols.grpc import Service
from serving.protocols.health import Health
from serving.protocols.manage import Manage
from serving.protocols.oip.grpc import OipGrpc
from serving.protocols.oip.metadata import ServerIdentity
from serving.protocols.oip.rest import OipRest
from serving.protocols.reflection import reflections
from serving.protocols.tfs.grpc import ModelService, PredictionService
from serving.protocols.tfs.rest import TfsRest
from serving.transport.access.scopes import GRPC, Need, Scope, of_http
from serving.transport.app import HttpApp

NOBODY = cast(Any, None)  # an engine that is not asked for anything
METRICS_PATH = "/monitoring/metrics"


def application() -> HttpApp:
    rest = OipRest(NOBODY, NOBODY, ServerIdentity("serving", "0"))
    return HttpApp(rest, TfsRest(NOBODY), Manage(NOBODY), bytes, dict, METRICS_PATH)


ROUTES = [route for route in application()._fastapi.routes if isinstance(route, APIRoute)]


def services() -> Iterator[Service]:
    models: list[Service] = [
        OipGrpc(NOBODY, NOBODY, ServerIdentity("serving", "0")),
        PredictionService(NOBODY),
        ModelService(NOBODY, NOBODY),
    ]
    health = Health(NOBODY, [])
    yield from (*models, health, *reflections([]))


def need_of(method: str, raw_path: str) -> Need:
    return of_http(method, unquote(raw_path), raw_path, METRICS_PATH)


# HTTP

# What each route needs, written down once more and independently of how paths are matched. `*`: all routes below.
EXPECTED = {
    "GET /v2/health/*": None,
    "GET /docs": None,
    "POST /v2/models/*/infer": Scope.INFER,
    "POST /v2/models/*/generate": Scope.INFER,
    "POST /v2/models/*/generate_stream": Scope.INFER,
    "GET /v2/models/*/trace/setting": Scope.OBSERVE,
    "GET /v2/models/*/stats": Scope.OBSERVE,
    "GET /v2/models/*/batching/explain": Scope.OBSERVE,
    "GET /v2/models/stats": Scope.OBSERVE,
    "GET /v2/models/*": Scope.INFER,
    "GET /v2": Scope.INFER,
    "GET /v2/": Scope.INFER,
    "GET /openapi.json": Scope.INFER,
    "POST /v2/repository/*index": Scope.OBSERVE,
    "GET /v2/*": Scope.OBSERVE,  # trace settings, log settings, shared memory
    "POST /v2/*": Scope.MANAGE,
    "GET /serving/*": Scope.OBSERVE,
    "POST /serving/*": Scope.MANAGE,
    "GET /metrics*": Scope.OBSERVE,
    f"GET {METRICS_PATH}": Scope.OBSERVE,
    "POST /v1/*": Scope.INFER,
    "GET /v1/*/metadata": Scope.INFER,
    "GET /v1/*": Scope.OBSERVE,
}


def expected(line: str) -> Scope | None:
    for pattern, scope in EXPECTED.items():
        if re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), line):
            return scope
    raise AssertionError(f"{line}: nobody has said what it needs")


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_every_route_has_a_scope(route: APIRoute) -> None:
    values = {"version": "3", "label": "stable"}
    path = re.sub(r"{(\w+)}", lambda match: values.get(match[1], "any"), route.path)
    for method in route.methods:
        need = need_of(method, path)
        assert need.listed, f"{method} {route.path} is not in the table of scopes"
        assert need.scope is expected(f"{method} {route.path}")
        if "{model}" in route.path:
            assert need.models == ("any",)


def test_there_are_routes() -> None:
    assert len(ROUTES) > 60


SEGMENTS = st.sampled_from([
    "v2", "v1", "V1", "%761", "%762", "serving", "models", "stats", "versions", "3", "m", "a%2Fb", "repository",
    "index", "load", "unload", "infer", "generate", "health", "ready", "live", "trace", "setting", "logging",
    "metadata", "labels", "m:predict", "m:classify", "%6d:predict", "config", "batching", "explain",
    "systemsharedmemory", "region", "register", "status", "metrics", "monitoring", "docs", "events", "promote",
    "traffic", ".", "..", "%2e%2e", "infer%0a", "m%0a", "",
])  # fmt: skip
PATHS = st.lists(SEGMENTS, min_size=1, max_size=7).map(lambda parts: "/" + "/".join(parts))


def routed(method: str, raw_path: str) -> str | None:
    """The route that would answer, as the application itself finds it."""
    scope = {"type": "http", "method": method, "path": unquote(raw_path), "root_path": "", "headers": []}
    for route in ROUTES:
        if route.matches(scope)[0] is Match.FULL:
            return f"{method} {route.path}"
    return None


@given(st.sampled_from(["GET", "POST"]), PATHS)
def test_no_path_needs_less_than_the_route_that_answers_it(method: str, raw_path: str) -> None:
    need, route = need_of(method, raw_path), routed(method, raw_path)
    if re.match("/v1/", unquote(raw_path), re.IGNORECASE):  # answered before the router comes to see it
        assert need.scope in (Scope.MANAGE, Scope.OBSERVE, Scope.INFER)
        assert need.scope is Scope.MANAGE or re.match("/v1/models/[^/:]+", raw_path, re.IGNORECASE)
    elif route is not None:
        assert need.scope in (expected(route), Scope.MANAGE)
    else:
        assert need.scope is Scope.MANAGE or not need.listed


@given(PATHS)
def test_what_goes_around_the_router_is_for_inference(raw_path: str) -> None:
    from serving.transport.app import _INFER

    if _INFER.fullmatch(unquote(raw_path)):
        assert need_of("POST", raw_path).scope is Scope.INFER


@pytest.mark.parametrize(
    ("method", "path", "models"),
    [
        ("POST", "/v2/models/a%2Fb/infer", None),
        ("POST", "/v2/models/m%20n/infer", ("m n",)),
        ("POST", "/v2/models/m/versions/2/infer", ("m",)),
        ("POST", "/v1/models/m%20n/versions/2:predict", ("m n",)),
        ("POST", "/V1/MODELS/m:PREDICT", ("m",)),
        ("GET", "/v2/models/stats", ("",)),
        ("GET", "/v2", ()),
        ("GET", "/metrics", ("",)),
        ("GET", "/openapi.json", ("",)),
    ],
)
def test_which_models_a_path_is_about(method: str, path: str, models: tuple[str, ...] | None) -> None:
    need = need_of(method, path)
    assert need.models == (models if models is not None else ("",))
    assert need.listed is (models is not None)


def test_what_is_not_known_needs_the_most() -> None:
    for method, path in [("GET", "/nothing"), ("DELETE", "/v2/models/m"), ("HEAD", "/v2"), ("POST", "/v1/models/m")]:
        assert need_of(method, path).scope is Scope.MANAGE


def test_what_a_browser_asks_first_needs_no_key() -> None:
    assert need_of("OPTIONS", "/v1/models/m:predict").scope is None
    assert need_of("OPTIONS", "/v2/models/m/infer").scope is Scope.MANAGE  # unless origins are allowed: see Cors


# gRPC


def test_every_method_has_a_scope_and_no_other() -> None:
    offered = {f"/{service.service}/{name}" for service in services() for name in (*service.methods, *service.streams)}
    assert offered == set(GRPC)
    assert len(offered) > 25


def test_methods_of_the_same_meaning_need_the_same() -> None:
    def scope(service: Any, name: str) -> Scope | None:
        return GRPC[f"/{service.full_name}/{name}"].scope

    o, p, s = m.oip.GRPCInferenceService, m.tfs.PredictionService, m.tfs.ModelService
    assert {scope(o, n) for n in ("ServerLive", "ServerReady")} == {None}
    assert {scope(m.health.Health, n) for n in ("Check", "List", "Watch")} == {None}
    inference = [*((o, n) for n in ("ModelInfer", "ModelStreamInfer", "ModelMetadata", "ModelReady", "ModelConfig"))]
    inference += [(p, n) for n in ("Predict", "Classify", "Regress", "MultiInference", "GetModelMetadata")]
    assert {scope(*method) for method in inference} == {Scope.INFER}
    looking = [(o, "ModelStatistics"), (o, "RepositoryIndex"), (s, "GetModelStatus"), (o, "SystemSharedMemoryStatus")]
    assert {scope(*method) for method in looking} == {Scope.OBSERVE}
    changing = [(o, "RepositoryModelLoad"), (o, "RepositoryModelUnload"), (s, "HandleReloadConfigRequest")]
    changing += [(o, f"{kind}SharedMemory{verb}") for kind in ("System", "Cuda") for verb in ("Register", "Unregister")]
    assert {scope(*method) for method in changing} == {Scope.MANAGE}


def need_of_call(service: Any, name: str, message: Any) -> Need:
    return GRPC[f"/{service.full_name}/{name}"].need(message.SerializeToString())


def test_what_messages_are_about() -> None:
    oip, prediction = m.oip.GRPCInferenceService, m.tfs.PredictionService
    assert need_of_call(oip, "ModelInfer", m.oip.ModelInferRequest(model_name="m")).models == ("m",)
    assert need_of_call(oip, "ModelStatistics", m.oip.ModelStatisticsRequest()).models == ("",)
    predict = m.tfs.PredictRequest()
    predict.model_spec.name = "m"
    assert need_of_call(prediction, "Predict", predict).models == ("m",)
    several = m.tfs.MultiInferenceRequest()
    for name in ("a", "b"):
        several.tasks.add().model_spec.name = name
    assert need_of_call(prediction, "MultiInference", several).models == ("a", "b")


def test_the_last_of_two_names_counts_as_it_does_for_the_codec() -> None:
    twice = b"".join(m.oip.ModelInferRequest(model_name=name).SerializeToString() for name in ("mine", "theirs"))
    assert GRPC[f"/{m.oip.GRPCInferenceService.full_name}/ModelInfer"].need(twice).models == ("theirs",)
    assert m.oip.ModelInferRequest.FromString(twice).model_name == "theirs"


@pytest.mark.parametrize("name", ["TraceSetting", "LogSettings"])
def test_settings_are_looked_at_or_changed_by_one_method(name: str) -> None:
    request = getattr(m.oip, f"{name}Request")
    assert need_of_call(m.oip.GRPCInferenceService, name, request()).scope is Scope.OBSERVE
    change = request()
    _ = change.settings["log_info"]  # of a map of messages: it is there now
    assert need_of_call(m.oip.GRPCInferenceService, name, change).scope is Scope.MANAGE
