"""SavedModels in ONNX Runtime: what is converted, what is believed, and what happens when conversion fails."""

import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from serving.backends import accelerate, convert, registry
from serving.backends.base import Session
from serving.backends.convert import Conversion, ConversionError, Report, Trial
from serving.core import dtypes
from serving.core.artifact import Golden, write_golden
from serving.core.errors import LoadError
from serving.core.spec import ModelSpec
from serving.core.types import Signature, SignatureMethod, Tensors, TensorSpec
from tests import models, savedmodels

ONNX = ModelSpec(accelerate="onnx")
X = TensorSpec("x", dtypes.FP32, (-1, 2), graph_name="serving_default_x:0")
Y = TensorSpec("y", dtypes.FP32, (-1, 2), graph_name="StatefulPartitionedCall:0")
SIGNATURE = Signature({"x": X}, {"y": Y})


# With TensorFlow and tf2onnx, in their own process


@pytest.fixture(scope="module")
def accelerated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    directory = savedmodels.write("signatures", tmp_path_factory.mktemp("accelerated"))
    session = registry.load(directory, ONNX)
    yield session
    session.close()


def test_which_signature_is_served_by_which_runtime_is_told(accelerated: Session) -> None:
    served, _, others = accelerated.notes["accelerate"].partition("; tensorflow: ")
    assert served == "onnx: centred, serving_default agree within 0.0001 (largest difference 0)"
    for because in (
        "any_rank (the number of dimensions of input 'x' is open)",
        "brain (its ONNX form has FP16 tensor 'input_0' where 'x' is BF16)",
        "dice (its ONNX form answers otherwise: 'y' differs by up to ",
        "inverse (ONNX Runtime cannot load 4.onnx: ",
        "narrow (TensorFlow takes none of the inputs that were generated to compare answers)",
        "shout ('text' is BYTES, and ONNX strings hold nothing but UTF-8)",
    ):
        assert because in others
    assert accelerated.platform == "onnxruntime_onnx"  # of the default signature


def test_each_signature_gives_the_answers_of_the_model(accelerated: Session) -> None:
    x = np.array([[1, 2], [3, 4]], np.float32)
    double = accelerated.run({"x": x}, ("y",))
    assert double["y"].tolist() == [[2, 4], [6, 8]]
    assert accelerated.run({"x": x}, ("y",), "centred")["y"].tolist() == [[-1, -1], [1, 1]]
    assert accelerated.run({"x": x[0]}, ("y",), "any_rank")["y"].tolist() == [2, 4]
    text = np.array([b"a", b"\xff"], dtype=object)
    assert accelerated.run({"text": text}, ("loud",), "shout")["loud"].tolist() == [b"A", b"\xff"]


def test_what_a_signature_says_of_itself_is_the_artifacts(accelerated: Session, tmp_path: Path) -> None:
    plain = registry.load(savedmodels.write("signatures", tmp_path), ModelSpec())
    assert accelerated.signatures == plain.signatures
    assert accelerated.signatures["serving_default"].inputs["x"] == X
    plain.close()


def test_where_all_agree_tensorflow_is_not_imported(tmp_path: Path) -> None:
    """Here with a golden sample, in a process of its own."""
    savedmodels.write("mlp", tmp_path)
    x = np.random.default_rng(0).random((3, 784), dtype=np.float32)
    write_golden(tmp_path, Golden({"x": x}, {"output_0": np.zeros((3, 10), np.float32)}))
    code = f"""
import sys
from pathlib import Path
import numpy as np
from serving.backends import registry
from serving.core.spec import ModelSpec
session = registry.load(Path({str(tmp_path)!r}), ModelSpec(accelerate="onnx"))
print(session.platform, sys.modules.keys() & {{"tensorflow", "tf2onnx", "onnx"}})
print(session.notes["accelerate"])
x = np.load(Path({str(tmp_path)!r}) / "golden.npz")["in:x"]
np.save(Path({str(tmp_path)!r}) / "answer.npy", session.run({{"x": x}}, ("output_0",))["output_0"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first == "onnxruntime_onnx set()"
    assert second.startswith("onnx: serve, serving_default agree within 0.0001 (largest difference ")
    plain = registry.load(tmp_path, ModelSpec())
    expected = plain.run({"x": x}, ("output_0",))["output_0"]
    plain.close()
    np.testing.assert_allclose(np.load(tmp_path / "answer.npy"), expected, atol=1e-4)


def test_a_model_that_tensorflow_cannot_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that converts finds out; here it is this one."""
    savedmodels.write("two_tags", tmp_path)
    monkeypatch.setattr(accelerate, "convert", convert.report)
    with pytest.raises(LoadError, match=r"^the SavedModel has no graph for tags: \[gpu\]; it has \[serve\] and"):
        registry.load(tmp_path, ModelSpec(accelerate="onnx", tags=("gpu",)))


def test_a_golden_sample_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    savedmodels.write("two_tags", tmp_path)
    (tmp_path / "golden.npz").write_bytes(b"no archive")
    monkeypatch.setattr(accelerate, "convert", convert.report)
    with pytest.raises(LoadError, match=r"golden\.npz: not a golden sample"):
        registry.load(tmp_path, ONNX)


# When that process fails


def instead(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> None:
    """Runs a shell script instead of it."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))


@pytest.mark.parametrize(
    ("script", "limit_s", "told"),
    [
        ("kill -SEGV $$", 60, "was ended by SIGSEGV"),
        ("echo first >&2; echo Aborted >&2; kill -ABRT $$", 60, "was ended by SIGABRT (Aborted)"),
        ("echo 'MemoryError: too large' >&2; exit 1", 60, "ended with exit code 1 (MemoryError: too large)"),
        ("exec sleep 600", 0.1, "took more than 0.1 s"),
    ],
)
def test_it_crashes_or_takes_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, limit_s: float, told: str
) -> None:
    instead(monkeypatch, tmp_path, f'touch "$5/loaded"; {script}')
    with pytest.raises(ConversionError) as error:
        convert.convert(tmp_path, ONNX, tmp_path, limit_s=limit_s)
    assert str(error.value) == f"the conversion to ONNX {told}"


def test_a_result_that_is_there_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial load has left it."""
    done = Report({"serving_default": Conversion(SIGNATURE, "0.onnx")}, {})
    (tmp_path / "done").write_bytes(pickle.dumps(done))
    instead(monkeypatch, tmp_path, f'cp "{tmp_path}/done" "$5/report.pickle"')
    assert convert.convert(tmp_path, ONNX, tmp_path) == done
    instead(monkeypatch, tmp_path, "exit 1")
    assert convert.convert(tmp_path, ONNX, tmp_path) == done


def test_a_conversion_that_failed_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    instead(monkeypatch, tmp_path, 'touch "$5/loaded"; kill -SEGV $$')
    for _ in range(2):
        with pytest.raises(ConversionError, match=r"^the conversion to ONNX was ended by SIGSEGV$"):
            convert.convert(tmp_path, ONNX, tmp_path)
        instead(monkeypatch, tmp_path, "exit 0")


def test_where_it_ran_out_of_memory_it_may_be_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    instead(monkeypatch, tmp_path, "kill -KILL $$")
    with pytest.raises(LoadError, match="was ended by SIGKILL while it loaded the model") as error:
        convert.convert(tmp_path, ONNX, tmp_path)
    assert error.value.retry


def test_it_crashes_while_tensorflow_loads_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same would happen to the server, so it is not tried there."""
    instead(monkeypatch, tmp_path, "kill -SEGV $$")
    with pytest.raises(LoadError, match=r"^TensorFlow, in a process of its own, was ended by SIGSEGV while it loaded"):
        accelerate.load(tmp_path, ONNX)


def test_it_ends_with_the_server(tmp_path: Path) -> None:
    directory = tmp_path / "report"
    directory.mkdir()
    command = [sys.executable, "-m", "serving.backends.convert", str(tmp_path), ONNX.model_dump_json(), str(directory)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    process.communicate()  # closes its standard input, as the end of the server does
    assert process.returncode == 1
    assert not directory.exists()


# What is believed


class FakeTensorFlow:
    """Answers 7 to everything."""

    platform = "tensorflow_savedmodel"

    def __init__(self, names: tuple[str, ...] = ("serving_default",)) -> None:
        self.signatures = dict.fromkeys(names, SIGNATURE)
        self.notes = {"left out": "something"}
        self.closed = False

    def run(self, inputs: Tensors, outputs: Any, signature: str = "") -> Tensors:
        return {name: np.full_like(inputs["x"], 7) for name in outputs}

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def tensorflow(monkeypatch: pytest.MonkeyPatch) -> list[FakeTensorFlow]:
    """The TensorFlow sessions that were loaded."""
    loaded: list[FakeTensorFlow] = []

    def load(artifact: Path, spec: ModelSpec) -> FakeTensorFlow:
        loaded.append(FakeTensorFlow())
        return loaded[-1]

    monkeypatch.setattr(accelerate, "_tensorflow", load)
    return loaded


def form(factor: float = 2, dtype: str = "FP32", x: str = "input_0") -> onnx.ModelProto:
    """output_0 = factor * input_0."""
    return models.model(
        [helper.make_node("Mul", [x, "factor"], ["output_0"])],
        [models.tensor(x, dtype, ("n", 2))],
        [models.tensor("output_0", dtype, ("n", 2))],
        {"factor": np.array(factor, dtypes.BY_NAME[dtype].numpy)},
    )


def answers(*rows: int) -> list[Trial]:
    """TensorFlow's answers of a model that doubles."""
    xs = [np.arange(n * 2, dtype=np.float32).reshape(n, 2) for n in rows]
    return [Trial({"x": x}, {"y": 2 * x}) for x in xs]


def convert_to(monkeypatch: pytest.MonkeyPatch, **conversions: onnx.ModelProto | Conversion) -> list[Path]:
    """What conversion gives, by signature; the directories it was told to use."""
    directories: list[Path] = []

    def fake(artifact: Path, spec: ModelSpec, directory: Path) -> Report:
        directories.append(directory)
        made = {}
        for name, proto in conversions.items():
            if isinstance(proto, Conversion):
                made[name] = proto
            else:
                models.save(proto, directory / f"{name}.onnx")
                made[name] = Conversion(SIGNATURE, f"{name}.onnx", answers(1, 5))
        return Report(made, {"left out": "spectrum"})

    monkeypatch.setattr(accelerate, "convert", fake)
    return directories


def test_a_form_that_agrees_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tensorflow: list[FakeTensorFlow], caplog: pytest.LogCaptureFixture
) -> None:
    directories = convert_to(monkeypatch, serving_default=form(2.0001))
    with caplog.at_level("INFO", "serving"):
        session = accelerate.load(tmp_path, ModelSpec(accelerate_tolerance=1e-3))
    note = "onnx: serving_default agrees within 0.001 (largest difference 0.0009)"
    assert session.notes == {"left out": "spectrum", "accelerate": note}
    assert f"{tmp_path}: accelerate: {note}" in caplog.messages
    assert session.signatures == {"serving_default": SIGNATURE}
    assert tensorflow == []
    assert not directories[0].exists()  # the runtime has read what it needs
    accelerate.load(tmp_path, ModelSpec(accelerate_tolerance=1e-3), tmp_path).close()
    assert directories[1].is_relative_to(tmp_path) and directories[1].exists()  # for another load of this version
    x = np.ones((3, 2), np.float32)
    np.testing.assert_allclose(session.run({"x": x}, ("y",))["y"], 2.0001 * x)
    session.close()


@pytest.mark.parametrize(
    ("conversion", "because"),
    [
        (form(2.1), "its ONNX form answers otherwise: 'y' differs by up to "),
        (form(dtype="FP64"), "its ONNX form has FP64 tensor 'input_0' where 'x' is FP32"),
        (form(x="input_9"), "its ONNX form has FP32 tensor 'input_9' of its own"),
        (
            Conversion(SIGNATURE, "", [], "it cannot be converted: no operator"),
            "it cannot be converted: no operator",
        ),
    ],
    ids=["other answers", "another type", "another input", "none"],
)
def test_one_that_does_not_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tensorflow: list[FakeTensorFlow], conversion: Any, because: str
) -> None:
    convert_to(monkeypatch, serving_default=conversion)
    session = accelerate.load(tmp_path, ONNX)
    assert session.notes["accelerate"].startswith(f"tensorflow: serving_default ({because}")
    assert session.platform == "tensorflow_savedmodel"
    assert session.run({"x": np.ones((1, 2), np.float32)}, ("y",))["y"].tolist() == [[7, 7]]
    session.close()
    assert tensorflow[0].closed


def test_one_that_fails_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tensorflow: list[FakeTensorFlow]
) -> None:
    """It was made for one row."""
    fixed = form()
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    convert_to(monkeypatch, serving_default=fixed)
    note = accelerate.load(tmp_path, ONNX).notes["accelerate"]
    assert note.startswith("tensorflow: serving_default (its ONNX form fails where TensorFlow does not: ")


def test_each_signature_is_judged_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tensorflow: list[FakeTensorFlow]
) -> None:
    convert_to(monkeypatch, serving_default=form(3), twice=form(2))
    session = accelerate.load(tmp_path, ONNX)
    x = np.ones((1, 2), np.float32)
    assert session.platform == "tensorflow_savedmodel"
    assert session.run({"x": x}, ("y",))["y"].tolist() == [[7, 7]]
    assert session.run({"x": x}, ("y",), "twice")["y"].tolist() == [[2, 2]]
    session.close()


def test_an_input_with_a_default_may_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tensorflow: list[FakeTensorFlow]
) -> None:
    half = TensorSpec("factor", dtypes.FP32, (), optional=True, default=np.array(0.5, np.float32))
    proto = models.model(
        [helper.make_node("Mul", ["input_1", "input_0"], ["output_0"])],
        [models.tensor("input_0", "FP32", ()), models.tensor("input_1", "FP32", ("n", 2))],
        [models.tensor("output_0", "FP32", ("n", 2))],
    )
    models.save(proto, tmp_path / "f.onnx")
    one = np.ones((1, 2), np.float32)
    known = Conversion(Signature({"factor": half, "x": X}, {"y": Y}), "f.onnx", [Trial({"x": one}, {"y": one / 2})])

    def fake(artifact: Path, spec: ModelSpec, directory: Path) -> Report:
        (directory / "f.onnx").write_bytes((tmp_path / "f.onnx").read_bytes())
        return Report({"serving_default": known}, {})

    monkeypatch.setattr(accelerate, "convert", fake)
    session = accelerate.load(tmp_path, ONNX)
    assert tensorflow == []
    assert session.run({"x": one}, ("y",))["y"].tolist() == [[0.5, 0.5]]
    assert session.run({"x": one, "factor": np.array(4, np.float32)}, ("y",))["y"].tolist() == [[4, 4]]
    session.close()


def test_tensorflow_serves_if_conversion_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tensorflow: list[FakeTensorFlow]
) -> None:
    def fail(*_: Any) -> Report:
        raise ConversionError("the conversion to ONNX was ended by SIGSEGV")

    monkeypatch.setattr(accelerate, "convert", fail)
    session = accelerate.load(tmp_path, ONNX)
    note = "tensorflow: the conversion to ONNX was ended by SIGSEGV"
    assert session.notes == {"left out": "something", "accelerate": note}
    assert session.platform == "tensorflow_savedmodel"


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        ({"tf2onnx"}, "tf2onnx is not installed: pip install 'serving[accelerate]'"),
        ({"tf2onnx", "onnx"}, "tf2onnx and onnx are not installed: pip install 'serving[accelerate]'"),
    ],
)
def test_tensorflow_serves_if_the_converter_is_missing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tensorflow: list[FakeTensorFlow],
    missing: set[str],
    told: str,
) -> None:
    monkeypatch.setattr(accelerate, "find_spec", lambda name: None if name in missing else object())
    assert accelerate.load(tmp_path, ONNX).notes["accelerate"] == f"tensorflow: {told}"


# What is compared


@pytest.mark.parametrize(
    ("signature", "told"),
    [
        (SIGNATURE, ""),
        (Signature({"x": X}, {"y": Y}, SignatureMethod.CLASSIFY), "it is for classify"),
        (Signature({"x": TensorSpec("x", dtypes.BYTES, (-1,))}, {"y": Y}), "'x' is BYTES, and ONNX strings hold"),
        (Signature({"x": X}, {"y": TensorSpec("y", dtypes.BYTES, (-1,))}), "'y' is BYTES, and ONNX strings hold"),
        (Signature({"x": TensorSpec("x", dtypes.FP32, None)}, {"y": Y}), "the number of dimensions of input 'x'"),
    ],
)
def test_what_is_not_even_tried(signature: Signature, told: str) -> None:
    assert convert.why_not(signature).startswith(told) and bool(convert.why_not(signature)) == bool(told)


def tried(run: Callable[[Tensors], Tensors], shape: tuple[int, ...], golden: Tensors | None = None) -> list[Any]:
    """The shapes of x that answers are known of."""
    signature = Signature({"x": TensorSpec("x", dtypes.FP32, shape)}, {"y": Y})
    return [trial.inputs["x"].shape for trial in convert.trials(run, signature, golden)]


def test_several_rows_and_sizes_are_compared() -> None:
    assert tried(lambda i: i, (-1, 3)) == [(1, 3), (5, 3)]
    assert tried(lambda i: i, (-1, -1, 3)) == [(1, 4, 3), (5, 4, 3), (1, 7, 3), (5, 7, 3)]
    assert tried(lambda i: i, (2, 3)) == [(2, 3), (2, 3)]  # of different values


def test_the_golden_sample_is_compared_whole_and_by_its_first_row() -> None:
    golden = {"x": np.ones((8, 3), np.float32)}
    assert tried(lambda i: i, (-1, 3), golden) == [(8, 3), (1, 3), (1, 3), (5, 3)]


def at_least(size: int) -> Callable[[Tensors], Tensors]:
    def run(inputs: Tensors) -> Tensors:
        if min(inputs["x"].shape) < size:
            raise ValueError("too small")
        return inputs

    return run


def test_inputs_that_the_model_refuses_are_left_out() -> None:
    def wide(inputs: Tensors) -> Tensors:
        return at_least(16)({"x": inputs["x"][0]})

    assert tried(wide, (-1, -1)) == [(1, 16), (5, 16), (1, 32), (5, 32)]


def test_one_row_alone_proves_nothing() -> None:
    def one(inputs: Tensors) -> Tensors:
        if len(inputs["x"]) > 1:
            raise ValueError("one row only")
        return inputs

    assert tried(one, (-1, 3)) == []
    assert tried(at_least(1000), (-1, 3)) == []
