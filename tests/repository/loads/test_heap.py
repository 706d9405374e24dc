"""Memory goes back to the system when a model goes, and is kept at hand otherwise: seen from outside, in processes of
their own, since what a test's own process holds depends on all tests before."""

import subprocess
import sys

import pytest

from serving.repository.loads import heap

pytestmark = pytest.mark.skipif(heap._malloc_trim is None, reason="needs glibc")

# What a model's weights are to the C library: blocks of many sizes, made in one thread and freed in another, with small
# ones between them that stay.
_PROGRAM = """
import ctypes, sys, threading
from serving.repository.loads import heap
from serving.repository.loads.memory import resident

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
heap._set(heap._KEPT)  # as it is between loads
blocks, small = [], []

def make():
    for size in (200_000, 900_000, 3_000_000) * 20:
        block = libc.malloc(size)
        ctypes.memset(block, 1, size)
        blocks.append(block)
        small.append(libc.malloc(2000))

def free():
    for block in blocks:
        libc.free(block)
    if {heap}:
        heap.trim()

def run(work):
    def wrapped():
        if {heap}:
            with heap.returned_at_once():
                work()
        else:
            work()
    thread = threading.Thread(target=wrapped)
    thread.start()
    thread.join()

before = resident()
run(make)
loaded = resident()
run(free)
print(loaded - before, resident() - before)
"""


def loaded_and_left(with_heap: bool) -> tuple[int, int]:
    """Bytes that a process took for 82 MB of blocks, and that it kept of them."""
    program = _PROGRAM.replace("{heap}", str(with_heap))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    loaded, left = map(int, done.stdout.split())
    return loaded, left


def test_what_a_model_took_goes_back() -> None:
    loaded, left = loaded_and_left(True)
    assert loaded > 80_000_000 and left < 4_000_000


def test_without_that_it_stays() -> None:
    loaded, left = loaded_and_left(False)
    assert loaded > 80_000_000 and left > 20_000_000


def test_the_last_to_leave_restores_what_requests_need(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(heap, "_set", told.append)
    with heap.returned_at_once():
        with pytest.raises(ValueError, match="odd"), heap.returned_at_once():
            raise ValueError("odd")
        assert set(told) == {heap._RETURNED}
    assert told[-1] == heap._KEPT and told.count(heap._KEPT) == 1


def test_another_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "_malloc_trim", None)
    with heap.returned_at_once():
        heap.trim()
    assert heap._function("no_such_function") is None
