"""Regions that clients share with the server: names, bounds, and how long they live."""

import gc
import os
import uuid
from collections.abc import Callable, Iterator
from multiprocessing.shared_memory import SharedMemory as Object
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.core.errors import ErrorKind
from serving.protocols.oip import shared_memory
from serving.protocols.oip.shared_memory import SharedMemory, read_registration
from tests.protocols.build import refused

CONTENT = bytes(range(256)) * 32  # two pages


@pytest.fixture
def memory(tmp_path: Path) -> SharedMemory:
    """With an object `/object` of two pages, under a directory of the test's own."""
    (tmp_path / "object").write_bytes(CONTENT)
    return SharedMemory(True, tmp_path)


@pytest.fixture
def open_files() -> Callable[[], int]:
    """How many more files the process has open than before."""
    gc.collect()
    before = len(list(Path("/proc/self/fd").iterdir()))
    return lambda: len(list(Path("/proc/self/fd").iterdir())) - before


class TestRegister:
    def test_status_tells_what_was_registered(self, memory: SharedMemory) -> None:
        memory.register("a", "/object", 16, 32)
        memory.register("b", "object", 0, len(CONTENT))
        a = {"name": "a", "key": "/object", "offset": 16, "byte_size": 32}
        assert memory.status("a") == [a]
        assert memory.status("") == [a, {"name": "b", "key": "object", "offset": 0, "byte_size": len(CONTENT)}]

    def test_a_name_is_taken_once(self, memory: SharedMemory) -> None:
        memory.register("a", "/object", 0, 32)
        text = refused(lambda: memory.register("a", "/object", 0, 16), ErrorKind.EXISTS)
        assert text == "shared memory region 'a' already in manager"
        memory.unregister("a")
        memory.register("a", "/object", 0, 16)

    def test_a_region_has_a_name(self, memory: SharedMemory) -> None:
        assert refused(lambda: memory.register("", "/object", 0, 1)) == (
            "'region name' is necessary to register system shared memory region"
        )

    @pytest.mark.parametrize(
        "key", ["/nope", "nope", "/..", "../object", "/a/../object", "a/b", ".", "object\0", "x" * 300, "\ud800"]
    )
    def test_an_object_that_is_not_there(self, memory: SharedMemory, key: str) -> None:
        text = refused(lambda: memory.register("a", key, 0, 1))
        assert text == f"Unable to open shared memory region: '{key[:80]}'"

    @pytest.mark.parametrize("key", ["", "/", "///"])
    def test_a_key_of_slashes(self, memory: SharedMemory, key: str) -> None:
        assert refused(lambda: memory.register("a", key, 0, 1)).endswith(f"- invalid shm key '{key}'")

    @pytest.mark.parametrize("key", ["triton_python_backend_shm_region_1", "/triton_python_backend_shm_region_"])
    def test_a_key_of_tritons_own(self, memory: SharedMemory, key: str, tmp_path: Path) -> None:
        (tmp_path / key.strip("/")).write_bytes(CONTENT)
        assert refused(lambda: memory.register("x", key, 0, 1)) == (
            f"cannot register shared memory region 'x' with key '{key}' as the key contains the reserved prefix "
            "'triton_python_backend_shm_region_'"
        )

    def test_only_objects_themselves(self, memory: SharedMemory, tmp_path: Path) -> None:
        (tmp_path / "secret").write_bytes(CONTENT)
        (tmp_path / "link").symlink_to(tmp_path / "secret")
        (tmp_path / "directory").mkdir()
        os.mkfifo(tmp_path / "pipe")
        for key in ("link", "directory", "pipe"):
            text = refused(lambda key=key: memory.register("a", key, 0, 1))  # type: ignore[misc]
            assert text == f"Unable to open shared memory region: '{key}'"

    @pytest.mark.parametrize(
        ("offset", "size"),
        [(0, len(CONTENT) + 1), (1, len(CONTENT)), (len(CONTENT), 1), (0, 0), (2**62, 1), (0, 2**63), (2**64 - 1, 1)],
    )
    def test_a_region_is_inside_its_object(self, memory: SharedMemory, offset: int, size: int) -> None:
        text = refused(lambda: memory.register("r", "/object", offset, size))
        assert text.startswith("failed to register shared memory region 'r': invalid args")
        assert memory.status("") == []

    def test_regions_have_an_end(self, memory: SharedMemory, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shared_memory, "MAX_REGIONS", 2)
        for name in "ab":
            memory.register(name, "/object", 0, 1)
        assert "there are 2 already" in refused(lambda: memory.register("c", "/object", 0, 1))

    def test_refusals_leave_no_file_open(self, memory: SharedMemory, open_files: Callable[[], int]) -> None:
        for key, size in (("object", 10**9), ("object", 0), ("nope", 1), (".", 1)):
            refused(lambda key=key, size=size: memory.register("r", key, 0, size))  # type: ignore[misc]
        gc.collect()
        assert open_files() == 0


class TestUnregister:
    def test_one_or_all(self, memory: SharedMemory) -> None:
        for name in "abc":
            memory.register(name, "/object", 0, 8)
        memory.unregister("b")
        assert [r["name"] for r in memory.status("")] == ["a", "c"]
        memory.unregister("")
        assert memory.status("") == []

    def test_what_is_not_there(self, memory: SharedMemory) -> None:
        memory.unregister("zz")
        text = refused(lambda: memory.status("zz"), ErrorKind.NOT_FOUND)
        assert text == "Unable to find system shared memory region: 'zz'"

    def test_files_are_closed(self, memory: SharedMemory, open_files: Callable[[], int]) -> None:
        memory.register("a", "/object", 0, 8)
        assert open_files() > 0
        memory.unregister("a")
        gc.collect()
        assert open_files() == 0

    def test_what_is_in_use_stays_usable(
        self, memory: SharedMemory, tmp_path: Path, open_files: Callable[[], int]
    ) -> None:
        memory.register("a", "/object", 4096, 8)
        view: Any = np.frombuffer(memory.slot("a", 0, 8).read(), np.uint8)
        target: Any = memory.slot("a", 4, 4)
        memory.unregister("a")
        gc.collect()
        target.write("y", b"\xee" * 4)
        assert view.tolist() == [0, 1, 2, 3, 0xEE, 0xEE, 0xEE, 0xEE]
        del view, target
        gc.collect()
        assert open_files() == 0


class TestDisabled:
    def test_registering_is_refused(self, tmp_path: Path) -> None:
        memory = SharedMemory(False, tmp_path)
        for call in (lambda: memory.register("a", "/object", 0, 1), lambda: memory.unregister("")):
            text = refused(call, ErrorKind.UNSUPPORTED)
            assert text.startswith("Client shared memory is disabled. Start the server with '--allow-client-shm'")

    def test_status_is_empty(self, tmp_path: Path) -> None:
        assert SharedMemory(False, tmp_path).status("") == []


class TestSlot:
    @pytest.mark.parametrize("start", [0, 1, 100, 4096, 4097])
    def test_reads_from_where_it_lies(self, memory: SharedMemory, start: int) -> None:
        memory.register("r", "/object", start, 64)
        for offset, size in ((0, 64), (3, 5), (64, 0)):
            assert memory.slot("r", offset, size).read() == CONTENT[start + offset : start + offset + size]

    def test_reads_without_a_copy(self, memory: SharedMemory, tmp_path: Path) -> None:
        memory.register("r", "/object", 0, 8)
        array = np.frombuffer(memory.slot("r", 0, 8).read(), np.uint8)
        with (tmp_path / "object").open("r+b") as file:
            file.write(b"\xaa")
        assert array[0] == 0xAA and not array.flags.writeable

    @pytest.mark.parametrize("start", [0, 5, 4096, 4090])
    def test_writes_where_it_lies_and_nowhere_else(self, memory: SharedMemory, start: int, tmp_path: Path) -> None:
        memory.register("r", "/object", start, 64)
        memory.slot("r", 8, 8).write("y", memoryview(b"\xff" * 5))
        at = start + 8
        assert (tmp_path / "object").read_bytes() == CONTENT[:at] + b"\xff" * 5 + CONTENT[at + 5 :]

    def test_writes_no_more_than_fits(self, memory: SharedMemory) -> None:
        memory.register("r", "/object", 0, 64)
        assert refused(lambda: memory.slot("r", 0, 32).write("OUTPUT0", bytes(64))) == (
            "shared memory size specified with the request for output 'OUTPUT0' (32 bytes) should be at least 64 bytes "
            "to hold the results"
        )

    @pytest.mark.parametrize("size", [0, 63, 4095])
    def test_an_object_that_was_shortened_is_not_touched(self, memory: SharedMemory, tmp_path: Path, size: int) -> None:
        memory.register("r", "/object", 0, 64 if size < 64 else 4096)
        slot = memory.slot("r", 0, 64)
        os.truncate(tmp_path / "object", size)
        for use in (slot.read, lambda: slot.write("y", bytes(64))):
            assert "has been shortened to" in refused(use)
        os.truncate(tmp_path / "object", 4096)
        assert slot.read() == CONTENT[:size][:64].ljust(64, b"\0")


class TestPosixObject:
    """An object as clients make it."""

    @pytest.fixture
    def theirs(self) -> Iterator[Object]:
        theirs = Object(f"serving_test_{uuid.uuid4().hex}", create=True, size=128)
        yield theirs
        theirs.close()
        theirs.unlink()

    @pytest.mark.parametrize("slashes", ["", "/", "//"])
    def test_both_sides_see_the_same(self, theirs: Object, slashes: str) -> None:
        memory = SharedMemory(True)
        memory.register("r", slashes + theirs.name.strip("/"), 0, 128)
        buffer: Any = theirs.buf
        buffer[:4] = b"ping"
        assert bytes(memory.slot("r", 0, 4).read()) == b"ping"
        memory.slot("r", 4, 4).write("y", b"pong")
        assert bytes(buffer[:8]) == b"pingpong"


class TestRegistration:
    def test_an_offset_may_be_left_out(self) -> None:
        assert read_registration({"key": "/k", "byte_size": 5}) == ("/k", 0, 5)
        assert read_registration({"key": "/k", "byte_size": 5, "offset": 3, "more": 1}) == ("/k", 3, 5)

    @pytest.mark.parametrize("missing", ["key", "byte_size"])
    def test_what_is_missing_is_named(self, missing: str) -> None:
        value = {"key": "/k", "byte_size": 5}
        del value[missing]
        assert refused(lambda: read_registration(value)) == f"Shared memory register request has no '{missing}' field"

    @pytest.mark.parametrize(
        "value",
        [[], None, "k", {"key": 1, "byte_size": 5}, {"key": "k", "byte_size": -1}, {"key": "k", "byte_size": 1.0},
         {"key": "k", "byte_size": True}, {"key": "k", "byte_size": 1, "offset": "0"}],
    )  # fmt: skip
    def test_what_has_the_wrong_type(self, value: Any) -> None:
        assert refused(lambda: read_registration(value))
