"""What outlives the process, on a real disk: what was awaited is there after a kill, and nothing is begun anew."""

import asyncio
import logging
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from serving.core.errors import ErrorKind, ServingError
from serving.repository.control import state
from serving.repository.control.state import EventRow, Saved, StateError, Store
from tests.batching.control import on_loop
from tests.e2e.server import ROOT


def event(number: int, text: str = "") -> EventRow:
    return (number, 1.5 * number, "ready", "m", None if number % 2 else 2**63 - 1, text)


def reopened(directory: Path) -> Saved:
    store = Store(directory)
    store.close()
    return store.saved


def after_a_kill(directory: Path, copy: Path) -> Saved:
    """What another server would find if the process ended right now: the files as they are."""
    shutil.copytree(directory, copy)
    return reopened(copy)


@on_loop
async def test_without_a_directory_nothing_is_kept_and_nothing_fails() -> None:
    store = Store()
    await store.save_order("m", "{}")
    store.add_event(event(1))
    await store.flush()
    store.close()
    assert store.saved == Saved() == Store().saved


@on_loop
async def test_all_that_was_saved_is_there_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "new" / "state")
    assert store.saved == Saved(events=[])
    await store.save_order("m", "order of m")
    await store.save_order("n", "order of n")
    await store.save_order("m", "a newer one")
    await store.save_order("n", None)
    await store.save_rollout("m", "rollout")
    await store.save_rollout("n", "rollout")
    await store.save_rollout("n", None)
    await store.save_quarantine("m", 2**63 - 1, "key", "bad")
    await store.save_quarantine("m", 1, "key", "bad")
    await store.save_quarantine("m", 1, "another key", "still bad")
    await store.save_quarantine("m", 2, "key", "bad")
    await store.end_quarantine("m", [2, 3])
    store.add_event(event(1, "odd \udcff name"))
    store.add_event(event(2))
    store.close()
    assert reopened(tmp_path / "new" / "state") == Saved(
        orders={"m": "a newer one"},
        list=None,
        rollouts={"m": "rollout"},
        quarantine={("m", 1): ("another key", "still bad"), ("m", 2**63 - 1): ("key", "bad")},
        events=[event(1, "odd ? name"), event(2)],
    )


@on_loop
async def test_a_list_takes_the_place_of_orders_and_says_which_rollouts_stay(tmp_path: Path) -> None:
    store = Store(tmp_path)
    await store.save_order("m", "order")
    await store.save_rollout("m", "rollout")
    await store.save_rollout("n", "rollout")
    await store.save_list("first", {})
    await store.save_list("second", {"o": "rollout"})
    await store.save_order("m", "order")  # the same text as before the list
    store.close()
    assert reopened(tmp_path) == Saved(orders={"m": "order"}, list="second", rollouts={"o": "rollout"}, events=[])


@on_loop
async def test_what_was_awaited_is_on_the_disk_and_what_came_before_it_too(tmp_path: Path) -> None:
    store = Store(tmp_path / "a")
    store.add_event(event(1))
    await store.save_order("m", "order")
    saved = after_a_kill(tmp_path / "a", tmp_path / "b")
    assert (saved.orders, saved.events) == ({"m": "order"}, [event(1)])
    store.add_event(event(2))
    await store.flush()
    assert after_a_kill(tmp_path / "a", tmp_path / "c").events == [event(1), event(2)]
    store.close()


WRITER = """
import asyncio, sys
from pathlib import Path
from serving.repository.control.state import Store

async def main():
    store = Store(Path(sys.argv[1]))
    number = len(store.saved.events)
    while True:
        number += 1
        store.add_event((number, 0.0, "ready", "m", number, ""))
        await asyncio.gather(*(store.save_order(model, str(number)) for model in "abc"))
        await store.save_list(str(number), {})
        print(number, flush=True)

asyncio.run(main())
"""


def test_kill_at_any_moment_leaves_what_was_acknowledged_and_no_half_of_a_change(tmp_path: Path) -> None:
    told = 0
    for lines in (1, 2, 5, 9, 14):  # how much is acknowledged before the kill
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, tmp_path], stdout=subprocess.PIPE, text=True, cwd=ROOT
        ) as writer:
            assert writer.stdout is not None
            for _ in range(lines):
                told = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
            told = int([str(told), *writer.stdout.read().split()][-1])
        saved = reopened(tmp_path)
        listed = int(saved.list or 0)
        assert told <= listed <= told + 1
        assert set(saved.orders.values()) <= {str(listed + 1)}  # a list ends the orders in one step
        assert [e[0] for e in saved.events] == list(range(1, len(saved.events) + 1))  # none is missing
        assert listed <= len(saved.events) <= listed + 1


def test_a_directory_is_for_one_server(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(StateError) as error:
        Store(tmp_path)
    holder = f"another server (process {os.getpid()})"
    assert str(error.value) == f"the state directory '{tmp_path}' is in use by {holder}; each server needs its own"
    store.close()
    reopened(tmp_path)


# Start


def refusal(directory: Path) -> str:
    """Why a store cannot be opened; it must not have changed what is there."""
    before = {path: path.read_bytes() for path in directory.rglob("state.db*")} if directory.is_dir() else {}
    with pytest.raises(StateError) as error:
        Store(directory)
    assert {path: path.read_bytes() for path in before} == before
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A state file of many pages."""

    async def write() -> None:
        store = Store(tmp_path)
        for number in range(200):
            await store.save_order(f"m{number}", "x" * 200)
        store.close()

    asyncio.run(write())
    return tmp_path


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert refusal(tmp_path / "file" / "state").endswith("cannot be written: Not a directory")


def test_a_file_that_is_none_of_a_database(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"garbage " * 1000)
    told = refusal(tmp_path)
    assert told.startswith(f"the state file '{tmp_path}/state.db' is damaged: file is not a database; ")
    assert "move it away to begin without" in told


def test_a_file_that_was_cut_off(written: Path) -> None:
    file = written / "state.db"
    os.truncate(file, file.stat().st_size // 2)
    assert "is damaged: " in refusal(written)


def test_a_file_with_a_page_of_garbage(written: Path) -> None:
    content = bytearray((written / "state.db").read_bytes())
    content[5 * 4096 : 6 * 4096] = b"\x99" * 4096
    (written / "state.db").write_bytes(content)
    assert "is damaged: " in refusal(written)


def test_a_file_of_a_later_release(written: Path) -> None:
    with sqlite3.connect(written / "state.db") as connection:
        connection.execute("PRAGMA user_version = 2")
    connection.close()
    assert "is of a later release (form 2, this one knows 1)" in refusal(written)


def test_a_database_of_another_program(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "state.db") as connection:
        connection.execute("CREATE TABLE customers (name TEXT)")
    connection.close()
    assert "is not one of this server" in refusal(tmp_path)


# Trouble while it runs


async def limit(store: Store, pages: int) -> None:
    """As if the disk had no more room than this."""
    await store._save(lambda connection: connection.execute(f"PRAGMA max_page_count = {pages}").fetchone())


@on_loop
async def test_a_full_disk_fails_the_call_and_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    store = Store(tmp_path)
    await store.save_order("m", "before")
    await limit(store, 1)
    with pytest.raises(ServingError) as error:
        await store.save_order("m", "x" * 100_000)
    assert error.value.kind is ErrorKind.UNAVAILABLE
    text = f"the change cannot be kept in the state directory '{tmp_path}': database or disk is full"
    assert error.value.message == text
    for number in range(1, 4):
        store.add_event(event(number, "x" * 100_000))  # nobody waits for it
    await store.flush()
    told = f"the state directory '{tmp_path}' cannot be written: database or disk is full"
    assert caplog.messages == [told]  # once, however often
    await limit(store, 100_000)
    await store.save_order("m", "after")
    assert caplog.messages == [told, f"the state directory '{tmp_path}' can be written again"]
    store.close()
    assert reopened(tmp_path) == Saved(orders={"m": "after"}, events=[])


@on_loop
async def test_what_cannot_be_written_takes_nothing_with_it_that_waits_beside_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    await limit(store, 12)
    small = [store.save_order(name, "small") for name in "abc"]
    results = await asyncio.gather(*small, store.save_order("d", "x" * 1_000_000), return_exceptions=True)
    assert [type(result) for result in results] == [type(None)] * 3 + [ServingError]
    store.close()
    assert reopened(tmp_path).orders == dict.fromkeys("abc", "small")


@on_loop
async def test_a_caller_that_leaves_takes_nothing_back(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for model in "mn":
        saving = asyncio.ensure_future(store.save_order(model, "order"))
        await asyncio.sleep(0)
        saving.cancel()
        await asyncio.gather(saving, return_exceptions=True)
    await store.save_order("n", None)  # nobody has heard that there is one
    store.close()
    assert reopened(tmp_path).orders == {"m": "order"}


@on_loop
async def test_what_comes_while_it_closes_does_not_hold_it_up(tmp_path: Path) -> None:
    store = Store(tmp_path)
    saving = [asyncio.ensure_future(store.save_order(f"m{number}", "order")) for number in range(20)]
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(asyncio.to_thread(store.close))
    while not closing.done():
        store.add_event(event(1))
        await asyncio.sleep(0)
    await store.save_order("late", "order")
    await asyncio.gather(*saving, closing)
    assert reopened(tmp_path).orders == {f"m{number}": "order" for number in range(20)}


def test_a_loop_that_has_ended_is_no_trouble(tmp_path: Path) -> None:
    store = Store(tmp_path)

    async def hand_over_and_leave() -> None:
        saving = asyncio.ensure_future(store.save_order("m", "order"))
        await asyncio.sleep(0)
        saving.cancel()

    asyncio.run(hand_over_and_leave())
    store.close()
    assert reopened(tmp_path).orders == {"m": "order"}


@on_loop
async def test_old_events_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "EVENTS_KEPT", 50)
    store = Store(tmp_path)
    for number in range(1, 1001):
        store.add_event(event(number))
    store.close()
    assert reopened(tmp_path).events == [event(number) for number in range(951, 1001)]
    with sqlite3.connect(tmp_path / "state.db") as connection:
        assert connection.execute("SELECT count(*) FROM events").fetchone()[0] <= 150
    connection.close()
