"""The benchmark's model as a SavedModel: the same answers as in ONNX, and what is written for each kind."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from loadtests import kinds, mlp
from loadtests.measure import answer_of
from loadtests.processes import ProcessError

ROOT = Path(__file__).parents[2]

ASK = """
import sys
import numpy as np
from serving.backends import tensorflow
from serving.core.spec import ModelSpec
from loadtests import mlp

session = tensorflow.load(__import__("pathlib").Path(sys.argv[1]), ModelSpec())
np.save(sys.argv[2], session.run({mlp.INPUT: mlp.row()}, [mlp.OUTPUT])[mlp.OUTPUT])
"""


@pytest.mark.slow
def test_both_kinds_of_savedmodel_hold_one_and_answer_as_onnx_does(tmp_path: Path) -> None:
    pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    for kind in ("tensorflow", "accelerated"):
        kinds.write_repository(kind, tmp_path / kind, tmp_path)
        assert (tmp_path / kind / "mlp/1/saved_model.pb").is_file()
    assert (tmp_path / "tensorflow/mlp/model.yaml").read_text() == mlp.SPEC
    assert (tmp_path / "accelerated/mlp/model.yaml").read_text() == mlp.SPEC + "accelerate: onnx\n"

    argv = [sys.executable, "-c", ASK, str(tmp_path / "tensorflow/mlp/1"), str(tmp_path / "answer.npy")]
    subprocess.run(argv, cwd=ROOT, check=True, capture_output=True)
    onnx = answer_of(mlp.write_repository(tmp_path / "onnx"), {mlp.INPUT: mlp.row()})
    np.testing.assert_allclose(np.load(tmp_path / "answer.npy"), onnx[mlp.OUTPUT], atol=1e-5)


def test_onnx_needs_nothing_else(tmp_path: Path) -> None:
    kinds.write_repository("onnx", tmp_path / "models", tmp_path / "none")
    assert (tmp_path / "models/mlp/1/model.onnx").read_bytes() == mlp.build().SerializeToString()


def test_a_savedmodel_that_cannot_be_made_is_an_error_that_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kinds, "ROOT", tmp_path)  # where there is no such module
    with pytest.raises(ProcessError, match=r"(?s)no SavedModel could be made.*loadtests"):
        kinds.write_repository("tensorflow", tmp_path / "models", tmp_path)
