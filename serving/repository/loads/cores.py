"""How much processor there is for this process, and how much of its time it waited for it. Any thread or process."""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")


def usable(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int:
    """Cores that this process may keep busy: those that it may run on, and no more than its control groups allow."""
    try:
        here = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        here = os.cpu_count() or 1
    return max(1, min([here, *(int(quota) for quota in _quotas(proc, cgroups))]))


def _quotas(proc: Path, cgroups: Path) -> Iterator[float]:
    """The limits of the control groups that this process is in, in cores; versions 2 and 1."""
    try:
        lines = (proc / "self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = cgroups / "cpu" if controllers else cgroups
        inner = root / place.strip("/")
        # In a container, the path may be that of the host, and what is mounted is the group itself.
        for group in {root, *(each for each in (inner, *inner.parents) if each.is_relative_to(root))}:
            with suppress(OSError, ValueError, ZeroDivisionError):
                if controllers:
                    quota = (group / "cpu.cfs_quota_us").read_text()
                    period = (group / "cpu.cfs_period_us").read_text()
                else:
                    quota, period = (group / "cpu.max").read_text().split()
                if float(quota) > 0:
                    yield float(quota) / float(period)


def model(proc: Path = _PROC) -> str:
    """What the processor is called; empty if nobody knows."""
    with suppress(OSError):
        for line in (proc / "cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return ""


def ran_and_waited(proc: Path = _PROC) -> tuple[float, float]:
    """Seconds that the threads of this process have run, and that they were ready to run and had to wait for a core.
    Threads that have ended do not count. Where the system does not tell, they never waited."""
    ran = waited = 0
    try:
        for thread in (proc / "self/task").iterdir():
            with suppress(OSError, ValueError):
                run_ns, wait_ns, _ = map(int, (thread / "schedstat").read_text().split())
                ran, waited = ran + run_ns, waited + wait_ns
    except OSError:
        return time.process_time(), 0.0
    return ran / 1e9, waited / 1e9
