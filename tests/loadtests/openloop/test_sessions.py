"""The generator and what is built on it, against a server. No figure that depends on the machine's speed is judged."""

import asyncio
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest

from loadtests.cases import Question, check, grpc_raw, rest_binary, rest_json
from loadtests.generators import LoadError
from loadtests.oip import JSON_LENGTH, AnswerError
from loadtests.openloop import load, low_rate, models, offline, referee, targets
from loadtests.openloop.__main__ import arguments, main
from loadtests.openloop.load import Kind, Target, with_timeout
from loadtests.openloop.models import MODELS, Model
from loadtests.openloop.offline import SERVED
from loadtests.openloop.outcomes import Verdict
from loadtests.openloop.steady import ECHO, RUN, SERVER
from loadtests.openloop.targets import Place
from loadtests.processes import ProcessError, free_ports
from serving.protocols.messages import oip as m


@contextmanager
def stand_in(answer: bytes, keep: int) -> Iterator[int]:
    """A server that answers `keep` requests on each connection with `answer`, at once, and then hangs up."""
    loop, started, ports = asyncio.new_event_loop(), threading.Event(), []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            for _ in range(keep):
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                writer.write(answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()

    async def serve() -> None:
        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        ports.append(server.sockets[0].getsockname()[1])
        started.set()
        async with server:
            await stop.wait()

    stop = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    started.wait()
    yield ports[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    loop.run_until_complete(asyncio.sleep(0.05))
    loop.close()


def question(rows: int = 1) -> Question:
    return Question("m", {"x": np.ones((rows, 4), np.float32)}, {"y": np.ones((rows, 2), np.float32)})


def target(port: int) -> Target:
    return Target("stand-in", {"http": port, "grpc": port}, None, 0)


GOOD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 1\r\n\r\n"


def test_every_request_is_sent_and_answered() -> None:
    kind = Kind("1 row", rest_binary(question()), answer_bytes=2)
    with stand_in(GOOD, keep=10**6) as port:
        run = load.run(target(port), [kind], rate=400, seconds=0.5, seed=3)
    found = run.summary()
    assert found.answered == len(run.schedule) > 100
    assert found.refused + found.failed + found.unanswered == 0 and found.failure is None
    assert (run.sent_s >= run.schedule.due_s).all() and (run.done_s > run.sent_s).all()
    assert found.generator.connections >= load.WARM and found.generator.held == 0


def test_what_is_refused_is_counted_apart() -> None:
    with stand_in(BUSY, keep=10**6) as port:
        run = load.run(target(port), [Kind("1 row", rest_binary(question()))], rate=200, seconds=0.5)
    assert run.count(Verdict.REFUSED) == len(run.schedule)
    assert run.summary().refusals.count == len(run.schedule) and run.goodput(10) == 0


def test_a_wrong_answer_is_a_failure_and_told() -> None:
    with stand_in(GOOD, keep=10**6) as port:
        run = load.run(target(port), [Kind("1 row", rest_binary(question()), answer_bytes=3)], rate=200, seconds=0.2)
    assert run.count(Verdict.FAILED) == len(run.schedule)
    assert run.failure == "an answer of 2 bytes, not 3"


def test_connections_that_are_shut_are_made_anew() -> None:
    closing = GOOD.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
    with stand_in(closing, keep=1) as port:
        run = load.run(target(port), [Kind("1 row", rest_binary(question()))], rate=300, seconds=0.5)
    assert run.count(Verdict.ANSWERED) == len(run.schedule)
    assert run.generator.connections >= len(run.schedule)


def test_nobody_there_fails_every_request() -> None:
    (port,) = free_ports(1)
    run = load.run(target(port), [Kind("1 row", rest_binary(question()))], rate=100, seconds=0.2, timeout_s=2)
    assert run.count(Verdict.FAILED) == len(run.schedule)
    assert run.failure is not None and "refused" in run.failure


def test_a_generator_that_cannot_run_is_an_error() -> None:
    with pytest.raises(LoadError, match="no schedule"):
        load.run(target(1), [Kind("1 row", rest_binary(question()))], rate=-1, seconds=1)


def test_one_transport_at_a_time() -> None:
    with pytest.raises(ValueError, match="one transport"):
        load.run(target(1), [Kind("a", rest_binary(question())), Kind("b", grpc_raw(question()))], rate=1, seconds=1)


def test_a_timeout_joins_the_parameters() -> None:
    binary = with_timeout(rest_binary(question()), 500_000)
    json_bytes = int(binary.headers[JSON_LENGTH])
    head = orjson.loads(binary.body[:json_bytes])
    assert head["parameters"] == {"binary_data_output": True, "timeout": 500_000}
    assert binary.body[json_bytes:] == np.ones((1, 4), np.float32).tobytes()
    assert orjson.loads(with_timeout(rest_json(question()), 7).body)["parameters"] == {"timeout": 7}
    message = m.ModelInferRequest.FromString(with_timeout(grpc_raw(question()), 9).body)
    assert message.parameters["timeout"].int64_param == 9 and message.model_name == "m"


TINY = Model("tiny", (8, 16, 4))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path, False, lambda _: None, ("--no-trial-load",))


@pytest.mark.parametrize("model", [TINY, Model("image", layers=2)])
def test_models_give_probabilities_of_any_number_of_rows(model: Model, place: Place) -> None:
    path = models.write(model, place.files / "repository")
    for rows in (1, 3):
        (y,) = targets.answer_of(path, {models.INPUT: model.rows(rows)}).values()
        assert len(y) == rows
        np.testing.assert_allclose(y.sum(axis=1), 1, rtol=1e-5)
        assert len(np.unique(y)) > 1


def test_the_models_are_those_that_are_told_of() -> None:
    assert MODELS["large"].widths == (784, 2048, 2048, 2048, 10)
    assert MODELS["small"].widths == (784, 128, 10)
    weights = sum(np.prod(one.dims) for one in MODELS["small"].build().graph.initializer)
    assert weights == 784 * 128 + 128 + 128 * 10 + 10


def test_the_model_alone_is_measured(place: Place) -> None:
    subject = targets.Subject(TINY, place)
    found = subject.offline(batches=(1, 4), seconds=0.01)
    assert list(found.seconds) == [SERVED, "plain, 1 thread", "plain, 2 threads"]
    assert all(list(runs) == [1, 4] for runs in found.seconds.values())
    again = found + subject.offline([SERVED], (4,), 0.01)
    assert [len(again.seconds[SERVED][batch]) for batch in (1, 4)] == [1, 2]
    assert again.best() >= again.rows_per_s(SERVED) > 0


def test_the_best_batch_is_the_one_with_most_rows_a_second() -> None:
    found = offline.Offline({SERVED: {1: [1.0], 8: [2.0, 2.0, 9.0], 64: [17.0]}, "plain, 1 thread": {1: [0.2]}})
    assert (found.best_batch(SERVED), found.rows_per_s(SERVED), found.best()) == (8, 4, 5)


def test_a_model_that_cannot_be_run_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"none")
    with pytest.raises(ProcessError, match="the model alone failed"):
        offline.measure(tmp_path / "model.onnx", None, (1,), seconds=0.01)


def test_sessions_with_a_server(place: Place) -> None:
    """One server for all of them, since it takes a second to start."""
    subject = targets.Subject(TINY, place)
    with subject.ours() as server:
        for transport in targets.CASES:
            kinds = [subject.kind(transport, 1, 9), subject.kind(transport, 8, 1)]
            small, large = targets.ready(server, kinds)
            assert small.answer_bytes and large.answer_bytes and small.answer_bytes < large.answer_bytes
            run = load.run(server, [small, large], rate=150, seconds=1, seed=1)
            found = run.summary()
            assert (found.failed, found.unanswered, found.failure) == (0, 0, None)
            assert found.answered == len(run.schedule) > 0
            assert {name: one.count > 0 for name, one in found.by_kind.items()} == {"1 row": True, "8 rows": True}

            limited = replace(small, case=with_timeout(small.case, 10_000_000), answer_bytes=None)
            assert check(limited.case, server.ports[limited.case.transport]).body

            with low_rate.beside(subject, False) as echo, low_rate.beside(subject, True) as alone:
                single = low_rate.measure(server, [small], {ECHO: echo, RUN: alone}, rate=50, seconds=0.2)
            assert {name: len(seconds) for name, seconds in single.seconds.items()} == {SERVER: 10, ECHO: 10, RUN: 10}
            assert all(each > 0 for seconds in single.seconds.values() for each in seconds)

        wrong = Question(TINY.name, {models.INPUT: TINY.rows(1)}, {models.OUTPUT: np.zeros((1, 4), np.float32)})
        with pytest.raises(ProcessError, match="not the model's answer"):
            targets.ready(server, [Kind("1 row", rest_binary(wrong))])
        missing = replace(wrong, model="missing")
        with pytest.raises(AnswerError):
            load.checked(server, [Kind("1 row", rest_binary(missing))])
        with pytest.raises(LoadError, match="404"):
            low_rate.measure(server, [Kind("1 row", rest_binary(missing))], {ECHO: 1, RUN: 1}, 50, 0.1)
        assert 0 <= low_rate.idle_share(server.pid, 0.2) < 2

        for transport, port in server.ports.items():
            name = "grpc" if transport == "grpc" else "rest"
            argv = ["send", "--model", TINY.name, "--transport", name, "--no-pin", "--out", str(place.files / name)]
            argv += ["--port", str(server.ports["http"]), "--grpc-port", str(port), "--rate", "200", "--seconds", "0.5"]
            assert main([*argv, "--mix", "1:9,8:1", "--timeout", "20000"]) == 0
            seen = json.loads((place.files / name / "send.json").read_text())["run"]
            assert seen["answered"] > 50 and set(seen["by_kind"]) == {"1 row", "8 rows"}


def test_the_referee_with_a_server(place: Place) -> None:
    pytest.importorskip("mlperf_loadgen", reason="mlcommons_loadgen is not installed")
    subject = targets.Subject(TINY, place)
    with subject.ours() as server:
        single, batch = targets.ready(server, [subject.kind("rest"), subject.kind("rest", referee.BATCH)])
        # LoadGen wants some 500 queries before it trusts a 99th percentile.
        served = referee.judge(server, single, "Server", rate=500, seconds=2, p99_ms=20_000)
        assert served.valid and served.p99_ms is not None and 0 < served.p99_ms < 20_000
        assert not referee.judge(server, single, "Server", rate=100, seconds=0.3, p99_ms=20_000).valid
        at_once = referee.judge(server, batch, "Offline", rate=1000, seconds=0.2, p99_ms=60)
        assert at_once.samples_per_s > 0 and at_once.p99_ms is None
        missing = Kind("1 row", rest_binary(replace(question(), model="missing")))
        with pytest.raises(LoadError, match="a request failed: status 404"):
            referee.judge(server, missing, "Server", rate=100, seconds=0.2, p99_ms=60)


@pytest.mark.slow
def test_a_command_leaves_its_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    argv = ["low-rate", "--quick", "--no-pin", "--out", str(tmp_path), "--server=--no-trial-load"]
    monkeypatch.setattr(sys, "argv", ["openloop", *argv])
    assert main(argv) in (0, 1)  # fast enough or not
    read = json.loads((tmp_path / "low-rate.json").read_text())
    assert read["command"].startswith("python -m loadtests.openloop low-rate --quick")
    assert read["environment"]["packages"]["onnxruntime"] and read["environment"]["settings"]["quick"]
    assert len(read["transports"]["grpc"]["seconds"]["server"]) == 40


@pytest.mark.parametrize("command", ["efficiency", "curve", "referee", "low-rate", "overload", "mixed"])
def test_each_command_has_options(command: str) -> None:
    options = arguments().parse_args([command, "--quick"])
    assert options.pin and options.quick and options.model in MODELS
