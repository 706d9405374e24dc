"""Runs trainers, and anything else that imports TensorFlow, in child processes: its import warns, and a warning fails a
test here."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.trainers import forked

ROOT = Path(__file__).parents[2]
_MISSING = [
    name
    for name in ("keras", "matplotlib", "optuna", "sklearn", "tensorboard", "tensorflow", "tf2onnx")
    if not find_spec(name)
]

trains = pytest.mark.skipif(bool(_MISSING), reason=f"not installed: {', '.join(_MISSING)}")


def run(command: Sequence[object], **env: str) -> CompletedProcess[str]:
    """What a command does in the checkout."""
    return subprocess.run(
        list(map(str, command)), cwd=ROOT, env=_environment(env), capture_output=True, text=True, check=False
    )


def python(*arguments: object, **env: str) -> CompletedProcess[str]:
    """What Python does with these arguments, begun as a user begins it."""
    return run([sys.executable, *arguments], **env)


def fork(*arguments: object, **env: str) -> CompletedProcess[str]:
    """The same, where TensorFlow is imported already: `-m MODULE ...` or `-c CODE ...`; see `forked`."""
    return forked.run(list(map(str, arguments)), ROOT, _environment(env))


def done(*arguments: object, **env: str) -> str:
    """What `fork` prints, where it succeeds and complains of nothing."""
    result = fork(*arguments, **env)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    """TensorFlow's messages are as a user has them, whatever other tests want."""
    return {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"} | {**more}
