"""When directories are looked at: after file events, also when another directory or link has taken a path's place."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from serving.repository.disk.watch import Watch
from tests.batching.control import on_loop

POLL_S = 0.05


@asynccontextmanager
async def watching(monkeypatch: pytest.MonkeyPatch, *directories: Path) -> AsyncIterator[Callable[[], int]]:
    """The number of file events so far, with a watch that polls identities often."""
    watch = Watch(directories, 3600.0, lambda: POLL_S)
    seen = 0
    real = watch._news.set

    def count() -> None:
        nonlocal seen
        seen += 1
        real()

    monkeypatch.setattr(watch._news, "set", count)

    async def run() -> None:
        async for _ in watch.changes():
            pass

    running = asyncio.create_task(run())
    try:
        yield lambda: seen
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def event_comes(seen: Callable[[], int], nudge: Callable[[], object]) -> None:
    """Waits for a file event. A watch may begin later than a change came, so there are more of them."""
    before = seen()
    while seen() == before:
        nudge()
        await asyncio.sleep(0.05)


def write(path: Path) -> Callable[[], object]:
    return lambda: path.write_text("")


@on_loop
async def test_a_directory_that_takes_the_place_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    root.mkdir()
    async with watching(monkeypatch, root) as seen:
        await event_comes(seen, write(root / "a"))
        (tmp_path / "new").mkdir()
        root.rename(tmp_path / "old")
        (tmp_path / "new").rename(root)
        await event_comes(seen, write(root / "b"))


@on_loop
async def test_a_directory_that_goes_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, other = tmp_path / "root", tmp_path / "other"
    for directory in (root, other):
        directory.mkdir()
    async with watching(monkeypatch, root, other) as seen:
        await event_comes(seen, write(root / "a"))
        shutil.rmtree(root)
        await asyncio.sleep(3 * POLL_S)
        await event_comes(seen, write(other / "a"))  # the others are watched all the time
        root.mkdir()
        await event_comes(seen, write(root / "b"))


@on_loop
async def test_a_directory_that_is_not_there_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    async with watching(monkeypatch, root) as seen:
        await asyncio.sleep(POLL_S)
        root.mkdir()
        await event_comes(seen, write(root / "a"))


@on_loop
async def test_a_link_that_leads_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As git-sync and Kubernetes switch from one release of a directory to the next."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    root = tmp_path / "root"
    root.symlink_to("first")
    async with watching(monkeypatch, root) as seen:
        await event_comes(seen, write(tmp_path / "first/a"))
        (tmp_path / "link").symlink_to("second")
        (tmp_path / "link").rename(root)
        await event_comes(seen, write(tmp_path / "second/a"))
