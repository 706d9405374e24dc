"""What TF_CONFIG says about this process."""

import json
from typing import Any

import pytest

from trainers.contract import TrainingError
from trainers.workers import Task, task

TWO = {"worker": ["127.0.0.1:1", "127.0.0.1:2"]}


def config(cluster: Any, kind: str, index: Any) -> str:
    return json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})


@pytest.mark.parametrize(
    ("text", "expected", "chief"),
    [
        ("", Task(0, 1), True),
        (config(TWO, "worker", 0), Task(0, 2), True),
        (config(TWO, "worker", "1"), Task(1, 2), False),
        (config({"chief": ["127.0.0.1:3"], **TWO}, "chief", 0), Task(0, 3), True),
        (config({"chief": ["127.0.0.1:3"], **TWO}, "worker", 0), Task(1, 3), False),
    ],
)
def test_a_process_knows_its_place(monkeypatch: pytest.MonkeyPatch, text: str, expected: Task, chief: bool) -> None:
    monkeypatch.setenv("TF_CONFIG", text)
    assert task() == expected
    assert task().chief == chief


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        config(TWO, "worker", 2),
        config(TWO, "worker", -1),
        config(TWO, "ps", 0),
        config(TWO, "chief", 0),
        config({"worker": 3}, "worker", 0),
    ],
)
def test_what_is_no_cluster_is_one_line(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(TrainingError) as raised:
        task()
    assert str(raised.value).startswith("TF_CONFIG in the environment: not a cluster and a task of it: ")
    assert "\n" not in str(raised.value)
