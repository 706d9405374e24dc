"""What is below deploy/, read: YAML files, what Kustomize makes of them, and the settings that servers get there."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from serving import config
from serving.cli.main import app

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
CHART = DEPLOY / "helm/serving"
OVERLAYS = tuple(sorted(path.parent.name for path in KUBERNETES.glob("overlays/*/kustomization.yaml")))

Object = Mapping[str, Any]

_KUBECTL = shutil.which("kubectl")
needs_kubectl = pytest.mark.skipif(_KUBECTL is None, reason="kubectl, whose `kustomize` this runs, is not installed")


def read(path: Path) -> list[Any]:
    """The documents of a YAML file."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def kustomized(directory: Path) -> list[Any]:
    """The objects that `kubectl kustomize` makes of a directory."""
    assert _KUBECTL is not None
    done = subprocess.run([_KUBECTL, "kustomize", str(directory)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def with_component(overlay: str, component: str, directory: Path) -> list[Any]:
    """The objects of an overlay with one more component, by a kustomization that is written into `directory`."""
    beside = {
        "resources": [os.path.relpath(KUBERNETES / "overlays" / overlay, directory.resolve())],
        "components": [os.path.relpath(KUBERNETES / "components" / component, directory.resolve())],
    }
    (directory / "kustomization.yaml").write_text(yaml.safe_dump(beside))
    return kustomized(directory)


def containers(thing: Any) -> Iterator[Object]:
    """All containers anywhere in it."""
    if isinstance(thing, Mapping):
        yield from thing.get("containers") or ()
        for value in thing.values():
            yield from containers(value)
    elif isinstance(thing, list):
        for value in thing:
            yield from containers(value)


def settings(arguments: Sequence[str]) -> config.Settings:
    """Those that `serving ARGUMENTS` would start with.

    Raises:
        typer's or ConfigError: as the command would end with.
    """
    assert arguments[0] == "start"
    start = typer.main.get_command(app).commands["start"]  # type: ignore[attr-defined]
    flags = dict(start.make_context("serving start", list(arguments[1:])).params)
    flags.pop("config")
    return config.load({name: value or None if value == [] else value for name, value in flags.items()}, {})


def flags(text: str) -> set[str]:
    """Every --flag that a text has."""
    return set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", text))
