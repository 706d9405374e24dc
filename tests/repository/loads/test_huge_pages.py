"""Huge pages for what models consist of."""

import mmap
import re
import subprocess
import sys
from pathlib import Path

import pytest

from serving.repository.loads.huge_pages import anonymous

MAPPINGS = """\
00200000-00400000 rw-p 00000000 00:00 0
00500000-00b00000 rw-p 00000000 00:00 0                                  [heap]
01000000-01400000 rw-p 00000000 fe:00 260131                             /a file
02000000-02400000 r--p 00000000 00:00 0
03000000-03400000 rw-s 00000000 00:00 0
04000000-04400000 rw-p 00000000 00:00 0                                  [stack]
05000001-05300000 rw-p 00000000 00:00 0
06000000-06800000 rw-p 00000000 00:00 0
"""


def test_whole_blocks_of_private_memory() -> None:
    assert list(anonymous(MAPPINGS)) == [(0x200000, 0x400000), (0x600000, 0xA00000), (0x6000000, 0x6800000)]


# Memory that was there before, memory that comes, and memory of which a part is in use.
COLLAPSE = """
import mmap, re
from pathlib import Path
from serving.repository.loads.huge_pages import for_what_comes

MIB = 1024 * 1024
TEXT = bytes(range(256)) * (64 * MIB // 256)

def taken():
    return mmap.mmap(-1, 64 * MIB, flags=mmap.MAP_PRIVATE)

def kilobytes(key):
    return sum(int(n) for n in re.findall(rf"^{key}: +(\\d+) kB", Path("/proc/self/smaps").read_text(), re.MULTILINE))

old = taken()
old[:] = TEXT
with for_what_comes():
    full, part = taken(), taken()
    full[:] = TEXT
    for at in range(0, 64 * MIB, 8192):
        part[at] = 7
    before = kilobytes("Rss")
print(kilobytes("AnonHugePages") // 1024, (kilobytes("Rss") - before) // 1024)
assert old[:] == full[:] == TEXT
assert part[::8192] == bytes([7]) * (64 * MIB // 8192)
"""


def _can_collapse() -> bool:
    version = Path("/proc/sys/kernel/osrelease")
    enabled = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not version.exists() or not enabled.exists() or mmap.PAGESIZE != 4096:
        return False
    numbers = re.match(r"(\d+)\.(\d+)", version.read_text())
    return numbers is not None and (int(numbers[1]), int(numbers[2])) >= (6, 1) and "[never]" not in enabled.read_text()


@pytest.mark.skipif(not _can_collapse(), reason="this system does not collapse pages on demand")
def test_what_comes_and_is_full_is_moved_and_nothing_grows() -> None:
    done = subprocess.run([sys.executable, "-c", COLLAPSE], capture_output=True, text=True, check=True)
    huge, grown = map(int, done.stdout.split())
    assert 48 <= huge <= 80  # free huge pages may run short; of the old memory there is none
    assert grown <= 2
