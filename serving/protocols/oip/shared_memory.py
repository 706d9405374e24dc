"""Tensors in memory that a client on the same machine shares with the server.

`SharedMemory` lives on the event loop and knows regions by the names that clients register. A region is a piece of a
POSIX shared memory object. Inputs are views of its mapping; outputs are written into it once, by system calls. Whoever
holds a `Slot`, or an array that came from one, keeps the region usable: unregistering takes away the name alone.

The client can shorten the object at any time, and a view of what is gone ends the process (SIGBUS). So the size is
looked at whenever a slot is used. What remains is a client that shortens it while its own request runs: nothing in
Linux can stop that, which is why all of this is off unless the operator allows it.
"""

import os
import stat
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from mmap import ALLOCATIONGRANULARITY, PROT_READ, mmap
from pathlib import Path
from typing import Any

from serving.core.errors import ErrorKind, ServingError, invalid
from serving.protocols.jsonio import describe

MAX_REGIONS = 1024  # each holds two open files
_RESERVED = "triton_python_backend_shm_region_"  # of Triton's own processes
_DISABLED = "Client shared memory is disabled. Start the server with '--allow-client-shm' to enable."


class SharedMemory:
    """The regions that clients have registered.

    Args:
        allowed: False: nothing can be registered.
        directory: where the system shows shared memory objects as files.
    """

    def __init__(self, allowed: bool, directory: Path = Path("/dev/shm")) -> None:
        self.allowed = allowed
        self._directory = directory
        self._regions: dict[str, _Region] = {}

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Maps `byte_size` bytes of the object `key`, from `offset` on.

        Raises:
            ServingError: UNSUPPORTED, if it is not allowed; EXISTS, if the name is taken; INVALID, if there is no such
                object or it is too small.
        """
        self.check_allowed()
        if not name:
            raise invalid("'region name' is necessary to register system shared memory region")
        if name in self._regions:
            raise ServingError(ErrorKind.EXISTS, f"shared memory region '{name}' already in manager")
        if len(self._regions) >= MAX_REGIONS:
            raise invalid(f"failed to register shared memory region '{name}': there are {MAX_REGIONS} already")
        self._regions[name] = _Region(name, key, offset, byte_size, self._open(name, key))

    def unregister(self, name: str) -> None:
        """Forgets a region, if there is one of that name; without a name, all.

        Raises:
            ServingError: UNSUPPORTED, if it is not allowed.
        """
        self.check_allowed()
        if name:
            self._regions.pop(name, None)
        else:
            self._regions.clear()

    def status(self, name: str) -> list[dict[str, Any]]:
        """Name, key, offset and byte size of a region; without a name, of all.

        Raises:
            ServingError: NOT_FOUND.
        """
        if name and name not in self._regions:
            raise ServingError(ErrorKind.NOT_FOUND, f"Unable to find system shared memory region: '{name}'")
        regions = [self._regions[name]] if name else self._regions.values()
        return [{"name": r.name, "key": r.key, "offset": r.offset, "byte_size": r.byte_size} for r in regions]

    def slot(self, name: str, offset: int, byte_size: int) -> "Slot":
        """A piece of a region.

        Raises:
            ServingError: NOT_FOUND, if there is no such region; INVALID, if it does not hold the piece.
        """
        region = self._regions.get(name)
        if region is None:
            raise ServingError(ErrorKind.NOT_FOUND, f"Unable to find shared memory region: '{name}'")
        if offset > region.byte_size:
            raise invalid(f"Invalid offset for shared memory region: '{name}'")
        if offset + byte_size > region.byte_size:
            raise invalid(f"Invalid offset + byte size for shared memory region: '{name}'")
        return Slot(region, offset, byte_size)

    def check_allowed(self) -> None:
        if not self.allowed:
            raise ServingError(ErrorKind.UNSUPPORTED, _DISABLED)

    def _open(self, name: str, key: str) -> int:
        file = key.lstrip("/")
        if not file:
            raise invalid(f"failed to register shared memory region '{name}' - invalid shm key '{key[:80]}'")
        if file.startswith(_RESERVED):
            raise invalid(
                f"cannot register shared memory region '{name}' with key '{key[:80]}' as the key contains the "
                f"reserved prefix '{_RESERVED}'"
            )
        failed = invalid(f"Unable to open shared memory region: '{key[:80]}'")
        if "/" in file or file in (".", "..") or "\0" in file:
            raise failed
        try:
            # Only the object itself: no link to another file, and no waiting for the other end of a pipe.
            flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(self._directory / file, flags)
        except (OSError, UnicodeError):
            raise failed from None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise failed
        return descriptor


class _Region:
    """A registered piece of an object. Owns `descriptor`; the file and the mapping are closed with their last user."""

    def __init__(self, name: str, key: str, offset: int, byte_size: int, descriptor: int) -> None:
        self.name, self.key, self.offset, self.byte_size = name, key, offset, byte_size
        self._descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)
        refused = f"failed to register shared memory region '{name}': invalid args"
        size = os.fstat(descriptor).st_size
        if byte_size < 1 or offset + byte_size > size:
            raise invalid(f"{refused}: '{key[:80]}' has {size} bytes, asked for {byte_size} from {offset} on")
        self._before = offset % ALLOCATIONGRANULARITY  # a mapping starts at such a boundary
        try:
            self._map = mmap(descriptor, self._before + byte_size, prot=PROT_READ, offset=offset - self._before)
        except (OSError, ValueError, OverflowError) as error:
            raise invalid(f"{refused}: {error}") from None

    def read(self, offset: int, byte_size: int) -> memoryview:
        self._check()
        start = self._before + offset
        return memoryview(self._map)[start : start + byte_size]

    def write(self, offset: int, data: bytes | memoryview) -> None:
        # Not through the mapping: where no page is left, or the object has been shortened, this is an error and no
        # signal.
        self._check()
        rest, at = memoryview(data), self.offset + offset
        try:
            while rest:
                written = os.pwrite(self._descriptor, rest, at)
                rest, at = rest[written:], at + written
        except OSError as error:
            raise invalid(f"Unable to write to shared memory region '{self.name}': {error.strerror}") from None

    def _check(self) -> None:
        size = os.fstat(self._descriptor).st_size
        if size < self.offset + self.byte_size:
            raise invalid(
                f"Invalid shared memory region: '{self.name}': '{self.key[:80]}' has been shortened to {size} bytes"
            )


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a tensor lies in shared memory, in bytes from the start of the region."""

    region: _Region
    offset: int
    byte_size: int

    def read(self) -> memoryview:
        """Raises: ServingError: INVALID, if the object has become too short."""
        return self.region.read(self.offset, self.byte_size)

    def write(self, output: str, data: bytes | memoryview) -> None:
        """Raises: ServingError: INVALID, if `data` does not fit, or the object has become too short."""
        if len(data) > self.byte_size:
            raise invalid(
                f"shared memory size specified with the request for output '{output}' ({self.byte_size} bytes) "
                f"should be at least {len(data)} bytes to hold the results"
            )
        self.region.write(self.offset, data)


def slot_of(memory: SharedMemory | None, tensor: str, parameters: Mapping[str, Any]) -> Slot:
    """Where a tensor lies whose parameters name a region.

    Args:
        memory: None: there are no regions.

    Raises:
        ServingError: NOT_FOUND or INVALID.
    """
    name = parameters["shared_memory_region"]
    if type(name) is not str:
        raise invalid(f"Unable to parse 'shared_memory_region': tensor '{tensor}' expects a string")
    if parameters.get("shared_memory_byte_size") is None:
        raise invalid(
            "'shared_memory_byte_size' must be specified along with 'shared_memory_region' parameter for tensor "
            f"'{tensor}'"
        )
    numbers = [parameters["shared_memory_byte_size"], parameters.get("shared_memory_offset", 0)]
    for what, number in zip(("byte_size", "offset"), numbers, strict=True):
        if type(number) is not int or number < 0:
            raise invalid(
                f"Unable to parse 'shared_memory_{what}': tensor '{tensor}' expects an integer >= 0, "
                f"got {describe(number)}"
            )
    if memory is None:
        raise ServingError(ErrorKind.NOT_FOUND, f"Unable to find shared memory region: '{name}'")
    byte_size, offset = numbers
    return memory.slot(name, offset, byte_size)


def read_registration(value: Any) -> tuple[str, int, int]:
    """Key, offset and byte size from the body of a request to register a region.

    Raises:
        ServingError: INVALID.
    """
    if type(value) is not dict:
        raise invalid(f"the body of a register request is an object, got {describe(value)}")
    for what in ("key", "byte_size"):
        if what not in value:
            raise invalid(f"Shared memory register request has no '{what}' field")
    key, offset, byte_size = value["key"], value.get("offset", 0), value["byte_size"]
    if type(key) is not str:
        raise invalid(f"Unable to parse 'key': expected a string, got {describe(key)}")
    for what, number in (("offset", offset), ("byte_size", byte_size)):
        if type(number) is not int or number < 0:
            raise invalid(f"Unable to parse '{what}': expected an integer >= 0, got {describe(number)}")
    return key, offset, byte_size


def no_cuda(memory: SharedMemory) -> ServingError:
    """What becomes of a request to register memory of a GPU."""
    return ServingError(
        ErrorKind.UNSUPPORTED,
        "CUDA shared memory is not supported, use system shared memory" if memory.allowed else _DISABLED,
    )


def find_cuda(name: str) -> None:
    """Raises: ServingError: NOT_FOUND, whatever the name."""
    if name:
        raise ServingError(ErrorKind.NOT_FOUND, f"Unable to find cuda shared memory region: '{name}'")
