"""Calibrations that are kept: found again for the same model, settings, machine and runtime, and for no other."""

import os
from pathlib import Path

import pytest

from serving.core.artifact import publish
from serving.core.spec import Latest, ModelSpec
from serving.repository.disk.layout import FoundVersion, scan
from serving.repository.loads import cores, remembered
from serving.repository.loads.calibration import Execution, Setting
from serving.repository.loads.remembered import Remembered
from tests import models

CHOSEN = Execution(Setting(2, 3), "measured")


def plain(repo: Path) -> FoundVersion:
    models.save(models.scale(2), repo / "m/1/model.onnx")
    return scan(repo)["m"].versions[1]


def published(repo: Path, factor: float = 2) -> FoundVersion:
    publish(
        repo,
        "m",
        lambda directory: models.save(models.scale(factor), directory / "model.onnx"),
        golden=None,
        signature={},
        metric=None,
        seed=None,
        libraries={},
        atol=0,
        rtol=0,
    )
    versions = scan(repo)["m"].versions
    return versions[max(versions)]


def test_found_again(tmp_path: Path) -> None:
    found = plain(tmp_path / "repo")
    kept = Remembered(tmp_path / "cache/execution")
    assert kept.find(found, ModelSpec()) is None
    kept.keep(found, ModelSpec(), CHOSEN)
    assert Remembered(tmp_path / "cache/execution").find(found, ModelSpec()) == CHOSEN
    assert len(list((tmp_path / "cache/execution").iterdir())) == 1


def test_only_for_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = plain(tmp_path / "repo")
    kept = Remembered(tmp_path / "cache")
    kept.keep(found, ModelSpec(), CHOSEN)
    assert kept.find(found, ModelSpec(max_batch_size=8)) is None
    assert kept.find(found, ModelSpec(versions=Latest(latest=2), version_labels={"stable": 1})) == CHOSEN
    os.utime(found.path / "model.onnx", ns=(1, 1))
    assert kept.find(scan(tmp_path / "repo")["m"].versions[1], ModelSpec()) is None
    for name in ("usable", "model"):
        with monkeypatch.context() as patched:
            patched.setattr(cores, name, lambda: 77)
            assert kept.find(found, ModelSpec()) is None
    with monkeypatch.context() as patched:
        patched.setattr(remembered, "version", lambda name: "another")
        assert kept.find(found, ModelSpec()) is None
    assert kept.find(found, ModelSpec()) == CHOSEN


def test_a_published_version_is_known_by_its_content(tmp_path: Path) -> None:
    kept = Remembered(tmp_path / "cache")
    kept.keep(published(tmp_path / "here"), ModelSpec(), CHOSEN)
    assert kept.find(published(tmp_path / "there"), ModelSpec()) == CHOSEN
    assert kept.find(published(tmp_path / "there", factor=3), ModelSpec()) is None


@pytest.mark.parametrize("text", ["", "{", '{"instances": 0, "threads": 1, "reason": ""}', '{"instances": 1}'])
def test_a_damaged_entry_is_none(tmp_path: Path, text: str) -> None:
    found = plain(tmp_path / "repo")
    kept = Remembered(tmp_path / "cache")
    kept.keep(found, ModelSpec(), CHOSEN)
    (entry,) = (tmp_path / "cache").iterdir()
    entry.write_text(text)
    assert kept.find(found, ModelSpec()) is None
    kept.keep(found, ModelSpec(), CHOSEN)
    assert kept.find(found, ModelSpec()) == CHOSEN


def test_where_nothing_can_be_kept(tmp_path: Path) -> None:
    found = plain(tmp_path / "repo")
    (tmp_path / "file").touch()
    kept = Remembered(tmp_path / "file/cache")
    kept.keep(found, ModelSpec(), CHOSEN)
    assert kept.find(found, ModelSpec()) is None


def test_the_oldest_entries_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "_MOST", 2)
    found = plain(tmp_path / "repo")
    kept = Remembered(tmp_path / "cache")
    for size in (1, 2, 3):
        kept.keep(found, ModelSpec(max_batch_size=size), CHOSEN)
        (newest,) = set((tmp_path / "cache").iterdir()) - {
            p for p in (tmp_path / "cache").iterdir() if p.stat().st_mtime < 1e9
        }
        os.utime(newest, (size, size))
    assert [kept.find(found, ModelSpec(max_batch_size=size)) for size in (1, 2, 3)] == [None, CHOSEN, CHOSEN]
