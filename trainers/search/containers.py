"""What runs in a container elsewhere: the trainers' own commands, on one volume that all of them share. Pure.

/trainers/data          data sets
/trainers/runs          what runs leave
/trainers/model_repo    what is published
"""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from trainers.search.study import SPACE, Search
from trainers.settings import Value

VOLUME = "trainers"
ROOT = "/trainers"
SCRATCH = "/tmp/trainers"  # of one container, gone with it
SPACE_FILE = f"/space/{SPACE}"


def training(search: Search, values: Mapping[str, Value | str], *, repo: str = f"{ROOT}/model_repo") -> list[str]:
    """The command that trains once, with values of settings beside those that the search has fixed."""
    return [
        "python",
        "-m",
        "trainers",
        search.name,
        *job_words(search),
        *set_words({**search.values, **values}),
        *places(repo),
    ]


def searching(search: Search, study: str) -> list[str]:
    """The command that does all of a search, or goes on with it where its container was started again."""
    again = ["python", "-m", "trainers", "search", search.name, "--resume", "--study", study]
    first = [
        *(word for word in again if word != "--resume"),
        *("--space", SPACE_FILE, "--trials", str(search.trials), "--parallel", str(search.parallel)),
        *("--sampler", search.sampler, "--pruner", search.pruner),
        *job_words(search),
        *set_words(search.values),
    ]
    where = places(f"{ROOT}/model_repo")
    script = f"if test -e {study}/search.json; then exec {_line(again, where)}; else exec {_line(first, where)}; fi"
    return ["sh", "-c", script]


def places(repo: str) -> list[str]:
    return ["--data-dir", f"{ROOT}/data", "--repo", repo, "--log-dir", f"{ROOT}/runs"]


def pod(
    container: str,
    image: str,
    command: Sequence[str],
    *,
    gpus: int = 0,
    space: str | None = None,
    restart: str = "Never",
) -> dict[str, Any]:
    """A pod's template, with the shared volume, and the space in its place if there is a config map that has it."""
    mounts: list[dict[str, Any]] = [{"name": VOLUME, "mountPath": ROOT}]
    volumes: list[dict[str, Any]] = [{"name": VOLUME, "persistentVolumeClaim": {"claimName": VOLUME}}]
    if space is not None:
        mounts.append({"name": "space", "mountPath": "/space", "readOnly": True})
        volumes.append({"name": "space", "configMap": {"name": space}})
    return {
        "metadata": {"annotations": {"sidecar.istio.io/inject": "false"}},  # a sidecar would outlive the training
        "spec": {
            "restartPolicy": restart,
            "containers": [
                {
                    "name": container,
                    "image": image,
                    "command": list(command),
                    **resources(gpus),
                    "volumeMounts": mounts,
                }
            ],
            "volumes": volumes,
        },
    }


def resources(gpus: int) -> dict[str, Any]:
    return {"resources": {"limits": {"nvidia.com/gpu": gpus}}} if gpus else {}


def label(name: str) -> str:
    """A trainer's name as Kubernetes wants names."""
    return name.replace("_", "-")


def text(value: Value) -> str:
    """A value as `--set` reads it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def job_words(search: Search) -> list[str]:
    words = ["--seed", str(search.seed)]
    if search.quick:
        words.append("--quick")
    for option, number in (("--epochs", search.epochs), ("--steps", search.steps)):
        if number is not None:
            words += [option, str(number)]
    return words


def set_words(values: Mapping[str, Value | str]) -> list[str]:
    return [word for name, value in values.items() for word in ("--set", f"{name}={text(value)}")]


def _line(*parts: Sequence[str]) -> str:
    return " ".join(shlex.join(part) for part in parts)
