"""Helper processes for pure functions that would hold the interpreter, and so the event loop, for too long.

A JSON parser keeps the interpreter lock for its whole run, so a thread would not help. `Offload` lives on the event
loop; one thread per busy helper waits for its socket. A helper starts with the first call that needs it, takes one call
at a time, and ends when its socket does: however the server ended.

Bytes and arrays travel beside the pickle, straight from one buffer into the other and outside of the lock.
"""

import asyncio
import contextlib
import gc
import io
import pickle
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from struct import Struct
from typing import Any, TypeVar

import numpy as np

from serving.core.errors import ErrorKind, ServingError

T = TypeVar("T")

# The server's own search path, so that a helper finds the same modules, and nothing in the directory it starts in.
_MAIN = "import sys; sys.path[:] = sys.argv[2:]; from serving.protocols.offload import serve; serve(int(sys.argv[1]))"


class Offload:
    """Runs functions in helper processes.

    Args:
        processes: how many helpers there are at most; each starts when those before it are busy.
        max_waiting: how many calls may wait for a helper. Each holds a body.
    """

    def __init__(self, processes: int = 2, max_waiting: int = 32) -> None:
        self._max_waiting = max_waiting
        self._waiting = 0
        self._slots = asyncio.Semaphore(processes)
        self._threads = ThreadPoolExecutor(processes, "offload")
        # Only the threads change these, by calls that need no lock.
        self._helpers: set[_Helper] = set()
        self._idle: list[_Helper] = []  # the last one is the warmest
        self._closed = False

    async def run(self, function: Callable[..., T], *args: Any, refuse: bool = True) -> T:
        """`function(*args)`, in a helper. All of it has to be picklable: functions of modules, partials of these.

        A caller that is cancelled waits no longer; what a helper has begun it ends, and the result is dropped.

        Args:
            refuse: whether the call may be refused because too many wait.

        Raises:
            ServingError: the function's own; QUEUE_FULL, if too many calls wait; INTERNAL, if the helper died;
                UNAVAILABLE after `close`.
            RuntimeError: any other exception of the function; the text is its trace.
        """
        if refuse and self._waiting >= self._max_waiting:
            raise ServingError(
                ErrorKind.QUEUE_FULL, f"Exceeds maximum queue size: {self._waiting} large bodies are waiting already"
            )
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        if self._closed:
            self._slots.release()
            raise ServingError(ErrorKind.UNAVAILABLE, "Server exiting")
        job = asyncio.get_running_loop().run_in_executor(self._threads, self._call, function, args)
        job.add_done_callback(self._done)
        try:
            return await asyncio.shield(job)
        finally:
            del job  # or an error would hold it by its traceback, and it the error: a cycle with the body in it

    def _done(self, job: "asyncio.Future[Any]") -> None:
        self._slots.release()
        if not job.cancelled():
            job.exception()  # seen, also where the caller waits no longer

    def close(self) -> None:
        """Ends the helpers; a call that one is working on fails. Takes some milliseconds."""
        self._closed = True
        for helper in list(self._helpers):
            helper.kill()  # its thread, if it has one, sees that
        self._threads.shutdown()
        for helper in list(self._helpers):
            self._drop(helper)
        self._idle.clear()

    def _call(self, function: Callable[..., T], args: tuple[Any, ...]) -> T:
        # Functions are pure, and whoever ends a helper need not mean this call, so it gets a new one. If that ends too,
        # it is the call that does it.
        for take in (self._take, self._start):
            helper = take()
            try:
                good, result = helper.ask((function, args))
                break
            except BaseException as error:  # half a message may be on its way, so this one is of no more use
                self._drop(helper)
                if not isinstance(error, EOFError | OSError):
                    raise
                if take == self._start or self._closed:
                    text = f"the helper process that works on large bodies ended ({helper.ending})"
                    raise ServingError(ErrorKind.INTERNAL, text) from None
        self._idle.append(helper)
        if good:
            return result  # type: ignore[no-any-return]
        try:
            raise result if isinstance(result, ServingError) else RuntimeError(result)
        finally:
            del result  # see `run`

    def _take(self) -> "_Helper":
        while self._idle:
            helper = self._idle.pop()
            if helper.lives:
                return helper
            self._drop(helper)
        return self._start()

    def _start(self) -> "_Helper":
        helper = _Helper()
        self._helpers.add(helper)
        return helper

    def _drop(self, helper: "_Helper") -> None:
        helper.close()
        self._helpers.discard(helper)


class _Helper:
    """One helper process, as the server sees it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [
                        sys.executable,
                        "-c",
                        _MAIN,
                        str(theirs.fileno()),
                        *(path or str(Path.cwd()) for path in sys.path),
                    ],
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    process_group=0,  # so that what a terminal sends to the server's group is not for it
                )
            except BaseException:
                ours.close()
                raise
        self._socket = ours
        self._channel = Channel(ours)

    def ask(self, what: Any) -> Any:
        """Raises: EOFError, OSError: the process ended."""
        try:
            self._channel.send(what)
            return self._channel.receive()
        except (EOFError, OSError):
            with contextlib.suppress(subprocess.TimeoutExpired):  # it is about to, in a way worth to know
                self._process.wait(1.0)
            raise

    @property
    def lives(self) -> bool:
        return self._process.poll() is None

    @property
    def ending(self) -> str:
        """How a process that was closed had ended."""
        code = self._process.returncode
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._socket.close()


def serve(descriptor: int) -> None:
    """What a helper does: runs what comes through the socket until that ends."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the server decides when a helper ends
        signal.signal(number, signal.SIG_IGN)
    channel = Channel(socket.socket(fileno=descriptor))
    # A parser makes a hundred thousand lists, and the collector would look through them again and again in vain: that
    # took longer than the parser. So it runs between calls, when the answer is on its way and its lists are gone.
    gc.disable()
    gc.freeze()
    try:
        while True:
            _answer(channel)
            gc.collect()
    except (EOFError, ConnectionError):
        pass


def _answer(channel: "Channel") -> None:
    """One call; nothing of it stays in memory afterwards."""
    function, args = channel.receive()
    outcome = _outcome(function, args)
    try:
        channel.send(outcome)
    except (pickle.PicklingError, TypeError, AttributeError):  # before anything was sent
        channel.send((False, traceback.format_exc()))


def _outcome(function: Callable[..., Any], args: tuple[Any, ...]) -> tuple[bool, Any]:
    try:
        return True, function(*args)
    except ServingError as error:
        return False, error
    except Exception:
        return False, traceback.format_exc()


class Channel:
    """Objects through a socket between two processes that trust each other. Blocking, outside of the interpreter lock
    as far as it depends on sizes."""

    SIZE = Struct("<Q")

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    def send(self, value: Any) -> None:
        """Raises: OSError: there is no other end."""
        text = io.BytesIO()
        pickler = _Pickler(text, pickle.HIGHEST_PROTOCOL)
        pickler.dump(value)
        self._send_text(text.getvalue())
        for part in pickler.beside:
            if not isinstance(part, list):
                self._socket.sendall(part)
            elif sum(map(len, part)) < _SHORT * len(part):
                self._send_text(pickle.dumps(part, pickle.HIGHEST_PROTOCOL))  # without a look at each
            else:
                self.send(part)

    def _send_text(self, text: bytes) -> None:
        self._socket.sendall(self.SIZE.pack(len(text)) + text)

    def receive(self) -> Any:
        """Raises: EOFError, OSError: there is no other end, or it ended within a message."""
        (size,) = self.SIZE.unpack(self.read_bytes(self.SIZE.size))
        return _Unpickler(io.BytesIO(self.read_bytes(size)), self).load()

    def read_bytes(self, size: int) -> bytes:
        """The next `size` bytes, in memory that is written once."""
        pieces = []
        while size:
            piece = self._socket.recv(min(size, _AT_ONCE), socket.MSG_WAITALL)
            if not piece:
                raise EOFError
            pieces.append(piece)
            size -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def read_array(self, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        array = np.empty(shape, dtype)
        rest = memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
        while rest:
            size = self._socket.recv_into(rest, min(len(rest), _AT_ONCE), socket.MSG_WAITALL)
            if not size:
                raise EOFError
            rest = rest[size:]
        return array

    def read_objects(self, shape: tuple[int, ...]) -> np.ndarray:
        array = np.empty(shape, object)
        flat = array.reshape(-1)
        for at in range(0, len(flat), _ELEMENTS):
            flat[at : at + _ELEMENTS] = self.receive()
        return array


_BESIDE = 64 * 1024  # bytes from here on travel beside the pickle
_ELEMENTS = 4096  # of a BYTES array, in one pickle: others get the interpreter in between
_SHORT = 256  # mean length of elements that are none of them worth to travel beside
_AT_ONCE = 1 << 30  # bytes of one read; systems take a little less than 2 GiB


class _Pickler(pickle.Pickler):
    """Puts large bytes and all arrays into `beside`. A persistent id is how to read such a thing: a method of Channel,
    and its arguments."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.beside: list[Any] = []  # in the order in which the other side will ask

    def persistent_id(self, value: Any) -> tuple[Any, ...] | None:
        kind = type(value)
        if kind is bytes:
            if len(value) < _BESIDE:
                return None
            self.beside.append(value)
            return "read_bytes", len(value)
        if kind is memoryview:
            self.beside.append(value)
            return "read_bytes", value.nbytes
        if kind is not np.ndarray:
            return None
        flat = np.ascontiguousarray(value).reshape(-1)
        if value.dtype == object:
            self.beside += (flat[at : at + _ELEMENTS].tolist() for at in range(0, len(flat), _ELEMENTS))
            return "read_objects", value.shape
        self.beside.append(flat.view(np.uint8))
        return "read_array", value.dtype, value.shape


class _Unpickler(pickle.Unpickler):
    def __init__(self, text: io.BytesIO, channel: Channel) -> None:
        super().__init__(text)
        self._channel = channel

    def persistent_load(self, how: tuple[Any, ...]) -> Any:
        return getattr(self._channel, how[0])(*how[1:])
