"""What `/metrics` says after traffic that is known, and that it says the same of REST and gRPC."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests import models
from tests.e2e.clients import Asker, RefusedError
from tests.e2e.conftest import Serve
from tests.e2e.server import Samples, Server, wait_for
from tests.e2e.traffic import in_threads, join

OK, BAD, UNKNOWN_VERSION, FAILING, UNKNOWN_MODEL = 7, 3, 2, 4, 5
PROTOCOLS = {"binary": "oip_rest", "grpc": "oip_grpc"}
X = np.ones((2, 4), np.float32)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that has answered the same requests over REST and over gRPC."""
    root = tmp_path_factory.mktemp("metrics")
    repo = root / "repo"
    for version in (1, 2):
        models.save(models.scale(version), repo / f"m/{version}/model.onnx")
    (repo / "m/model.yaml").write_text("versions: all\n")
    models.save(models.lookup(), repo / "lookup/1/model.onnx")
    (repo / "broken/1").mkdir(parents=True)
    (repo / "broken/1/model.onnx").write_bytes(b"garbage")
    running = Server(root / "logs", repo).wait_ready()
    for form in PROTOCOLS:
        send(Asker(running, form))
    yield running
    running.end()
    assert "Traceback" not in running.log


def send(asker: Asker) -> None:
    for _ in range(OK):
        asker.infer("m", {"x": X})
    asker.infer("m", {"x": X}, version="1")
    refused = [
        *[("m", {"x": X[:, :3]}, "")] * BAD,
        *[("m", {"x": X}, "9")] * UNKNOWN_VERSION,
        *[("lookup", {"x": np.array([[99]])}, "")] * FAILING,
        *[(f"nosuch{i}", {"x": X}, "") for i in range(UNKNOWN_MODEL)],
    ]
    for model, tensors, version in refused:
        with pytest.raises(RefusedError):
            asker.infer(model, tensors, version=version)
    asker.close()


@pytest.fixture
def samples(server: Server) -> Samples:
    return server.metrics()


@pytest.mark.parametrize("protocol", PROTOCOLS.values())
def test_requests_by_model_version_and_outcome(samples: Samples, protocol: str) -> None:
    found = {}
    for labels, count in samples.find("serving_requests_total", protocol=protocol).items():
        by = dict(labels)
        assert by.keys() == {"model", "version", "protocol", "outcome"}
        found[by["model"], by["version"], by["outcome"]] = count
    assert found == {
        ("m", "2", "ok"): OK,
        ("m", "1", "ok"): 1,
        ("m", "2", "invalid"): BAD,
        ("m", "", "not_found"): UNKNOWN_VERSION,
        ("lookup", "1", "model"): FAILING,
        ("", "", "not_found"): UNKNOWN_MODEL,
    }


@pytest.mark.parametrize("protocol", PROTOCOLS.values())
@pytest.mark.parametrize("phase", ["decode", "queue", "compute", "encode"])
def test_phases_of_answered_requests(samples: Samples, protocol: str, phase: str) -> None:
    labels = {"model": "m", "version": "2", "protocol": protocol, "phase": phase}
    name = "serving_request_phase_seconds"
    assert samples.sum(f"{name}_count", **labels) == OK
    assert 0 < samples.sum(f"{name}_sum", **labels) < 60 * OK
    assert samples.sum(f"{name}_bucket", **labels, le="+Inf") == OK


def test_buckets_suit_100_us_to_10_s(samples: Samples) -> None:
    bounds = {dict(labels)["le"] for labels in samples.find("serving_request_phase_seconds_bucket")}
    assert {"0.0001", "0.001", "0.01", "0.1", "1.0", "10.0", "+Inf"} <= bounds


def test_rows_per_batch(samples: Samples) -> None:
    """These requests came one after the other, so each was a batch."""
    requests = len(PROTOCOLS) * OK
    assert samples.sum("serving_batch_rows_count", model="m", version="2") == requests
    assert samples.sum("serving_batch_rows_sum", model="m", version="2") == requests * len(X)
    assert samples.sum("serving_batch_rows_bucket", model="m", version="2", le="1.0") == 0
    assert samples.sum("serving_batch_rows_bucket", model="m", version="2", le="2.0") == requests


def test_gauges_return_to_zero(samples: Samples) -> None:
    for name in ("serving_queue_rows", "serving_in_flight_requests"):
        found = samples.find(name)
        assert found and set(found.values()) == {0}


def test_each_version_is_in_one_state(samples: Samples) -> None:
    states = samples.find("serving_model_state")
    on = {(dict(key)["model"], dict(key)["version"], dict(key)["state"]) for key, value in states.items() if value}
    assert on == {("m", "1", "READY"), ("m", "2", "READY"), ("lookup", "1", "READY"), ("broken", "1", "FAILED")}
    assert set(states.values()) == {0, 1}
    assert len(states) == 4 * 8, "all states of each version"


def test_loads(samples: Samples) -> None:
    name = "serving_model_load_seconds"
    assert samples.sum(f"{name}_count", model="m", outcome="ok") == 2
    assert samples.sum(f"{name}_count", model="lookup", outcome="ok") == 1
    assert samples.sum(f"{name}_count", model="broken", outcome="failed") == 1
    assert samples.sum(f"{name}_sum", model="m", outcome="ok") > 0


def test_server_is_not_ready_because_a_wanted_model_is_broken(samples: Samples) -> None:
    assert list(samples.find("serving_ready").values()) == [0]


def test_metrics_of_the_process(samples: Samples) -> None:
    assert samples.sum("process_cpu_seconds_total") > 0
    assert samples.sum("process_resident_memory_bytes") > 1e6
    assert samples.sum("process_open_fds") > 0


def test_clients_make_no_label_values(samples: Samples) -> None:
    values = {value for sample in samples.samples for value in sample.labels.values()}
    assert not [value for value in values if "nosuch" in value]
    assert "9" not in {sample.labels.get("version") for sample in samples.samples}


def test_names_and_form(server: Server, samples: Samples) -> None:
    names = {sample.name for sample in samples.samples}
    assert all(name.startswith(("serving_", "process_", "python_")) for name in names)
    assert not [name for name in names if name.endswith("_created")]
    answer = server.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    for family in samples.families:
        if family.name.startswith("serving_"):
            assert family.documentation
            assert re.search(rf"^# TYPE {family.name}(_total)? {family.type}$", answer.text, re.MULTILINE)


def test_gauges_show_what_waits(serve: Serve, tmp_path: Path) -> None:
    """Three requests of two rows wait for a batch of eight; the fourth makes it run."""
    models.save(models.scale(1), tmp_path / "repo/m/1/model.onnx")
    (tmp_path / "repo/m/model.yaml").write_text("max_batch_size: 8\nmax_queue_delay_ms: 60000\n")
    server = serve(tmp_path / "repo")

    def ask(number: int) -> None:
        Asker(server, "grpc" if number % 2 else "binary").infer("m", {"x": X})

    threads = in_threads(ask, 3)
    wait_for(lambda: server.metrics().sum("serving_queue_rows", model="m") == 6, "six rows to wait")
    assert server.metrics().sum("serving_in_flight_requests", model="m") == 3
    ask(3)
    join(threads)
    samples = server.metrics()
    assert samples.sum("serving_queue_rows") == samples.sum("serving_in_flight_requests") == 0
    assert samples.find("serving_batch_rows_sum") == {(("model", "m"), ("version", "1")): 8}
    assert samples.sum("serving_batch_rows_count") == 1


def test_states_follow_a_version_to_its_end(serve: Serve, tmp_path: Path) -> None:
    models.save(models.scale(1), tmp_path / "repo/m/1/model.onnx")
    server = serve(tmp_path / "repo")
    assert server.metrics().sum("serving_ready") == 1
    Asker(server, "grpc").infer("m", {"x": X})
    server.post("/v2/repository/models/m/unload")
    wait_for(lambda: not server.metrics().find("serving_model_state"), "the version to end")
    samples = server.metrics()
    assert samples.find("serving_queue_rows") == samples.find("serving_in_flight_requests") == {}
    assert samples.sum("serving_requests_total", model="m", outcome="ok") == 1, "counters stay for later scrapes"
    server.post("/v2/repository/models/m/load")
    samples = server.metrics()
    assert samples.sum("serving_model_state", model="m", state="READY") == 1
    assert samples.sum("serving_model_load_seconds_count", model="m") == 2
