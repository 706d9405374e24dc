"""Lines of the access log, and how they get to the disk."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from serving.observe import access_log
from serving.observe.access_log import STANDARD_OUTPUT, AccessLog, human_line, json_line
from serving.protocols.record import Record
from tests.observe.build import call, failure, inference, record, trace


def fields(of: Record) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json_line(of, 1_700_000_000.0))
    return found


def test_a_line_for_machines() -> None:
    of = record(inference(), request_id="a-1", key="team", trace=trace())
    assert fields(of) == {
        "time": "2023-11-14T22:13:29.500000Z",
        "peer": "127.0.0.1:5",
        "transport": "http",
        "method": "POST",
        "path": "/v2/models/m/infer",
        "status": 200,
        "seconds": 6.0,
        "received_bytes": 100,
        "sent_bytes": 50,
        "protocol": "oip_rest",
        "model": "m",
        "version": "3",
        "outcome": "ok",
        "decode_s": 1.0,
        "queue_s": 2.0,
        "compute_s": 0.5,
        "encode_s": 1.0,
        "batch_rows": 2,
        "request_id": "a-1",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "key": "team",
    }


def test_a_line_for_people() -> None:
    assert human_line(record(failure(), status=400, request_id="a-1"), 1_700_000_000.0).decode() == (
        "2023-11-14T22:13:29.500000Z 127.0.0.1:5 POST /v2/models/m/infer 400 seconds=6.0 received_bytes=100 "
        "sent_bytes=50 protocol=oip_rest model=m version=3 outcome=invalid request_id=a-1\n"
    )
    line = human_line(call(), 0.0).decode()
    assert " ipv4:127.0.0.1:5 grpc /inference.GRPCInferenceService/ModelInfer OK " in line


def test_nobody_can_make_up_lines() -> None:
    of = record(path="/a\nb\x1b[2J\udc80")
    line = human_line(of, 0.0)
    assert line.count(b"\n") == 1 and b"/a\\nb\\x1b[2J\\udc80" in line
    assert json_line(record(path="/a\nb"), 0.0).count(b"\n") == 1


def test_a_path_is_bounded() -> None:
    assert len(fields(record(path="/" + "a" * 5000))["path"]) == 1000


def test_who_left_before_the_answer() -> None:
    assert fields(record(failure("cancelled"), status=0))["status"] == "cancelled"


def test_several_inferences_are_counted() -> None:
    of = call(inference(), failure(), failure(), more=7)
    found = fields(of)
    assert (found["inferences"], found["failed"], found["model"]) == (10, 2, "m")
    assert "queue_s" not in found and "outcome" not in found


# The file


def lines(path: Path) -> list[str]:
    return [json.loads(line)["request_id"] for line in path.read_text().splitlines()]


def test_all_lines_are_there_in_the_end_and_in_order(tmp_path: Path) -> None:
    file = tmp_path / "access.log"
    file.write_text('{"request_id": "before"}\n')
    log = AccessLog(file, "json")
    ids = [str(number) for number in range(200)]
    for request_id in ids:
        log.add(record(request_id=request_id))
    log.close()
    assert lines(file) == ["before", *ids] and log.dropped == 0


def test_more_than_may_wait_is_counted_and_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "_EVERY_S", 600.0)
    log = AccessLog(tmp_path / "access.log", "json", max_waiting=3)
    for number in range(5):
        log.add(record(request_id=str(number)))
    log.close()
    assert lines(tmp_path / "access.log") == ["0", "1", "2"] and log.dropped == 2


def test_a_file_that_was_moved_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "_EVERY_S", 0.01)
    file, moved = tmp_path / "access.log", tmp_path / "access.log.1"
    log = AccessLog(file, "json")
    log.add(record(request_id="a"))
    tick = threading.Event()
    while not file.read_text():
        tick.wait(0.005)
    file.rename(moved)
    log.add(record(request_id="b"))
    log.close()
    assert (lines(moved), lines(file)) == (["a"], ["b"])


def test_a_full_disk_loses_lines_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(access_log, "_EVERY_S", 0.01)
    log = AccessLog(Path("/dev/full"), "json")
    tick = threading.Event()
    for expected in (1, 2):
        log.add(record())
        while log.dropped < expected:
            tick.wait(0.005)
    log.close()
    assert [entry.message for entry in caplog.records] == [
        "the access log cannot be written: [Errno 28] No space left on device"
    ]


def test_standard_output(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    log = AccessLog(STANDARD_OUTPUT, "json")
    log.add(record(request_id="a"))
    log.close()
    assert json.loads(capfdbinary.readouterr().out)["request_id"] == "a"


def test_a_file_that_cannot_be_opened_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        AccessLog(tmp_path / "nosuch" / "access.log", "json")
