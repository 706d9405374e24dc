"""CPU time of a process and all its descendants, from /proc. Linux only; knows nothing of servers."""

import os
from pathlib import Path
from typing import NamedTuple

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Stat(NamedTuple):
    """From /proc/PID/stat: the parent, and clock ticks, those of children that ended and were waited for included."""

    parent: int
    ticks: int


def parse_stat(text: str) -> Stat:
    """Read one line of /proc/PID/stat (proc_pid_stat(5)); all threads of the process are in its ticks."""
    # The command stands in parentheses and may hold some itself, and spaces: fields count from the last one.
    fields = text.rpartition(")")[2].split()
    user, system, children_user, children_system = (int(field) for field in fields[11:15])
    return Stat(int(fields[1]), user + system + children_user + children_system)


def tree_ticks(pid: int, stats: dict[int, Stat]) -> int:
    """Clock ticks of `pid` and its descendants. KeyError when `pid` is not there."""
    children = [child for child, stat in stats.items() if stat.parent == pid]
    return stats[pid].ticks + sum(tree_ticks(child, stats) for child in children)


def cpu_seconds(pid: int, proc: Path = Path("/proc")) -> float:
    """User and system seconds that `pid` and its descendants have spent. ProcessLookupError when it is gone."""
    stats = {}
    for entry in proc.iterdir():
        if entry.name.isdecimal():
            try:
                stats[int(entry.name)] = parse_stat((entry / "stat").read_text())
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended meanwhile
    if pid not in stats:
        raise ProcessLookupError(f"process {pid} is gone")
    return tree_ticks(pid, stats) / TICKS_PER_S
