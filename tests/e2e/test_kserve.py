"""KServe's own clients, unmodified, against a running server."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.e2e.server import LIMIT_S, ROOT, Server

FORMS = ("json", "binary", "raw", "contents")
GRPC = ("raw", "contents")


@pytest.fixture(scope="module")
def answers(examples: Server) -> dict[str, dict[str, Any]]:
    """By form and question."""
    command = [sys.executable, "-m", "tests.e2e.kserve_client", examples.url, examples.grpc]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert ended.returncode == 0, ended.stderr
    found: dict[str, dict[str, Any]] = json.loads(ended.stdout)
    assert tuple(found) == FORMS
    return found


@pytest.mark.parametrize("form", FORMS)
def test_health(answers: dict[str, dict[str, Any]], form: str) -> None:
    assert answers[form]["health"] == {"live": True, "ready": True, "simple": True, "nosuch": False}


@pytest.mark.parametrize("form", FORMS)
def test_infer(answers: dict[str, dict[str, Any]], form: str) -> None:
    answer = answers[form]["simple"]
    version = "1" if form in GRPC else None  # this client does not look for it in JSON
    assert (answer["id"], answer["model"], answer["version"]) == ("mine", "simple", version)
    assert answer["outputs"] == {
        "OUTPUT0": {"datatype": "INT32", "shape": [2, 16], "values": [n + 1 for n in range(32)]},
        "OUTPUT1": {"datatype": "INT32", "shape": [2, 16], "values": [n - 1 for n in range(32)]},
    }


@pytest.mark.parametrize("form", FORMS)
def test_infer_texts(answers: dict[str, dict[str, Any]], form: str) -> None:
    assert answers[form]["texts"]["outputs"] == {
        "OUTPUT0": {"datatype": "BYTES", "shape": [1, 2], "values": ["grüße", ""]}
    }


@pytest.mark.parametrize("form", FORMS)
def test_infer_without_naming_outputs(answers: dict[str, dict[str, Any]], form: str) -> None:
    assert answers[form]["all outputs"]["outputs"] == {
        "OUTPUT0": {"datatype": "FP32", "shape": [1, 2], "values": [0.5, -1.5]}
    }


@pytest.mark.parametrize(
    ("case", "status", "code", "text"),
    [
        ("unknown model", 404, "NOT_FOUND", "Request for unknown model: 'nosuch' is not found"),
        ("missing input", 400, "INVALID_ARGUMENT", "expected 2 inputs but got 1 inputs for model 'simple'"),
        ("wrong shape", 400, "INVALID_ARGUMENT", "unexpected shape for input 'INPUT0' for model 'simple'"),
        ("model fails", 500, "INTERNAL", "Failed to process the request(s) for model 'simple_string/1'"),
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_refusal(answers: dict[str, dict[str, Any]], form: str, case: str, status: int, code: str, text: str) -> None:
    answer = answers[form][case]
    assert answer["status"] == (code if form in GRPC else status)
    assert text in answer["text"]
