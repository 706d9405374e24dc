"""HandleReloadConfigRequest by the official stubs: the whole list of models is replaced while others are asked.

Every test begins with a list of its own, so the order of them does not matter.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import models
from tests.e2e.clients import RefusedError
from tests.e2e.server import Server, wait_for
from tests.e2e.traffic import traffic

X = np.ones((1, 4), np.float32)
ALL = {"all": {}}


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`m` and `n`, whose version v multiplies by v: 1, 2 and 3, and 5; and a model beside the repository."""
    root = tmp_path_factory.mktemp("tfs_reload")
    for name, versions in (("repo/m", (1, 2, 3)), ("repo/n", (5,)), ("outside", (7,))):
        for version in versions:
            models.save(models.scale(version), root / name / str(version) / "model.onnx")
    (root / "repo/m/model.yaml").write_text('{"versions": "all", "version_labels": {"first": 1}}')
    return root / "repo"


@pytest.fixture(scope="module")
def server(repo: Path) -> Iterator[Server]:
    made = Server(repo.parent / "logs", repo, "--settle-s", "0.2", "--poll-s", "0.5")
    try:
        yield made.wait_ready()
    finally:
        made.end()
    assert "Traceback" not in made.log


@pytest.fixture(scope="module")
def client(server: Server, api: Any) -> Iterator[Any]:
    made = api.TfsClient(server)
    yield made
    made.close()


@pytest.fixture
def ask(client: Any, api: Any) -> Any:
    def ask(model: str, **chosen: Any) -> float:
        """What the answering version multiplies by."""
        outputs, spec = client.predict(api.spec(model, **chosen), {"x": X})
        assert spec.version.value == outputs["y"][0, 0]
        return float(outputs["y"][0, 0])

    return ask


def versions(client: Any, api: Any, model: str) -> list[int]:
    return [number for number, state, _, _ in client.status(api.spec(model)) if state == "AVAILABLE"]


def config(name: str, repo: Path | None = None, **more: Any) -> dict[str, Any]:
    """The fields of a ModelConfig."""
    return {"name": name, "base_path": str(repo / name) if repo else "", **more}


def refused(call: Any, code: str, text: str) -> None:
    with pytest.raises(RefusedError) as caught:
        call()
    assert caught.value.status == code and text in caught.value.text


def test_another_list(client: Any, api: Any, ask: Any, repo: Path, server: Server) -> None:
    """What is not in it is gone when the call returns, and what is new is served."""
    client.reload(config("m", repo))
    assert ask("m") == 3
    refused(lambda: ask("n"), "NOT_FOUND", "Servable not found for request: Latest(n)")
    client.reload(config("n", repo))
    assert ask("n") == 5
    refused(lambda: ask("m"), "NOT_FOUND", "Servable not found")
    assert server.get("/v2/models/m").status_code == 404  # both families see the same models
    assert server.get("/v2/models/n").status_code == 200
    client.reload(config("m", repo), config("n", repo))
    assert (ask("m"), ask("n")) == (3, 5)


def test_no_models_at_all(client: Any, ask: Any, repo: Path) -> None:
    client.reload(config("m", repo))
    client.reload()
    refused(lambda: ask("m"), "NOT_FOUND", "Servable not found")
    client.reload(config("m", repo))
    assert ask("m") == 3


def test_paths(client: Any, ask: Any, repo: Path) -> None:
    """A model's directory by its whole path, below the served one, or by its name alone; and under another name."""
    for path in (str(repo / "m"), f"{repo}/m/", "m", "./m", ""):
        client.reload({"name": "m", "base_path": path})
        assert ask("m") == 3
    client.reload({"name": "other", "base_path": str(repo / "m")}, config("n", repo))
    assert (ask("other"), ask("n")) == (3, 5)
    refused(lambda: ask("m"), "NOT_FOUND", "Servable not found")


@pytest.mark.parametrize("path", ["{root}/outside", "../outside", "{repo}/../outside", "{repo}/m/../../outside", "/"])
def test_paths_outside(client: Any, ask: Any, repo: Path, path: str) -> None:
    """Nobody may read more of the disk than the operator has shown."""
    client.reload(config("m", repo))
    path = path.format(root=repo.parent, repo=repo)
    refused(lambda: client.reload({"name": "outside", "base_path": path}), "PERMISSION_DENIED", "is not inside")
    assert ask("m") == 3


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        (None, [3]),
        ({"latest": {}}, [3]),
        ({"latest": {"num_versions": 2}}, [3, 2]),
        ({"latest": {"num_versions": 9}}, [3, 2, 1]),
        (ALL, [3, 2, 1]),
        ({"specific": {"versions": [1, 3]}}, [3, 1]),
        ({"specific": {"versions": [2]}}, [2]),
    ],
    ids=str,
)
def test_version_policy(client: Any, api: Any, ask: Any, repo: Path, policy: Any, served: list[int]) -> None:
    """Instead of what model.yaml says."""
    client.reload(config("m", repo, model_version_policy=policy))
    assert versions(client, api, "m") == served
    assert ask("m") == served[0]
    for version in {1, 2, 3} - set(served):
        refused(lambda version=version: ask("m", version=version), "NOT_FOUND", "Specific")


def test_labels(client: Any, ask: Any, repo: Path) -> None:
    """The canary becomes the stable one."""
    both = {"model_version_policy": {"specific": {"versions": [1, 3]}}}
    client.reload(config("m", repo, **both, version_labels={"stable": 1, "canary": 3}))
    assert (ask("m", label="stable"), ask("m", label="canary"), ask("m")) == (1, 3, 3)
    refused(lambda: ask("m", label="first"), "INVALID_ARGUMENT", "Unrecognized servable version label: first")
    client.reload(config("m", repo, **both, version_labels={"stable": 3, "canary": 3}))
    assert (ask("m", label="stable"), ask("m", label="canary")) == (3, 3)
    client.reload(config("m", repo, **both, version_labels={"stable": 3}))
    assert ask("m", label="stable") == 3
    refused(lambda: ask("m", label="canary"), "INVALID_ARGUMENT", "Unrecognized servable version label: canary")


@pytest.mark.parametrize("version", [9, 2, 0, -1])
def test_labels_of_versions_that_are_not_served(client: Any, ask: Any, repo: Path, version: int) -> None:
    """Refused as a whole: all is as it was."""
    both = {"model_version_policy": {"specific": {"versions": [1, 3]}}}
    client.reload(config("m", repo, **both, version_labels={"stable": 1}))
    text = f"Request to assign label to version {version} of model m, which is not currently available for inference"
    wrong = config("m", repo, **both, version_labels={"stable": 3, "canary": version})
    refused(lambda: client.reload(wrong, config("n", repo)), "FAILED_PRECONDITION", text)
    assert (ask("m", label="stable"), ask("m")) == (1, 3)
    refused(lambda: ask("n"), "NOT_FOUND", "Servable not found")


def test_lists_that_cannot_be_had(client: Any, api: Any, ask: Any, repo: Path) -> None:
    """Refused as a whole: all is as it was."""
    client.reload(config("m", repo))
    good, invalid = config("n", repo), "INVALID_ARGUMENT"
    refused(lambda: client.reload(good, config("nosuch")), invalid, "nosuch")
    refused(lambda: client.reload(good, config("nosuch", repo)), invalid, "nosuch")
    refused(lambda: client.reload(good, good), invalid, "Illegal to list model n multiple times in config")
    refused(lambda: client.reload(good, {"name": "", "base_path": "m"}), invalid, "name")
    for name in ("a/b", "..", ".", "a\0b"):
        refused(lambda name=name: client.reload(good, {"name": name, "base_path": "m"}), invalid, "")
    nothing = config("m", repo, model_version_policy={"specific": {"versions": [8]}})
    refused(lambda: client.reload(good, nothing), invalid, "8")
    for numbers in ([], [0], [1, -1]):
        wrong = config("m", repo, model_version_policy={"specific": {"versions": numbers}})
        refused(lambda wrong=wrong: client.reload(good, wrong), invalid, "versions")
    assert ask("m") == 3
    refused(lambda: ask("n"), "NOT_FOUND", "Servable not found")
    text = "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList"
    refused(lambda: client.reload_config(None), invalid, text)
    custom = api.model_server_config_pb2.ModelServerConfig(custom_model_config={})
    refused(lambda: client.reload_config(custom), invalid, text)


def test_a_model_that_cannot_be_loaded(client: Any, ask: Any, repo: Path) -> None:
    """The call says so; the others of the list are served."""
    (repo / "broken/1").mkdir(parents=True)
    (repo / "broken/1/model.onnx").write_bytes(b"not a graph")
    try:
        both = (config("m", repo), config("broken", repo))
        refused(lambda: client.reload(*both), "INVALID_ARGUMENT", "broken")
        assert ask("m") == 3
    finally:
        client.reload(config("m", repo))
        shutil.rmtree(repo / "broken")


def test_a_model_that_stays_is_not_loaded_again(client: Any, api: Any, server: Server, repo: Path) -> None:
    client.reload(config("m", repo, model_version_policy=ALL))
    before = server.log.count("m/1 ready")
    client.reload(config("m", repo, model_version_policy=ALL, version_labels={"a": 1}), config("n", repo))
    client.reload(config("m", repo, model_version_policy=ALL))
    assert server.log.count("m/1 ready") == before
    assert versions(client, api, "m") == [3, 2, 1]


def test_new_versions_are_found(client: Any, api: Any, ask: Any, repo: Path) -> None:
    """A list says which models there are; their directories are watched as before."""
    models.save(models.scale(1), repo / "grows/1/model.onnx")
    try:
        client.reload(config("grows", repo, version_labels={"one": 1}, model_version_policy=ALL))
        models.save(models.scale(2), repo / "grows/2/model.onnx")
        wait_for(lambda: versions(client, api, "grows") == [2, 1], "the new version")
        assert (ask("grows"), ask("grows", label="one")) == (2, 1)
    finally:
        client.reload(config("m", repo))
        shutil.rmtree(repo / "grows")


def test_nobody_notices(client: Any, server: Server, repo: Path) -> None:
    """What stays in the list is answered all the time, by a version of the list that is or was."""
    client.reload(config("m", repo))
    lists = [
        (config("m", repo, model_version_policy=ALL, version_labels={"a": 1}), config("n", repo)),
        (config("m", repo, model_version_policy={"specific": {"versions": [1]}}),),
        (config("m", repo), config("n", repo)),
        (config("m", repo, model_version_policy={"latest": {"num_versions": 2}}),),
    ]
    with traffic(server, "m", clients=6) as seen:
        for listed in lists * 2:
            client.reload(*listed)
            seen.wait_for_more(10, "1" if listed is lists[1] else "3")
    assert not seen.failed and not seen.wrong
