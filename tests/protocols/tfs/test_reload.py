"""What a list of models asks for."""

from typing import Any

import pytest

from serving.core.spec import Latest
from serving.engine import Wanted
from serving.protocols import messages as m
from serving.protocols.tfs.reload import wanted
from tests.protocols.build import refused


def config(*models: dict[str, Any]) -> Any:
    return m.tfs.ModelServerConfig(model_config_list={"config": models})


@pytest.mark.parametrize(
    ("policy", "versions"),
    [
        (None, Latest(latest=1)),
        ({}, Latest(latest=1)),
        ({"latest": {}}, Latest(latest=1)),
        ({"latest": {"num_versions": 3}}, Latest(latest=3)),
        ({"all": {}}, "all"),
        ({"specific": {"versions": [3, 1]}}, (3, 1)),
    ],
)
def test_versions(policy: dict[str, Any] | None, versions: object) -> None:
    model = {"name": "m", "base_path": "/models/m", "model_version_policy": policy, "version_labels": {"stable": 3}}
    assert wanted(config({k: v for k, v in model.items() if v is not None})) == [
        Wanted("m", "/models/m", versions, {"stable": 3})
    ]


def test_an_empty_list_is_a_list() -> None:
    assert wanted(config()) == []
    assert [model.name for model in wanted(config({"name": "b"}, {"name": "a"}))] == ["b", "a"]


UNSUPPORTED = (
    "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently supported"
)


@pytest.mark.parametrize("given", [m.tfs.ModelServerConfig(), m.tfs.ModelServerConfig(custom_model_config={})])
def test_refused(given: Any) -> None:
    assert refused(lambda: wanted(given)) == UNSUPPORTED
