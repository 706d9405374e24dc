"""Which paths mean what."""

import pytest

from serving.protocols.tfs.routes import Route, route
from serving.protocols.tfs.servables import Target
from tests.protocols.build import refused


@pytest.mark.parametrize(
    ("method", "path", "action", "target"),
    [
        ("POST", "/v1/models/m:predict", "predict", Target("m")),
        ("POST", "/v1/models/m/versions/7:classify", "classify", Target("m", 7)),
        ("POST", "/v1/models/m/versions/007:regress", "regress", Target("m", 7)),
        ("POST", "/v1/models/m/versions/0:regress", "regress", Target("m", 0)),
        ("POST", "/V1/Models/M/LABELS/Stable:PREDICT", "predict", Target("M", label="Stable")),
        ("POST", "/v1/models/a%20b%2Fc/labels/gr%C3%BCn%3A1:predict", "predict", Target("a b/c", label="grün:1")),
        ("POST", "/v1/models/a+b:predict", "predict", Target("a+b")),
        ("GET", "/v1/models/m", "status", Target("m")),
        ("GET", "/v1/models/m/versions/9223372036854775807", "status", Target("m", 2**63 - 1)),
        ("GET", "/v1/models/m/versions/" + "0" * 5000 + "1", "status", Target("m", 1)),
        ("GET", "/v1/models/m/labels/x", "status", Target("m", label="x")),
        ("GET", "/v1/models/m/metadata", "metadata", Target("m")),
        ("GET", "/v1/models/m/versions/1/METADATA", "metadata", Target("m", 1)),
        ("GET", "/v1/models/metadata", "status", Target("metadata")),
    ],
)
def test_paths(method: str, path: str, action: str, target: Target) -> None:
    assert route(method, path) == Route(action, target)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/models/foo/metadata"),
        ("POST", "/v1/models/foo"),
        ("POST", "/v1/models/foo:explain"),
        ("POST", "/v1/models/foo:predict/"),
        ("POST", "/v1/models/foo/versions/x:predict"),
        ("POST", "/v1/models/foo/versions/-1:predict"),
        ("POST", "/v1/models/foo/versions/\N{ARABIC-INDIC DIGIT ONE}:predict"),
        ("POST", "/v1/models/:predict"),
        ("GET", "/v1/models/foo:predict"),
        ("GET", "/v1/"),
        ("GET", "/v1/models/"),
        ("GET", "/v1/models/a/b"),
        ("GET", "/v1/models/versions/"),
        ("PUT", "/v1/models/foo"),
        ("HEAD", "/v1/models/foo"),
        ("OPTIONS", "/v1/models/foo:predict"),
    ],
)
def test_what_is_no_request(method: str, path: str) -> None:
    assert refused(lambda: route(method, path)) == f"Malformed request: {method} {path}"


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/versions/1", "/v1/models/labels/a/metadata"])
def test_no_model(path: str) -> None:
    assert refused(lambda: route("GET", path)) == "Missing model name in request."


@pytest.mark.parametrize("digits", ["9223372036854775808", "9" * 19, "1" + "0" * 19, "9" * 10_000])
def test_a_version_that_no_number_can_hold(digits: str) -> None:
    text = refused(lambda: route("GET", f"/v1/models/m/versions/{digits}"))
    assert text == f"Failed to convert version: {digits} to numeric."


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/v1/models/%ff:predict", "Failed to decode model name: %ff"),
        ("/v1/models/m/labels/%ff:predict", "Failed to decode model version label: %ff"),
    ],
)
def test_names_that_are_no_text(path: str, text: str) -> None:
    assert refused(lambda: route("POST", path)) == text
