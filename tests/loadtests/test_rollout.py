"""Rollouts: what counts as promised, the figures, and a session with a server."""

import json
import subprocess
import sys
from collections import Counter
from io import StringIO
from math import comb
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from rich.console import Console

from loadtests.report import Round, Spread
from loadtests.rollout import arguments, chance, costs, document, kept_promises, p50_ratio, promises
from loadtests.rollout_measure import LOOKUP, Beside, Found, Users, write_repository

ROOT = Path(__file__).parents[2]
STAYED = Users(1000, 52, 190, 0, 0)


def round_(p50_ms: float) -> Round:
    return Round(1000, 1.0, 80.0, p50_ms, 4 * p50_ms)


def found(canary: int = 500, users: Users = STAYED, failed: tuple[int, ...] = (11, 12)) -> Found:
    beside = Beside(
        16,
        [round_(1.0), round_(2.0), round_(1.0)],
        [round_(1.02), round_(2.2), round_(0.9)],
        Counter(same=700, different=0, dropped=2300),
    )
    return Found(Counter({1: 10_000 - canary, 2: canary}), users, list(failed), [beside])


def shown(table: object) -> str:
    console = Console(file=StringIO(), width=132)
    console.print(table)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_the_defaults_are_those_of_the_promise() -> None:
    options = arguments().parse_args([])
    assert (options.requests, options.users, options.rounds, options.duration) == (10_000, 1000, 5, 3)


@pytest.mark.parametrize("count", [0, 1, 4, 5, 6, 20])
def test_the_chance_is_that_of_the_binomial_distribution(count: int) -> None:
    each = [comb(20, k) * 0.25**k * 0.75 ** (20 - k) for k in range(21)]
    assert chance(count, 20, 0.25) == pytest.approx(min(sum(each[: count + 1]), sum(each[count:])), rel=1e-6)


@pytest.mark.parametrize(
    ("seen", "kept"),
    [
        (found(), [True, True, True]),
        (found(canary=400), [True, True, True]),  # not likely, but one in a few hundred thousand
        (found(canary=380), [False, True, True]),
        (found(canary=620), [False, True, True]),
        (found(users=Users(1000, 52, 190, 1, 0)), [True, False, True]),
        (found(users=Users(1000, 52, 190, 0, 1)), [True, False, True]),
        (found(failed=(11, 13)), [True, True, False]),
    ],
)
def test_what_counts_as_promised(seen: Found, kept: list[bool]) -> None:
    assert [one for _, _, one in kept_promises(seen)] == kept


def test_requests_of_a_version_that_has_no_share_are_told() -> None:
    seen = found()
    seen.shares[0] = 1
    assert kept_promises(seen)[0][2] is False


def test_the_ratio_is_taken_within_each_round() -> None:
    (beside,) = found().beside
    assert p50_ratio(beside) == Spread(1.02, 0.9, 1.1)
    text = shown(costs([beside]))
    assert "1.020 (0.900-1.100)" in text and "700 of 3000" in text and "2300" in text
    assert "as promised" in shown(promises(found())) and "void" in shown(promises(found(canary=1)))


def test_the_document_is_plain_data() -> None:
    value = json.loads(json.dumps(document(found(), {"cores": 2})))
    assert value["shares"] == {"1": 9500, "2": 500} and value["shadow"][0]["copies"]["dropped"] == 2300
    assert value["shadow"][0]["p50_ratio"]["median"] == 1.02 and len(value["promises"]) == 3


def test_the_second_table_has_only_the_beginning_of_the_first(tmp_path: Path) -> None:
    write_repository(tmp_path)
    one, two = (onnxruntime.InferenceSession(str(tmp_path / LOOKUP / n / "model.onnx")) for n in ("1", "2"))
    assert [s.run(None, {"x": np.array([[7]])})[0].item() for s in (one, two)] == [7, 7]
    assert one.run(None, {"x": np.array([[500]])})[0].item() == 500
    with pytest.raises(Exception, match="out of data bounds"):
        two.run(None, {"x": np.array([[500]])})


@pytest.mark.slow
def test_a_session_with_a_server(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    command = [sys.executable, "-m", "loadtests.rollout", "--quick", "--in-flight", "2", "--json", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    value = json.loads(out.read_text())
    assert sum(value["shares"].values()) == 1000 and value["users"]["flipped"] == value["users"]["lost"] == 0
    (shadow,) = value["shadow"]
    assert shadow["in_flight"] == 2 and shadow["copies"]["same"] > 0 and not shadow["copies"].get("different")
