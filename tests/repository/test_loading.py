"""From files to a model that is warm: manifest, golden sample, proof, and the batch sizes that were tried."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from serving.backends.base import Session
from serving.core.artifact import GOLDEN, MANIFEST, Golden, publish, write_golden
from serving.core.errors import LoadError
from serving.core.spec import ModelSpec
from serving.core.types import DEFAULT_SIGNATURE, Tensors
from serving.repository import loading
from serving.repository.layout import FoundVersion, scan
from serving.repository.loading import Loaded
from tests import models
from tests.batching import graphs
from tests.repository.build import FakeSession

SAMPLE = Golden({"x": np.eye(4, dtype=np.float32)}, {"y": 2 * np.eye(4, dtype=np.float32)})


def published(repo: Path, proto: onnx.ModelProto | None = None, golden: Golden | None = SAMPLE) -> FoundVersion:
    """A version as trainers publish it."""

    def write(directory: Path) -> None:
        models.save(proto or models.scale(2), directory / "model.onnx")

    about: dict[str, Any] = {"signature": {}, "metric": None, "seed": None, "libraries": {}}
    publish(repo, "m", write, golden=golden, atol=1e-4, rtol=0, **about)
    return on_disk(repo)


def plain(repo: Path, proto: onnx.ModelProto) -> FoundVersion:
    """A version from elsewhere: nothing but the model."""
    models.save(proto, repo / "m/1/model.onnx")
    return on_disk(repo)


def on_disk(repo: Path) -> FoundVersion:
    return scan(repo)["m"].versions[1]


@pytest.fixture
def bring_up() -> Iterator[Callable[..., Loaded]]:
    """Loads and warms up a version, and closes it when the test is over."""
    sessions: list[Session] = []

    def bring_up(version: FoundVersion, **spec: Any) -> Loaded:
        settings = ModelSpec(**spec)
        sessions.append(loading.load("m", version, settings))
        return loading.warm_up("m", version, settings, sessions[-1])

    yield bring_up
    for session in sessions:
        session.close()


# Manifest


def test_a_published_version_is_taken(tmp_path: Path, bring_up: Any) -> None:
    loaded = bring_up(published(tmp_path))
    assert loaded.contract.max_batch_size == 64
    assert loaded.contract.unbatched_because == ""
    assert loaded.sample is not None and loaded.sample["x"].tolist() == [[1, 0, 0, 0]]  # of its own golden sample


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda v: (v / "model.onnx").write_bytes(b"other"), "do not match the manifest: model.onnx: SHA-256 is"),
        (lambda v: (v / "model.onnx").unlink(), "do not match the manifest: model.onnx: missing"),
        (lambda v: (v / GOLDEN).unlink(), "do not match the manifest: golden.npz: missing"),
        (lambda v: (v / MANIFEST).write_text("{"), "MANIFEST.json: "),
        (lambda v: (v / MANIFEST).write_text('{"schema": 2, "files": {}}'), "MANIFEST.json: schema: "),
    ],
    ids=["changed", "no model", "no golden sample", "no JSON", "another schema"],
)
def test_a_version_that_does_not_match_its_manifest_is_not_taken(tmp_path: Path, damage: Any, told: str) -> None:
    damage(published(tmp_path).path)
    with pytest.raises(LoadError) as error:
        loading.load("m", on_disk(tmp_path), ModelSpec())
    assert told in str(error.value) and "\n" not in str(error.value)


def test_all_differences_are_told(tmp_path: Path) -> None:
    version = published(tmp_path).path
    (version / "model.onnx").unlink()
    (version / GOLDEN).write_bytes(b"")
    with pytest.raises(LoadError, match=r"golden\.npz: SHA-256 .*; model\.onnx: missing"):
        loading.load("m", on_disk(tmp_path), ModelSpec())


# Declared tensors


@pytest.mark.parametrize("spec", [{"inputs": {"x": "FP32"}, "outputs": {"y": "FP32"}}, {"outputs": {"y": "FP32"}}])
def test_a_model_that_is_what_its_settings_say(tmp_path: Path, bring_up: Any, spec: dict[str, Any]) -> None:
    bring_up(plain(tmp_path, models.scale(2)), **spec)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"inputs": {"x": "INT32"}}, "inputs: 'x' is declared as INT32, but the model has it as FP32"),
        ({"outputs": {"y": "INT32"}}, "outputs: 'y' is declared as INT32, but the model has it as FP32"),
        ({"inputs": {"x": "FP32", "z": "FP32"}}, "inputs: 'z' is not among those of the model, which are x"),
        ({"outputs": {"x": "FP32"}}, "outputs: 'x' is not among those of the model, which are y"),
    ],
    ids=str,
)
def test_a_model_that_is_not_what_its_settings_say_is_not_taken(
    tmp_path: Path, bring_up: Any, spec: dict[str, Any], told: str
) -> None:
    with pytest.raises(LoadError) as error:
        bring_up(plain(tmp_path, models.scale(2)), **spec)
    assert str(error.value) == told


# Golden sample


def test_a_model_that_fails_on_its_golden_sample_is_not_taken(tmp_path: Path, bring_up: Any) -> None:
    wrong = Golden({"x": np.zeros((3, 5), np.float32)}, {"y": np.zeros((3, 5), np.float32)})
    with pytest.raises(LoadError, match=r"^the model fails on its golden sample: "):
        bring_up(published(tmp_path, golden=wrong))


@pytest.mark.parametrize("proto", [models.scale(2), models.centred()], ids=["merged", "unbatched"])
def test_a_golden_sample_that_cannot_be_read(tmp_path: Path, bring_up: Any, proto: onnx.ModelProto) -> None:
    version = plain(tmp_path, proto)
    (version.path / GOLDEN).write_bytes(b"no archive")
    with pytest.raises(LoadError, match=r"golden\.npz: not a golden sample"):
        bring_up(on_disk(tmp_path))


def test_a_golden_sample_without_a_manifest_is_used(tmp_path: Path, bring_up: Any) -> None:
    version = plain(tmp_path, models.scale(2))
    write_golden(version.path, SAMPLE)
    assert bring_up(on_disk(tmp_path)).sample["x"].tolist() == [[1, 0, 0, 0]]


# May requests be merged?


@pytest.mark.parametrize(
    ("proto", "spec", "because"),
    [
        (models.scale(2), {}, ""),
        (models.scale(2), {"max_batch_size": 0}, "max_batch_size is 0"),
        (models.identity("FP32", (3, 4)), {}, "axis 0 of input 'x' is fixed to 3"),
        (models.centred(), {}, "rows run one by one give other answers than together"),
        (graphs.noise(), {}, "it answers the same question differently each time"),
    ],
    ids=["apart", "by wish", "fixed", "mixed", "random"],
)
def test_requests_are_merged_only_where_that_was_proved(
    tmp_path: Path, bring_up: Any, proto: onnx.ModelProto, spec: dict[str, Any], because: str
) -> None:
    loaded = bring_up(plain(tmp_path, proto), **spec)
    told = loaded.contract.unbatched_because
    assert told.startswith(because) and bool(told) == bool(because)
    assert loaded.contract.max_batch_size == (0 if because else 64)
    assert loaded.contract.model == "m"
    assert loaded.sample is not None  # something that can be shown to clients
    loaded.session.run(loaded.sample, loaded.contract.outputs)


def test_a_model_that_takes_no_made_up_input_is_served_all_the_same(tmp_path: Path, bring_up: Any) -> None:
    loaded = bring_up(plain(tmp_path, graphs.narrow_lookup()))
    assert loaded.contract.unbatched_because.startswith("it takes none of the generated inputs")
    assert loaded.sample is None
    assert loaded.session.run({"x": np.array([[0]])}, ("y",))["y"].tolist() == [[7]]


def test_operators_are_told_why(tmp_path: Path, bring_up: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "serving"):
        bring_up(plain(tmp_path, models.identity("FP32", (3, 4))))
    assert "m/1: requests run one at a time: axis 0 of input 'x' is fixed to 3" in caplog.messages


def test_the_wish_for_batches_is_kept(tmp_path: Path, bring_up: Any) -> None:
    assert bring_up(plain(tmp_path, models.scale(2)), max_batch_size=7).contract.max_batch_size == 7


@pytest.mark.parametrize("proto", [models.scale(2), models.centred()], ids=["apart", "mixed"])
def test_where_one_row_is_allowed_there_is_nothing_to_prove(
    tmp_path: Path, bring_up: Any, proto: onnx.ModelProto
) -> None:
    loaded = bring_up(plain(tmp_path, proto), max_batch_size=1)
    assert (loaded.contract.max_batch_size, loaded.contract.unbatched_because) == (1, "")
    assert loaded.sample is not None and len(loaded.sample["x"]) == 1


# Warm-up


class Counting(FakeSession):
    """Notes how many rows each run had."""

    def __init__(self, most: int = 1000) -> None:
        super().__init__()
        self.most = most
        self.rows: list[int] = []

    def run(self, inputs: Tensors, outputs: Sequence[str], signature: str = DEFAULT_SIGNATURE) -> Tensors:
        self.rows.append(len(inputs["x"]))
        if self.rows[-1] > self.most:
            raise MemoryError("too large")
        return super().run(inputs, outputs, signature)


@pytest.mark.parametrize("warmup", [True, False])
def test_the_smallest_and_the_largest_batch_are_run(tmp_path: Path, warmup: bool) -> None:
    session = Counting()
    spec = ModelSpec(max_batch_size=32, warmup=warmup)
    loading.warm_up("m", plain(tmp_path, models.scale(2)), spec, session)
    assert min(session.rows) == 1
    assert (max(session.rows) == 32) == warmup  # without, no more rows than the proof needs


def test_a_limit_beyond_all_memory_is_not_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_WARM_UP_BYTES", 100 * 16)
    session = Counting()
    loading.warm_up("m", plain(tmp_path, models.scale(2)), ModelSpec(max_batch_size=2**31 - 1), session)
    assert max(session.rows) == 100  # of 4 floats


def test_a_model_that_fails_on_the_largest_batch_is_not_taken(tmp_path: Path) -> None:
    version = plain(tmp_path, models.scale(2))
    with pytest.raises(LoadError, match="fails on a batch of 64 rows: MemoryError: too large"):
        loading.warm_up("m", version, ModelSpec(), Counting(most=10))


def test_one_file_can_be_loaded(tmp_path: Path, bring_up: Any) -> None:
    file = models.save(models.scale(2), tmp_path / "net.onnx")
    loaded = bring_up(scan(file)["net"].versions[1])
    assert loaded.contract.max_batch_size == 64
