"""Requests that share a run, and what must never be shared: rows, mistakes, and waiting for ever."""

import http.client
import json
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
from tritonclient.grpc import service_pb2

from serving.protocols.messages import oip
from tests import models
from tests.e2e.clients import Asker, RefusedError
from tests.e2e.conftest import Serve
from tests.e2e.server import LIMIT_S, Server, command, wait_for

MINUTE = "max_queue_delay_ms: 60000\n"  # batches wait for company as long as a test may want


@pytest.fixture
def one(serve: Serve, tmp_path: Path) -> Callable[..., Server]:
    """Serves one model as `m`, with the settings given."""

    def start(model: Any, settings: str) -> Server:
        models.save(model, tmp_path / "repo/m/1/model.onnx")
        (tmp_path / "repo/m/model.yaml").write_text(settings)
        return serve(tmp_path / "repo")

    return start


def row(number: int) -> np.ndarray:
    return np.full((1, 4), number, np.float32)


def ask(server: Server, number: int, **more: Any) -> np.ndarray:
    """One row, over REST or gRPC by turns; gives its answer."""
    asker = Asker(server, "grpc" if number % 2 else "binary")
    try:
        return asker.infer("m", {"x": row(number)}, **more).outputs["y"]
    finally:
        asker.close()


def ask_all(server: Server, pool: ThreadPoolExecutor, numbers: range) -> "dict[int, Future[np.ndarray]]":
    return {n: pool.submit(ask, server, n) for n in numbers}


def assert_own_rows(answers: "dict[int, Future[np.ndarray]]", factor: float) -> None:
    for number, answer in answers.items():
        np.testing.assert_array_equal(answer.result(LIMIT_S), row(number) * factor)


def queued(server: Server) -> float:
    return server.metrics().sum("serving_queue_rows", model="m")


def test_concurrent_requests_share_runs(one: Callable[..., Server]) -> None:
    """Without any delay: what comes while the instance is busy runs together when it is free."""
    server = one(models.slow(1000, factor=3), "max_batch_size: 64\n")
    with ThreadPoolExecutor(32) as pool:
        assert_own_rows(ask_all(server, pool, range(32)), factor=3)
    samples = server.metrics()
    rows = samples.sum("serving_batch_rows_sum", model="m")
    batches = samples.sum("serving_batch_rows_count", model="m")
    assert rows == 32
    assert rows / batches > 1


def test_batch_runs_when_it_is_full(one: Callable[..., Server]) -> None:
    server = one(models.scale(3), f"max_batch_size: 32\n{MINUTE}")
    with ThreadPoolExecutor(32) as pool:
        assert_own_rows(ask_all(server, pool, range(32)), factor=3)
    samples = server.metrics()
    assert samples.sum("serving_batch_rows_count", model="m") == 1
    assert samples.sum("serving_batch_rows_sum", model="m") == 32


def test_delay_ends(one: Callable[..., Server]) -> None:
    server = one(models.scale(3), "max_batch_size: 32\nmax_queue_delay_ms: 50\n")
    np.testing.assert_array_equal(ask(server, 5), row(5) * 3)


def test_requests_of_several_rows_are_not_torn(one: Callable[..., Server]) -> None:
    server = one(models.scale(3), f"max_batch_size: 8\n{MINUTE}")

    def several(rows: int) -> np.ndarray:
        x = np.arange(rows * 4, dtype=np.float32).reshape(rows, 4) + 100 * rows
        asker = Asker(server, "grpc" if rows % 2 else "binary")
        y = asker.infer("m", {"x": x}).outputs["y"]
        asker.close()
        np.testing.assert_array_equal(y, x * 3)
        return y

    with ThreadPoolExecutor(3) as pool:
        for answer in [pool.submit(several, rows) for rows in (1, 3, 4)]:
            answer.result(LIMIT_S)
    assert server.metrics().sum("serving_batch_rows_count", model="m") == 1


def test_requests_of_other_shapes_and_outputs_run_apart(one: Callable[..., Server]) -> None:
    server = one(models.identity("FP32", ("batch", "n")), f"max_batch_size: 2\n{MINUTE}")

    def of_width(width: int) -> tuple[int, ...]:
        asker = Asker(server, "binary")
        shape = asker.infer("m", {"x": np.zeros((1, width), np.float32)}).outputs["y"].shape
        asker.close()
        return shape

    with ThreadPoolExecutor(6) as pool:
        widths = [1, 2, 3, 1, 2, 3]
        answers = [pool.submit(of_width, width) for width in widths]
        assert [answer.result(LIMIT_S) for answer in answers] == [(1, width) for width in widths]
    assert server.metrics().sum("serving_batch_rows_count", model="m") == 3


def test_one_bad_request_fails_alone(one: Callable[..., Server]) -> None:
    """A value that makes the model fail, in a batch with values that do not."""
    server = one(models.lookup(), f"max_batch_size: 4\n{MINUTE}")

    def look_up(index: int) -> float:
        asker = Asker(server, "grpc" if index % 2 else "binary")
        try:
            return float(asker.infer("m", {"x": np.array([[index]])}).outputs["y"][0, 0])
        finally:
            asker.close()

    with ThreadPoolExecutor(4) as pool:
        answers = {index: pool.submit(look_up, index) for index in (0, 1, 3, 99)}
        with pytest.raises(RefusedError, match="Failed to process the request") as caught:
            answers[99].result(LIMIT_S)
        assert caught.value.status == "INTERNAL"
        assert [answers[i].result(LIMIT_S) for i in (0, 1, 3)] == [1.0, 0.5, 0.25]


def test_model_that_mixes_rows_is_not_batched_and_says_so(one: Callable[..., Server], tmp_path: Path) -> None:
    server = one(models.centred(), "")
    why = "rows run one by one give other answers than together"
    with ThreadPoolExecutor(16) as pool:
        assert_own_rows(ask_all(server, pool, range(16)), factor=0)
    samples = server.metrics()
    assert samples.sum("serving_batch_rows_count", model="m") == samples.sum("serving_batch_rows_sum", model="m") == 16
    # Rows of one request are its own affair.
    x = np.array([[1, 1, 1, 1], [3, 3, 3, 3]], np.float32)
    np.testing.assert_array_equal(Asker(server, "binary").infer("m", {"x": x}).outputs["y"], x - 2)
    assert properties(server)["max_batch_size"] == "0"
    assert why in properties(server)["unbatched_because"]
    assert why in server.log
    checked = command("check", tmp_path / "repo")
    assert checked.returncode == 0
    assert f"batching one request at a time ({why}" in checked.stdout
    assert f"m version 1, one request at a time ({why}" in server.printed


def properties(server: Server) -> dict[str, str]:
    """Of the metadata over gRPC; the official client does not know the field, so the answer is read with ours."""
    with tritonclient.grpc.InferenceServerClient(server.grpc) as client:
        call = client._channel.unary_unary(
            "/inference.GRPCInferenceService/ModelMetadata",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=oip.ModelMetadataResponse.FromString,
        )
        return dict(call(oip.ModelMetadataRequest(name="m")).properties)


@pytest.mark.parametrize(
    ("model", "settings", "because"),
    [
        (models.scale(1), "max_batch_size: 0\n", "max_batch_size is 0"),
        (models.identity("FP32", (2, 3)), "", "axis 0 of input 'x' is fixed to 2"),
        (models.identity("FP32", ()), "", "input 'x' is a scalar"),
    ],
    ids=["by setting", "fixed", "scalar"],
)
def test_model_without_batch_axis_says_so(one: Callable[..., Server], model: Any, settings: str, because: str) -> None:
    server = one(model, settings)
    told = properties(server)
    assert told.pop("parallel").startswith("1 x 1 ")
    assert told == {"max_batch_size": "0", "unbatched_because": because}


def test_batched_model_says_how_far(one: Callable[..., Server]) -> None:
    told = properties(one(models.scale(1), "max_batch_size: 5\n"))
    assert told.pop("parallel").startswith("1 x 1 ")
    assert told == {"max_batch_size": "5"}


def rest_body(number: int) -> bytes:
    entry = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [number] * 4}
    return json.dumps({"inputs": [entry]}).encode()


def test_clients_that_go_away_do_not_disturb_others(one: Callable[..., Server]) -> None:
    """Seven wait for a batch of eight, four of them leave, five more come: eight answers, each its own."""
    server = one(models.scale(3), f"max_batch_size: 8\n{MINUTE}")
    with ThreadPoolExecutor(8) as pool:
        staying = ask_all(server, pool, range(3))
        connections = [http.client.HTTPConnection("127.0.0.1", server.http_port) for _ in range(2)]
        for connection in connections:
            connection.request("POST", "/v2/models/m/infer", rest_body(100))
        request = service_pb2.ModelInferRequest(model_name="m")
        request.inputs.add(name="x", datatype="FP32", shape=(1, 4))
        request.raw_input_contents.append(row(200).tobytes())
        client = tritonclient.grpc.InferenceServerClient(server.grpc)
        calls = [client._client_stub.ModelInfer.future(request) for _ in range(2)]
        wait_for(lambda: queued(server) == 7, "seven rows to wait")
        for connection in connections:
            connection.close()
        for call in calls:
            call.cancel()
        wait_for(lambda: queued(server) == 3, "the rows of those who left to go")
        staying |= ask_all(server, pool, range(10, 15))
        assert_own_rows(staying, factor=3)
        client.close()
    samples = server.metrics()
    assert samples.sum("serving_batch_rows_sum", model="m") == 8
    assert samples.sum("serving_batch_rows_count", model="m") == 1
    for protocol in ("oip_rest", "oip_grpc"):
        assert samples.sum("serving_requests_total", protocol=protocol, outcome="cancelled") == 2
    assert samples.sum("serving_in_flight_requests") == 0


def test_clients_that_go_away_while_their_batch_runs(one: Callable[..., Server]) -> None:
    """They share a run with one who stays, and leave in the middle of it."""
    server = one(models.spin(), f"max_batch_size: 3\n{MINUTE}")
    long = np.array([[40_000]])  # some seconds

    def stay() -> np.ndarray:
        return Asker(server, "binary").infer("m", {"x": long}).outputs["y"]

    with ThreadPoolExecutor(1) as pool:
        staying = pool.submit(stay)
        connection = http.client.HTTPConnection("127.0.0.1", server.http_port)
        entry = {"name": "x", "datatype": "INT64", "shape": [1, 1], "data": [1]}
        connection.request("POST", "/v2/models/m/infer", json.dumps({"inputs": [entry]}))
        wait_for(lambda: queued(server) == 2, "two rows to wait")
        request = service_pb2.ModelInferRequest(model_name="m")
        request.inputs.add(name="x", datatype="INT64", shape=(1, 1)).contents.int64_contents.append(2)
        client = tritonclient.grpc.InferenceServerClient(server.grpc)
        call = client._client_stub.ModelInfer.future(request)
        wait_for(
            lambda: server.metrics().sum("serving_in_flight_requests") == 3 and queued(server) == 0,
            "the batch to run",
        )
        connection.close()
        call.cancel()
        np.testing.assert_array_equal(staying.result(LIMIT_S), long)
        client.close()
    samples = server.metrics()
    assert samples.sum("serving_requests_total", outcome="ok") == 1
    assert samples.sum("serving_requests_total", outcome="cancelled") == 2
    assert samples.sum("serving_in_flight_requests") == 0


def test_full_queue_refuses_at_once(one: Callable[..., Server]) -> None:
    """The one instance never comes back, so an answer to the sixth request can only be a refusal."""
    server = one(models.spin(), "max_batch_size: 1\nmax_queue_rows: 4\n")
    connections = [http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=LIMIT_S) for _ in range(5)]
    for count, connection in enumerate(connections):
        value = 1 if count else models.FOREVER
        entry = {"name": "x", "datatype": "INT64", "shape": [1, 1], "data": [value]}
        connection.request("POST", "/v2/models/m/infer", json.dumps({"inputs": [entry]}))
        wait_for(lambda count=count: queued(server) == count, "the request to wait")  # type: ignore[misc]
        wait_for(lambda: server.metrics().sum("serving_in_flight_requests") > 0, "the first to run")
    for form, status in (("json", 503), ("binary", 503), ("grpc", "UNAVAILABLE")):
        asker = Asker(server, form)
        with pytest.raises(RefusedError, match="Exceeds maximum queue size") as caught:
            asker.infer("m", {"x": np.array([[1]])}, request_id="r")
        assert caught.value.status == status
        assert caught.value.text.startswith("[request id: r] ")
        asker.close()
    assert server.get("/v2/health/ready").status_code == 200
    samples = server.metrics()
    assert samples.sum("serving_requests_total", protocol="oip_rest", outcome="queue_full") == 2
    assert samples.sum("serving_requests_total", protocol="oip_grpc", outcome="queue_full") == 1
    for connection in connections:
        connection.close()
    wait_for(lambda: queued(server) == 0, "the rows of those who left to go")


@pytest.mark.parametrize("form", ["json", "binary", "grpc"])
def test_request_that_waits_longer_than_it_allows(one: Callable[..., Server], form: str) -> None:
    """Nothing ever takes it from the queue; it is answered when its time is up."""
    server = one(models.scale(1), f"max_batch_size: 8\n{MINUTE}")
    asker = Asker(server, form)
    with pytest.raises(RefusedError, match="Request timeout expired") as caught:
        asker.infer("m", {"x": row(1)}, timeout=200_000)
    assert caught.value.status == ("UNAVAILABLE" if form == "grpc" else 503)
    asker.close()
    samples = server.metrics()
    assert samples.sum("serving_requests_total", outcome="expired") == 1
    assert samples.sum("serving_queue_rows") == samples.sum("serving_in_flight_requests") == 0


def test_deadline_of_a_grpc_call(one: Callable[..., Server]) -> None:
    server = one(models.scale(1), f"max_batch_size: 8\n{MINUTE}")
    asker = Asker(server, "grpc")
    with pytest.raises(RefusedError):
        asker.infer("m", {"x": row(1)}, client_timeout=0.3)
    wait_for(lambda: queued(server) == 0, "the row to leave the queue")
    wait_for(lambda: server.metrics().sum("serving_in_flight_requests") == 0, "the request to end")
    asker.close()


def test_timeout_of_the_model(one: Callable[..., Server]) -> None:
    server = one(models.scale(1), f"max_batch_size: 8\n{MINUTE}queue_timeout_ms: 200\n")
    for number in (0, 1):
        with pytest.raises(RefusedError, match="Request timeout expired"):
            ask(server, number)


def test_timeout_that_makes_no_sense(one: Callable[..., Server]) -> None:
    server = one(models.scale(1), "")
    for value in (-1, 1.5, "soon", True):
        entry = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1] * 4}
        body = {"parameters": {"timeout": value}, "inputs": [entry]}
        answer = server.post("/v2/models/m/infer", json=body)
        assert answer.status_code == 400
        assert "Unable to parse 'timeout'" in answer.json()["error"]
    np.testing.assert_array_equal(ask(server, 2, timeout=60_000_000), row(2))


def test_instances_run_side_by_side(one: Callable[..., Server]) -> None:
    """One of two instances never comes back; the other goes on."""
    server = one(models.spin(), "max_batch_size: 1\ninstances: 2\n")
    entry = {"name": "x", "datatype": "INT64", "shape": [1, 1], "data": [models.FOREVER]}
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=LIMIT_S)
    connection.request("POST", "/v2/models/m/infer", json.dumps({"inputs": [entry]}))
    wait_for(
        lambda: server.metrics().sum("serving_in_flight_requests") == 1 and queued(server) == 0, "the first to run"
    )
    for form in ("binary", "grpc"):
        asker = Asker(server, form)
        assert asker.infer("m", {"x": np.array([[3]])}).outputs["y"].tolist() == [[3]]
        asker.close()
    connection.close()
