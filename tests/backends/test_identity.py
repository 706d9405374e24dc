"""The backend that gives back what it is given."""

from pathlib import Path

import numpy as np
import pytest

from serving.backends import registry
from serving.backends.base import Session
from serving.core import dtypes
from serving.core.errors import LoadError
from serving.core.generate import random_array
from serving.core.spec import ModelSpec
from serving.core.types import DEFAULT_SIGNATURE, Signature, TensorSpec
from serving.core.validate import why_no_batch_axis
from serving.repository.disk.layout import scan
from serving.repository.loads import loading


def load(directory: Path, text: str) -> Session:
    (directory / "identity.yaml").write_text(text)
    return registry.load(directory, ModelSpec())


def test_tensors_are_those_of_the_file_in_its_order(tmp_path: Path) -> None:
    session = load(
        tmp_path,
        """
        tensors:
          - {input: INPUT1, output: OUTPUT1, datatype: BYTES, shape: [-1, 16]}
          - {input: INPUT0, output: OUTPUT0, datatype: FP32, shape: []}
          - {input: any, output: any, datatype: BF16}
        """,
    )
    assert session.signatures == {
        DEFAULT_SIGNATURE: Signature(
            {
                "INPUT1": TensorSpec("INPUT1", dtypes.BYTES, (-1, 16)),
                "INPUT0": TensorSpec("INPUT0", dtypes.FP32, ()),
                "any": TensorSpec("any", dtypes.BF16, None),
            },
            {
                "OUTPUT1": TensorSpec("OUTPUT1", dtypes.BYTES, (-1, 16)),
                "OUTPUT0": TensorSpec("OUTPUT0", dtypes.FP32, ()),
                "any": TensorSpec("any", dtypes.BF16, None),
            },
        )
    }
    assert list(session.signatures[DEFAULT_SIGNATURE].inputs) == ["INPUT1", "INPUT0", "any"]
    assert session.platform == "identity" and session.notes == {}


@pytest.mark.parametrize("dtype", dtypes.ALL, ids=repr)
def test_every_data_type_comes_back(tmp_path: Path, dtype: dtypes.DType) -> None:
    session = load(tmp_path, f"tensors: [{{input: x, output: y, datatype: {dtype.name}, shape: [-1, 2]}}]")
    sent = random_array(dtype, (3, 2), np.random.default_rng(0))
    assert session.run({"x": sent}, ("y",))["y"] is sent
    session.close()


def test_bytes_may_be_any_bytes(tmp_path: Path) -> None:
    session = load(tmp_path, "tensors: [{input: x, output: y, datatype: BYTES}]")
    sent = np.array([b"\xff\xfe\0", b"", bytes(range(256))], dtype=object)
    assert session.run({"x": sent}, ("y",))["y"].tolist() == sent.tolist()


def test_only_the_outputs_that_are_asked_for(tmp_path: Path) -> None:
    session = load(
        tmp_path,
        "tensors: [{input: a, output: c, datatype: INT8}, {input: b, output: d, datatype: INT8}]",
    )
    inputs = {"a": np.array([1], np.int8), "b": np.array([2], np.int8)}
    assert session.run(inputs, ("d",)) == {"d": [2]}
    assert list(session.run(inputs, ("d", "c"))) == ["d", "c"]


def test_it_is_loaded_like_any_other_model(tmp_path: Path) -> None:
    version = tmp_path / "echo/1"
    version.mkdir(parents=True)
    (version / "identity.yaml").write_text("tensors: [{input: x, output: y, datatype: BYTES, shape: [-1, -1]}]")
    found = scan(tmp_path)["echo"].versions[1]
    session = loading.load("echo", found, ModelSpec())
    loaded = loading.warm_up("echo", found, ModelSpec(), session)
    assert loaded.contract.max_batch_size == 64
    assert why_no_batch_axis(loaded.contract.signature) is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "identity.yaml: 'tensors': field required"),
        ("tensors: []", "identity.yaml: 'tensors': tuple should have at least 1 item"),
        ("tensors: [{input: x, output: y, datatype: FLOAT}]", "expected one of BOOL, UINT8,"),
        ("tensors: [{input: x, output: y, datatype: FP32, shape: [-2]}]", "greater than or equal to -1"),
        ("tensors: [{input: x, datatype: FP32}]", "identity.yaml: 'tensors' (output): field required"),
        ("tensors: [", "identity.yaml: not valid YAML"),
        ("tensor: []", "unknown key 'tensor'; did you mean 'tensors'?"),
        ("tensors: [{input: x, output: a, datatype: FP32}, {input: x, output: b, datatype: FP32}]", "the same input"),
        ("tensors: [{input: a, output: y, datatype: FP32}, {input: b, output: y, datatype: FP32}]", "the same output"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(LoadError) as error:
        load(tmp_path, text)
    assert told in str(error.value) and "\n" not in str(error.value)


# Without an artifact


def declared(inputs: dict[str, object], outputs: dict[str, object]) -> ModelSpec:
    return ModelSpec.model_validate({"backend": "identity", "inputs": inputs, "outputs": outputs})


def test_what_the_settings_declare(tmp_path: Path) -> None:
    spec = declared({"a": "BYTES", "b": {"datatype": "INT32", "shape": [-1, 2]}}, {"c": "BYTES", "d": "INT32"})
    session = registry.load(tmp_path, spec)
    assert session.platform == "identity"
    assert session.signatures[DEFAULT_SIGNATURE] == Signature(
        {"a": TensorSpec("a", dtypes.BYTES, None), "b": TensorSpec("b", dtypes.INT32, (-1, 2))},
        {"c": TensorSpec("c", dtypes.BYTES, None), "d": TensorSpec("d", dtypes.INT32, (-1, 2))},
    )
    b = np.ones((1, 2), np.int32)
    assert session.run({"a": b, "b": b}, ["d"])["d"] is b


@pytest.mark.parametrize(
    ("inputs", "outputs", "told"),
    [
        ({"a": "BYTES"}, {"c": "BYTES", "d": "BYTES"}, "1 inputs cannot come back as 2 outputs"),
        ({"a": "BYTES"}, {"c": "INT32"}, "input 'a' is BYTES, so it cannot come back as INT32"),
        ({"a": "FP31"}, {"c": "FP31"}, "expected one of BOOL, UINT8"),
        ({}, {}, "no model in "),
    ],
)
def test_what_cannot_come_back(
    tmp_path: Path, inputs: dict[str, object], outputs: dict[str, object], told: str
) -> None:
    with pytest.raises(LoadError) as error:
        registry.load(tmp_path, declared(inputs, outputs))
    assert told in str(error.value)
