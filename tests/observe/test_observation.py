"""What settings ask for, and what a server tells without being asked."""

import sys
from pathlib import Path

import pytest

from serving import __version__
from serving.config import Settings
from serving.core.metrics import Metrics
from serving.engine import Engine
from serving.observe.observation import TFS_PATH, Observation, ObservationError, metrics_path, metrics_text
from serving.protocols import record
from tests.transport.raw import on_loop


@on_loop
async def test_nothing_is_observed_unless_asked_for() -> None:
    engine = Engine(Metrics())
    observation = Observation(Settings(), engine)
    assert not observation.watch.on and engine.observers == () and engine.metrics.dropped == {}
    observation.close()


@on_loop
async def test_an_access_log_notes_every_request(tmp_path: Path) -> None:
    engine = Engine(Metrics())
    observation = Observation(Settings(access_log=tmp_path / "access.log"), engine)
    assert engine.observers == (record.answered,) and engine.metrics.dropped["access_log"]() == 0
    noted = observation.watch.http("GET", b"/", [], None, 0)
    assert noted is not None
    observation.watch.end(noted)
    observation.close()
    assert " GET / cancelled " in (tmp_path / "access.log").read_text()


@on_loop
async def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("opentelemetry.sdk", "serving.observe.tracing"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk", None)
    monkeypatch.delattr("serving.observe.tracing", raising=False)
    with pytest.raises(ObservationError, match=r"--otlp-endpoint needs .*opentelemetry.*serving\[tracing\]"):
        Observation(Settings(otlp_endpoint="http://127.0.0.1:9"), Engine(Metrics()))


def test_limits_and_versions_are_metrics() -> None:
    settings = Settings(http_max_connections=7, memory_limit_mb=2, max_concurrent_requests=0)
    lines = metrics_text(settings, Engine(Metrics()))().decode().splitlines()
    assert "serving_limit_http_connections 7.0" in lines and "serving_limit_memory_bytes 2e+06" in lines
    assert not [line for line in lines if "serving_limit_concurrent_requests" in line]  # any number
    (build,) = [line for line in lines if line.startswith("serving_build_info{")]
    assert f'version="{__version__}"' in build and 'onnxruntime=""' not in build


@pytest.mark.parametrize(
    ("names", "path", "found"),
    [
        (("serving",), "/metrics", "/metrics"),
        (("serving", "tensorflow-serving"), "/metrics", TFS_PATH),
        (("tensorflow-serving",), "/own", "/own"),
    ],
)
def test_where_metrics_are(names: tuple[str, ...], path: str, found: str) -> None:
    assert metrics_path(Settings(metrics_names=names, metrics_path=path)) == found
