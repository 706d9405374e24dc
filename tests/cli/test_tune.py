"""`serving tune`: what it says and writes. What settings come to follows from a formula, so that it is always the same;
real measurements are in `tests/tuning/test_bench.py`."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from serving.cli import tune
from serving.core.spec import parse_spec
from tests import models
from tests.tuning.pretend import Pretend

BEFORE = "# ours\nmax_batch_size: 4  # small\nmax_queue_delay_ms: 20\n"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    models.save(models.scale(2), tmp_path / "m/1/model.onnx")
    return tmp_path / "m"


def pretend(monkeypatch: pytest.MonkeyPatch, max_batch_size: int = 4, **more: Any) -> None:
    """Two processors, and a bench without a model behind it."""

    class Bench(Pretend):
        contract = SimpleNamespace(max_batch_size=max_batch_size, unbatched_because="max_batch_size is 0")

        def __enter__(self) -> "Bench":
            return self

        def __exit__(self, *_error: object) -> None:
            pass

    monkeypatch.setattr(tune, "Bench", lambda *_args: Bench(**more))
    monkeypatch.setattr(tune.cores, "usable", lambda: 2)
    monkeypatch.setattr(tune.cores, "model", lambda: "a processor")


def run(path: Path, **more: Any) -> int:
    given: dict[str, Any] = {"number": None, "p99_ms": 100.0, "rate": None, "rows": 1, "seconds": 60.0}
    given |= {"dry_run": False, "directory": path.parent / "report", **more}
    return tune.run(path, **given)


def report_of(model: Path) -> Any:
    return json.loads((model.parent / "report/report.json").read_text())


def test_settings_are_found_shown_and_written(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend(monkeypatch)
    settings = model / "model.yaml"
    settings.write_text(BEFORE)
    assert run(model) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert err == "" and lines[0] == "m/1: the highest rate with a p99 of at most 100 ms"
    assert lines[1].startswith("  1 x 1, batch 4, delay 20 ms: 2,")
    best = report_of(model)["best"]
    values = best["setting"]
    assert values["max_batch_size"] >= 32 and values["max_queue_delay_ms"] == 0 and values["instances"] == 2
    assert any(line.startswith(f"best 2 x 1, batch {values['max_batch_size']}, delay 0 ms: ") for line in lines)
    assert any(line.startswith("before, 1 x 1, batch 4, delay 20 ms: 2,") for line in lines)
    for line in (
        "-max_batch_size: 4  # small",
        f"+max_batch_size: {values['max_batch_size']}  # small",
        "+instances: 2",
    ):
        assert line in lines
    assert f"written to {settings}; a server that watches it loads the model again" in lines
    assert settings.read_text().startswith("# ours\n")
    assert parse_spec(settings.read_text(), "model.yaml").model_dump(include=set(values)) == values
    assert lines[-1].startswith(f"report: {model.parent}/report/report.json, ")
    assert "2 processors (a processor)" in (model.parent / "report/report.md").read_text()


def test_dry_run_writes_no_settings(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend(monkeypatch)
    (model / "model.yaml").write_text(BEFORE)
    assert run(model, dry_run=True, rate=100.0) == 0
    out = capsys.readouterr().out
    assert out.startswith("m/1: the least p99 at 100 requests/s, of at most 100 ms\n")
    assert "+max_queue_delay_ms: 0\n" in out and f"--dry-run: {model}/model.yaml is as it was" in out
    assert (model / "model.yaml").read_text() == BEFORE


def test_what_is_set_may_be_best(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend(monkeypatch)
    (model / "model.yaml").write_text(BEFORE)
    assert run(model) == 0
    written = (model / "model.yaml").read_text()
    batch = report_of(model)["best"]["setting"]["max_batch_size"]
    pretend(monkeypatch, batch)
    capsys.readouterr()
    assert run(model) == 0
    assert "nothing that was tried is clearly better than what is set" in capsys.readouterr().out
    assert (model / "model.yaml").read_text() == written


def test_what_the_server_itself_takes_is_said(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend(monkeypatch, 64, fixed_ms=0.001, row_ms=0.001)
    assert run(model) == 0
    out = capsys.readouterr().out
    assert "the server's own work, about 60 µs" in out and "more than 16,667 requests/s" in out
    assert not (model / "model.yaml").exists()


def test_an_artifact_has_no_settings_to_write(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend(monkeypatch)
    file = models.save(models.scale(2), model.parent / "alone.onnx")
    assert run(file) == 0
    out = capsys.readouterr().out
    assert out.startswith("alone/1: ") and "no model.yaml was written: a model file has no model.yaml" in out
    assert "\n  instances: 2\n" in out
    assert sorted(path.name for path in model.parent.iterdir()) == ["alone.onnx", "m", "report"]


def test_a_model_that_is_not_batched(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend(monkeypatch, 0)
    assert run(model) == 0
    assert "requests run one at a time (max_batch_size is 0)" in capsys.readouterr().out
    assert (model / "model.yaml").read_text() == "instances: 2\nthreads: 1\n"


def test_a_bound_that_nothing_holds(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend(monkeypatch)
    assert run(model, p99_ms=0.5) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("error: nothing that was tried holds the bound; 1 x 1, batch 4, delay 0 ms does not hold ")
    assert report_of(model)["best"]["best"] is None and not (model / "model.yaml").exists()


@pytest.mark.parametrize(
    ("name", "more", "says"),
    [
        ("none", {}, "no such file or directory"),
        ("m", {"number": 9}, "'m' has no version 9; there are 1"),
        ("m", {"rows": 65}, "a request may have 64 rows, not 65"),
        ("bad", {}, "cannot load"),
    ],
)
def test_errors_are_one_line(
    model: Path, capsys: pytest.CaptureFixture[str], name: str, more: dict[str, Any], says: str
) -> None:
    (model.parent / "bad/1").mkdir(parents=True)
    (model.parent / "bad/1/model.onnx").write_bytes(b"nothing of the kind")
    assert run(model.parent / name, **more) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ") and says in error


def test_a_report_that_cannot_be_written(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend(monkeypatch)
    assert run(model, directory=Path("/dev/null/report")) == 1
    assert capsys.readouterr().err.startswith("error: /dev/null/report: ")
    assert not (model / "model.yaml").exists()
