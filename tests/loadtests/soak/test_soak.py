"""The command, from the server's start to the verdict."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from loadtests.soak.__main__ import arguments

ROOT = Path(__file__).parents[3]


def test_arguments() -> None:
    options = arguments().parse_args(["--minutes", "1.5", "--quick"])
    assert options.minutes == 1.5 and options.quick
    with pytest.raises(SystemExit):
        arguments().parse_args(["--minutes", "0"])


@pytest.mark.slow
def test_a_short_soak(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "loadtests.soak", "--quick", "--minutes", "1.5", "--out", str(tmp_path)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "soak.json").read_text())
    requests = found["requests"]["all"]
    assert requests["sent"] == requests["answered"] > 1000
    assert len(requests["versions"]) == len(found["swaps"]) + 1 > 5
    assert found["failures"] == [] and len(found["samples"]) > 100
    assert (tmp_path / "soak.png").exists()
