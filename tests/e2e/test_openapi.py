"""The OpenAPI document holds: a live server is asked whatever the document allows and forbids, and answers as written.

Never 500, as no model here fails on input that it takes; 501, 503 and 504 only where the document has them; every
answer in the content type and of the schema that the document gives.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from serving.transport import routes
from tests import triton_models
from tests.e2e.server import LIMIT_S, Server

MODELS = ("simple", "simple_identity", "identity_fp32", "writer", "onnx_int32_int32_int32")
EXAMPLES = 15  # of each kind for each operation
_none: Any = None  # the routes are only listed, never asked
ROUTES = [r for r in (*routes.oip(_none), *routes.tfs(_none), *routes.manage(_none)) if r.documented]
OPERATIONS = [(r.method, r.path) for r in ROUTES]
OPERATIONS += [("GET", "/metrics")]
# What the document forbids: a body or a query of another form, and a version that is no number. Any name is allowed.
FORBIDDING = [(r.method, r.path) for r in ROUTES if r.body or r.query or "{version}" in r.path]
ASKED = [(*one, GenerationMode.POSITIVE) for one in OPERATIONS]
ASKED += [(*one, GenerationMode.NEGATIVE) for one in FORBIDDING if one in OPERATIONS]
CONFORMANCE = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of its own, since what is asked of it unloads models and changes settings."""
    root = tmp_path_factory.mktemp("openapi")
    repo = triton_models.write(root / "repo", *MODELS)
    running = Server(
        root / "logs", repo, "--allow-client-shm", "--allow-model-upload", "--trace-file", root / "trace.json"
    ).wait_ready()
    yield running
    assert running.process.poll() is None
    running.end()
    assert "Traceback" not in running.log


@pytest.fixture(scope="module")
def schema(server: Server) -> Any:
    return schemathesis.openapi.from_url(server.url + "/openapi.json")


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as made:
        yield made


def test_document_names_every_route(schema: Any) -> None:
    documented = [(found.ok().method.upper(), found.ok().path) for found in schema.get_all_operations()]
    assert sorted(documented) == sorted(OPERATIONS)


@pytest.fixture
def as_before(server: Server) -> Iterator[None]:
    """Models that the test has unloaded are back, and settings that it has changed are as they were."""
    before = {path: server.get(path).json() for path in ("/v2/logging", "/v2/trace/setting")}
    yield
    for name in MODELS:
        answer = server.post(f"/v2/repository/models/{name}/load")
        assert answer.status_code == 200, answer.text
        assert server.post(f"/serving/models/{name}/traffic", content=b"null").status_code == 200
    for path, value in before.items():
        settable = {k: v for k, v in value.items() if k not in ("log_file", "trace_file", "trace_mode")}
        assert server.post(path, json=settable).json() == value


@pytest.mark.usefixtures("as_before")
@pytest.mark.parametrize(("method", "path", "mode"), ASKED, ids=[f"{m.value} {verb} {p}" for verb, p, m in ASKED])
def test_operation(schema: Any, session: requests.Session, method: str, path: str, mode: GenerationMode) -> None:
    """Asked with values that the document allows (`positive`) or forbids (`negative`), for models that are there more
    often than for others."""
    fixed: list[dict[str, str] | None] = [None]
    if "{model}" in path:
        fixed += [{"model": "simple"}, {"model": "writer"}]
        fixed += [{"model": "identity_fp32", "version": "1"}] if "{version}" in path else []
    cases = [schema[path][method].as_strategy(mode, path_parameters=parameters) for parameters in fixed]

    @settings(
        max_examples=EXAMPLES,
        phases=[Phase.generate],
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=st.sampled_from(cases).flatmap(lambda one: one))
    def ask(case: Any) -> None:
        wait_s = (case.query or {}).get("wait_s")
        if isinstance(wait_s, int | float) and 0 < wait_s <= 30:
            case.query["wait_s"] = 0.01  # as good as any other, and the test does not have to wait as long
        response = case.call(session=session, timeout=LIMIT_S)
        checks = [*CONFORMANCE]
        if response.status_code not in (501, 503, 504):  # which are documented, or the first of the checks fails
            checks.append(not_a_server_error)
        case.validate_response(response, checks=checks)
        assert response.status_code < 400 or response.headers["content-type"] == ["application/json"]

    ask()


def test_examples_of_the_document_work(server: Server) -> None:
    """Every example that a page shows is answered, for every model."""
    document = server.get("/openapi.json").json()
    asked = set()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            media = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            for name, example in media.get("examples", {}).items():
                url = path.replace("{model}", name).replace("{version}", _latest(name)).replace("{label}", "none")
                if "{label}" in path:
                    continue  # no model here has labels
                answer = server.ask(method.upper(), url, json=example["value"])
                assert answer.status_code == 200, (url, answer.text)
                asked.add(name)
    assert asked == set(MODELS)


def _latest(name: str) -> str:
    return str(max(triton_models.EXAMPLES[name].versions))


@pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=[f"{method} {path}" for method, path in OPERATIONS])
def test_verbs_that_are_not_documented(server: Server, method: str, path: str) -> None:
    """Refused, as JSON."""
    documented = {verb for verb, other in OPERATIONS if other == path}
    url = path.format_map({"model": "simple", "version": "1", "label": "x", "region": "x"})
    for verb in {"GET", "POST", "PUT", "DELETE", "PATCH"} - documented:
        answer = server.ask(verb, url)
        # TensorFlow Serving knows no other answer to a method that it does not have.
        assert answer.status_code == (400 if path.startswith("/v1/") else 405), (verb, url)
        assert answer.json()["error"]
