"""The next-word models: their cells against formulas in NumPy, what they answer to rows of all lengths, and a run on a
file that is interrupted.

TensorFlow stays in one child process, which leaves behind what the tests look at: its import warns, and a warning fails
a test here.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import pytest

from serving.core.artifact import read_golden, read_manifest, verify
from serving.core.types import Tensors
from tests.trainers.child import done, trains
from trainers.data.text import Vocabulary, join, made_up, split

CELLS = ("rnn", "lstm", "lstm_peephole", "gru")
WORDS = 40  # in the vocabulary of the networks that are not trained
LENGTHS, BATCHES = (0, 1, 2, 7, 50), (1, 3, 64)

# First, networks with random weights: exported, asked and taken apart.
CHILD = """
import json, sys
from dataclasses import replace
from pathlib import Path
import trainers.command
from trainers.training import Job, load, train
next_word = load("next_word")
import keras, numpy as np, tensorflow as tf
import trainers.run as run
from trainers.contract import Options, Trained, TrainingError
from trainers.models.memory import gradient_back
from trainers.publishing.export import as_function, to_onnx

directory, cells = Path(sys.argv[1]), sys.argv[2].split()
lengths, batches = json.loads(sys.argv[3]), json.loads(sys.argv[4])
keras.utils.set_random_seed(1)
generator = np.random.default_rng(0)
facts = {}
for cell in cells:
    settings = next_word.Settings(cell=cell, embedding=5, width=6)
    network = next_word.Network(settings, 40)
    for variable in network.served.trainable_variables:  # none of them zero, so that nothing is overlooked
        variable.assign(generator.normal(0, 0.5, variable.shape))
    model = network.served
    function = as_function(Trained(model, ("probabilities",), {}, {}, ""))
    (directory / f"{cell}.onnx").write_bytes(to_onnx(cell, function))
    asked = {f"{rows}x{length}": generator.integers(1, 40, (rows, length), dtype=np.int32)
             for length in lengths for rows in batches}
    answers = {f"{name}:out": function(words)["probabilities"].numpy() for name, words in asked.items()}
    weights = {f"weights:{variable.name}": variable.numpy() for variable in network.cell.weights}
    weights |= {"weights:embed": network.embed.weights[0].numpy()}
    weights |= {f"weights:output{index}": variable.numpy() for index, variable in enumerate(network.output.weights)}
    np.savez(directory / f"{cell}.npz", **asked, **answers, **weights)

    text = generator.integers(1, 40, 1000, dtype=np.int32)
    at_once, _ = network.surprise(next_word.streams(text, next_word.STREAMS), network.states(next_word.STREAMS))
    rows = text[:40].reshape(4, 10)
    larger = next_word.as_large_as(next_word.Settings(), cell, 300)
    facts[cell] = {
        "counted": model.count_params(),
        "expected": next_word.parameters(settings, 40),
        "compared": next_word.parameters(larger, 300),
        "wider": next_word.parameters(replace(larger, width=larger.width + 1), 300),
        "in windows": float(np.abs(next_word.surprises(network, text) - at_once).max()),
        "gradients": gradient_back(network.embed, network.cell, network.output, rows).tolist(),
        "rows": rows.tolist(),
    }

# Then, a text is trained on: as the command does it, interrupted and resumed, with hardly any gradient; and none is.
text = directory / "story.txt"
run.LOGGED = 20  # so that some steps are not looked at
values = {"text": str(text), "batch": 8, "window": 16, "width": 32, "embedding": 16, "learning_rate": 0.02}
sys.argv[1:] = ["next_word", "--repo", str(directory / "repo"), "--log-dir", str(directory / "runs")]
sys.argv += ["--steps", "120", "--seed", "5", *(part for pair in values.items() for part in ("--set", "%s=%s" % pair))]
assert trainers.command.main() == 0

def trained(place, steps=120, resume=False, **other):
    job = Job("next_word", seed=5, steps=steps, values=values | other)
    return train(job, Options(directory / place, seed=5, steps=steps, resume=resume))[0]

log = run.Run.log
def interrupted(self, **values):
    run.CHECKPOINT_S = 20.0 if self._done < 95 else 0.0
    if self._done == 100:
        raise KeyboardInterrupt
    log(self, **values)
run.Run.log = interrupted
try:
    trained("parts")
except KeyboardInterrupt:
    run.Run.log, run.CHECKPOINT_S = log, 20.0
resumed = trained("parts", resume=True)
np.save(directory / "resumed.npy", resumed.model(resumed.sample["words"]))
trained("clipped", 10, clip=1e-15)
facts["mistakes"] = []
for mistake in {"text": str(directory / "nowhere.txt")}, {"window": 0}, {"batch": 2000}:
    try:
        trained("mistakes", **mistake)
    except TrainingError as error:
        facts["mistakes"].append(str(error))
print(json.dumps(facts))
"""


class Left(NamedTuple):
    """What the child left behind."""

    directory: Path
    facts: dict[str, Any]
    words: list[str]  # of the text that it trained on

    def history(self, place: str) -> list[dict[str, float]]:
        (found,) = self.directory.glob(f"{place}/history.jsonl")
        return [json.loads(line) for line in found.read_text().splitlines()]


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Left:
    directory = tmp_path_factory.mktemp("next_word")
    made = made_up(4_000, 0)
    words = [*made.train, *made.held_out]
    (directory / "story.txt").write_text(join(words), encoding="utf-8")
    printed = done("-c", CHILD, directory, " ".join(CELLS), json.dumps(LENGTHS), json.dumps(BATCHES))
    return Left(directory, json.loads(printed.splitlines()[-1]), words)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def step(cell: str, w: Tensors, x: np.ndarray, states: list[np.ndarray]) -> list[np.ndarray]:
    """One step in float64, gate by gate."""
    h = states[0]
    width = h.shape[-1]

    def gate(number: int) -> np.ndarray:
        part = slice(number * width, (number + 1) * width)
        total: np.ndarray = x @ w["from_input"][:, part] + w["bias"][part]
        if part.stop <= w["from_state"].shape[1]:
            total = total + h @ w["from_state"][:, part]
        return total

    if cell == "rnn":
        return [np.tanh(gate(0))]
    if cell == "gru":
        r, z = sigmoid(gate(0)), sigmoid(gate(1))
        return [z * h + (1 - z) * np.tanh(gate(2) + (r * h) @ w["from_reset_state"])]
    peep = w.get("peepholes", np.zeros((3, width)))
    c = states[1]
    new = sigmoid(gate(1) + peep[1] * c) * c + sigmoid(gate(0) + peep[0] * c) * np.tanh(gate(3))
    return [sigmoid(gate(2) + peep[2] * new) * np.tanh(new), new]


def logits(cell: str, w: Tensors, words: np.ndarray, changes: dict[int, list[np.ndarray]] | None = None) -> np.ndarray:
    """Of the word after these. `changes` are added to the states after some of the words."""
    width = w["from_state"].shape[0]
    states = [np.zeros((len(words), width))] * (2 if cell.startswith("lstm") else 1)
    for at in range(words.shape[1]):
        states = step(cell, w, w["embed"][words[:, at]], states)
        for index, change in enumerate((changes or {}).get(at, [])):
            states[index] = states[index] + change
    answer: np.ndarray = states[0] @ w["output0"] + w["output1"]
    return answer


def stored(directory: Path, cell: str) -> tuple[Tensors, Tensors]:
    """What was asked and answered, and the weights in float64."""
    with np.load(directory / f"{cell}.npz") as archive:
        arrays = dict(archive)
    names = [name for name in arrays if name.startswith("weights:")]
    weights = {name.removeprefix("weights:"): arrays.pop(name).astype(float) for name in names}
    return arrays, weights


def session(directory: Path, cell: str) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(directory / f"{cell}.onnx", providers=["CPUExecutionProvider"])


def ask(model: onnxruntime.InferenceSession, words: np.ndarray) -> np.ndarray:
    answer: np.ndarray = model.run(["probabilities"], {"words": words})[0]
    return answer


@trains
@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_computes_what_its_paper_says(left: Left, cell: str) -> None:
    arrays, weights = stored(left.directory, cell)
    for length in LENGTHS[1:]:
        words = arrays[f"3x{length}"]
        expected = np.exp(logits(cell, weights, words))
        expected /= expected.sum(axis=1, keepdims=True)
        assert np.abs(arrays[f"3x{length}:out"] - expected).max() < 1e-6


@trains
@pytest.mark.parametrize("cell", CELLS)
def test_onnx_answers_as_keras_does_to_every_length_and_number_of_rows(left: Left, cell: str) -> None:
    directory = left.directory
    arrays, _ = stored(directory, cell)
    model = session(directory, cell)
    for length in LENGTHS:
        for rows in BATCHES:
            words = arrays[f"{rows}x{length}"]
            answers = ask(model, words)
            assert answers.shape == (rows, WORDS)
            assert np.abs(answers - arrays[f"{rows}x{length}:out"]).max() < 1e-6
            assert np.abs(ask(model, words[-1:]) - answers[-1]).max() < 1e-6  # alone as in a batch


@trains
@pytest.mark.parametrize("cell", CELLS)
def test_zeros_anywhere_in_a_row_change_no_answer(left: Left, cell: str) -> None:
    directory = left.directory
    model = session(directory, cell)
    arrays, _ = stored(directory, cell)
    words = arrays["3x7"]
    expected = ask(model, words)
    for where in (0, 3, 7):
        padded = np.insert(words, [where] * 5, 0, axis=1)
        assert np.abs(ask(model, padded) - expected).max() < 1e-6
    ragged = words.copy()
    ragged[0, :4], ragged[1, 5:] = 0, 0  # rows of different lengths in one batch
    for row, alone in enumerate((words[:1, 4:], words[1:2, :5], words[2:])):
        assert np.abs(ask(model, ragged)[row] - ask(model, alone)).max() < 1e-6
    assert np.abs(ask(model, np.zeros((1, 4), np.int32)) - ask(model, np.zeros((1, 0), np.int32))).max() < 1e-6


@trains
def test_what_is_no_words_number_counts_as_the_unknown_word(
    left: Left,
) -> None:
    model = session(left.directory, "gru")
    odd = np.array([[3, -1, 4], [3, WORDS, 4], [3, 2**31 - 1, 4], [3, 1, 4]], np.int32)
    answers = ask(model, odd)
    assert np.array_equal(answers, answers[[3, 3, 3, 3]])
    assert not np.allclose(answers[0], ask(model, np.array([[3, 4]], np.int32)), atol=1e-4)


@trains
@pytest.mark.parametrize("cell", CELLS)
def test_gradients_back_through_time_are_those_of_small_changes_to_the_states(left: Left, cell: str) -> None:
    directory, facts, _ = left
    _, weights = stored(directory, cell)
    rows = np.array(facts[cell]["rows"])
    width, states = weights["from_state"].shape[0], 2 if cell.startswith("lstm") else 1

    def loss(at: int, index: int, unit: int, size: float) -> np.ndarray:
        changes = [np.zeros(width) for _ in range(states)]
        changes[index][unit] = size
        scores = logits(cell, weights, rows[:, :-1], {at: changes})
        chosen: np.ndarray = np.log(np.exp(scores).sum(axis=1)) - scores[range(len(rows)), rows[:, -1]]
        return chosen

    for at in (0, 4, 8):
        slopes = [
            (loss(at, index, unit, 1e-5) - loss(at, index, unit, -1e-5)) / 2e-5
            for index in range(states)
            for unit in range(width)
        ]
        assert np.linalg.norm(slopes, axis=0).mean() == pytest.approx(facts[cell]["gradients"][at], rel=1e-3)


@trains
def test_sizes_are_counted_right_and_cells_are_compared_at_equal_size(
    left: Left,
) -> None:
    facts = left.facts
    largest = facts["lstm"]["compared"]
    for cell in CELLS:
        assert facts[cell]["counted"] == facts[cell]["expected"]
        assert facts[cell]["compared"] <= largest < facts[cell]["wider"]


@trains
def test_a_memory_is_carried_from_window_to_window(left: Left) -> None:
    facts = left.facts
    assert all(facts[cell]["in windows"] < 1e-5 for cell in CELLS)


@trains
def test_a_file_becomes_a_model_with_its_vocabulary_beside_it(left: Left) -> None:
    directory, _, words = left
    for name in ("next_word", "next_word_tf"):
        version = directory / "repo" / name / "1"
        manifest, golden = read_manifest(version), read_golden(version)
        assert manifest is not None and golden is not None and verify(version, manifest) == []
        assert "words.txt" in manifest.files
        vocabulary = (version / "words.txt").read_text(encoding="utf-8").splitlines()
        train = words[: round(0.9 * len(words))]
        assert vocabulary == Vocabulary.of(train, at_most=10_000, seen=2).words
        assert manifest.signature == {
            "inputs": [{"name": "words", "datatype": "INT32", "shape": [-1, -1]}],
            "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, len(vocabulary)]}],
        }
        assert manifest.metric is not None and set(manifest.metric) == {"held_out_perplexity"}
        assert manifest.metric["held_out_perplexity"] < 50  # 82, if only the words' frequencies were known
        assert (golden.inputs["words"] == 0).sum(axis=1).tolist() == [21, 18, 15, 12, 9, 6, 3, 0]

    model = onnxruntime.InferenceSession(directory / "repo/next_word/1/model.onnx", providers=["CPUExecutionProvider"])
    begun = Vocabulary(vocabulary).numbers(split("Bella is"))
    assert vocabulary[int(ask(model, begun[None]).argmax())] == "a"


@trains
def test_a_run_that_is_interrupted_in_the_middle_of_the_text_ends_as_one_that_was_not(left: Left) -> None:
    per_epoch = (round(0.9 * len(left.words)) // 8 - 1) // 16
    assert 100 % per_epoch not in (0, per_epoch - 1)  # so there was a memory to go on with
    assert left.history("parts") == left.history("runs/next_word/*")
    measured = [line["step"] for line in left.history("parts") if "held_out_perplexity" in line]
    assert measured == [*range(per_epoch, 120, per_epoch), 120]
    whole = read_golden(left.directory / "repo/next_word_tf/1")
    assert whole is not None
    assert np.abs(whole.outputs["probabilities"] - np.load(left.directory / "resumed.npy")).max() < 1e-7


@trains
def test_gradients_are_clipped(left: Left) -> None:
    """To a norm so small that the model stays what it was."""
    steps = [line for line in left.history("clipped") if "loss" in line]
    assert len(steps) == 10
    assert min(line["gradient_norm"] for line in steps) > 0.1  # before clipping
    assert max(line["loss"] for line in steps) - min(line["loss"] for line in steps) < 0.1
    learned = [line["loss"] for line in left.history("parts") if "loss" in line]
    assert learned[0] - min(learned) > 1


@trains
def test_what_ends_a_run_is_one_line(left: Left) -> None:
    assert left.facts["mistakes"] == [
        f"{left.directory / 'nowhere.txt'}: No such file or directory",
        "setting 'window': expected at least 1, got 0",
        f"{round(0.9 * len(left.words))} words are too few for 2000 windows of 16",
    ]
