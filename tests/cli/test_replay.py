"""Captured requests again: when each is sent, and what is made of the answers."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.capture.record import Record, encode
from serving.capture.segments import Writer
from serving.cli import replay
from serving.cli.capture import show
from serving.cli.replay import Replay, Tolerance, _chosen, _due, _send_all
from serving.client import Answer, ClientError
from serving.core.types import Tensors
from tests.capture.build import record

NEARLY = Tolerance(1e-4, 1e-4)
Sent = tuple[str, str, tuple[str, ...], dict[str, Any]]


class Server:
    """A client of a server that answers x with its mean, and fails on what is negative."""

    def __init__(self, more: float = 0.0) -> None:
        self.sent: list[Sent] = []
        self._more = more

    def infer(
        self,
        model: str,
        version: str,
        inputs: Tensors,
        *,
        outputs: Sequence[str] = (),
        parameters: Mapping[str, Any] | None = None,
    ) -> Answer:
        self.sent.append((model, version, tuple(outputs), dict(parameters or {})))
        if (inputs["x"] < 0).any():
            raise ClientError("negative")
        return Answer(model, version or "7", {"y": inputs["x"].mean(axis=1, keepdims=True) + np.float32(self._more)})

    signature = index = metadata = None  # type: ignore[assignment]


def asked(value: float, **more: Any) -> Record:
    x = np.full((1, 2), value, np.float32)
    return record(inputs={"x": x}, answer={"y": x[:, :1]}, **more)


def sent(records: Sequence[Record], more: float = 0.0, **how: Any) -> tuple[Replay, list[Sent]]:
    server: Any = Server(more)
    run = Replay(server, **{"compare": NEARLY, **how})
    _send_all(run, _due(enumerate(records, 1), None, False), 1)
    return run, server.sent


def test_requests_are_sent_as_they_were() -> None:
    parameters = {"signature_name": "s", "binary_data_output": False}
    _, requests = sent([asked(1.0, outputs=("y",), parameters=parameters, version=1, model="a")])
    assert requests == [("a", "", ("y",), {"signature_name": "s"})]


def test_for_the_version_that_answered_then() -> None:
    failed = asked(1.0, answered_by=0, error="model")
    _, requests = sent([asked(1.0, answered_by=3), failed], pinned=True)
    assert [version for _, version, *_ in requests] == ["3", ""]


def test_answers_are_counted_by_model() -> None:
    run, _ = sent([asked(1.0), asked(2.0), asked(1.0, model="a")], more=5e-5)
    a, m = run.tallies
    assert (a.model, a.same, a.different, a.versions) == ("a", 1, 0, ["7"])
    assert (m.model, m.answered, m.same) == ("m", 2, 2) and m.largest == pytest.approx(5e-5, rel=0.01) and m.good
    assert run.told == []


def test_another_answer_is_told() -> None:
    run, _ = sent([asked(1.0), asked(2.0, id="\x1b[31m")], more=0.5)
    (tally,) = run.tallies
    assert (tally.same, tally.different, tally.good) == (0, 2, False)
    assert run.told[0].startswith("request 1 (m): 'y' differs by up to 0.5 in 1 of 1 elements")
    assert run.told[1].startswith("request 2 (m id '\\x1b[31m'): ")  # not for the terminal to follow


def test_answers_that_nobody_wants_compared() -> None:
    run, _ = sent([asked(1.0)], more=0.5, compare=None)
    assert run.tallies[0].good and run.tallies[0].same == 0


def test_failures_are_bad_news_only_if_they_are_new() -> None:
    run, _ = sent([asked(-1.0, error="model", answered_by=0)])
    assert (run.tallies[0].failed, run.tallies[0].expected, run.tallies[0].good) == (1, 1, True)
    run, _ = sent([asked(1.0, error="model", answered_by=0)])
    assert (run.tallies[0].answered, run.tallies[0].same, run.tallies[0].good) == (1, 0, True)
    run, _ = sent([asked(-1.0)])
    assert not run.tallies[0].good and run.told == ["request 1 (m): failed: negative"]


@pytest.mark.parametrize(
    ("rate", "as_recorded", "moments"),
    [(None, False, [0, 0, 0]), (4.0, False, [0, 0.25, 0.5]), (None, True, [0, 2, 1.5])],
)
def test_when_requests_are_due(rate: float | None, as_recorded: bool, moments: list[float]) -> None:
    records = [record(at=100.0 + at) for at in (0, 2, 1.5)]
    assert [at_s for at_s, *_ in _due(enumerate(records, 1), rate, as_recorded)] == moments


def test_numbers_stay_those_of_all_records() -> None:
    records = [record(model=name) for name in "abab"]
    assert [number for number, _ in _chosen(records, "b", None)] == [2, 4]
    assert [number for number, _ in _chosen(records, "", 3)] == [1, 2, 3]


def test_what_goes_wrong_here_is_no_failure_of_the_server() -> None:
    broken = record(inputs={})
    with pytest.raises(KeyError):
        sent([broken])


def test_rate_and_times_exclude_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay.run(tmp_path, "http://127.0.0.1:9", "", 5.0, True, 1, None, None, False, False) == 1
    assert capsys.readouterr().err == "error: choose one of --rate and --as-recorded\n"


def test_what_was_kept_can_be_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    writer = Writer(tmp_path / "kept", 1 << 20)
    for number in range(4):
        one = asked(1.0, at=1_700_000_000.0 + number, took_s=0.001 * number, model="ab"[number % 2])
        assert writer.append(encode(one))
    writer.close()
    assert show(tmp_path / "kept", "", False, None, True) == 0
    a, b = json.loads(capsys.readouterr().out)["models"]
    assert (a["model"], a["records"], a["rows"], a["tensor_bytes"], a["p50_ms"]) == ("a", 2, 2, 24, pytest.approx(1))
    assert (b["first_at"], b["last_at"], b["protocols"]) == (1_700_000_001.0, 1_700_000_003.0, ["oip_rest"])
    assert show(tmp_path / "kept", "b", True, None, False) == 0
    first, _ = capsys.readouterr().out.splitlines()
    assert first == "     2  2023-11-14 22:13:21.000  oip_rest  b  x FP32 [1, 2]  version 1  1.0 ms"
    assert show(tmp_path / "kept", "", False, None, False) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:6] == ["a", "2", "0", "2", "0", "kB"]
    assert show(tmp_path / "kept", "none", False, None, False) == 1


def test_damage_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    writer = Writer(tmp_path, 1 << 20)
    writer.append(encode(asked(1.0)))
    writer.close()
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes() + b"SCR1half")
    assert show(tmp_path, "", True, None, False) == 0
    assert capsys.readouterr().err == "1 damaged places were passed over (8 bytes)\n"
