"""What a canary and a shadow come to on a running server: counts of requests, users that move, latencies.

Runs on the main thread, with more for clients that ask one request after the other; the server and the generators of
the load for latencies are processes. Knows the server's own REST API (serving.client) and JSON inference.
"""

import http.client
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from loadtests import mlp, oip
from loadtests.cases import Question, check, rest_binary
from loadtests.generators import Job
from loadtests.measure import (
    WARM_UP_S,
    Running,
    answer_of,
    generator_core,
    measure,
    serving,
    serving_command,
    warmed,
)
from loadtests.oip import AnswerError
from loadtests.report import Round
from serving.client import Operator

LOOKUP = "lookup"  # its second version fails on what the first one answers
USER = "x-user"
CANARY = 5  # percent
GROWN = 20
THREADS = 4
LIMITS = {"requests": 100, "error_rate": 0.1}


@dataclass(frozen=True)
class Settings:
    """How much to measure. `in_flight` is of the load for latencies."""

    requests: int
    users: int
    rollbacks: int
    rounds: int
    duration_s: int
    in_flight: tuple[int, ...]
    pin: bool


@dataclass(frozen=True)
class Users:
    """How many of the `total` users had the canary at each weight, and how many moved when they should not have.

    Attributes:
        flipped: asked again at the same weight, on the same server or after its restart.
        lost: had the canary, and lost it when its weight grew.
    """

    total: int
    canary: int
    grown: int
    flipped: int
    lost: int


@dataclass
class Beside:
    """Rounds without a shadow and with one that gets a copy of every request, in turns."""

    in_flight: int
    without: list[Round] = field(default_factory=list)
    with_shadow: list[Round] = field(default_factory=list)
    copies: Counter[str] = field(default_factory=Counter)  # by what became of them


@dataclass(frozen=True)
class Found:
    """`shares`: requests by the version that answered; `failed`: requests that failed before each rollback."""

    shares: Counter[int]
    users: Users
    failed: list[int]
    beside: list[Beside]


def run(settings: Settings, files: Path, say: Callable[[str], None]) -> Found:
    """Raises ProcessError, LoadError, AnswerError, ClientError or OSError when the server or a request fails."""
    repository, state = files / "models", files / "state"
    write_repository(repository)

    def command(path: Path, http_port: int, grpc_port: int) -> list[str]:
        return [*serving_command(path, http_port, grpc_port), "--state-dir", str(state)]

    with serving("the server", repository, files / "serving.log", settings.pin, command) as running:
        say(f"{settings.requests} requests with a canary of {CANARY} %")
        share(running, mlp.NAME, {"weights": {"1": 100 - CANARY, "2": CANARY}})
        shares = counted(running, settings.requests)
        say(f"{settings.users} users")
        before = [users(running, settings.users, weight) for weight in (CANARY, CANARY, GROWN)]
    with serving("the server", repository, files / "serving.log", settings.pin, command) as running:
        after = asked(running, settings.users)
        few, again, many = before
        moved = sum(few[u] != again[u] for u in few) + sum(many[u] != after[u] for u in many)
        lost = sum(few[u] == 2 and many[u] != 2 for u in few)
        had = sum(v == 2 for v in few.values())
        found = Users(settings.users, had, sum(v == 2 for v in many.values()), moved, lost)
        failed = []
        for number in range(1, settings.rollbacks + 1):
            say(f"rollback {number} of {settings.rollbacks}")
            failed.append(failed_before_rollback(running))
        beside = [shadowed(running, settings, files, say, in_flight) for in_flight in settings.in_flight]
    return Found(shares, found, failed, beside)


def write_repository(root: Path) -> None:
    """The perceptron twice, and a table of which the second version has only the beginning; all are served."""
    first = mlp.write_repository(root)
    (root / mlp.NAME / "2").mkdir()
    os.link(first, root / mlp.NAME / "2" / "model.onnx")
    for number, size in ((1, 1000), (2, 10)):
        path = root / LOOKUP / str(number) / "model.onnx"
        path.parent.mkdir(parents=True)
        path.write_bytes(table(size).SerializeToString())
    (root / mlp.NAME / "model.yaml").write_text(f"{mlp.SPEC}versions: all\n", encoding="utf-8")
    (root / LOOKUP / "model.yaml").write_text("versions: all\n", encoding="utf-8")


def table(size: int) -> onnx.ModelProto:
    """y = x for INT64 `[batch,1]` below `size`; it fails on all others."""
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "x"], ["y"], axis=0)],
        LOOKUP,
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["batch", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1])],
        [numpy_helper.from_array(np.arange(size, dtype=np.float32), "table")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


class Asker:
    """Asks one model over one connection; not for several threads."""

    def __init__(self, running: Running, model: str, body: bytes) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", running.ports["http"], timeout=30)
        self._path, self._body = oip.infer_path(model), body

    def ask(self, user: str = "") -> int:
        """The version that answered; 0: the model failed. AnswerError when the request is refused."""
        headers = {"content-type": "application/json"} | ({USER: user} if user else {})
        self._connection.request("POST", self._path, self._body, headers)
        answer = self._connection.getresponse()
        value = json.loads(answer.read())
        if answer.status == 500:
            return 0
        if answer.status != 200:
            raise AnswerError(f"status {answer.status}: {value}")
        return int(value["model_version"])

    def close(self) -> None:
        self._connection.close()


def share(running: Running, model: str, traffic: object) -> None:
    operator(running).change(model, "traffic", traffic)


def operator(running: Running) -> Operator:
    return Operator(f"http://127.0.0.1:{running.ports['http']}")


def counted(running: Running, requests: int) -> Counter[int]:
    """Requests without a user, from several clients, by the version that answered."""

    def some(count: int) -> Counter[int]:
        with closing(Asker(running, mlp.NAME, oip.encode_json({mlp.INPUT: mlp.row()}))) as asker:
            return Counter(asker.ask() for _ in range(count))

    with ThreadPoolExecutor(THREADS) as threads:
        parts = [requests // THREADS + (number < requests % THREADS) for number in range(THREADS)]
        return sum(threads.map(some, parts), Counter())


def users(running: Running, count: int, canary: int) -> dict[str, int]:
    """The version of each user at this weight."""
    share(running, mlp.NAME, {"weights": {"1": 100 - canary, "2": canary}, "sticky": USER})
    return asked(running, count)


def asked(running: Running, count: int) -> dict[str, int]:
    with closing(Asker(running, mlp.NAME, oip.encode_json({mlp.INPUT: mlp.row()}))) as asker:
        return {user: asker.ask(user) for user in (f"user-{number}" for number in range(count))}


def failed_before_rollback(running: Running, most: int = 100_000) -> int:
    """How many requests fail with a canary of which each request fails. AnswerError when it is not rolled back."""
    share(running, LOOKUP, {"weights": {"1": 100 - CANARY, "2": CANARY}, "limits": LIMITS})
    failed = 0
    with closing(Asker(running, LOOKUP, oip.encode_json({"x": np.full((1, 1), 500, np.int64)}))) as asker:
        for number in range(most):
            failed += asker.ask() == 0
            if number % 50 == 0 and "2" not in operator(running).model(LOOKUP)["shares"]:
                return failed
    raise AnswerError(f"the canary was not rolled back within {most} requests, of which {failed} failed")


def shadowed(running: Running, settings: Settings, files: Path, say: Callable[[str], None], in_flight: int) -> Beside:
    """Latencies without a shadow and with one, in turns on one server."""
    inputs = {mlp.INPUT: mlp.row()}
    model = files / "models" / mlp.NAME / "1" / "model.onnx"
    case = rest_binary(Question(mlp.NAME, inputs, answer_of(model, inputs)))
    port, core = running.ports["http"], generator_core(settings.pin)
    found = Beside(in_flight)
    alone = {"weights": {"1": 100}}
    with_shadow = {**alone, "shadow": {"to": "2"}}
    share(running, mlp.NAME, with_shadow)
    answer_bytes = len(check(case, port).body)
    job = warmed(Job(case, port, in_flight, WARM_UP_S, None, answer_bytes, files, core), settings.duration_s)
    before = copies(running)
    for number in range(1, settings.rounds + 1):
        say(f"shadow, {in_flight} in flight: round {number} of {settings.rounds}")
        sides: Sequence[tuple[object, list[Round]]] = ((alone, found.without), (with_shadow, found.with_shadow))
        for traffic, rounds in sides if number % 2 else reversed(sides):
            share(running, mlp.NAME, traffic)
            rounds.append(measure(running.server, job))
    found.copies = Counter({outcome: count - before[outcome] for outcome, count in copies(running).items()})
    return found


def copies(running: Running) -> Counter[str]:
    """What has become of all copies so far."""
    versions: Iterable[dict[str, object]] = operator(running).model(mlp.NAME)["versions"]
    (shadow,) = [version["shadow"] for version in versions if version["number"] == 2]
    assert isinstance(shadow, dict)
    return Counter({outcome: shadow[outcome] for outcome in ("same", "different", "failed", "dropped")})
