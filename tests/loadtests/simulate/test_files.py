"""Traces in files: written and read again, and read from what a server writes."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.simulate.files import TraceError, read, write
from serving.batching.settings import BatchSettings
from serving.batching.simulation.latency import Linear
from serving.batching.simulation.replay import Replay, Request, replay
from serving.core.types import InferRequest, InferResponse, Signature, Timing
from serving.engine import Times
from serving.protocols.oip.trace import lines

traces = st.lists(
    st.builds(
        Request,
        at_s=st.floats(0, 1e6),
        rows=st.integers(1, 1000),
        lane=st.sampled_from(["", "a", 'with "quotes", and commas', None]),
        timeout_s=st.none() | st.floats(0.001, 1e3),
        priority=st.integers(0, 9),
    )
).map(lambda trace: sorted(trace, key=lambda request: request.at_s))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("traces")


@pytest.mark.parametrize("name", ["trace.csv", "trace.jsonl"])
def test_what_is_written_is_read_again(name: str, folder: Path) -> None:
    @given(traces)
    def check(trace: list[Request]) -> None:
        write(folder / name, trace)
        assert list(read(folder / name).trace) == trace

    check()


def test_only_the_time_is_needed_and_order_is_made(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("at_s,rows\n0.5,2\n0.25,\n")
    (tmp_path / "a.jsonl").write_text('{"at_s": 0.5, "rows": 2}\n\n{"at_s": 0.25}\n')
    expected = (Request(0.25), Request(0.5, rows=2))
    assert read(tmp_path / "a.csv").trace == read(tmp_path / "a.jsonl").trace == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rows\n1\n", "no 'at_s'"),
        ("at_s\nsoon\n", "could not convert string to float: 'soon'"),
        ("at_s,rows\n1,0\n", "has a row at least"),
        ("at_s\n-1\n", "a time from 0 on"),
        ("at_s,colour\n1,red\n", "unknown 'colour', a request has at_s, rows, lane, timeout_s, priority"),
        ('{"at_s": 1', "Expecting"),
        ("[]", "it is empty"),
        ("[1]", "is not iterable"),
    ],
)
def test_a_file_that_is_no_trace_is_named_with_the_reason(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text(text)
    with pytest.raises(TraceError, match=message) as raised:
        read(path)
    assert str(path) in str(raised.value)


def write_as_server(
    path: Path, result: Replay, model: str = "m", start: int = 0, more: Sequence[object] = ()
) -> list[object]:
    """What a server's tracer writes of requests that went as in a replay; its own part is 1 ms at each end."""
    entries = list(more)
    batches = {number: run for run in result.runs for number in run.requests}
    for number, answer in enumerate(result.answers):
        run, arrived = batches[number], 5000 + answer.request.at_s
        timing = Timing(run.began_s - answer.request.at_s, run.seconds, 0.0, run.seconds, 0.0, run.rows)
        response = InferResponse(model, 1, {}, Signature((), ()), timing=timing)
        told = arrived + answer.latency_s
        times = Times(arrived - 0.001, arrived, told, told + 0.001)
        entries += lines(start + number, "rest", InferRequest(model, {}), response, times)
    path.write_text(json.dumps(entries))
    return entries


def ran(rate_gap_s: float = 0.7) -> Replay:
    """Runs of 1, 2, 3 and 4 rows by two instances."""
    trace = [Request(number * rate_gap_s) for number in range(60)]
    return replay(trace, BatchSettings(max_batch_size=4, instances=2), Linear(3, 0.25))


def test_of_a_servers_trace_arrivals_latencies_and_costs_are_found(tmp_path: Path) -> None:
    result = ran()
    write_as_server(tmp_path / "trace.json", result)
    found = read(tmp_path / "trace.json")
    assert [request.at_s for request in found.trace] == pytest.approx([a.request.at_s for a in result.answers])
    assert list(found.latencies_s) == pytest.approx([answer.latency_s for answer in result.answers])
    assert found.latency is not None
    sizes = {run.rows for run in result.runs}
    assert sizes == {1, 2, 3, 4}
    assert found.latency.points == pytest.approx({rows: 3 + 0.25 * rows for rows in sizes})
    again = replay(found.trace, BatchSettings(max_batch_size=4, instances=2), found.latency)
    assert [run.requests for run in again.runs] == [run.requests for run in result.runs]


def test_requests_of_a_servers_trace_have_the_rows_that_one_says(tmp_path: Path) -> None:
    result = ran()
    write_as_server(tmp_path / "trace.json", result)
    found = read(tmp_path / "trace.json", rows=8)
    assert {request.rows for request in found.trace} == {8}
    assert found.latency is not None and set(found.latency.points) == {8, 16, 24, 32}


def test_of_several_models_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    first = write_as_server(path, ran(), "a")
    write_as_server(path, ran(2.0), "b", start=100, more=first)
    with pytest.raises(TraceError, match="it has several models, name one of a, b"):
        read(path)
    with pytest.raises(TraceError, match="nothing was asked of 'c'"):
        read(path, model="c")
    assert read(path, model="b").trace[1].at_s == pytest.approx(2.0)
