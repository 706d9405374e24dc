"""`serving tune`, as a user types it."""

import json
from pathlib import Path

from tests import models
from tests.e2e.server import command, error_line


def test_command(tmp_path: Path) -> None:
    models.save(models.scale(2), tmp_path / "m/1/model.onnx")
    wide = ("--p99-ms", 20_000, "--rate", 100, "--seconds", 1)
    result = command("tune", tmp_path / "m", *wide, "--dry-run", "--report", tmp_path / "report")
    assert result.returncode == 0 and result.stderr == ""
    assert result.stdout.startswith("m/1: the least p99 at 100 requests/s")
    assert json.loads((tmp_path / "report/report.json").read_text())["best"]["best"]["answered"] > 0
    assert not (tmp_path / "m/model.yaml").exists()
    assert "no such file or directory" in error_line(command("tune", tmp_path / "n", *wide))
