"""The steps of a pipeline, on the model that the repository comes with."""

import shutil
from pathlib import Path

import pytest

from tests.trainers.child import ROOT
from trainers.contract import TrainingError
from trainers.search.steps import main

REPO = ROOT / "model_repo"


def evaluate(repo: Path, *words: str) -> None:
    main(["evaluate", "--repo", str(repo), "--model", "digits", "--metric", "held_out_accuracy", *words])


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    shutil.copytree(REPO / "digits", tmp_path / "repo/digits")
    return tmp_path / "repo"


def test_a_good_version_is_good_enough(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = repo / "outputs/metric"
    evaluate(repo, "--bound", "0.9", "--result", str(result))
    value = float(result.read_text())
    assert value >= 0.97
    assert capsys.readouterr().out == f"held_out_accuracy {value}\n"


@pytest.mark.parametrize(("goal", "bound"), [("maximize", "0.999"), ("minimize", "0.5")])
def test_a_worse_one_ends_the_run(repo: Path, goal: str, bound: str) -> None:
    with pytest.raises(TrainingError, match=f"worse than the bound {bound}: not published"):
        evaluate(repo, "--goal", goal, "--bound", bound)


def test_a_version_that_is_not_whole_is_refused(repo: Path) -> None:
    version = max((repo / "digits").glob("[0-9]*"))
    with pytest.raises(TrainingError, match="nothing was measured as 'loss'"):
        main(["evaluate", "--repo", str(repo), "--model", "digits", "--metric", "loss"])
    (version / "golden.npz").write_bytes((version / "golden.npz").read_bytes() + b"0")
    with pytest.raises(TrainingError, match=r"golden\.npz: SHA-256 is"):
        evaluate(repo)
    (version / "MANIFEST.json").unlink()
    with pytest.raises(TrainingError, match="no manifest"):
        evaluate(repo)
    with pytest.raises(TrainingError, match="no version was published"):
        main(["evaluate", "--repo", str(repo), "--model", "other", "--metric", "loss"])
