"""Runs the examples of docs/train-your-own.md, section by section, where their libraries are installed."""

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.e2e.conftest import Serve
from tests.e2e.test_docs_examples import Reader, examples
from tests.trainers.child import ROOT

TEXT = (ROOT / "docs/train-your-own.md").read_text()
_KERAS = ("keras", "sklearn", "tensorboard", "tensorflow", "tf2onnx")
SECTIONS = {
    "## scikit-learn": ("sklearn", "skl2onnx"),
    "## PyTorch": ("torch", "onnxscript"),
    "## Keras": _KERAS,
    "## ONNX": ("onnx",),
    "## A trainer": (*_KERAS, "matplotlib"),
    "## Send it to a server elsewhere": (),
}


_SLOW = ("## PyTorch", "## Keras", "## A trainer")  # imports alone take seconds


@pytest.mark.parametrize(
    "section", [pytest.param(name, marks=pytest.mark.slow if name in _SLOW else ()) for name in SECTIONS]
)
def test_examples_print_what_the_document_says(section: str, tmp_path: Path, serve: Serve) -> None:
    missing = [name for name in SECTIONS[section] if not find_spec(name)]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    shutil.copytree(ROOT / "model_repo/digits/1", tmp_path / "model_repo/digits/1")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    found = list(examples(TEXT, section))
    watched = any("curl" in example.code for example in found)  # otherwise it need not load what is published
    served = tmp_path / ("model_repo" if watched else "model_repo/digits")
    reader = Reader(tmp_path, serve(served, "--allow-model-upload"))
    try:
        problems = [problem for example in found if (problem := reader.problem(example))]
    finally:
        reader.close()
    assert not problems, "\n\n".join(problems)


def test_no_example_is_left_out() -> None:
    found = [example for section in SECTIONS for example in examples(TEXT, section)]
    assert len(found) == len(list(examples(TEXT, "")))
