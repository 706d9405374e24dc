"""What is made of figures, and how they are shown."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from loadtests.hostile import report
from loadtests.hostile.catalog import ATTACKS
from loadtests.hostile.judge import Memory, Result, Side, complaints, p99
from loadtests.hostile.tls_attacks import HELLO

ATTACK = ATTACKS["slowloris"]
FINE = Memory(100.0, 120.0, 110.0, 20, 40, 20)


def side(before: float = 2.0, during: float = 4.0, **changes: Any) -> Side:
    values: dict[str, Any] = {"seen": {"answered 408": 7}, "memory": FINE, "samples": 500, "during_max_ms": 9.0}
    return Side(before, during, **(values | changes))


def result(ours: Side, theirs: Side | None = None) -> Result:
    return Result("slowloris", [ours], [theirs or side()])


def test_p99() -> None:
    assert p99([float(n) for n in range(100, 0, -1)]) == 100.0
    assert p99([float(n) for n in range(1, 1001)]) == 991.0
    assert p99([5.0]) == 5.0


def test_the_ratio_is_that_of_rises_and_of_the_round_in_the_middle() -> None:
    assert result(side(2.0, 12.0), side(1.0, 6.0)).ratio == 2.0
    assert result(side(2.0, 2.1), side(1.0, 0.5)).ratio == 1.0  # neither is told from noise
    rounds = Result("slowloris", [side(0, during) for during in (30.0, 2.0, 4.0)], [side(0, 2.0)] * 3)
    assert rounds.ratio == 2.0


def test_what_was_stood() -> None:
    assert complaints(ATTACK, result(side())) == []


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"during": 6.0}, "the ratio of rises is 2.00, and 1.5 is wanted"),
        ({"seen": {}}, "nobody saw: answered 408"),
        ({"seen": {"answered 408": 1, "answered 500": 2}}, "unexpected: answered 500 (2 times)"),
        ({"memory": Memory(100.0, 500.0, 110.0, 20, 40, 20)}, "took 400 MB, and may take 100"),
        ({"failure": "503: busy"}, "the honest client met: 503: busy"),
        ({"samples": 3}, "the honest client had 3 answers only"),
    ],
)
def test_what_was_not(changes: dict[str, Any], complaint: str) -> None:
    assert complaints(ATTACK, result(side(**changes))) == [complaint]


def test_the_process_that_does_nothing_is_not_judged() -> None:
    assert complaints(ATTACK, result(side(), side(seen={"open": 1}, failure="closed"))) == []


def test_the_table_the_file_and_the_plot(tmp_path: Path) -> None:
    results = [result(side()), Result("rapid-resets", [side(2.0, 40.0)] * 3, [side()] * 3)]
    found = {"slowloris": [], "rapid-resets": ["took too much"]}
    console = Console(width=200, record=True, file=(tmp_path / "table").open("w"))
    console.print(report.table(results, found))
    text = console.export_text()
    assert "slowloris" in text and "stood" in text and "took too much" in text and "answered 408: 7" in text
    console.file.close()
    document = json.loads(json.dumps(report.document(results, found, {"cores": 2})))
    assert [attack["ratio_of_rises"] for attack in document["attacks"]] == [1.0, 19.0]
    assert document["attacks"][1]["complaints"] == ["took too much"] and document["environment"] == {"cores": 2}
    report.plot(tmp_path / "plots/hostile.png", results)
    assert (tmp_path / "plots/hostile.png").read_bytes().startswith(b"\x89PNG")


def test_attacks_are_described_and_consistent() -> None:
    for name, attack in ATTACKS.items():
        assert attack.name == name and attack.what.endswith(".")
        assert attack.expected or attack.allowed
        assert not set(attack.expected) & set(attack.allowed)
        assert attack.needs in (None, "keys", "tls")
    assert HELLO[0] == 22  # a handshake's record
