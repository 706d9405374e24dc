"""A ModelServerConfig as the models that the server shall serve. Pure; whether these can be had is not decided here."""

from typing import Any

from serving.core.errors import invalid
from serving.core.spec import Latest, Versions
from serving.engine import Wanted


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
