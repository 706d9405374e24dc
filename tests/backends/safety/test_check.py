"""Who may allow a model to do more than compute, and how a refusal reads."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from serving.backends import safety
from serving.core.errors import LoadError
from serving.core.spec import ModelSpec
from tests import models
from tests.backends.safety.test_onnx_files import adds, external


def test_a_model_cannot_allow_itself() -> None:
    """Its settings come with it."""
    with pytest.raises(ValidationError, match="allow_unsafe_ops"):
        ModelSpec.model_validate({"allow_unsafe_ops": True})


def test_the_first_findings_are_named_and_the_others_counted(tmp_path: Path) -> None:
    proto = adds("/a")
    for name in "bcde":
        proto.graph.initializer.append(external(f"/{name}", name))
    path = models.save(proto, tmp_path / "model.onnx")
    with pytest.raises(LoadError) as refused:
        safety.check("serving.backends.onnx", path)
    where = "outside of the model's directory"
    assert str(refused.value) == (
        f"the model is not just data: the values of tensor 'w' are in '/a', {where}; the values of tensor 'b' are in "
        f"'/b', {where}; the values of tensor 'c' are in '/c', {where}; and 2 more; {safety.REMEDY}"
    )


def test_an_operator_can_allow_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safety, "allow_unsafe_ops", True)
    safety.check("serving.backends.onnx", models.save(adds("/a"), tmp_path / "model.onnx"))


def test_a_file_that_cannot_be_read_may_be_read_later(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"^none cannot be read: No such file or directory$") as refused:
        safety.check("serving.backends.onnx", tmp_path / "none")
    assert refused.value.retry


def test_backends_without_a_graph_have_nothing_to_look_at(tmp_path: Path) -> None:
    safety.check("serving.backends.identity", tmp_path / "none")
