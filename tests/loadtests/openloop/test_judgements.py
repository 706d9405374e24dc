"""What the commands make of their runs."""

import math
from io import StringIO

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from loadtests.generators import LoadError
from loadtests.openloop import curve, efficiency, low_rate, mixed, overload, referee
from loadtests.openloop.arrivals import Schedule
from loadtests.openloop.bound import Found
from loadtests.openloop.efficiency import Efficiency
from loadtests.openloop.low_rate import Alone
from loadtests.openloop.offline import SERVED, Offline, plain
from loadtests.openloop.outcomes import Generator, Outcomes, Verdict
from loadtests.openloop.overload import Judged, Point
from loadtests.openloop.steady import ECHO, RUN, SERVER

IDLE = Generator(10.0, 0.1, 32, 0)


def shown(table: Table) -> list[list[str]]:
    console = Console(file=StringIO(), width=160)
    console.print(table)
    text = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in text if line.startswith("│")]


def run(*ends: tuple[Verdict, float], kinds: list[int] | None = None) -> Outcomes:
    """One request each 0.1 s, the last due at 10 s for a hundred and one of them; how each ended and after how long."""
    due_s = np.arange(len(ends)) / 10
    verdicts = np.array([verdict for verdict, _ in ends], np.int8)
    schedule = Schedule(due_s, np.array(kinds or [0] * len(ends), np.int16))
    names = ("1 row", "64 rows") if kinds else ("1 row",)
    return Outcomes(schedule, names, due_s, due_s + np.array([seconds for _, seconds in ends]), verdicts, IDLE)


def test_efficiency_divides_by_the_servers_own_session_and_by_the_best() -> None:
    alone = Offline({SERVED: {64: [0.016]}, plain(1): {64: [0.02]}, plain(2): {128: [0.025, 0.03, 0.0256]}})
    ours = Efficiency(Found("serving", 60, 3600, judged_ms=[50, 59, 58]), alone)
    triton = Efficiency(Found("triton", 60, 1600, judged_ms=[40]), alone)
    assert ours.e == pytest.approx(0.9) and triton.e == pytest.approx(0.5)
    assert ours.of_best == pytest.approx(0.72)
    none = Efficiency(Found("triton", 60, failure="nothing"), alone)
    assert none.e is None and none.of_best is None and math.isnan(none.found.p99_ms)
    lines = shown(efficiency.table([ours, triton, none], 60))
    assert lines[0] == ["serving", "3600", "58.0", "4000", "64", "0.900", ">= 0.90", "5000", "0.720"]
    assert lines[2][:2] == ["triton", "none"]


def test_goodput_at_twice_the_rate_is_measured_by_the_peak() -> None:
    in_time, late = (Verdict.ANSWERED, 0.3), (Verdict.ANSWERED, 0.7)
    full = Point.of(1, run(*[in_time] * 101), 0.5)
    assert full.goodput == pytest.approx(10, rel=0.02) and full.late == 0
    twice = [
        Point.of(2, run(*[in_time] * good, *[late] * 2, *[(Verdict.REFUSED, 0.004)] * (99 - good)), 0.5)
        for good in (98, 97, 50)
    ]
    judged = Judged.of([full, *twice])
    assert judged.share == pytest.approx(94 / 95, rel=0.02) and judged.kept
    assert judged.refused_p50_ms == pytest.approx(4)
    assert [point.late for point in twice] == [2, 2, 2]
    assert len(shown(overload.table([full, *twice]))) == 4


@pytest.mark.parametrize(
    "ends",
    [
        [(Verdict.ANSWERED, 0.3)] * 80 + [(Verdict.REFUSED, 0.004)] * 21,  # too few
        [(Verdict.ANSWERED, 0.3)] * 99 + [(Verdict.REFUSED, 0.1)] * 2,  # refused too late
        [(Verdict.ANSWERED, 0.3)] * 99 + [(Verdict.REFUSED, 0.004), (Verdict.FAILED, 0.1)],
        [(Verdict.ANSWERED, 0.3)] * 101,  # nothing was refused: there was no overload
    ],
)
def test_overloads_that_are_not_as_wanted(ends: list[tuple[Verdict, float]]) -> None:
    full = Point.of(1, run(*[(Verdict.ANSWERED, 0.3)] * 101), 0.5)
    assert not Judged.of([full, Point.of(2, run(*ends), 0.5)]).kept


def test_what_large_requests_add_is_taken_round_by_round() -> None:
    def pair(alone_s: float, with_s: float) -> tuple[Outcomes, Outcomes]:
        alone = run(*[(Verdict.ANSWERED, alone_s)] * 10)
        kinds = [0] * 9 + [1]
        return alone, run(*[(Verdict.ANSWERED, with_s)] * 9, (Verdict.ANSWERED, 5.0), kinds=kinds)

    pairs = [pair(0.010, 0.020), pair(0.100, 0.111), pair(0.010, 0.500)]
    runs = {mixed.WITHOUT: [one for one, _ in pairs], mixed.WITH: [one for _, one in pairs]}
    assert mixed.added_ms(runs) == pytest.approx(11)
    lines = mixed.figures(runs)
    assert lines[mixed.WITH]["64 rows"].p99_ms == pytest.approx(5000)
    assert lines[mixed.WITHOUT]["1 row"].p99_ms == pytest.approx(10)
    assert len(mixed.latencies_ms(runs[mixed.WITH])) == 27  # single rows only
    assert [line[:3] for line in shown(mixed.table(lines))] == [
        [mixed.WITHOUT, "1 row", "10"],
        [mixed.WITH, "1 row", "9"],
        [mixed.WITH, "64 rows", "1"],
    ]


def test_what_a_server_adds_is_its_median_less_the_others() -> None:
    one = Alone({SERVER: [0.5e-3, 0.7e-3, 9e-3], ECHO: [0.1e-3] * 3, RUN: [0.2e-3] * 3})
    assert one.added_ms == pytest.approx(0.4)
    lines = shown(low_rate.table({"rest": one}, 1))
    assert lines[-1] == ["", "server", "3", "0.700", "9.000", "9.000", "0.400", "<= 0.5"]


def test_a_server_that_is_far_behind_is_asked_no_more() -> None:
    quick = run((Verdict.ANSWERED, 0.01), (Verdict.ANSWERED, 0.02)).summary()
    slow = run((Verdict.ANSWERED, 0.01), (Verdict.ANSWERED, 3.0)).summary()
    silent = run((Verdict.ANSWERED, 0.01), (Verdict.PENDING, math.nan)).summary()
    refusing = run((Verdict.REFUSED, 0.01), (Verdict.REFUSED, 0.01)).summary()
    assert [curve.hopeless(one) for one in (quick, slow, silent, refusing)] == [False, True, True, True]
    assert [line[0] for line in shown(curve.table({"serving": [quick, slow], "triton": [quick]}))] == [
        "serving",
        "serving",
        "triton",
    ]


SUMMARY = """\
================================================
MLPerf Results Summary
================================================
SUT name : PySUT
Scenario : Server
Mode     : PerformanceOnly
Completed samples per second    : 98.61
Result is : VALID
  Performance constraints satisfied : Yes

================================================
Additional Stats
================================================
Scheduled samples per second : 100.74
50.00 percentile latency (ns)   : 1700500
99.00 percentile latency (ns)   : 8123456
"""


def test_what_loadgen_wrote_is_read() -> None:
    found = referee.parse("Server", SUMMARY)
    assert (found.valid, found.samples_per_s, found.p50_ms, found.p99_ms) == (True, 98.61, 1.7005, 8.123456)
    assert found.missed == ()
    late = SUMMARY.replace(": VALID", ": INVALID").replace("satisfied : Yes", "satisfied : NO")
    slow = referee.parse("Server", late)
    assert not slow.valid and slow.missed == ("performance constraints",)
    assert shown(referee.table([found, slow]))[1] == [
        "Server",
        "invalid",
        "performance constraints",
        "99",
        "1.70",
        "8.12",
    ]
    with pytest.raises(LoadError, match="Samples per second"):
        referee.parse("Offline", SUMMARY)
