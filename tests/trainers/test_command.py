"""The command line of the trainers, without a training."""

from pathlib import Path

import pytest

from tests.trainers.child import done, fork, python, trains
from trainers.models import TRAINERS


def test_a_repository_that_is_a_file_is_one_clear_line(tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    repo.write_text("a file")
    result = python("-m", "trainers", "digits", "--repo", repo, "--log-dir", tmp_path / "runs")
    assert result.returncode == 1
    assert result.stderr == f"error: --repo {repo}: a file is in the way of this directory\n"
    assert result.stdout == ""
    assert repo.read_text() == "a file"
    assert list(tmp_path.iterdir()) == [repo]


@trains
def test_settings_are_shown_and_read(tmp_path: Path) -> None:
    assert "learning_rate = 0.001  (float)" in done("-m", "trainers", "digits", "--settings").splitlines()
    result = fork("-m", "trainers", "digits", "--set", "x=1", "--repo", tmp_path, "--log-dir", tmp_path)
    assert result.returncode == 1
    assert result.stderr == "error: there is no setting 'x': there are batch, learning_rate, dropout\n"
    assert list(tmp_path.iterdir()) == []


@trains
def test_a_survey_of_what_has_no_variants(tmp_path: Path) -> None:
    result = fork("-m", "trainers", "survey", "digits", "--log-dir", tmp_path)
    assert (result.returncode, result.stderr) == (1, "error: 'digits' has no variants to compare\n")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [([], "which trainer?"), (["nope"], "digits"), (["digits", "--epochs", "0"], "--epochs")],
)
def test_usage_errors(arguments: list[str], problem: str) -> None:
    result = python("-m", "trainers", *arguments)
    assert result.returncode == 2
    assert problem in result.stderr and "Traceback" not in result.stderr


def test_the_list_names_the_trainers_without_tensorflow() -> None:
    result = python("-X", "importtime", "-m", "trainers", "--list")
    assert result.returncode == 0
    assert [line.split()[0] for line in result.stdout.splitlines()] == list(TRAINERS)
    assert "tensorflow" not in result.stderr and "keras" not in result.stderr
