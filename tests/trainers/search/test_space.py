"""The file that says what a search tries, and what is wrong with one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from trainers.contract import TrainingError
from trainers.search.space import Integer, Real, Space, read
from trainers.settings import changed

SPACES = Path(__file__).parents[3] / "trainers/search/spaces"


@dataclass(frozen=True)
class Settings:
    learning_rate: float = 0.1
    batch: int = 32
    norm: bool = False
    cell: Literal["rnn", "gru"] = "rnn"
    text: str = ""


def space(tmp_path: Path, text: str) -> Space:
    path = tmp_path / "space.yaml"
    path.write_text(text)
    return read(path, Settings())


def entry(text: str) -> str:
    return f"parameters:\n  {text}\n"


def test_all_kinds_of_parameters_are_read(tmp_path: Path) -> None:
    found = space(
        tmp_path,
        """
        parameters:
          learning_rate: {type: real, min: 1e-4, max: 1, scale: log, points: 3}
          batch: {type: integer, min: 8, max: 512, scale: log, points: 4}
          norm: {type: categorical, values: [true, false]}
          cell: {type: categorical, values: [rnn, gru]}
        """,
    )
    rate = found.parameters["learning_rate"]
    assert isinstance(rate, Real) and rate.min == 0.0001  # PyYAML takes 1e-4 for a word
    grid = found.grid()
    assert len(grid) == 3 * 4 * 2 * 2
    assert sorted({point["learning_rate"] for point in grid}) == [0.0001, 0.01, 1.0]
    assert sorted({point["batch"] for point in grid}) == [8, 32, 128, 512]
    for point in grid:
        changed(Settings(), point)
        assert all(0 <= number <= 1 for number in found.coordinates(point))


def test_equal_shares_are_equally_likely() -> None:
    batch = Integer(type="integer", min=1, max=4)
    drawn = [batch.at((index + 0.5) / 1000) for index in range(1000)]
    assert [drawn.count(value) for value in (1, 2, 3, 4)] == [250] * 4
    rate = Real(type="real", min=0.001, max=10, scale="log")
    assert [rate.at(share) for share in (0, 0.5, 1)] == pytest.approx([0.001, 0.1, 10])
    assert rate.where(rate.at(0.7)) == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "expected 'parameters:' and entries below it"),
        ("- 1", "expected 'parameters:' and entries below it"),
        ("parameters: {}", "parameters: Dictionary should have at least 1 item"),
        ("parameters: [", "not YAML: "),
        (entry("rate: {type: real, min: 0, max: 1}"), "there is no setting 'rate': "),
        (entry("learning_rat: {type: real, min: 0, max: 1}"), "did you mean 'learning_rate'?"),
        (entry("learning_rate: {min: 0, max: 1}"), "parameters.learning_rate: Unable to extract tag"),
        (entry("learning_rate: {type: float, min: 0, max: 1}"), "parameters.learning_rate: Input tag 'float'"),
        (entry("learning_rate: {type: real, max: 1}"), "parameters.learning_rate.min: Field required"),
        (entry("learning_rate: {type: real, min: low, max: 1}"), "parameters.learning_rate.min: Input should be"),
        (entry("learning_rate: {type: real, min: 0, max: .inf}"), "parameters.learning_rate.max: Input should be"),
        (
            entry("learning_rate: {type: real, min: 1, max: 0.1}"),
            "parameters.learning_rate: min 1.0 is not less than max 0.1",
        ),
        (
            entry("learning_rate: {type: real, min: 0, max: 1, scale: log}"),
            "parameters.learning_rate: min 0.0: a log scale needs a min greater than 0",
        ),
        (entry("learning_rate: {type: real, min: 0, max: 1, scale: exp}"), "parameters.learning_rate.scale: "),
        (entry("learning_rate: {type: real, min: 0, max: 1, steps: 3}"), "parameters.learning_rate.steps: Extra"),
        (
            entry("batch: {type: real, min: 1, max: 9}"),
            "parameters.batch.type: 'real', but this setting needs 'integer'",
        ),
        (entry("batch: {type: integer, min: 1.5, max: 9}"), "parameters.batch.min: Input should be a valid integer"),
        (entry("batch: {type: categorical, values: [1.5, 2]}"), "setting 'batch': expected a whole number, got '1.5'"),
        (entry("norm: {type: integer, min: 0, max: 1}"), "parameters.norm.type: 'integer', but this setting needs"),
        (entry("text: {type: real, min: 0, max: 1}"), "parameters.text.type: 'real', but this setting needs"),
        (
            entry("cell: {type: categorical, values: [rnn, lstm]}"),
            "setting 'cell': expected one of rnn, gru, got 'lstm'",
        ),
        (entry("cell: {type: categorical, values: [rnn]}"), "parameters.cell.values: "),
        (entry("cell: {type: categorical, values: [rnn, rnn]}"), "parameters.cell.values: a value is there twice"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(TrainingError) as caught:
        space(tmp_path, text)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'space.yaml'}: ") and problem in message
    assert "\n" not in message
