"""The peers' environments: `.venv-compare-NAME` beside the project's own, made when it is missing or out of date.

Runs on the main thread; what it runs are child processes. uv makes them where it is installed, venv and pip otherwise.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import onnxruntime

from loadtests.processes import ProcessError

ROOT = Path(__file__).parents[2]
PEERS = Path(__file__).with_name("peers")
TAIL_CHARACTERS = 2000

_LIST = """
import json, platform
from importlib.metadata import distributions
found = {one.metadata["Name"]: one.version for one in distributions()}
print(json.dumps({"python": platform.python_version(), **found}))
"""


def environment(name: str) -> Path:
    return ROOT / f".venv-compare-{name}"


def python(name: str) -> Path:
    return environment(name) / "bin" / "python"


def requirements(name: str) -> str:
    """What is installed for a peer: its own list, and the ONNX Runtime that this process has, so that all have one."""
    return (PEERS / f"{name}.txt").read_text(encoding="utf-8") + f"onnxruntime=={onnxruntime.__version__}\n"


def make(name: str) -> Path:
    """Make a peer's environment unless it is there as `requirements` ask; returns its Python.

    ProcessError when a package cannot be installed.
    """
    wanted, stamp = requirements(name), environment(name) / ".stamp"
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        _create(environment(name))
        listed = environment(name) / "requirements.txt"
        listed.write_text(wanted, encoding="utf-8")
        if uv := shutil.which("uv"):
            _run([uv, "pip", "install", "--quiet", "--python", str(python(name)), "--requirement", str(listed)])
        else:
            _run([str(python(name)), "-m", "pip", "install", "--quiet", "--requirement", str(listed)])
        stamp.write_text(wanted, encoding="utf-8")
    return python(name)


def versions(interpreter: Path) -> dict[str, str]:
    """Of Python and of every package that it finds."""
    found: dict[str, str] = json.loads(_run([str(interpreter), "-I", "-c", _LIST]))
    return dict(sorted(found.items()))


def _create(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    if uv := shutil.which("uv"):
        _run([uv, "venv", "--quiet", "--python", sys.executable, str(directory)])
    else:
        _run([sys.executable, "-m", "venv", str(directory)])


def _run(argv: list[str]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode != 0:
        raise ProcessError(f"{' '.join(argv[:4])} failed\n{done.stderr.strip()[-TAIL_CHARACTERS:]}")
    return done.stdout
