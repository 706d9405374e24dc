"""What has to outlive the process: orders, rollouts, quarantine and events, in a SQLite file of the state directory.

Read once, when it is opened; from then on all that is here is written, by one thread, in the order in which it was
handed over. What was awaited is on the disk: nothing of it is lost when the process is killed or the machine loses
power, and what was handed over before it is there too. Knows nothing of what the texts mean that it keeps.
"""

import asyncio
import fcntl
import logging
import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread

from serving.core.errors import ErrorKind, ServingError

log = logging.getLogger(__name__)

EVENTS_KEPT = 10_000

_FILE = "state.db"
_LOCK = "state.lock"
_SCHEMA = 1
_APPLICATION = 0x53525647  # marks the file as ours
_TABLES = """
CREATE TABLE orders (model TEXT PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE list (one INTEGER PRIMARY KEY CHECK (one = 1), text TEXT NOT NULL);
CREATE TABLE rollouts (model TEXT PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE quarantine (
    model TEXT, number INTEGER, key TEXT NOT NULL, reason TEXT NOT NULL, PRIMARY KEY (model, number)
) WITHOUT ROWID;
CREATE TABLE events (
    number INTEGER PRIMARY KEY, at REAL NOT NULL, kind TEXT NOT NULL, model TEXT NOT NULL, version INTEGER,
    text TEXT NOT NULL
);
"""
_PRUNE_EVERY = 100  # events

EventRow = tuple[int, float, str, str, int | None, str]  # number, at, kind, model, version, text


class StateError(Exception):
    """The state directory cannot be used; the message is one line that says why, and what to do."""


@dataclass(frozen=True)
class Saved:
    """What a state directory held when it was opened."""

    orders: Mapping[str, str] = field(default_factory=dict)  # by model
    list: str | None = None
    rollouts: Mapping[str, str] = field(default_factory=dict)  # by model
    quarantine: Mapping[tuple[str, int], tuple[str, str]] = field(default_factory=dict)  # key and reason
    events: Sequence[EventRow] = ()  # oldest first


_Write = Callable[[sqlite3.Connection], object]


@dataclass(frozen=True)
class _Job:
    """What to write, if anything, and whom to tell how it went; None: only the log."""

    write: _Write | None
    told: Callable[[Exception | None], object] | None = None


class Store:
    """
    Args:
        directory: made if it is not there; it has to be on a disk of this machine. None: nothing is kept, and nothing
            fails.

    Raises:
        StateError: it cannot be written, another server uses it, or what is in it is damaged or from a later release.
            It is never begun anew by itself.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self.saved = Saved()
        self._directory = directory
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread: Thread | None = None
        self._lock: int | None = None
        self._orders: dict[str, str | None] = {}  # as they are on the disk; empty: unsure
        self._ailing = False  # the last write failed
        if directory is None:
            return
        self._lock = _locked(directory)
        try:
            self._connection, self.saved = _open(directory / _FILE)
        except BaseException:
            os.close(self._lock)
            raise
        self._orders = dict(self.saved.orders)
        self._thread = Thread(target=self._run, name="state", daemon=True)
        self._thread.start()

    # Each of these returns when it is on the disk. Raises: ServingError: UNAVAILABLE: the disk does not take it, and
    # nothing has changed there.

    async def save_order(self, model: str, text: str | None) -> None:
        """None: there is none any more."""
        before = self._orders.get(model)
        if before == text:
            return  # for that no disk is too full
        self._orders[model] = ""
        try:
            await self._save(_put("orders", model, text))
        except ServingError:
            self._orders[model] = before
            raise
        self._orders[model] = text

    async def save_list(self, text: str | None, rollouts: Mapping[str, str]) -> None:
        """A list of models that takes the place of all orders, and the rollouts that there are with it, by model.

        Args:
            text: None: there is no list any more.
        """

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM orders")
            connection.execute("DELETE FROM rollouts")
            connection.executemany("INSERT INTO rollouts VALUES (?, ?)", rollouts.items())
            connection.execute("DELETE FROM list")
            if text is not None:
                connection.execute("INSERT INTO list VALUES (1, ?)", (text,))

        before, self._orders = self._orders, dict.fromkeys(self._orders, "")
        try:
            await self._save(write)
        except ServingError:
            self._orders = before
            raise
        self._orders = {}

    async def save_rollout(self, model: str, text: str | None) -> None:
        """None: there is none any more."""
        await self._save(_put("rollouts", model, text))

    async def save_quarantine(self, model: str, number: int, key: str, reason: str) -> None:
        row = (model, number, key, _storable(reason))
        await self._save(lambda c: c.execute("INSERT OR REPLACE INTO quarantine VALUES (?,?,?,?)", row))

    async def end_quarantine(self, model: str, numbers: Sequence[int]) -> None:
        rows = [(model, number) for number in numbers]
        await self._save(lambda c: c.executemany("DELETE FROM quarantine WHERE model = ? AND number = ?", rows))

    async def flush(self) -> None:
        """Returns when all that was handed over before was written, or has failed to be."""
        with suppress(ServingError):
            await self._save(None)

    def add_event(self, row: EventRow) -> None:
        """Returns at once."""
        number, *_, text = row

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT OR REPLACE INTO events VALUES (?,?,?,?,?,?)", (*row[:-1], _storable(text)))
            if number % _PRUNE_EVERY == 0:
                connection.execute("DELETE FROM events WHERE number <= ?", (number - EVENTS_KEPT,))

        if self._thread is not None:
            self._jobs.put(_Job(write))

    def damaged(self, why: str) -> StateError:
        """What to raise if a text that was kept cannot be understood."""
        return _damaged((self._directory or Path()) / _FILE, why)

    def close(self) -> None:
        """Writes what is still to be written. Blocking. What is handed over from now on is not kept."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._jobs.put(None)
            thread.join()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def _save(self, write: _Write | None) -> None:
        if self._thread is None:
            return
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        def settle(error: Exception | None) -> None:
            if not done.done():
                done.set_result(error)

        self._jobs.put(_Job(write, lambda error: loop.call_soon_threadsafe(settle, error)))
        if (error := await done) is not None:
            text = f"the change cannot be kept in the state directory '{self._directory}': {error}"
            raise ServingError(ErrorKind.UNAVAILABLE, text)

    # In the thread

    def _run(self) -> None:
        going_on = True
        while going_on:
            jobs = [self._jobs.get()]
            while True:  # all that has come meanwhile shares one wait for the disk
                try:
                    jobs.append(self._jobs.get_nowait())
                except Empty:
                    break
            going_on = None not in jobs
            self._write([job for job in jobs if job is not None])
        self._connection.close()

    def _write(self, jobs: Sequence[_Job]) -> None:
        error = self._commit(jobs)
        if error is None or len(jobs) == 1:
            self._tell(jobs, error)
            return
        for job in jobs:  # each for itself, so that what cannot be written fails alone
            self._tell([job], self._commit([job]))

    def _commit(self, jobs: Sequence[_Job]) -> Exception | None:
        """All or nothing; returns what went wrong."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for job in jobs:
                if job.write is not None:
                    job.write(self._connection)
            self._connection.execute("COMMIT")
        except Exception as error:
            if self._connection.in_transaction:  # some errors have ended it already
                self._connection.execute("ROLLBACK")
            return error
        return None

    def _tell(self, jobs: Sequence[_Job], error: Exception | None) -> None:
        if any(job.write is not None for job in jobs) and self._ailing != (error is not None):
            self._ailing = not self._ailing
            if self._ailing:
                log.error("the state directory '%s' cannot be written: %s", self._directory, error)
            else:
                log.info("the state directory '%s' can be written again", self._directory)
        for job in jobs:
            if job.told is not None:
                with suppress(RuntimeError):  # the loop has ended, and with it whoever asked
                    job.told(error)


def _put(table: str, model: str, text: str | None) -> _Write:
    if text is None:
        return lambda connection: connection.execute(f"DELETE FROM {table} WHERE model = ?", (model,))
    return lambda connection: connection.execute(f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", (model, text))


def _storable(text: str) -> str:
    """Without the halves of characters that stand for bytes of odd file names: SQLite takes none."""
    return text.encode("utf-8", "replace").decode()


def _locked(directory: Path) -> int:
    """A descriptor; while it is open, no other server gets one."""
    path = directory / _LOCK
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StateError(f"the state directory '{directory}' cannot be written: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError:
        holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
        os.close(descriptor)
        who = f"another server (process {holder})" if holder else "another server"
        raise StateError(f"the state directory '{directory}' is in use by {who}; each server needs its own") from None
    except OSError as error:
        os.close(descriptor)
        raise StateError(f"the state directory '{directory}' cannot be written: {error.strerror}") from None
    return descriptor


def _open(path: Path) -> tuple[sqlite3.Connection, Saved]:
    """Raises: StateError."""
    try:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            _prepare(connection, path)
            return connection, _read(connection)
        except BaseException:
            connection.close()
            raise
    except sqlite3.OperationalError as error:  # of the disk, not of what is on it
        raise StateError(f"the state file '{path}' cannot be used: {error}") from None
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        raise _damaged(path, str(error)) from None


def _damaged(path: Path, why: str) -> StateError:
    return StateError(
        f"the state file '{path}' is damaged: {why}; restore it, or move it away to begin without its orders, "
        "rollouts, quarantine and events"
    )


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    # The lock on the directory keeps others out; with this one too, SQLite needs no memory shared among processes.
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("PRAGMA temp_store = MEMORY")  # the state directory may be all that can be written
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (schema,) = connection.execute("PRAGMA user_version").fetchone()
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if tables and application != _APPLICATION:
        raise StateError(f"the state file '{path}' is not one of this server; name another directory")
    if schema > _SCHEMA:
        raise StateError(
            f"the state file '{path}' is of a later release (form {schema}, this one knows {_SCHEMA}); "
            "use that release, or another directory"
        )
    told = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if told != "ok":
        raise _damaged(path, " ".join(told.split()))
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    if not tables:
        connection.executescript(
            f"BEGIN; {_TABLES} PRAGMA application_id = {_APPLICATION}; PRAGMA user_version = {_SCHEMA}; COMMIT;"
        )


def _read(connection: sqlite3.Connection) -> Saved:
    listed = connection.execute("SELECT text FROM list").fetchone()
    return Saved(
        orders=dict(connection.execute("SELECT model, text FROM orders")),
        list=listed[0] if listed else None,
        rollouts=dict(connection.execute("SELECT model, text FROM rollouts")),
        quarantine={
            (model, number): (key, reason)
            for model, number, key, reason in connection.execute("SELECT * FROM quarantine")
        },
        events=connection.execute(
            "SELECT * FROM (SELECT * FROM events ORDER BY number DESC LIMIT ?) ORDER BY number", (EVENTS_KEPT,)
        ).fetchall(),
    )
