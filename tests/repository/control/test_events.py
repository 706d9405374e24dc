"""The history: what it gives to whom, that it waits, and that it goes on after a restart."""

import asyncio
import logging
from pathlib import Path

import pytest

from serving.core.metrics import Metrics
from serving.core.scrape import exporter
from serving.repository.control import events
from serving.repository.control.events import History, Kind
from serving.repository.control.state import Store
from tests.batching.control import on_loop, turns


async def numbers(history: History, *args: object, **settings: object) -> list[int]:
    return [event.number for event in await history.after(*args, **settings)]  # type: ignore[arg-type]


@on_loop
async def test_the_newest_behind_a_number_and_of_a_model() -> None:
    history = History()
    for model in "mnmnm":
        history.add(Kind.READY, model)
    assert await numbers(history) == [1, 2, 3, 4, 5]
    assert await numbers(history, 3) == [4, 5]
    assert await numbers(history, 1, "m") == [3, 5]
    assert await numbers(history, limit=2) == [4, 5]
    assert await numbers(history, 5) == []


@on_loop
async def test_a_caller_can_wait_for_the_first() -> None:
    history = History()
    waiting = asyncio.ensure_future(numbers(history, 0, "m", wait_s=60))
    await turns()
    history.add(Kind.READY, "n")
    await turns()
    assert not waiting.done()
    history.add(Kind.READY, "m")
    assert await waiting == [2]
    assert await numbers(history, 2, wait_s=0.01) == []  # and gives up


def test_an_event_in_words(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    history = History()
    history.add(Kind.READY, "m", 3)
    history.add(Kind.QUARANTINED, "m", 4, "its files do not match")
    history.add(Kind.TRAFFIC, "m", text="stable 95, canary 5")
    history.add(Kind.REPOSITORY, "", text="'models' is empty")
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("INFO", "m/3 ready"),
        ("WARNING", "m/4 quarantined: its files do not match"),
        ("INFO", "m traffic: stable 95, canary 5"),
        ("WARNING", "repository: 'models' is empty"),
    ]


def test_events_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_COUNTS", 3)
    history, metrics = History(), Metrics()
    metrics.events = history.counts
    for model, kind in [("m", Kind.READY), ("a", Kind.READY), ("m", Kind.READY), ("b", Kind.FAILED), ("c", Kind.READY)]:
        history.add(kind, model)
    counted = [line for line in exporter(metrics)().decode().splitlines() if line.startswith("serving_events_total")]
    assert counted == [  # those that have not risen for the longest time are left out
        'serving_events_total{kind="ready",model="m"} 2.0',
        'serving_events_total{kind="failed",model="b"} 1.0',
        'serving_events_total{kind="ready",model="c"} 1.0',
    ]


@on_loop
async def test_a_restart_goes_on_where_the_last_server_ended(tmp_path: Path) -> None:
    store = Store(tmp_path)
    history = History(store)
    first = history.add(Kind.READY, "m", 1)
    second = history.add(Kind.ROLLED_BACK, "m", 2, "too slow")
    store.close()
    store = Store(tmp_path)
    history = History(store)
    assert await history.after() == [first, second]
    assert history.counts == {}  # a counter of Prometheus begins anew with the process
    assert history.add(Kind.READY, "m", 3).number == 3
    store.close()


@on_loop
async def test_what_was_told_is_on_the_disk(tmp_path: Path) -> None:
    """Otherwise the number of an event that somebody has seen could come again after a kill, with another event."""
    store = Store(tmp_path)
    history, told = History(store), []
    real, flushed = store.add_event, store.flush
    store.add_event = lambda row: told.append("handed over") or real(row)  # type: ignore[method-assign]

    async def flush() -> None:
        await flushed()
        told.append("on the disk")

    store.flush = flush  # type: ignore[method-assign]
    history.add(Kind.READY, "m")
    await history.after()
    told.append("told")
    assert told == ["handed over", "on the disk", "told"]
    store.close()
