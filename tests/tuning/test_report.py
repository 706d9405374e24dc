"""What was found, in words, for programs and on paper."""

import json
import math
from pathlib import Path

import pytest

from serving.tuning.report import Task, as_json, as_markdown, in_words, write
from serving.tuning.search import Found
from serving.tuning.setting import Outcome, Setting, Trial

TASK = Task("digits", 3, 20.0, None, 1, 60.0, 2, "a processor")
GOOD = Trial(1234.5, 1.0, 1200, 1200, 3.0, 12.345, 7.5)
BAD = Trial(2000.0, 1.0, 2000, 1500, 30.0, math.inf, 8.0)
START = Outcome(Setting(1, 1, 8, 5.0), (BAD, GOOD), GOOD, 2500.0)
BEST = Outcome(Setting(2, 1, 32, 0.0), (GOOD,), GOOD, 4000.0)
LOST = Outcome(Setting(1, 2, 8, 5.0), (), None, 1000.0, lost=True)
FOUND = Found(START, BEST, (START, LOST, BEST), complete=False)


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (START, "1,234 requests/s with a p99 of 12.3 ms"),
        (LOST, "is not better"),
        (Outcome(BEST.setting, (GOOD, BAD)), "does not hold 20 ms: far more at 2,000 requests/s"),
        (Outcome(BEST.setting, (BAD, GOOD)), "does not hold 20 ms: a p99 of 12.3 ms at 1,234 requests/s"),
    ],
)
def test_words(outcome: Outcome, words: str) -> None:
    assert in_words(outcome, 20.0) == words


def test_settings_in_words() -> None:
    assert str(START.setting) == "1 x 1, batch 8, delay 5 ms" and str(Setting(2, 3, 0)) == "2 x 3"
    assert Setting(2, 3, 0, 1.0).values == {"instances": 2, "threads": 3}
    assert START.setting.values == {"max_batch_size": 8, "max_queue_delay_ms": 5, "instances": 1, "threads": 1}
    assert str(Setting(1, 1, 8, 0.5).values["max_queue_delay_ms"]) == "0.5"


def test_json_has_all_trials_and_no_infinity() -> None:
    value = json.loads(json.dumps(as_json(TASK, FOUND), allow_nan=False))
    assert value["best"]["setting"] == BEST.setting.values and value["best"]["best"]["rate"] == 1234.5
    assert value["start"]["trials"][0]["p99_ms"] is None
    assert [each["lost"] for each in value["tried"]] == [False, True, False]
    assert value["task"]["model"] == "digits" and value["complete"] is False


def test_markdown() -> None:
    text = as_markdown(TASK, FOUND, ["report.png"])
    assert text.startswith("# digits/3: highest rate with a p99 of at most 20 ms\n")
    assert "- best: 2 x 1, batch 32, delay 0 ms: 1,234 requests/s" in text
    assert "![report.png](report.png)" in text and "there was no time for more" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + 3 and len({line.count("|") for line in table}) == 1
    assert table[2] == "| 1 | 1 | 8 | 5 | 2,500 | 1,234 | 3 | 12.3 | 7.5 |"
    assert table[3] == "| 1 | 2 | 8 | 5 | 1,000 |  |  |  |  |"


def test_files(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    written = write(tmp_path / "new" / "report", TASK, FOUND)
    assert [path.name for path in written] == ["report.json", "report.md", "report.png"]
    assert written[2].read_bytes().startswith(b"\x89PNG")
    assert "report.png" in written[1].read_text()


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    assert [path.name for path in write(tmp_path, TASK, FOUND)] == ["report.json", "report.md"]
    assert "report.png" not in (tmp_path / "report.md").read_text()
