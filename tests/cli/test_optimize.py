"""Versions with smaller weights: made and published if they answer as the original does, and not otherwise."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from serving.backends import lighter, registry
from serving.cli import optimize
from serving.core.artifact import Golden, read_golden, read_manifest, verify, write_golden
from serving.core.spec import ModelSpec
from serving.repository.disk.layout import scan
from serving.repository.loads import loading
from tests import models

WIDTH, CLASSES = 64, 8


def network(scale: float = 1.0) -> onnx.ModelProto:
    """Scores of classes: two layers with random weights."""
    rng = np.random.default_rng(0)
    constants = {
        "w0": rng.standard_normal((WIDTH, WIDTH)).astype(np.float32) * scale,
        "w1": rng.standard_normal((WIDTH, CLASSES)).astype(np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w1"], ["y"]),
    ]
    given, gives = models.tensor("x", "FP32", ("n", WIDTH)), models.tensor("y", "FP32", ("n", CLASSES))
    return models.model(nodes, [given], [gives], constants)


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    """A model with one version, whose golden sample has ten rows."""
    path = models.save(network(), tmp_path / "repo/m/1/model.onnx")
    inputs = {"x": np.random.default_rng(1).standard_normal((10, WIDTH)).astype(np.float32)}
    session = registry.load(path, ModelSpec())
    write_golden(path.parent, Golden(inputs, session.run(inputs, ("y",))))
    session.close()
    return tmp_path / "repo/m"


def run(
    path: Path, way: str = "int8", out: Path | None = None, tolerance: float | None = None, top1: float = 0.5
) -> int:
    return optimize.run(path, None, way, out, tolerance, top1)


def data_types(version: Path) -> set[int]:
    return {each.data_type for each in onnx.load(version / "model.onnx").graph.initializer if len(each.dims) == 2}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimize, "_TIMED_S", 0.0)


@pytest.mark.parametrize(
    ("way", "kind", "share"), [("fp16", onnx.TensorProto.FLOAT16, 0.6), ("int8", onnx.TensorProto.INT8, 0.5)]
)
def test_a_version_with_smaller_weights(
    model_dir: Path, capsys: pytest.CaptureFixture[str], way: str, kind: int, share: float
) -> None:
    assert run(model_dir, way) == 0
    out, err = capsys.readouterr()
    assert err == "" and f"published {model_dir}/2" in out and "on 10 rows of the golden sample" in out
    assert [line.split()[0] for line in out.splitlines()[:2]] == ["m/1:", "before"]
    version = model_dir / "2"
    assert (version / "model.onnx").stat().st_size < share * (model_dir / "1/model.onnx").stat().st_size
    assert kind in data_types(version)
    manifest = read_manifest(version)
    assert manifest is not None and manifest.training is not None and verify(version, manifest) == []
    assert (manifest.training["made_from"], manifest.training["way"], manifest.metric) == ("1", way, None)
    assert manifest.signature["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, WIDTH]}]


@pytest.mark.parametrize("way", ["fp16", "int8"])
def test_the_server_takes_it_and_holds_it_against_the_original(model_dir: Path, way: str) -> None:
    assert run(model_dir, way) == 0
    found = scan(model_dir)["m"].versions[2]
    session = loading.load("m", found, ModelSpec())
    loaded = loading.warm_up("m", found, ModelSpec(), session)
    assert loaded.contract.max_batch_size == 64
    session.close()
    one, other = read_golden(model_dir / "1"), read_golden(model_dir / "2")
    assert one is not None and other is not None
    np.testing.assert_array_equal(one.outputs["y"], other.outputs["y"])


def test_without_a_golden_sample_rows_are_generated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = models.save(network(), tmp_path / "net.onnx")
    assert run(file) == 1
    assert "say with --out which one gets the version" in capsys.readouterr().err
    assert run(file, out=tmp_path / "repo/small") == 0
    assert "on 32 generated rows" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "repo/small").iterdir()] == ["1"]


@pytest.mark.parametrize("settings", [{"tolerance": 1e-9}, {"top1": 1.1}])
def test_answers_that_differ_too_much_are_not_published(
    model_dir: Path, capsys: pytest.CaptureFixture[str], settings: dict[str, float]
) -> None:
    assert run(model_dir, **settings) == 1  # type: ignore[arg-type]
    assert "error: not published: " in capsys.readouterr().err
    assert [path.name for path in model_dir.iterdir()] == ["1"]


def test_a_number_that_float16_cannot_hold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models.save(network(scale=1e6), tmp_path / "m/1/model.onnx")
    assert run(tmp_path / "m", "fp16") == 1
    assert "not published" in capsys.readouterr().err


def test_what_does_not_get_smaller(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models.save(models.scale(2), tmp_path / "m/1/model.onnx")
    assert run(tmp_path / "m") == 1
    assert "it did not get smaller" in capsys.readouterr().err


def test_what_is_no_onnx_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m/1").mkdir(parents=True)
    (tmp_path / "m/1/saved_model.pb").touch()
    assert run(tmp_path / "m") == 1
    assert "is no ONNX model" in capsys.readouterr().err
    (tmp_path / "n/1").mkdir(parents=True)
    (tmp_path / "n/1/model.onnx").write_bytes(b"nothing")
    assert run(tmp_path / "n") == 1
    assert run(tmp_path / "nowhere") == 1


def test_a_missing_library_is_named(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(lighter.LoadError, match=r"'onnx' is not installed: pip install 'serving\[optimize\]'"):
        lighter.float16(model_dir / "1/model.onnx", model_dir / "2")
