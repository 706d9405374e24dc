"""What a request needs: the one table of scopes, by HTTP method and path and by gRPC method. Pure.

A request is looked up by what the router goes by: the decoded path for Starlette's templates, the path as it came for
TensorFlow Serving's. What is not in the table needs MANAGE.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from serving.core.errors import ServingError
from serving.protocols import messages as m
from serving.protocols.grpc import read
from serving.protocols.tfs import routes as tfs

_TFS = re.compile(r"/v1/", re.IGNORECASE)


class Scope(Enum):
    """What a key may be for. None of them includes another."""

    INFER = "infer"  # inference; metadata and readiness of models
    OBSERVE = "observe"  # looks at how the server and its models stand
    MANAGE = "manage"  # changes something


@dataclass(frozen=True, slots=True)
class Need:
    """
    Attributes:
        scope: None: no key is needed.
        models: those that the request is about; an empty name is all of them, and no name at all none of them.
        listed: it stands in the table.
    """

    scope: Scope | None
    models: tuple[str, ...] = ()
    listed: bool = True


OPEN = Need(None)
UNKNOWN = Need(Scope.MANAGE, ("",), listed=False)

# `[...]` may be there or not. Paths without a model are about all of them, but for those in `_ABOUT_NONE`.
_ONE = "/v2/models/{model}[/versions/{version}]"
_REPOSITORY = "/v2/repository[/{repository}]"
_OPEN = ("GET /v2/health/live", "GET /v2/health/ready", "GET /docs")
_HTTP: Mapping[Scope, Sequence[str]] = {
    Scope.INFER: (
        f"POST {_ONE}/infer",
        f"POST {_ONE}/generate",
        f"POST {_ONE}/generate_stream",
        f"GET {_ONE}/ready",
        f"GET {_ONE}/config",
        f"GET {_ONE}",
        "GET /v2[/]",
        "GET /openapi.json",
    ),
    Scope.OBSERVE: (
        "GET /metrics[/]",
        "GET /v2/models/stats",
        f"GET {_ONE}/stats",
        f"GET {_ONE}/batching/explain",
        f"POST {_REPOSITORY}/index",
        "GET /v2/trace/setting",
        "GET /v2/models/{model}/trace/setting",
        "GET /v2/logging",
        "GET /v2/systemsharedmemory[/region/{region}]/status",
        "GET /v2/cudasharedmemory[/region/{region}]/status",
        "GET /serving/models",
        "GET /serving/models/{model}",
        "GET /serving/events",
    ),
    Scope.MANAGE: (
        f"POST {_REPOSITORY}/models/{{model}}/load",
        f"POST {_REPOSITORY}/models/{{model}}/unload",
        "POST /v2/trace/setting",
        "POST /v2/models/{model}/trace/setting",
        "POST /v2/logging",
        "POST /v2/systemsharedmemory/region/{region}/register",
        "POST /v2/systemsharedmemory[/region/{region}]/unregister",
        "POST /v2/cudasharedmemory/region/{region}/register",
        "POST /v2/cudasharedmemory[/region/{region}]/unregister",
        "POST /serving/models/{model}/load",
        "POST /serving/models/{model}/unload",
        "POST /serving/models/{model}/promote",
        "POST /serving/models/{model}/rollback",
        "POST /serving/models/{model}/labels",
        "POST /serving/models/{model}/traffic",
    ),
}
_ABOUT_NONE = ("GET /v2[/]",)
_TFS_ACTIONS = {
    "predict": Scope.INFER,
    "classify": Scope.INFER,
    "regress": Scope.INFER,
    "metadata": Scope.INFER,
    "status": Scope.OBSERVE,
}


def _pattern(template: str) -> re.Pattern[str]:
    text = re.escape(template).replace(r"\[", "(?:").replace(r"\]", ")?")
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", text))


def _by_method() -> dict[str, list[tuple[re.Pattern[str], Need]]]:
    """Paths without parameters first, as `/v2/models/stats` is no model's."""
    lines = [(line, OPEN) for line in _OPEN]
    for scope, templates in _HTTP.items():
        lines += [(line, Need(scope, () if line in _ABOUT_NONE else ("",))) for line in templates]
    found: dict[str, list[tuple[re.Pattern[str], Need]]] = {}
    for line, need in sorted(lines, key=lambda entry: "{model}" in entry[0]):
        method, _, template = line.partition(" ")
        found.setdefault(method, []).append((_pattern(template), need))
    return found


_PATHS = _by_method()


def of_http(method: str, path: str, raw_path: str, metrics_path: str = "/metrics") -> Need:
    """
    Args:
        path: decoded, without the query.
        raw_path: the same as it came.
        metrics_path: where metrics are besides at `/metrics`.
    """
    if path == metrics_path:
        return Need(Scope.OBSERVE, ("",), listed=method == "GET")
    if _TFS.match(path):
        return _of_tfs(method, raw_path)
    for pattern, need in _PATHS.get(method, ()):
        match = pattern.fullmatch(path)
        if match is not None:
            model = match.groupdict().get("model")
            return need if model is None else Need(need.scope, (model,))
    return UNKNOWN


def _of_tfs(method: str, raw_path: str) -> Need:
    if method == "OPTIONS":  # what a browser asks before the request; it has no key then, and learns nothing
        return OPEN
    try:
        asked = tfs.route(method, raw_path)
    except ServingError:
        return UNKNOWN
    return Need(_TFS_ACTIONS[asked.action], (asked.target.model,))


@dataclass(frozen=True, slots=True)
class Rpc:
    """
    Attributes:
        scope: None: no key is needed.
        message: the class of its requests, where these say which models or which scope.
        models: of such a request.
        changes: whether such a request changes something: then it needs MANAGE, and not `scope`.
        streams: a call brings many requests, each of which counts.
    """

    scope: Scope | None
    message: Any = None
    models: Callable[[Any], Iterable[str]] = tuple
    changes: Callable[[Any], bool] | None = None
    streams: bool = False

    def need(self, data: bytes) -> Need:
        """Of one request. Raises: ServingError: INVALID: it is no such message."""
        request = read(self.message, data)
        changes = self.changes is not None and self.changes(request)
        return Need(Scope.MANAGE if changes else self.scope, tuple(self.models(request)))


def _service(service: Any, methods: Mapping[str, Rpc]) -> dict[str, Rpc]:
    return {f"/{service.full_name}/{name}": rpc for name, rpc in methods.items()}


def _all(_request: Any) -> Iterable[str]:
    return ("",)


def _name(request: Any) -> Iterable[str]:
    return (request.name,)


def _model_name(request: Any) -> Iterable[str]:
    return (request.model_name,)


def _spec(request: Any) -> Iterable[str]:
    return (request.model_spec.name,)


def _has_settings(request: Any) -> bool:
    return bool(request.settings)


def _oip() -> dict[str, Rpc]:
    o = m.oip
    return {
        "ServerLive": Rpc(None),
        "ServerReady": Rpc(None),
        "ServerMetadata": Rpc(Scope.INFER),
        "ModelReady": Rpc(Scope.INFER, o.ModelReadyRequest, _name),
        "ModelMetadata": Rpc(Scope.INFER, o.ModelMetadataRequest, _name),
        "ModelConfig": Rpc(Scope.INFER, o.ModelConfigRequest, _name),
        "ModelInfer": Rpc(Scope.INFER, o.ModelInferRequest, _model_name),
        "ModelStreamInfer": Rpc(Scope.INFER, o.ModelInferRequest, _model_name, streams=True),
        "ModelStatistics": Rpc(Scope.OBSERVE, o.ModelStatisticsRequest, _name),
        "RepositoryIndex": Rpc(Scope.OBSERVE, o.RepositoryIndexRequest, _all),
        "RepositoryModelLoad": Rpc(Scope.MANAGE, o.RepositoryModelLoadRequest, _model_name),
        "RepositoryModelUnload": Rpc(Scope.MANAGE, o.RepositoryModelUnloadRequest, _model_name),
        "SystemSharedMemoryStatus": Rpc(Scope.OBSERVE, o.SystemSharedMemoryStatusRequest, _all),
        "SystemSharedMemoryRegister": Rpc(Scope.MANAGE, o.SystemSharedMemoryRegisterRequest, _all),
        "SystemSharedMemoryUnregister": Rpc(Scope.MANAGE, o.SystemSharedMemoryUnregisterRequest, _all),
        "CudaSharedMemoryStatus": Rpc(Scope.OBSERVE, o.CudaSharedMemoryStatusRequest, _all),
        "CudaSharedMemoryRegister": Rpc(Scope.MANAGE, o.CudaSharedMemoryRegisterRequest, _all),
        "CudaSharedMemoryUnregister": Rpc(Scope.MANAGE, o.CudaSharedMemoryUnregisterRequest, _all),
        "TraceSetting": Rpc(Scope.OBSERVE, o.TraceSettingRequest, _model_name, _has_settings),
        "LogSettings": Rpc(Scope.OBSERVE, o.LogSettingsRequest, _all, _has_settings),
    }


def _prediction() -> dict[str, Rpc]:
    t = m.tfs

    def of_tasks(request: Any) -> Iterable[str]:
        return (task.model_spec.name for task in request.tasks)

    return {
        "Predict": Rpc(Scope.INFER, t.PredictRequest, _spec),
        "Classify": Rpc(Scope.INFER, t.ClassificationRequest, _spec),
        "Regress": Rpc(Scope.INFER, t.RegressionRequest, _spec),
        "MultiInference": Rpc(Scope.INFER, t.MultiInferenceRequest, of_tasks),
        "GetModelMetadata": Rpc(Scope.INFER, t.GetModelMetadataRequest, _spec),
    }


_MODEL_SERVICE = {
    "GetModelStatus": Rpc(Scope.OBSERVE, m.tfs.GetModelStatusRequest, _spec),
    "HandleReloadConfigRequest": Rpc(Scope.MANAGE, m.tfs.ReloadConfigRequest, _all),
}
_REFLECTION = {"ServerReflectionInfo": Rpc(Scope.INFER)}

GRPC: Mapping[str, Rpc] = {
    **_service(m.oip.GRPCInferenceService, _oip()),
    **_service(m.tfs.PredictionService, _prediction()),
    **_service(m.tfs.ModelService, _MODEL_SERVICE),
    **_service(m.health.Health, {"Check": Rpc(None), "List": Rpc(None), "Watch": Rpc(None)}),
    **_service(m.reflection.ServerReflection, _REFLECTION),
    **_service(m.reflection_v1alpha.ServerReflection, _REFLECTION),
}
UNKNOWN_RPC = Rpc(Scope.MANAGE)
