"""What others took of the processors, by a file as the kernel writes it."""

import os
from pathlib import Path

import pytest

from serving.tuning.others import Others

TICKS = os.sysconf("SC_CLK_TCK")


def write(proc: Path, busy_s: float, idle_s: float) -> None:
    user, idle = int(busy_s * TICKS), int(idle_s * TICKS)
    (proc / "stat").write_text(f"cpu  {user} 0 0 {idle} 0 0 0 0 0 0\ncpu0 1 1 1 1 1 1 1 1 1 1\nintr 1\n")


def test_what_is_busy_and_not_ours_is_that_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = [10.0, 13.0]
    monkeypatch.setattr(os, "times", lambda: os.times_result((own.pop(0), 0.0, 0.0, 0.0, 0.0)))
    write(tmp_path, 100, 100)
    others = Others(tmp_path)
    write(tmp_path, 108, 112)
    assert others.share() == 0.25  # of 20 seconds 8 were busy, 3 of them with us


def test_where_the_system_does_not_tell(tmp_path: Path) -> None:
    assert Others(tmp_path).share() is None
    (tmp_path / "stat").write_text("nonsense\n")
    assert Others(tmp_path).share() is None


def test_no_time_has_passed(tmp_path: Path) -> None:
    write(tmp_path, 1, 1)
    assert Others(tmp_path).share() is None
