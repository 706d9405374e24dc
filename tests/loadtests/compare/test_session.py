"""Sessions with real servers: this one is measured; one that fails, answers wrongly or does not start is void."""

import json
import sys
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

from loadtests import mlp
from loadtests.cases import Question, check, grpc_raw, rest_binary, rest_json
from loadtests.compare import __main__ as command
from loadtests.compare import environments, triton
from loadtests.compare.launch import Command, tree
from loadtests.compare.servers import SERVERS, Contestant, Setup, plain_json
from loadtests.compare.session import Session, Settings
from loadtests.measure import answer_of

SHORT = Settings(rounds=1, seconds=1, warm_up_s=1, sweep_s=1, start_s=20)

# Answers the first COUNT requests with ANSWER, the others with 500; each connection is kept.
STUB = """
import os, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version, left = "HTTP/1.1", int(os.environ["COUNT"])

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        Handler.left -= 1
        answer = os.environ["ANSWER"].encode()
        self.send_response(200 if Handler.left >= 0 else 500)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *arguments):
        pass

ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def stub(count: int, answer: str | None = None, code: str = STUB) -> Contestant:
    """A server that answers `count` times; with the model's answer if not with `answer`."""

    def start(setup: Setup) -> Command:
        right = answer_of(setup.model, {mlp.INPUT: mlp.row()})[mlp.OUTPUT].tolist()
        variables = {"COUNT": str(count), "ANSWER": json.dumps({"y": right}) if answer is None else answer}
        return Command([sys.executable, "-c", code, str(setup.ports[0])], variables)

    return Contestant("stub", "stub", None, start, {"json": plain_json}, sizes=(8,))


def test_this_server_is_measured(tmp_path: Path) -> None:
    ours = replace(SERVERS["serving"], sizes=(8,))
    session = Session(replace(SHORT, full=True), tmp_path, lambda text: None, {"serving": ours})
    rows, sweep = session.run(["serving"], ["json"])
    assert rows == sweep
    (row,) = rows
    assert row.failure is None
    assert (row.server, row.form, row.max_batch_size) == ("serving", "json", 8)
    (sample,) = row.samples
    assert sample.round.requests > 0 and sample.round.cpu_us > 0
    assert sample.memory_bytes > 20_000_000


def test_a_request_that_fails_voids_the_row_and_the_others_are_measured(tmp_path: Path) -> None:
    servers = {"failing": stub(count=40), "good": stub(count=10**9)}
    rows, sweep = Session(replace(SHORT, rounds=2, full=True), tmp_path, lambda text: None, servers).run(
        servers, ["json", "grpc"]
    )
    failing, good = rows
    assert (failing.server, failing.samples) == ("failing", ())
    assert failing.failure is not None
    assert good.failure is None and len(good.samples) == 2
    assert sweep == rows


@pytest.mark.parametrize(
    ("contestant", "failure"),
    [
        (stub(10**9, '{"y": [[1, 0, 0, 0, 0, 0, 0, 0, 0, 0]]}'), "not the model's answer"),
        (stub(0), "status 500"),
        (stub(0, code="raise SystemExit('no such option')"), "no such option"),
    ],
)
def test_a_server_that_never_answers_rightly_is_void(contestant: Contestant, failure: str, tmp_path: Path) -> None:
    session = Session(replace(SHORT, start_s=2, full=True), tmp_path, lambda text: None, {"it": contestant})
    ((row,), _) = session.run(["it"], ["json"])
    assert row.samples == ()
    assert row.failure is not None and failure in row.failure


def test_the_command_writes_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib", reason="a picture needs matplotlib")
    monkeypatch.setitem(SERVERS, "serving", stub(count=10**9))
    assert command.main(["--only", "serving", "--quick", "--full", "--out", str(tmp_path / "new" / "out")]) == 0
    written = json.loads((tmp_path / "new" / "out" / "compare.json").read_text())
    assert written["environment"]["settings"]["rounds"] == 1
    assert written["versions"]["serving"]["onnxruntime"]
    assert written["rows"][0]["summary"]["cpu_us"]["median"] > 0
    assert (tmp_path / "new" / "out" / "compare.png").exists()
    assert "REST, JSON" in capsys.readouterr().out


def test_the_command_tells_what_is_void(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(SERVERS, "serving", stub(0, code="raise SystemExit('no such option')"))
    assert command.main(["--only", "serving", "--quick", "--out", str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    assert "void" in shown
    assert "no such option" in shown


@pytest.mark.slow
@pytest.mark.skipif(
    not (environments.environment("triton") / ".stamp").exists(), reason="Triton's environment is not made"
)
def test_triton_answers_rightly_on_the_cpus_given(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(mlp.build().SerializeToString())
    inputs = {mlp.INPUT: mlp.row()}
    question = Question("other", inputs, answer_of(model, inputs))
    with triton.triton(model, 8, tmp_path, name="other", cpus={0}) as running:
        for build in (rest_json, rest_binary):
            check(build(question), running.http_port)
        check(grpc_raw(question), running.grpc_port)
        with urllib.request.urlopen(f"http://127.0.0.1:{running.http_port}/v2", timeout=10) as answer:
            assert json.load(answer)["version"] == triton.VERSION
        pids = tree(running.pid)
        assert len(pids) > 1
        for pid in pids:
            assert "Cpus_allowed_list:\t0\n" in Path(f"/proc/{pid}/status").read_text()
    assert tree(running.pid) == []
