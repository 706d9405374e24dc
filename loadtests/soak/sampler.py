"""What a process takes, every few seconds, from /proc. A thread of its own; Linux only.

It must not disturb the process. Resident memory, threads and CPU time are numbers that the kernel keeps (a few
microseconds); descriptors are names in a directory. The proportional size (PSS) is added up page by page while the
process can map no memory, so it is read at every `pss_every`-th sample only.
"""

import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from loadtests.cpu_time import TICKS_PER_S, parse_stat

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Sample:
    """`at_s` on the clock of `time.monotonic`; `pss_bytes` None where it was not read. Of the process alone, without
    its children."""

    at_s: float
    rss_bytes: int
    pss_bytes: int | None
    descriptors: int
    threads: int
    cpu_s: float


def sample(pid: int, pss: bool) -> Sample:
    """OSError when the process is gone."""
    process = Path(f"/proc/{pid}")
    resident_pages = int((process / "statm").read_text().split()[1])
    stat = (process / "stat").read_text()
    threads = int(stat.rpartition(")")[2].split()[17])
    found_pss = None
    if pss:
        lines = (process / "smaps_rollup").read_text().splitlines()
        found_pss = next(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return Sample(
        time.monotonic(),
        resident_pages * PAGE_BYTES,
        found_pss,
        len(os.listdir(process / "fd")),  # noqa: PTH208 - names are enough
        threads,
        parse_stat(stat).ticks / TICKS_PER_S,
    )


class Sampler:
    """Use as a context. `samples` can be read at any time; it ends by itself when the process does."""

    def __init__(self, pid: int, every_s: float, pss_every: int) -> None:
        self.samples: list[Sample] = []
        self._pid = pid
        self._every_s = every_s
        self._pss_every = pss_every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Sampler":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        due_s = time.monotonic()
        with suppress(OSError):
            while not self._stop.wait(max(0.0, due_s - time.monotonic())):
                self.samples.append(sample(self._pid, pss=len(self.samples) % self._pss_every == 0))
                due_s += self._every_s
