"""How the command line words things."""

import pytest

from serving.cli.describe import batching, fail, tensors
from serving.core import dtypes
from tests.cli.build import ROWS, signature_of, version_of


def test_a_failure_is_one_line_for_people_and_a_code_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert fail("it went wrong") == 1
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "error: it went wrong\n")


def test_tensors() -> None:
    signature = signature_of(ROWS, ("mask", dtypes.BOOL, (-1,)), ("k", dtypes.INT64, ()))
    assert tensors(signature.inputs.values()) == "x FP32 [-1, 2], mask BOOL [-1], k INT64 []"
    assert tensors([]) == ""


def test_batching() -> None:
    batched = version_of("m", ROWS, max_batch_size=32)
    assert batching(batched.contract) == "batches of up to 32 rows"
    alone = version_of("m", ROWS, max_batch_size=0, because="its rows depend on each other")
    assert batching(alone.contract) == "one request at a time (its rows depend on each other)"
