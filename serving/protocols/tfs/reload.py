"""A ModelServerConfig as the models that the server shall serve. Pure; whether these can be had is not decided here."""

import re
from typing import Any

from serving.core.errors import invalid
from serving.core.spec import Latest, Versions
from serving.engine import Wanted

_WHOLE = re.compile(r"/|[A-Za-z][A-Za-z0-9+.-]*://")  # how a path begins that needs no other to be understood


def checked(models: list[Wanted]) -> list[Wanted]:
    """The models of an operator: their paths may be anywhere, and have to say where.

    Raises:
        ServingError: INVALID: a path is relative, a name is none, or comes twice.
    """
    names = [model.name for model in models]
    for model in models:
        if not model.name or "/" in model.name or not model.name.isprintable():
            raise invalid(f"a model cannot be called '{model.name[:100]}'")
        if names.count(model.name) > 1:
            raise invalid(f"Illegal to list model {model.name} multiple times in config list")
        if not _WHOLE.match(model.path):
            text = f"Expected model {model.name} to have an absolute path or URI; got base_path()={model.path}"
            raise invalid(text)
    return models


def wanted(config: Any) -> list[Wanted]:
    """Raises: ServingError: INVALID: it is no list of models, or a version is no number of one."""
    if config.WhichOneof("config") != "model_config_list":
        raise invalid(
            "ServerModelConfig type not supported by HandleReloadConfigRequest. "
            "Only ModelConfigList is currently supported"
        )
    return [
        Wanted(model.name, model.base_path, _versions(model.model_version_policy), dict(model.version_labels))
        for model in config.model_config_list.config
    ]


def _versions(policy: Any) -> Versions:
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return "all"
    if choice == "specific":
        numbers = tuple(policy.specific.versions)
        if any(number < 1 for number in numbers):
            raise invalid(f"versions are numbers > 0, got {list(numbers)}")
        return numbers
    return Latest(latest=max(policy.latest.num_versions, 1))
