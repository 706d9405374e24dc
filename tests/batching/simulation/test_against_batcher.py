"""The batcher itself, led through the events of a simulation one by one, forms the batches that were simulated."""

import random

import pytest

from serving.batching.settings import BatchSettings
from serving.batching.simulation.latency import Linear
from serving.batching.simulation.replay import Replay, Request, replay
from tests.batching.control import Gate, batching, on_loop, rows

SETTINGS = {"max_batch_size": 4, "max_request_rows": 9, "priority_levels": 2, "default_level": 2}


def simulated(seed: int, requests: int = 40) -> Replay:
    """A load of about nine tenths, in two lanes, or alone."""
    rng = random.Random(seed)
    now, trace = 0.0, []
    for _ in range(requests):
        now += rng.expovariate(0.5)
        lane = rng.choice(["a", "a", "a", "b", None])
        trace.append(Request(now, rng.choice([1, 1, 1, 2, 3, 9]), lane, priority=rng.choice([1, 2, 2])))
    return replay(trace, BatchSettings(**SETTINGS), Linear(1.5, 0.5))


@pytest.mark.parametrize("seed", range(6))
@on_loop
async def test_the_batcher_forms_the_batches_that_were_simulated(seed: int) -> None:
    result = simulated(seed)
    assert max(len(run.requests) for run in result.runs) > 2
    begins = {run.began_s: run for run in result.runs}
    ends = {run.ended_s for run in result.runs}
    arrivals = {answer.request.at_s: number for number, answer in enumerate(result.answers)}
    gate, items = Gate(), []
    async with batching(gate, **SETTINGS) as batcher:
        for now in sorted({*begins, *ends, *arrivals}):
            if now in ends:
                gate.let()
            if now in arrivals:
                number = arrivals[now]
                request = result.answers[number].request
                x = rows(*[number] * request.rows)
                items.append(batcher.submit({"x": x}, ("y",), request.rows, request.lane, priority=request.priority))
            if now in begins:
                ran = await gate.entered()
                run = begins[now]
                assert (tuple(dict.fromkeys(map(int, ran))), len(ran)) == (run.requests, run.rows)
        for number, item in enumerate(items):
            outputs, _timing = await item.reply
            assert outputs["y"][:, 0].tolist() == [10 * number] * result.answers[number].request.rows
