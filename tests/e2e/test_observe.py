"""A server that logs and traces each request, asked over both protocols; and what it does when nobody listens."""

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from serving.protocols.messages import oip as m
from serving.transport.access.keys import digest_of
from tests import models
from tests.e2e.conftest import Serve
from tests.e2e.server import Samples, Server, command, error_line, wait_for
from tests.observe.collector import Collector, collector

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"
ROW = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}
INFER = "/v2/models/m/infer"
MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"


def repository(root: Path) -> Path:
    models.save(models.scale(2.0), root / "repo/m/1/model.onnx")
    models.save(models.lookup(), root / "repo/lookup/1/model.onnx")
    return root / "repo"


class Watched:
    """A server, its collector and its access log."""

    def __init__(self, server: Server, traces: Collector, file: Path) -> None:
        self.server = server
        self.traces = traces
        self.file = file

    def lines(self, **having: Any) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in self.file.read_text().splitlines()]
        return [line for line in found if having.items() <= line.items()]

    def line(self, **having: Any) -> dict[str, Any]:
        """The one line with these values, which may still be on its way."""
        (line,) = wait_for(lambda: self.lines(**having), f"a line with {having}")
        return line

    def span(self, request_id: str) -> Any:
        """That of the request, as soon as it has arrived."""
        spans = self.traces.spans
        found = wait_for(
            lambda: [span for span in spans if span.about.get("serving.request.id") == request_id],
            f"the trace of {request_id}",
        )
        (span,) = found
        return span

    def call(self, request_id: str, *metadata: tuple[str, str], model: str = "m") -> tuple[Any, dict[str, Any]]:
        """A gRPC inference; its answer or error, and the trailing metadata."""
        request = m.ModelInferRequest(model_name=model)
        request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
        request.raw_input_contents.append(np.arange(4, dtype=np.float32).tobytes())
        channel: Any
        with grpc.insecure_channel(self.server.grpc) as channel:
            infer = channel.unary_unary(MODEL_INFER, response_deserializer=m.ModelInferResponse.FromString)
            try:
                answer, call = infer.with_call(
                    request.SerializeToString(), metadata=[("x-request-id", request_id), *metadata], timeout=60
                )
            except grpc.RpcError as error:
                failed: Any = error
                return failed.code(), dict(failed.trailing_metadata())
            return answer, dict(call.trailing_metadata())


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """It traces what its clients trace, and nothing else."""
    root = tmp_path_factory.mktemp("observe")
    file = root / "access.log"
    with collector() as traces:
        server = Server(
            root / "logs",
            repository(root),
            *("--access-log", file, "--log-format", "json", "--otlp-endpoint", traces.url),
            *(
                "--trace-sample-rate",
                "0",
                "--server-name",
                "edge",
                "--metrics-names",
                "serving,triton,tensorflow-serving",
            ),
        ).wait_ready()
        yield Watched(server, traces, file)
        server.end()
        assert "Traceback" not in server.log


# Ids and the access log


def test_an_id_comes_back_and_is_in_the_line(watched: Watched) -> None:
    answer = watched.server.post(INFER + "?secret=1", json=ROW, headers={"X-Request-Id": "rest-1"})
    assert answer.status_code == 200 and answer.headers["x-request-id"] == "rest-1"
    line = watched.line(request_id="rest-1")
    assert line.pop("time").endswith("Z") and line.pop("peer").startswith("127.0.0.1:")
    seconds = line.pop("seconds")
    phases = [line.pop(f"{phase}_s") for phase in ("decode", "queue", "compute", "encode")]
    assert 0 < sum(phases) <= seconds + 1e-5
    assert line == {
        "transport": "http",
        "method": "POST",
        "path": INFER,
        "status": 200,
        "received_bytes": int(answer.request.headers["content-length"]),
        "sent_bytes": len(answer.content),
        "protocol": "oip_rest",
        "model": "m",
        "version": "1",
        "outcome": "ok",
        "batch_rows": 1,
        "request_id": "rest-1",
    }


def test_the_same_over_grpc(watched: Watched) -> None:
    answer, trailing = watched.call("grpc-1")
    assert trailing["x-request-id"] == "grpc-1"
    line = watched.line(request_id="grpc-1")
    assert line["peer"].startswith("ipv4:127.0.0.1:")
    assert line["path"] == MODEL_INFER and line["transport"] == "grpc" and "method" not in line
    assert (line["protocol"], line["model"], line["version"], line["outcome"]) == ("oip_grpc", "m", "1", "ok")
    assert line["status"] == "OK" and line["sent_bytes"] == len(answer.SerializeToString())


def test_an_id_of_the_protocol_is_as_good(watched: Watched) -> None:
    answer = watched.server.post(INFER, json=ROW | {"id": "own-1"})
    assert "x-request-id" not in answer.headers and answer.json()["id"] == "own-1"
    assert watched.line(request_id="own-1")["outcome"] == "ok"


@pytest.mark.parametrize("bad", ["a" * 129, "two words", "Zürich"])
def test_what_is_no_id_is_none(watched: Watched, bad: str) -> None:
    path = f"/v2/models/nosuch-{len(bad)}"
    answer = watched.server.ask("GET", path, headers={"x-request-id": bad.encode()})
    assert "x-request-id" not in answer.headers
    assert "request_id" not in watched.line(path=path)


def test_failures_are_told_as_the_client_sees_them(watched: Watched) -> None:
    invalid = watched.server.post(INFER, content=b"{", headers={"x-request-id": "bad-json"})
    assert invalid.status_code == 400 and invalid.headers["x-request-id"] == "bad-json"
    line = watched.line(request_id="bad-json")
    assert (line["status"], line["outcome"], line["model"]) == (400, "invalid", "m") and "queue_s" not in line
    code, trailing = watched.call("nosuch", model="nosuch")
    assert code is grpc.StatusCode.NOT_FOUND and trailing["x-request-id"] == "nosuch"
    line = watched.line(request_id="nosuch")
    assert (line["status"], line["outcome"], line["model"]) == ("NOT_FOUND", "not_found", "")
    watched.server.ask("GET", "/nosuch", headers={"x-request-id": "no-route"})
    assert watched.line(request_id="no-route")["status"] == 404


def test_the_key_is_told_by_its_name(serve: Serve, tmp_path: Path) -> None:
    keys, file = tmp_path / "keys.yaml", tmp_path / "access.log"
    keys.write_text(f"keys: [{{name: shop, sha256: {digest_of('a-key')}, scopes: [infer]}}]")
    server = serve(repository(tmp_path), "--api-keys", keys, "--access-log", file, "--log-format", "json")
    one = Watched(server, Collector(), file)
    right, wrong = {"x-api-key": "a-key"}, {"x-api-key": "another"}
    server.post(INFER, json=ROW, headers={"x-request-id": "right", **right})
    server.post(INFER, json=ROW, headers={"x-request-id": "wrong", **wrong})
    server.ask("POST", "/v2/repository/models/m/unload", headers={"x-request-id": "too-much", **right})
    one.call("right-grpc", *right.items())
    one.call("wrong-grpc", *wrong.items())
    for request_id, status, key in (
        ("right", 200, "shop"),
        ("wrong", 401, None),
        ("too-much", 403, "shop"),
        ("right-grpc", "OK", "shop"),
        ("wrong-grpc", "UNAUTHENTICATED", None),
    ):
        line = one.line(request_id=request_id)
        assert (line["status"], line.get("key")) == (status, key)
    server.end()
    assert "a-key" not in server.log + file.read_text()


def test_a_stream_is_one_line(watched: Watched) -> None:
    request = m.ModelInferRequest(model_name="m", id="in-stream")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    request.raw_input_contents.append(bytes(16))
    channel: Any
    with grpc.insecure_channel(watched.server.grpc) as channel:
        infer = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        metadata = [("x-request-id", "stream-1"), ("traceparent", SAMPLED)]
        answers = list(infer(iter([request.SerializeToString()] * 3), metadata=metadata, timeout=60))
    line = watched.line(request_id="stream-1")
    assert (line["inferences"], line["model"], line["status"]) == (3, "m", "OK")
    assert line["received_bytes"] == 3 * len(request.SerializeToString())
    assert line["sent_bytes"] == sum(map(len, answers))
    span = watched.span("stream-1")
    inferences = [each for each in watched.traces.spans if each.parent_id == span.span_id]
    assert [each.name for each in inferences] == ["inference"] * 3
    assert watched.traces.below(inferences[0]).keys() == {"decode", "queue", "compute", "encode"}


# Traces


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_a_trace_is_continued(watched: Watched, protocol: str) -> None:
    request_id = f"traced-{protocol}"
    if protocol == "rest":
        headers = {"x-request-id": request_id, "traceparent": SAMPLED, "tracestate": "vendor=7"}
        answer = watched.server.post(INFER, json=ROW, headers=headers)
        said = answer.headers["traceresponse"]
    else:
        _, trailing = watched.call(request_id, ("traceparent", SAMPLED), ("tracestate", "vendor=7"))
        said = trailing["traceresponse"]
    span = watched.span(request_id)
    assert said == f"00-{TRACE}-{span.span_id}-01"
    assert (span.trace_id, span.parent_id, span.state, span.kind) == (TRACE, PARENT, "vendor=7", 2)
    assert span.resource["service.name"] == "edge" and span.resource["service.version"]
    assert (span.about["serving.model.name"], span.about["serving.model.version"]) == ("m", "1")
    if protocol == "rest":
        assert span.name == "POST /v2/models/{model}/infer"
        assert span.about["http.response.status_code"] == 200
    else:
        assert span.name == MODEL_INFER[1:] and span.about["rpc.response.status_code"] == "OK"
    parts = watched.traces.below(span)
    assert list(parts) == ["decode", "queue", "compute", "encode"]
    moments = [moment for part in parts.values() for moment in (part.began, part.ended)]
    assert [span.began, *moments[:-2]] == sorted([span.began, *moments[:-2]]) and moments[-1] <= span.ended
    assert watched.line(request_id=request_id)["trace_id"] == TRACE
    (link,) = parts["compute"].links
    batches = watched.traces.spans
    (batch,) = wait_for(lambda: [s for s in batches if (s.trace_id, s.span_id) == link], "the span of the batch")
    assert batch.name == "batch" and (TRACE, parts["compute"].span_id) in batch.links
    assert (batch.began, batch.ended) == (parts["compute"].began, parts["compute"].ended)


def test_what_the_client_does_not_record_is_not_recorded(watched: Watched) -> None:
    headers = {"x-request-id": "unrecorded", "traceparent": UNSAMPLED}
    answer = watched.server.post(INFER, json=ROW, headers=headers)
    said = answer.headers["traceresponse"]
    assert said.startswith(f"00-{TRACE}-") and said.endswith("-00")
    malformed = watched.server.post(INFER, json=ROW, headers={"traceparent": SAMPLED.upper()})
    assert "traceresponse" not in malformed.headers
    assert watched.line(request_id="unrecorded")["trace_id"] == TRACE
    watched.server.post(INFER, json=ROW, headers={"x-request-id": "recorded", "traceparent": SAMPLED})
    watched.span("recorded")  # so what came before would be there
    assert not [s for s in watched.traces.spans if s.about.get("serving.request.id") == "unrecorded"]


def test_a_failure_marks_its_span(watched: Watched) -> None:
    headers = {"x-request-id": "failing", "traceparent": SAMPLED}
    body = {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "INT64", "data": [99]}]}
    assert watched.server.post("/v2/models/lookup/infer", json=body, headers=headers).status_code == 500
    span = watched.span("failing")
    assert span.failed and span.about["error.type"] == "500" and span.about["serving.outcome"] == "model"
    watched.server.post(INFER, content=b"{", headers={"x-request-id": "misread", "traceparent": SAMPLED})
    assert not watched.span("misread").failed  # that was the client's doing


# Metrics under other names


def test_other_names_count_the_same(watched: Watched) -> None:
    watched.server.post(INFER, json=ROW)
    text = watched.server.get("/monitoring/prometheus/metrics").text
    samples, lines = Samples(text), text.splitlines()
    answered = samples.sum("serving_requests_total", model="m", version="1", outcome="ok")
    assert answered > 0
    assert f'nv_inference_request_success{{model="m",version="1"}} {answered:g}' in lines
    assert f'nv_inference_count{{model="m",version="1"}} {answered:g}' in lines  # of one row each
    assert f':tensorflow:serving:request_count{{model_name="m",status="OK"}} {answered:g}' in lines
    assert samples.sum(":tensorflow:serving:request_latency_count", model_name="m") == answered


# When it is off, or cannot be


def test_off_only_ids_are_told(serve: Serve, tmp_path: Path) -> None:
    server = serve(repository(tmp_path))
    answer = server.post(INFER, json=ROW, headers={"x-request-id": "quiet", "traceparent": SAMPLED})
    assert answer.headers["x-request-id"] == "quiet" and "traceresponse" not in answer.headers
    server.end()
    assert "quiet" not in server.log + server.printed


def test_a_collector_that_is_away_hurts_nobody(serve: Serve, tmp_path: Path) -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        server = serve(repository(tmp_path), "--otlp-endpoint", url, "--access-log", "-")
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: server.post(INFER, json=ROW), range(40)))
        assert [answer.status_code for answer in answers] == [200] * 40
        assert all(answer.headers["traceresponse"].endswith("-01") for answer in answers)
        wait_for(lambda: "traces cannot be sent" in server.log, "a warning")
        assert server.metrics().sum("serving_dropped_records_total", kind="trace") > 0
        server.signal()
        assert server.wait() == 0
    assert server.log.count("traces cannot be sent") == 1
    assert server.printed.count(f" POST {INFER} 200 ") == 40


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--access-log", "/nosuch/access.log"], "--access-log: '/nosuch/access.log': No such file or directory"),
        (["--otlp-endpoint", "collector:4318"], "otlp_endpoint"),
        (["--metrics-names", "serving,other"], "metrics_names"),
        (["--trace-sample-rate", "2"], "trace_sample_rate"),
    ],
)
def test_what_cannot_be_is_said_at_the_start(tmp_path: Path, flags: list[str], told: str) -> None:
    assert told in error_line(command("start", repository(tmp_path), "--http-port", 0, "--grpc-port", 0, *flags))
