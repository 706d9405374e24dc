"""From files to a model that is warm: manifest, golden sample, proof, and the batch sizes that were tried."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import pytest

from serving.backends import registry
from serving.backends.base import Session
from serving.core import dtypes
from serving.core.artifact import GOLDEN, MANIFEST, Golden, publish, write_golden
from serving.core.errors import LoadError
from serving.core.spec import ModelSpec
from serving.core.types import DEFAULT_SIGNATURE, Signature, Tensors, TensorSpec
from serving.repository.disk.layout import FoundVersion, scan
from serving.repository.loads import loading
from serving.repository.loads.loading import Loaded
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


def test_what_was_verified_is_not_read_again(tmp_path: Path) -> None:
    damaged = published(tmp_path).path / GOLDEN
    damaged.write_bytes(b"other")
    loading.load("m", on_disk(tmp_path), ModelSpec(), verified=True).close()


# What becomes of the files meanwhile


def deleted(version: Path) -> None:
    shutil.rmtree(version)


def replaced(version: Path) -> None:
    models.save(models.scale(3), version / "other").rename(version / "model.onnx")


def without_a_file(version: Path) -> None:
    (version / GOLDEN).unlink()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (deleted, "it was deleted while it loaded"),
        (replaced, "its files changed while it loaded"),
        (without_a_file, "its files changed while it loaded"),
    ],
)
def test_files_that_change_while_they_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], told: str
) -> None:
    version = published(tmp_path)
    session = FakeSession()

    def load(*_: Any, checked: bool) -> FakeSession:
        assert not checked
        change(version.path)
        return session

    monkeypatch.setattr(registry, "load", load)
    with pytest.raises(LoadError) as error:
        loading.load("m", version, ModelSpec())
    assert (str(error.value), error.value.retry) == (told, True)
    assert session.closed


@pytest.mark.parametrize(
    ("text", "retry"),
    [
        ("ONNX Runtime cannot load m.onnx: Failed to allocate memory for requested buffer of size 1", True),
        ("OOM when allocating tensor with shape[9]", True),
        ("CUDA failure 2: out of memory", True),
        ("[Errno 28] No space left on device", True),
        ("the files do not match the manifest: m.onnx: cannot be read: Input/output error", True),
        ("the files do not match the manifest: m.onnx: missing", False),
        ("ONNX Runtime cannot load m.onnx: Protobuf parsing failed.", False),
    ],
)
def test_whose_fault_it_is(text: str, retry: bool) -> None:
    judged = loading.fault(LoadError(text))
    assert (str(judged), judged.retry) == (text, retry)
    assert loading.fault(LoadError(text, retry=True)).retry


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


ONES = np.ones((3, 4), np.float32)


def answering(y: Any, **others: np.ndarray) -> Golden:
    """Of a model that doubles, if it is right."""
    return Golden({"x": ONES}, {"y": y, **others})


@pytest.mark.parametrize(
    ("golden", "told"),
    [
        (answering(3 * ONES), "'y' differs by up to 1 in 12 of 12 elements (allowed: 0.0001 + 0 x |expected|)"),
        (answering(2 * ONES[:2]), "'y' has shape [3, 4], expected [2, 4]"),
        (answering(2 * ONES.astype(np.float64)), "'y' is float32, expected float64"),
        (answering(np.full_like(ONES, np.nan)), "'y' is a number in 12 of 12 elements, expected NaN"),
    ],
    ids=["answers", "shape", "type", "NaN"],
)
def test_a_model_that_does_not_reproduce_its_golden_sample_is_not_taken(
    tmp_path: Path, bring_up: Any, golden: Golden, told: str
) -> None:
    with pytest.raises(LoadError) as error:
        bring_up(published(tmp_path, golden=golden))
    assert str(error.value) == f"the model does not reproduce its golden sample: {told}"
    assert not error.value.retry


def test_nan_where_a_number_is_expected(tmp_path: Path, bring_up: Any) -> None:
    with pytest.raises(LoadError, match="golden sample: 'y' is NaN in 12 of 12 elements, expected numbers"):
        bring_up(published(tmp_path, models.scale(float("nan")), answering(2 * ONES)))


def test_what_was_nan_there_may_be_nan_here(tmp_path: Path, bring_up: Any) -> None:
    bring_up(published(tmp_path, models.scale(float("nan")), answering(np.full_like(ONES, np.nan))))


@pytest.mark.parametrize(
    ("golden", "told"),
    [
        (Golden({"x": ONES, "z": ONES}, {"y": ONES}), "input 'z' is not among those of the model, which are x"),
        (Golden({"x": ONES}, {"z": ONES}), "output 'z' is not among those of the model, which are y"),
    ],
)
def test_a_golden_sample_of_another_model(tmp_path: Path, bring_up: Any, golden: Golden, told: str) -> None:
    with pytest.raises(LoadError) as error:
        bring_up(published(tmp_path, golden=golden))
    assert str(error.value) == f"golden.npz: {told}"


def test_a_golden_sample_without_an_input(tmp_path: Path, bring_up: Any) -> None:
    whole = np.ones((3, 16), np.int32)
    golden = Golden({"INPUT0": whole}, {"OUTPUT0": 2 * whole})
    with pytest.raises(LoadError, match=r"^golden\.npz: input 'INPUT1' of the model is missing$"):
        bring_up(published(tmp_path, models.add_sub(), golden))


@pytest.mark.parametrize(("off", "taken"), [(0.002, True), (0.004, False)])
def test_without_a_manifest_there_is_a_tolerance(tmp_path: Path, bring_up: Any, off: float, taken: bool) -> None:
    version = plain(tmp_path, models.scale(2))
    write_golden(version.path, answering(2 * ONES + np.float32(off)))
    if taken:
        bring_up(on_disk(tmp_path))
    else:
        with pytest.raises(LoadError, match=r"allowed: 0\.001 \+ 0\.001 x \|expected\|"):
            bring_up(on_disk(tmp_path))


def test_outputs_that_settings_leave_out_are_not_compared(tmp_path: Path, bring_up: Any) -> None:
    whole = np.ones((3, 16), np.int32)
    golden = Golden({"INPUT0": whole, "INPUT1": whole}, {"OUTPUT0": 2 * whole, "OUTPUT1": whole})  # 1 is wrong
    version = published(tmp_path, models.add_sub(), golden)
    bring_up(version, outputs={"OUTPUT0": "INT32"})
    with pytest.raises(LoadError, match="'OUTPUT1' differs"):
        bring_up(version)


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


TENFOLD = Golden(SAMPLE.inputs, {"y": 10 * SAMPLE.inputs["x"]})


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


def test_every_batch_size_is_run(tmp_path: Path) -> None:
    session = Counting()
    loading.warm_up("m", plain(tmp_path, models.scale(2)), ModelSpec(max_batch_size=32), session)
    assert set(session.rows) == set(range(1, 33))


@pytest.mark.parametrize(("most", "run"), [(32, {1, 2, 4, 8, 16, 32}), (33, {1, 2, 4, 8, 16, 32, 33}), (1, {1, 4})])
def test_where_time_is_short_some_sizes_are_run(tmp_path: Path, most: int, run: set[int]) -> None:
    """The golden sample has 4 rows."""
    session = Counting()
    loading.warm_up("m", published(tmp_path, golden=TENFOLD), ModelSpec(max_batch_size=most), session, budget_s=0.0)
    assert set(session.rows) == run


class Defaulting(Counting):
    """Has an input without rows that may be left out."""

    signatures = MappingProxyType(
        {
            DEFAULT_SIGNATURE: Signature(
                {
                    "x": TensorSpec("x", dtypes.FP32, (-1, 4)),
                    "factor": TensorSpec("factor", dtypes.FP32, (), optional=True, default=np.array(10, np.float32)),
                },
                {"y": TensorSpec("y", dtypes.FP32, (-1, 4))},
            )
        }
    )


@pytest.mark.parametrize("most", [1, 5])
def test_a_golden_sample_may_bring_what_has_no_rows(tmp_path: Path, most: int) -> None:
    golden = Golden({**TENFOLD.inputs, "factor": np.array(10, np.float32)}, TENFOLD.outputs)
    session = Defaulting()
    loaded = loading.warm_up("m", published(tmp_path, golden=golden), ModelSpec(max_batch_size=most), session)
    assert loaded.contract.max_batch_size == most
    assert set(session.rows) == {4, *range(1, most + 1)}


def test_without_warm_up_there_are_no_more_rows_than_the_proof_needs(tmp_path: Path) -> None:
    session = Counting()
    loading.warm_up("m", plain(tmp_path, models.scale(2)), ModelSpec(max_batch_size=32, warmup=False), session)
    assert set(session.rows) == {1, 4}


def test_a_limit_beyond_all_memory_is_not_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_WARM_UP_BYTES", 100 * 16)
    session = Counting()
    loading.warm_up("m", plain(tmp_path, models.scale(2)), ModelSpec(max_batch_size=2**31 - 1), session)
    assert max(session.rows) == 100  # of 4 floats


def test_a_model_that_fails_on_the_largest_batch_is_not_taken(tmp_path: Path) -> None:
    version = plain(tmp_path, models.scale(2))
    with pytest.raises(LoadError, match="fails on a batch of 64 rows: MemoryError: too large") as error:
        loading.warm_up("m", version, ModelSpec(), Counting(most=10))
    assert error.value.retry  # there may be more memory another time


def test_one_file_can_be_loaded(tmp_path: Path, bring_up: Any) -> None:
    file = models.save(models.scale(2), tmp_path / "net.onnx")
    loaded = bring_up(scan(file)["net"].versions[1])
    assert loaded.contract.max_batch_size == 64
