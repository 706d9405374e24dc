"""The perceptron trainer: what single units compute, what Rosenblatt's rule finds, and the network that learns XOR."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from serving.core.artifact import read_manifest
from tests.trainers.child import done, trains

# Trains as the command does, then says what single units can do.
SCRIPT = """
import json, sys
from itertools import product
from trainers.command import main

assert main() == 0

import numpy as np
from trainers.models.perceptron import BY_HAND, TABLES, best_of_grid, rosenblatt

facts = {
    "by hand": {name: unit.mistakes(TABLES[name]) for name, unit in BY_HAND.items()},
    "learned": {name: rosenblatt(table)._asdict() for name, table in TABLES.items()},
    "long": rosenblatt(TABLES["xor"], epochs=500).mistakes,
    "best": {"".join(map(str, table)): best_of_grid(np.array(table)) for table in product((0, 1), repeat=4)},
}
learned = {name: rosenblatt(table).unit.mistakes(table) for name, table in TABLES.items()}
print(json.dumps(facts | {"after": learned}, default=float))
"""
NAMES = ("identity", "not", "and", "or", "xor", "xnor")
ROWS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict]]:
    """A directory with repo/ and runs/ after a quick run, and what the script said."""
    directory = tmp_path_factory.mktemp("perceptron")
    arguments = ("perceptron", "--quick", "--repo", directory / "repo", "--log-dir", directory / "runs")
    printed = done("-c", SCRIPT, *arguments)
    assert "never: the weights repeat" in printed
    return directory, json.loads(printed.splitlines()[-1])


@trains
def test_the_published_model_has_all_six_truth_tables_right(trained: tuple[Path, dict[str, dict]]) -> None:
    version = trained[0] / "repo/perceptron/1"
    session = onnxruntime.InferenceSession(version / "model.onnx", providers=["CPUExecutionProvider"])
    x = ROWS[[3, 0, 2, 1, 1]]  # in an order of its own
    answers = dict(zip(NAMES, session.run(NAMES, {"x": x}), strict=True))
    a, b = x.astype(bool).T
    expected = {"identity": a, "not": ~a, "and": a & b, "or": a | b, "xor": a ^ b, "xnor": ~(a ^ b)}
    for name, answer in answers.items():
        assert answer.shape == (5, 1) and answer.dtype == np.float32
        assert ((answer[:, 0] > 0.5) == expected[name]).all(), name
    for name in ("identity", "not", "and", "or"):
        assert set(answers[name].ravel().tolist()) <= {0.0, 1.0}
    manifest = read_manifest(version)
    assert manifest is not None
    assert manifest.metric == {"truth_table_accuracy": 1.0, **dict.fromkeys(NAMES, 1.0)}


@trains
def test_rosenblatts_rule_learns_what_one_unit_can_and_never_xor(trained: tuple[Path, dict[str, dict]]) -> None:
    facts = trained[1]
    assert facts["by hand"] == {"identity": 0, "not": 0, "and": 0, "or": 0}
    for name in ("identity", "not", "and", "or"):
        _, mistakes, cycle = facts["learned"][name].values()
        assert mistakes[-1] == 0 and 0 not in mistakes[:-1] and cycle is None
        assert facts["after"][name] == 0
    for name in ("xor", "xnor"):
        _, mistakes, cycle = facts["learned"][name].values()
        assert 0 not in mistakes and cycle is not None  # the same weights again, so it goes on for ever
        assert facts["after"][name] > 0
    cycle = facts["learned"]["xor"]["cycle"]
    assert facts["long"][100:] == facts["long"][100 + cycle :] + facts["long"][500 - cycle :]
    assert len(facts["long"]) == 500 and 0 not in facts["long"]


@trains
def test_of_all_sixteen_functions_one_unit_computes_all_but_xor_and_xnor(trained: tuple[Path, dict[str, dict]]) -> None:
    best = trained[1]["best"]
    assert len(best) == 16
    assert {table: mistakes for table, (_, mistakes) in best.items() if mistakes} == {"0110": 1, "1001": 1}
    for table, ((w1, w2, bias), mistakes) in best.items():
        fires = ROWS @ (w1, w2) + bias >= 0
        assert sum(fires != [digit == "1" for digit in table]) == mistakes


@trains
def test_a_run_leaves_its_pictures_and_its_history(trained: tuple[Path, dict[str, dict]]) -> None:
    (run,) = (trained[0] / "runs/perceptron").iterdir()
    for name in ("boundaries.png", "rosenblatt.png"):
        assert (run / name).read_bytes()[:4] == b"\x89PNG"
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    accuracy = [line["truth_table_accuracy"] for line in lines if "truth_table_accuracy" in line]
    assert len(accuracy) == 10 and accuracy[-1] == 1.0
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < 0.05 < 0.5 < losses[0]
