"""Counts, the verdict, the tables, the picture."""

from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from loadtests.soak import counts, report
from loadtests.soak.measure import Found, Settings, Swap
from loadtests.soak.outcomes import Ending, Outcome, Record
from loadtests.soak.sampler import Sample

SETTINGS = Settings(seconds=3600, swap_every_s=60, sample_every_s=10, pss_every=3, per_s=1, clients=1, warm_up=0.2)
OK = Ending(Outcome.ANSWERED, "200", 1)


def found(endings: Sequence[Ending] = (OK,), mb_per_h: float = 0, descriptors: Sequence[int] = (40, 40, 40)) -> Found:
    made = Found(100.0, 3700.0, exit_code=0)
    made.records = [Record("oip-json", 100.0 + i, 100.01 + i, ending) for i, ending in enumerate(endings)]
    for i in range(360):
        rss = 150e6 + mb_per_h * 1e6 * i / 360 + 1e6 * (i % 7)
        pss = int(rss) if i % 3 == 0 else None
        made.samples.append(Sample(100.0 + 10 * i, int(rss), pss, descriptors[i // 120], 20, 0.5 * i))
    made.swaps = [Swap(160.0, 2, 0.4)]
    return made


def test_all_is_well() -> None:
    verdict = report.judge(found(), SETTINGS)
    assert verdict.failures == []
    assert report.trends(verdict)[0].endswith("not distinguishable from zero")
    assert report.trends(verdict)[1].endswith("flat")


@pytest.mark.parametrize("outcome", [each for each in Outcome if each is not Outcome.ANSWERED])
def test_a_request_without_an_answer_is_a_failure(outcome: Outcome) -> None:
    (failure,) = report.judge(found([OK, Ending(outcome, "503", detail="why")]), SETTINGS).failures
    assert failure == f"1 requests {outcome}: oip-json: {outcome}, 503 why"


def test_what_grows_is_a_failure() -> None:
    (failure,) = report.judge(found(mb_per_h=50), SETTINGS).failures
    assert "memory grows by" in failure
    (failure,) = report.judge(found(descriptors=(40, 40, 44)), SETTINGS).failures
    assert failure == "descriptors: 40 in the first third, 44 in the last"


def test_no_requests_and_a_bad_end_are_failures() -> None:
    nothing = found([])
    nothing.exit_code = -9
    assert len(report.judge(nothing, SETTINGS).failures) == 2


def test_figures() -> None:
    tally = counts.tally(found([OK, OK, Ending(Outcome.REFUSED, "503")]).records)
    plain = tally.plain()
    assert (plain["sent"], plain["answered"], plain["refused"], plain["lost"]) == (3, 2, 1, 0)
    assert plain["statuses"] == {"503": 1} and plain["versions"] == {1: 2}
    assert plain["p50_ms"] == pytest.approx(10)


def test_tables_document_and_picture(tmp_path: Path) -> None:
    made = found()
    verdict = report.judge(made, SETTINGS)
    shown = StringIO()
    console = Console(file=shown, width=140)
    console.print(report.requests_table(made))
    console.print(report.server_table(made, SETTINGS))
    assert "oip-json" in shown.getvalue() and "resident memory" in shown.getvalue()
    document = report.document(made, SETTINGS, verdict)
    assert document["requests"]["all"]["sent"] == 1 and document["samples"][0]["at_s"] == 0
    report.plot(tmp_path / "soak.png", made, SETTINGS, verdict)
    assert (tmp_path / "soak.png").read_bytes().startswith(b"\x89PNG")
