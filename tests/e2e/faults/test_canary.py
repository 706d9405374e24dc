"""Shares of the traffic as clients see them: how many, whose, and what becomes of a version that is no good."""

import http.client
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import sqrt
from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest

from loadtests import oip
from serving.protocols.messages import oip as m
from tests import models
from tests.e2e.conftest import Serve
from tests.e2e.faults import builders
from tests.e2e.faults.operators import Operator
from tests.e2e.server import LIMIT_S, Server, wait_for
from tests.e2e.traffic import in_threads, join

MODEL, USER = "m", "x-user"
FORMS = ("rest", "grpc")
THREADS = 4
SIGMAS = 5  # of a binomial distribution: fewer than one run in a million is beyond

Ask = Callable[..., int]


class FailedError(Exception):
    """The model failed on a request."""


@contextmanager
def asking(server: Server, form: str) -> Iterator[Ask]:
    """A function, for one thread, that asks the model once, over a connection that stays. It takes the value of all of
    `x` and a user's name, and returns the version that answered; FailedError: the model failed."""

    def ask(value: float = 1.0, user: str | None = None) -> int:
        x = np.full((1, builders.WIDTH), value, np.float32)
        version, y = (ask_rest if form == "rest" else ask_grpc)(x, {} if user is None else {USER: user})
        assert np.array_equal(y, x[0] * version), f"version {version} answered {y} for {x}"
        return version

    def ask_rest(x: np.ndarray, headers: dict[str, str]) -> tuple[int, np.ndarray]:
        connection.request("POST", oip.infer_path(MODEL), oip.encode_json({"x": x}), headers)
        answer = connection.getresponse()
        body = json.loads(answer.read())
        if answer.status == 500:
            raise FailedError(body)
        assert answer.status == 200, body
        return int(body["model_version"]), np.array(body["outputs"][0]["data"], np.float32)

    def ask_grpc(x: np.ndarray, headers: dict[str, str]) -> tuple[int, np.ndarray]:
        try:
            answer = call(oip.encode_grpc(MODEL, {"x": x}), timeout=LIMIT_S, metadata=tuple(headers.items()))
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.INTERNAL:
                raise FailedError(error.details()) from None
            raise
        return int(answer.model_version), np.frombuffer(answer.raw_output_contents[0], np.float32)

    connection = http.client.HTTPConnection(server.http, timeout=LIMIT_S)
    with grpc.insecure_channel(server.grpc) as channel:
        call = channel.unary_unary(oip.GRPC_INFER, None, m.ModelInferResponse.FromString)
        yield ask
    connection.close()


def repository(path: Path, canary: onnx.ModelProto | None = None) -> Path:
    """Both versions are served; the second one is `canary`, by default y = 2 * x."""
    builders.put(path, MODEL, 1)
    builders.put(path, MODEL, 2, canary)
    (path / MODEL / "model.yaml").write_text("versions: all\n")
    return path


def likely(count: int, chance: float) -> tuple[float, float]:
    """Between which numbers so many trials succeed."""
    spread = SIGMAS * sqrt(count * chance * (1 - chance))
    return count * chance - spread, count * chance + spread


@pytest.mark.parametrize("form", FORMS)
def test_five_percent_of_ten_thousand(serve: Serve, tmp_path: Path, form: str) -> None:
    server = serve(repository(tmp_path / "repo"))
    operator = Operator(server, MODEL)
    operator.label("stable", 1)
    operator.label("canary", 2)
    assert operator.traffic(weights={"stable": 95, "canary": 5})["shares"] == {"1": 95, "2": 5}
    found: list[Counter[int]] = [Counter() for _ in range(THREADS)]

    def run(number: int) -> None:
        with asking(server, form) as ask:
            for _ in range(10_000 // THREADS):
                found[number][ask()] += 1

    join(in_threads(run, THREADS))
    total = sum(found, Counter[int]())
    least, most = likely(10_000, 0.05)
    assert total.keys() == {1, 2} and total.total() == 10_000
    assert least < total[2] < most


def test_users_stay_where_they_are(serve: Serve, tmp_path: Path) -> None:
    """On every server, over both protocols, after a restart; and a canary that grows keeps those that it has."""
    users = [f"user-{number}" for number in range(300)]
    repo = repository(tmp_path / "repo")

    def versions(server: Server, form: str) -> dict[str, int]:
        with asking(server, form) as ask:
            return {user: ask(user=user) for user in users}

    def share(server: Server, canary: int) -> None:
        Operator(server, MODEL).traffic(weights={"1": 100 - canary, "2": canary}, sticky=USER)

    one, other = (serve(repo, "--state-dir", tmp_path / name) for name in ("one", "other"))
    share(one, 20)
    share(other, 20)
    first = versions(one, "rest")
    least, most = likely(len(users), 0.2)
    assert least < list(first.values()).count(2) < most
    for server in (one, other):
        for form in FORMS:
            assert versions(server, form) == first
    one.signal()
    assert one.wait() == 0
    one = serve(repo, "--state-dir", tmp_path / "one")
    assert versions(one, "grpc") == first

    share(one, 50)
    grown = versions(one, "rest")
    assert {user for user in users if grown[user] == 1} < {user for user in users if first[user] == 1}
    with asking(one, "rest") as ask:
        assert {ask() for _ in range(200)} == {1, 2}, "requests of nobody are shared out one by one"


@pytest.mark.parametrize("form", FORMS)
def test_failing_canary_is_rolled_back(serve: Serve, tmp_path: Path, form: str) -> None:
    """Within the number of requests that was set, and for good; the stable version answers all the time."""
    server = serve(repository(tmp_path / "repo", builders.fails_above(3, 2)), "--state-dir", tmp_path / "state")
    operator = Operator(server, MODEL)
    operator.label("stable", 1)
    operator.label("canary", 2)
    limits = {"requests": 50, "error_rate": 0.1}
    operator.traffic(weights={"stable": 80, "canary": 20}, limits=limits)
    answers: Counter[int] = Counter()
    failures = 0
    with asking(server, form) as ask:
        while not operator.events("rolled_back"):
            for _ in range(10):
                try:
                    answers[ask(9.0)] += 1  # more than the canary can take
                except FailedError:
                    failures += 1
            assert failures <= limits["requests"], "the canary goes on failing"
        # At the sixth failure it is certain that more than a tenth of 50 will be.
        assert failures == 6
        for _ in range(500):
            assert ask(9.0) == 1
    assert answers.keys() == {1}
    (event,) = operator.events("rolled_back")
    assert event["version"] == 2 and "6 of 6 requests" in event["text"]
    now = operator.status()
    assert (now["shares"], now["labels"], now["default"]) == ({"1": 100}, {"stable": 1}, 1)
    assert server.metrics().sum("serving_events_total", model=MODEL, kind="rolled_back") == 1

    server.signal()
    assert server.wait() == 0
    again = serve(tmp_path / "repo", "--state-dir", tmp_path / "state")
    later = Operator(again, MODEL)
    assert (later.status()["shares"], later.status()["labels"]) == ({"1": 100}, {"stable": 1})
    assert later.events("rolled_back") == [event]


def test_mistakes_of_clients_do_not_count(serve: Serve, tmp_path: Path) -> None:
    """What the stable version fails on as well says nothing of the canary."""
    repo = repository(tmp_path / "repo", builders.fails_above(3, 2))
    models.save(builders.fails_above(3, 1), repo / MODEL / "1/model.onnx")
    server = serve(repo)
    operator = Operator(server, MODEL)
    operator.traffic(weights={"1": 50, "2": 50}, limits={"requests": 20, "error_rate": 0.5})
    with asking(server, "rest") as ask:
        for number in range(400):
            if number % 4:
                ask(1.0)
            else:
                with pytest.raises(FailedError):
                    ask(9.0)
    assert operator.events("rolled_back") == []
    assert operator.status()["shares"] == {"1": 50, "2": 50}


def test_shadow_that_answers_otherwise_is_ended_and_nobody_sees_it(serve: Serve, tmp_path: Path) -> None:
    server = serve(repository(tmp_path / "repo"))
    operator = Operator(server, MODEL)
    shadow = {"to": "2", "percent": 100}
    operator.traffic(weights={"1": 100}, shadow=shadow, limits={"requests": 20, "different_rate": 0.1})
    with asking(server, "grpc") as ask:
        wait_for(lambda: ask() == 1 and operator.events("rolled_back"), "the shadow to be ended")
        assert ask() == 1
    (event,) = operator.events("rolled_back")
    assert event["version"] == 2 and "differ" in event["text"]
    assert "shadow" not in operator.status()["traffic"]
