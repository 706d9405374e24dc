"""Real models behind real batchers, for short times."""

from pathlib import Path

import numpy as np
import pytest

from serving.core.artifact import Golden, write_golden
from serving.core.errors import LoadError
from serving.tuning.bench import Bench
from serving.tuning.setting import Setting
from serving.tuning.source import Subject, find
from tests import models

BOUND_S = 30.0


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    models.save(models.scale(2), tmp_path / "m/1/model.onnx")
    return find(tmp_path / "m")


def test_settings_are_measured_on_one_model(subject: Subject) -> None:
    with Bench(subject, 1, 1, BOUND_S) as bench:
        assert bench.contract.max_batch_size == 64
        for setting in (Setting(1, 1, 64), Setting(2, 1, 128, 0.5), Setting(1, 2, 8)):
            assert bench.capacity(setting, 0.02) > 0
            trial = bench.trial(setting, 1000, 0.05)
            assert (trial.sent, trial.answered, trial.rate) == (50, 50, 1000)
            assert trial.holds(1000 * BOUND_S) and trial.rows_per_run >= 1


def test_requests_of_several_rows(subject: Subject) -> None:
    with Bench(subject, 1, 3, BOUND_S) as bench:
        assert bench.trial(Setting(max_batch_size=3), 1000, 0.02).rows_per_run == 3


def test_a_model_that_is_not_batched(tmp_path: Path) -> None:
    models.save(models.identity(shape=(3, 4)), tmp_path / "m/1/model.onnx")
    with Bench(find(tmp_path / "m"), 1, 1, BOUND_S) as bench:
        assert bench.contract.max_batch_size == 0
        setting = Setting(max_batch_size=0)
        assert bench.capacity(setting, 0.02) > 0
        assert bench.trial(setting, 1000, 0.02).answered == 20


def test_the_golden_sample_is_what_is_sent(tmp_path: Path) -> None:
    """This model takes numbers below 4 alone, and its sample says so."""
    file = models.save(models.lookup(4), tmp_path / "m/1/model.onnx")
    x = np.array([[3], [1], [2]], np.int64)
    write_golden(file.parent, Golden({"x": x}, {"y": (1 / (x + 1)).astype(np.float32)}))
    with Bench(find(tmp_path / "m"), 1, 1, BOUND_S) as bench:
        assert bench.trial(Setting(max_batch_size=4), 1000, 0.02).answered == 20


def test_a_model_that_takes_nothing_that_is_known(tmp_path: Path) -> None:
    models.save(models.lookup(0), tmp_path / "m/1/model.onnx")
    with pytest.raises(LoadError, match="no input is known that it takes: publish it with a golden sample"):
        Bench(find(tmp_path / "m"), 1, 1, BOUND_S)


def test_more_rows_than_a_batch_holds(subject: Subject) -> None:
    with pytest.raises(LoadError, match="a request may have 64 rows, not 65"):
        Bench(subject, 1, 65, BOUND_S)
