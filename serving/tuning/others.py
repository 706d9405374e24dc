"""How much of the processors others use while something is measured here. Any thread."""

import os
from pathlib import Path

_PROC = Path("/proc")
_IDLE = (3, 4)  # columns of /proc/stat: idle, and waiting for a disk
_COLUMNS = 8  # those behind are parts of others


class Others:
    """From when it is made."""

    def __init__(self, proc: Path = _PROC) -> None:
        self._proc = proc
        self._began = self._read()

    def share(self) -> float | None:
        """Of all processors' time, from 0 to 1; None: the system does not tell."""
        now = self._read()
        if self._began is None or now is None:
            return None
        total_s, busy_s, own_s = (after - before for after, before in zip(now, self._began, strict=True))
        return min(1.0, max(0.0, (busy_s - own_s) / total_s)) if total_s > 0 else None

    def _read(self) -> tuple[float, float, float] | None:
        """Seconds that passed on all processors, those in which they were busy, and those of this process."""
        try:
            line = (self._proc / "stat").read_text().splitlines()[0].split()
            columns = [int(column) / os.sysconf("SC_CLK_TCK") for column in line[1 : 1 + _COLUMNS]]
            idle_s = sum(columns[column] for column in _IDLE)
        except (OSError, ValueError, IndexError, AttributeError):
            return None
        own = os.times()
        return sum(columns), sum(columns) - idle_s, own.user + own.system
