"""A rollout and a rollback as clients see them: who gets which version over every protocol, and no request fails."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import models
from tests.e2e.clients import Asker
from tests.e2e.conftest import Serve
from tests.e2e.server import LIMIT_S, Server, wait_for
from tests.e2e.traffic import traffic

USERS = [f"user-{number}" for number in range(30)]
X = np.ones((1, 4), np.float32)


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """The model `m` with versions 1 to 3, each of which multiplies by its number."""
    for number in (1, 2, 3):
        models.save(models.scale(number), tmp_path / "repo" / "m" / str(number) / "model.onnx")
    return tmp_path / "repo"


def change(server: Server, what: str, **body: Any) -> dict[str, Any]:
    """Asks the server to change how requests are shared out; how the model stands then."""
    response = server.post(f"/serving/models/m/{what}", json=body)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def events(server: Server, kind: str) -> list[tuple[int | None, str]]:
    found = server.get("/serving/events?model=m&limit=1000").json()["events"]
    return [(event["version"], event["text"]) for event in found if event["kind"] == kind]


def test_a_rollout_and_a_rollback_under_load(serve: Serve, repo: Path) -> None:
    server = serve(repo)
    with traffic(server, "m", clients=6) as seen:
        seen.wait_for_more(20, "3")
        change(server, "promote", version="1")
        assert only(server) == 1
        change(server, "labels", label="canary", version=2)
        assert change(server, "traffic", weights={"stable": 80, "canary": 20})["shares"] == {"1": 80, "2": 20}
        seen.wait_for_more(20, "2")
        seen.wait_for_more(20, "1")
        change(server, "promote")
        assert only(server) == 2
        change(server, "rollback")
        assert only(server) == 1
        seen.wait_for_more(50)
    assert not seen.failed and not seen.wrong and set(seen.answers) == {"1", "2", "3"}
    assert [number for number, _ in events(server, "promoted")] == [1, 2]
    assert events(server, "rolled_back") == [(2, "by hand: version 1 takes all requests")]
    shares = server.metrics().find("serving_traffic_share", model="m")
    assert {dict(labels)["version"]: share for labels, share in shares.items() if share} == {"1": 1}


def only(server: Server) -> int:
    """The one version that requests get from now on."""
    found = {server.post("/v1/models/m:predict", json={"instances": X.tolist()}).text for _ in range(20)}
    (text,) = found
    return int(float(text.split("[[")[1].split(",")[0]))


def test_users_stay_with_their_version_over_every_protocol(serve: Serve, repo: Path, tmp_path: Path, api: Any) -> None:
    state = tmp_path / "state"
    server = serve(repo, "--state-dir", state)
    change(server, "traffic", weights={"1": 50, "2": 50}, sticky="x-user")
    expected = by_rest(server)
    assert set(expected.values()) == {1, 2}
    assert by_grpc(server) == by_tfs_rest(server) == by_tfs_grpc(server, api) == expected
    server.end()
    server = serve(repo, "--state-dir", state)
    assert by_rest(server) == by_tfs_rest(server) == expected


def by_rest(server: Server) -> dict[str, int]:
    asker = Asker(server, "binary")
    found = {user: int(asker.infer("m", {"x": X}, headers={"X-User": user}).version) for user in USERS}
    asker.close()
    return found


def by_grpc(server: Server) -> dict[str, int]:
    asker = Asker(server, "grpc")
    found = {user: int(asker.infer("m", {"x": X}, headers={"x-user": user}).version) for user in USERS}
    asker.close()
    return found


def by_tfs_rest(server: Server) -> dict[str, int]:
    body = {"instances": X.tolist()}
    asked = {user: server.post("/v1/models/m:predict", json=body, headers={"X-User": user}) for user in USERS}
    return {user: int(answer.json()["predictions"][0][0]) for user, answer in asked.items()}


def by_tfs_grpc(server: Server, api: Any) -> dict[str, int]:
    client = api.TfsClient(server)
    request = api.predict_pb2.PredictRequest(model_spec=api.spec("m"))
    request.inputs["x"].CopyFrom(api.tensor(X))
    predict = client.prediction.Predict
    found = {u: predict(request, timeout=LIMIT_S, metadata=[("x-user", u)]).model_spec.version.value for u in USERS}
    client.close()
    return found


def test_a_canary_that_fails_is_taken_out_and_stays_out(serve: Serve, tmp_path: Path) -> None:
    repo, state = tmp_path / "repo", tmp_path / "state"
    models.save(models.lookup(16), repo / "m" / "1" / "model.onnx")
    models.save(models.lookup(4), repo / "m" / "2" / "model.onnx")  # fails for what the first one takes
    (repo / "m" / "model.yaml").write_text(
        "version_labels: {stable: 1, canary: 2}\n"
        "traffic: {weights: {stable: 70, canary: 30}, limits: {requests: 50, error_rate: 0.1}}\n"
    )
    server = serve(repo, "--state-dir", state)
    body = {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "INT64", "data": [9]}]}

    def ask() -> int:
        return server.post("/v2/models/m/infer", json=body).status_code

    statuses = [ask() for _ in range(120)]
    assert statuses.count(500) == 6  # one more than 10 % of 50
    wait_for(lambda: events(server, "rolled_back"), "the event")
    assert events(server, "rolled_back") == [(2, "it failed on 6 of 6 requests; allowed are 10 % of 50")]
    assert server.metrics().sum("serving_events_total", model="m", kind="rolled_back") == 1
    assert "m/2 rolled back: it failed on 6 of 6 requests" in server.log
    server.end()
    server = serve(repo, "--state-dir", state)
    assert {ask() for _ in range(60)} == {200}


def test_a_shadow_is_compared_and_nobody_notices(serve: Serve, repo: Path) -> None:
    server = serve(repo)
    change(server, "promote", version="1")
    change(server, "traffic", weights={"stable": 100}, shadow={"to": "2"})
    with traffic(server, "m", clients=4) as seen:
        wait_for(
            lambda: (
                server.metrics().sum("serving_shadow_requests_total", model="m", version="2", outcome="different") > 20
            ),
            "copies",
        )
    assert not seen.failed and not seen.wrong and set(seen.answers) == {"1"}
    found = server.metrics()
    assert found.sum("serving_shadow_difference_count", model="m", version="2", kind="absolute") > 20
    assert found.sum("serving_requests_total", model="m", version="2") == 0
