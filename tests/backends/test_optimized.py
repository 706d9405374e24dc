"""Optimized graphs that are kept: used again, not believed when they are damaged, and never in the way of a load."""

import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from serving.backends import onnx as backend
from serving.backends import optimized
from serving.core.artifact import publish
from serving.core.spec import ModelSpec
from serving.repository.disk.layout import scan
from serving.repository.loads.trial import Trials
from tests import models

X = {"x": np.arange(8, dtype=np.float32).reshape(2, 4)}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(optimized, "directory", tmp_path / "cache/graphs")
    return tmp_path / "cache/graphs"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return models.save(models.scale(3), tmp_path / "m/1/model.onnx")


def answer(model: Path, **settings: object) -> np.ndarray:
    session = backend.load(model, ModelSpec.model_validate({"cache_optimized": True, **settings}))
    y = session.run(X, ("y",))["y"]
    session.close()
    return y


def entries(cache: Path) -> list[Path]:
    return sorted(cache.iterdir()) if cache.exists() else []


def replaced(entry: Path, factor: float) -> None:
    """Another model in an entry, whole: what is read can be told from the artifact."""
    models.save(models.scale(factor), entry / "model.onnx")
    (entry / "sha256").write_text(optimized._sha256(entry / "model.onnx"))


def test_the_next_load_reads_what_the_first_one_kept(cache: Path, model: Path) -> None:
    np.testing.assert_array_equal(answer(model), 3 * X["x"])
    (entry,) = entries(cache)
    assert sorted(path.name for path in entry.iterdir()) == ["model.onnx", "sha256"]
    replaced(entry, 5)
    np.testing.assert_array_equal(answer(model), 5 * X["x"])
    assert entries(cache) == [entry]


def test_it_is_off_unless_asked_for(cache: Path, model: Path) -> None:
    np.testing.assert_array_equal(answer(model, cache_optimized=False), 3 * X["x"])
    assert entries(cache) == []


def test_without_a_place_nothing_is_kept(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    monkeypatch.setattr(optimized, "directory", None)
    np.testing.assert_array_equal(answer(model), 3 * X["x"])


def test_another_model_is_not_taken_for_it(cache: Path, model: Path) -> None:
    answer(model)
    models.save(models.scale(7), model)
    np.testing.assert_array_equal(answer(model), 7 * X["x"])
    assert len(entries(cache)) == 2


def test_a_published_model_is_known_by_its_content(cache: Path, tmp_path: Path) -> None:
    def version(repo: str, factor: float) -> Path:
        return publish(
            tmp_path / repo,
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

    answer(version("here", 3) / "model.onnx")
    answer(version("there", 3) / "model.onnx")
    assert len(entries(cache)) == 1
    np.testing.assert_array_equal(answer(version("there", 4) / "model.onnx"), 4 * X["x"])


@pytest.mark.parametrize("damage", ["changed", "cut", "no hash", "no model", "whole but no graph"])
def test_a_damaged_entry_is_made_anew(cache: Path, model: Path, damage: str) -> None:
    answer(model)
    (entry,) = entries(cache)
    file = entry / "model.onnx"
    if damage == "changed":
        models.save(models.scale(5), file)
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-10])
    elif damage == "no hash":
        (entry / "sha256").unlink()
    elif damage == "no model":
        file.unlink()
    else:
        file.write_bytes(b"no graph")
        (entry / "sha256").write_text(optimized._sha256(file))
    for _ in range(2):
        np.testing.assert_array_equal(answer(model), 3 * X["x"])
    (again,) = entries(cache)
    onnx.checker.check_model(onnx.load(again / "model.onnx"))


def test_a_place_that_cannot_be_written(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(optimized, "directory", tmp_path / "file/graphs")
    np.testing.assert_array_equal(answer(model), 3 * X["x"])


def test_a_graph_that_cannot_be_written_leaves_nothing(cache: Path, model: Path) -> None:
    def write(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("no space")

    assert optimized.find_or_make(model, "runtime", write) is None
    assert entries(cache) == []


def test_what_protobuf_cannot_hold_is_not_kept(cache: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimized, "_MODEL_BYTES", 10)
    np.testing.assert_array_equal(answer(model), 3 * X["x"])
    assert entries(cache) == []


def test_what_was_not_used_for_longest_goes(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [models.save(models.scale(n), tmp_path / f"m/{n}/model.onnx") for n in (1, 2, 3)]
    known: set[Path] = set()
    for used_at, each in enumerate(made[:2]):
        answer(each)
        (entry,) = set(entries(cache)) - known
        known.add(entry)
        os.utime(entry / "sha256", (used_at, used_at))
    oldest = next(entry for entry in known if (entry / "sha256").stat().st_mtime == 0)
    monkeypatch.setattr(optimized, "MOST_BYTES", int(2.5 * (oldest / "model.onnx").stat().st_size))
    answer(made[2])
    assert oldest not in entries(cache) and len(entries(cache)) == 2


def test_trials_keep_graphs_too(cache: Path, model: Path, tmp_path: Path) -> None:
    found = scan(model.parents[1])["m"].versions[1]
    trials = Trials(60.0)
    try:
        (tmp_path / "scratch").mkdir()
        trials.run("m", found, ModelSpec(cache_optimized=True, threads=1), tmp_path / "scratch")
    finally:
        trials.close()
    assert len(entries(cache)) == 1
