"""Work in helper processes: what crosses the border, and what happens when a helper, a caller or the server goes."""

import asyncio
import contextlib
import copy
import operator
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from serving.core import dtypes
from serving.core.dtypes import DType
from serving.core.errors import ErrorKind, ServingError
from serving.core.types import InferRequest, InferResponse
from serving.protocols import jsonio
from serving.protocols.http import HttpReply
from serving.protocols.offload import Offload
from tests.protocols.build import answer_of, dtype_id, same, values_of

T = TypeVar("T")

MB = 1024 * 1024


def with_offload(ask: Callable[[Offload], Awaitable[T]], processes: int = 1, max_waiting: int = 8) -> T:
    async def main() -> T:
        offload = Offload(processes, max_waiting)
        try:
            return await ask(offload)
        finally:
            offload.close()

    return asyncio.run(main())


def there(function: Callable[..., T], *args: Any) -> T:
    """The function's result, by way of a helper."""
    return with_offload(lambda offload: offload.run(function, *args))


async def failure(call: Awaitable[object]) -> ServingError:
    with pytest.raises(ServingError) as caught:
        await call
    return caught.value


def _work(path: Path) -> str:
    begun = path.with_suffix(".begun")
    if begun.exists():
        return "done"
    begun.touch()
    return path.read_text()


class Gate:
    """Work for a helper that begins when the test can see it, and ends when the test says so."""

    def __init__(self, path: Path) -> None:
        self._path = path
        os.mkfifo(path)

    @property
    def work(self) -> Callable[[], str]:
        """Returns `done`; if it is begun a second time, at once."""
        return partial(_work, self._path)

    async def begun(self) -> None:
        """Waits until a helper is at it."""
        self._writer = await asyncio.to_thread(self._path.open, "w")

    def close(self) -> None:
        """The work ends, whoever still does it."""
        with contextlib.suppress(BrokenPipeError):
            self._writer.write("done")
            self._writer.flush()
        with contextlib.suppress(BrokenPipeError):
            self._writer.close()


def children() -> set[str]:
    """The processes that this one has started, dead ones that it has not looked at included."""
    return {pid for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()}


@asynccontextmanager
async def occupied(offload: Offload, path: Path) -> AsyncIterator[Gate]:
    """One helper is at work until the end of the block."""
    gate = Gate(path)
    job = asyncio.ensure_future(offload.run(gate.work))
    await gate.begun()
    yield gate
    gate.close()
    assert await job == "done"


class TestWhatCrosses:
    def test_the_work_is_done_elsewhere_and_by_the_same_helper(self) -> None:
        async def ask(offload: Offload) -> list[int]:
            return [await offload.run(os.getpid) for _ in range(3)]

        pids = with_offload(ask, processes=2)
        assert len(set(pids)) == 1 and pids[0] != os.getpid()

    @pytest.mark.parametrize("dtype", dtypes.ALL, ids=dtype_id)
    def test_a_type_is_the_same_object(self, dtype: DType) -> None:
        async def ask(offload: Offload) -> None:
            assert await offload.run(copy.copy, dtype) is dtype

        with_offload(ask)

    def test_arrays_of_every_type_and_shape(self) -> None:
        def shapes(array: np.ndarray) -> list[np.ndarray]:
            large = np.tile(array, 30_000)
            cut = large.reshape(-1, 2, 3)[:, :, ::2]
            return [array, array[:0], array[::-2], array[:1].reshape(()), array.reshape(3, 1), large, cut, cut[:0]]

        async def ask(offload: Offload) -> None:
            for dtype in dtypes.ALL:
                arrays = shapes(values_of(dtype))
                back = await offload.run(copy.copy, arrays)
                assert all(map(same, back, arrays)), dtype

        with_offload(ask)

    @pytest.mark.parametrize("sizes", [[0, 1, 100], [100] * 10_000, [5 * MB, 0, 70_000], [1000] * 5000])
    def test_texts_of_every_size(self, sizes: list[int]) -> None:
        array = np.empty(len(sizes), object)
        array[:] = [os.urandom(size) for size in sizes]
        assert same(there(copy.copy, array), array)

    @pytest.mark.parametrize("size", [0, 1, 64 * 1024 - 1, 64 * 1024, 5 * MB])
    def test_bytes(self, size: int) -> None:
        data = os.urandom(size)
        assert there(copy.copy, data) == data
        assert there(bytes, memoryview(data)[size // 2 :]) == data[size // 2 :]
        assert there(partial(operator.getitem, (data, b"x", data), 2)) == data

    def test_requests_and_answers(self) -> None:
        array = np.arange(60_000, dtype=np.float32).reshape(2, -1)
        request = InferRequest("m", {"x": array, "y": values_of(dtypes.BYTES)}, 3, ("z",), "a1", parameters={"p": 1.5})
        back = there(copy.copy, request)
        assert isinstance(back, InferRequest) and list(back.inputs) == ["x", "y"]
        assert all(same(back.inputs[name], request.inputs[name]) for name in back.inputs)
        assert (back.model, back.version, back.outputs, back.id, back.parameters) == ("m", 3, ("z",), "a1", {"p": 1.5})

        response = there(copy.copy, answer_of({"y": (dtypes.BF16, array.astype(dtypes.BF16.numpy))}, "a1"))
        assert isinstance(response, InferResponse) and response.signature.outputs["y"].dtype is dtypes.BF16
        assert np.array_equal(response.outputs["y"].astype(np.float32), array.astype(dtypes.BF16.numpy))

        reply = HttpReply(400, bytes(MB), [(b"a", b"b")])
        assert there(copy.copy, reply) == reply


class TestErrors:
    def test_one_for_the_client(self) -> None:
        async def ask(offload: Offload) -> None:
            error = await failure(offload.run(jsonio.parse, b"{"))
            assert error.kind is ErrorKind.INVALID and error.message.startswith("failed to parse")
            assert error.args == (error.message,)

        with_offload(ask)

    @pytest.mark.parametrize(
        ("function", "args", "text"),
        [
            (int, ("three",), "invalid literal for int() with base 10: 'three'"),
            (next, (iter(()),), "StopIteration"),
            (os.read, (-1, 1), "Bad file descriptor"),
            (jsonio.elements, (dtypes.INT8, ["1"]), "WrongElementError"),
            (threading.Lock, (), "cannot pickle"),  # the result
        ],
    )
    def test_what_nobody_foresaw_is_told_with_its_trace_and_harms_nothing(
        self, function: Callable[..., Any], args: tuple[Any, ...], text: str
    ) -> None:
        async def ask(offload: Offload) -> None:
            before = await offload.run(os.getpid)
            with pytest.raises(RuntimeError) as caught:
                await offload.run(function, *args)
            assert text in str(caught.value) and "Traceback" in str(caught.value)
            assert await offload.run(os.getpid) == before

        with_offload(ask)

    def test_what_cannot_be_sent_harms_nothing(self) -> None:
        async def ask(offload: Offload) -> None:
            with pytest.raises((AttributeError, TypeError, pickle.PicklingError)):
                await offload.run(lambda: 1)
            assert await offload.run(len, b"abc") == 3

        with_offload(ask)


class TestHelpers:
    def test_there_is_none_before_it_is_needed(self) -> None:
        async def ask(offload: Offload) -> None:
            assert children() == before
            await offload.run(len, b"")
            assert len(children() - before) == 1

        before = children()
        with_offload(ask, processes=2)
        assert children() == before

    def test_another_one_starts_where_the_first_is_busy(self, tmp_path: Path) -> None:
        async def ask(offload: Offload) -> None:
            async with occupied(offload, tmp_path / "gate"):
                assert await offload.run(len, b"abc") == 3

        with_offload(ask, processes=2)

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
    def test_one_that_dies_takes_no_call_with_it(self, tmp_path: Path, number: signal.Signals) -> None:
        async def ask(offload: Offload) -> None:
            pid = await offload.run(os.getpid)
            gate = Gate(tmp_path / "gate")
            asked = asyncio.ensure_future(offload.run(gate.work))
            await gate.begun()
            async with occupied(offload, tmp_path / "other"):
                os.kill(pid, number)
                assert await asked == "done"
            gate.close()
            assert {await offload.run(os.getpid) for _ in range(3)}.isdisjoint({pid})

        with_offload(ask, processes=2)

    def test_one_that_ends_of_itself(self) -> None:
        async def ask(offload: Offload) -> None:
            error = await failure(offload.run(os._exit, 3))
            assert error.kind is ErrorKind.INTERNAL
            assert error.message == "the helper process that works on large bodies ended (exit code 3)"
            assert await offload.run(len, b"abc") == 3

        with_offload(ask)

    def test_one_that_dies_idle_is_not_missed(self) -> None:
        async def ask(offload: Offload) -> None:
            pid = await offload.run(os.getpid)
            os.kill(pid, signal.SIGKILL)
            await asyncio.to_thread(os.waitid, os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # until it is really dead
            assert await offload.run(os.getpid) != pid

        with_offload(ask)

    def test_signals_for_the_server_are_not_for_helpers(self) -> None:
        async def ask(offload: Offload) -> None:
            pid = await offload.run(os.getpid)
            assert os.getpgid(pid) != os.getpgid(0)
            for number in (signal.SIGINT, signal.SIGTERM):
                os.kill(pid, number)
                assert await offload.run(os.getpid) == pid

        with_offload(ask)


class TestWaiting:
    def test_only_so_many_may_wait(self, tmp_path: Path) -> None:
        async def ask(offload: Offload) -> None:
            async with occupied(offload, tmp_path / "gate"):
                waiting = [asyncio.ensure_future(offload.run(len, b"a" * i)) for i in range(2)]
                await asyncio.sleep(0)
                error = await failure(offload.run(len, b""))
                assert error.kind is ErrorKind.QUEUE_FULL and "Exceeds maximum queue size" in error.message
                waiting.append(asyncio.ensure_future(offload.run(len, b"aa", refuse=False)))
                await asyncio.sleep(0)
            assert await asyncio.gather(*waiting) == [0, 1, 2]
            assert await offload.run(len, b"abc") == 3

        with_offload(ask, max_waiting=2)

    def test_who_goes_away_makes_room(self, tmp_path: Path) -> None:
        async def ask(offload: Offload) -> None:
            async with occupied(offload, tmp_path / "gate"):
                gone = asyncio.ensure_future(offload.run(len, b""))
                await asyncio.sleep(0)
                assert (await failure(offload.run(len, b""))).kind is ErrorKind.QUEUE_FULL
                gone.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await gone
                waiting = asyncio.ensure_future(offload.run(len, b"abc"))
                await asyncio.sleep(0)
            assert await waiting == 3

        with_offload(ask, max_waiting=1)

    @pytest.mark.parametrize("ending", ["done", "killed"])
    def test_who_goes_away_from_a_helper_leaves_it_to_others(self, tmp_path: Path, ending: str) -> None:
        async def ask(offload: Offload) -> None:
            pid = await offload.run(os.getpid)
            gate = Gate(tmp_path / "gate")
            gone = asyncio.ensure_future(offload.run(gate.work))
            await gate.begun()
            gone.cancel()
            with pytest.raises(asyncio.CancelledError):
                await gone
            waiting = asyncio.ensure_future(offload.run(os.getpid))
            await asyncio.sleep(0)
            assert (await failure(offload.run(len, b""))).kind is ErrorKind.QUEUE_FULL  # the helper is still at work
            if ending == "killed":
                os.kill(pid, signal.SIGKILL)
            gate.close()
            assert (await waiting == pid) == (ending == "done")

        with_offload(ask, max_waiting=1)


class TestTheEnd:
    def test_nobody_waits_for_work_that_has_begun(self, tmp_path: Path) -> None:
        async def main() -> None:
            offload = Offload(1)
            gate = Gate(tmp_path / "gate")
            lost = asyncio.ensure_future(offload.run(gate.work))
            await gate.begun()
            waiting = asyncio.ensure_future(offload.run(len, b""))
            await asyncio.sleep(0)
            offload.close()
            gate.close()
            assert (await failure(lost)).kind is ErrorKind.INTERNAL
            assert (await failure(waiting)).kind is ErrorKind.UNAVAILABLE
            assert (await failure(offload.run(len, b""))).kind is ErrorKind.UNAVAILABLE
            offload.close()  # again, for nothing

        before = children()
        asyncio.run(main())
        assert children() == before

    def test_without_a_helper(self) -> None:
        async def main() -> None:
            Offload().close()

        asyncio.run(main())

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGABRT])
    @pytest.mark.parametrize("state", ["idle", "busy"])
    def test_helpers_end_with_the_server_and_print_nothing(
        self, tmp_path: Path, number: signal.Signals, state: str
    ) -> None:
        gate = Gate(tmp_path / "gate")
        server = subprocess.Popen(
            [sys.executable, "-c", _SERVER, *([str(tmp_path / "gate")] if state == "busy" else [])],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert server.stdout is not None
        assert server.stdout.readline() == "started\n"
        if state == "busy":
            asyncio.run(gate.begun())
        os.killpg(server.pid, number)
        server.wait(30)
        if state == "busy":
            gate.close()
        # The helper has the server's output, so this ends with the helper.
        assert server.communicate(timeout=30) == ("", "")
        assert server.returncode == -number


# Ends by any signal without a word.
_SERVER = """
import asyncio, signal, sys
from functools import partial
from pathlib import Path
from serving.protocols.offload import Offload

signal.signal(signal.SIGINT, signal.SIG_DFL)

async def main():
    offload = Offload()
    await offload.run(len, b"")
    print("started", flush=True)
    await offload.run(partial(Path.read_text, Path(sys.argv[1]))) if sys.argv[1:] else await asyncio.sleep(60)

asyncio.run(main())
"""
