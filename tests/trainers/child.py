"""Runs trainers, and anything else that imports TensorFlow, in child processes: its import warns, and a warning fails a
test here."""

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_MISSING = [
    name
    for name in ("keras", "matplotlib", "optuna", "sklearn", "tensorboard", "tensorflow", "tf2onnx")
    if not find_spec(name)
]

trains = pytest.mark.skipif(bool(_MISSING), reason=f"not installed: {', '.join(_MISSING)}")


def run(command: Sequence[object], **env: str) -> subprocess.CompletedProcess[str]:
    """What a command does in the checkout. TensorFlow's messages are as a user has them, whatever other tests want."""
    environment = {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"} | env
    return subprocess.run(
        list(map(str, command)), cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def python(*arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
    """What Python does with these arguments."""
    return run([sys.executable, *arguments], **env)


def done(*arguments: object, **env: str) -> str:
    """What it prints, where it succeeds and complains of nothing."""
    result = python(*arguments, **env)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout
