"""Python in a process of its own: locust patches the standard library of the one that imports it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]


def python(code: str, *arguments: str) -> Any:
    """What the code prints, which must be JSON."""
    argv = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
