"""How long a run takes by the number of its rows, learned from the runs themselves. Pure; the caller holds a lock."""

from bisect import bisect_left

_RECENT = 0.1  # weight of a new run in the mean of its size, once some are known
_FEW = 10  # up to here, all count the same
_MOST_TIMES = 4.0  # what a run counts at most, by the mean so far: one stall says little, many say much
_DEVIATION = 0.25  # of what is estimated, before anything is known
_RECENT_DEVIATION = 0.05
_DEVIATIONS = 3.0  # what takes longer than the mean and three mean deviations is rare
_LEAST_MARGIN = 0.05  # of the mean


class _Known:
    """What is known of runs of about the same size: means of rows and seconds."""

    __slots__ = ("rows", "runs", "seconds")

    def __init__(self, rows: int, seconds: float) -> None:
        self.rows = float(rows)
        self.seconds = seconds
        self.runs = 1

    def observe(self, rows: int, seconds: float) -> None:
        self.runs += 1
        weight = max(1 / self.runs, _RECENT)
        self.rows += weight * (rows - self.rows)
        self.seconds += weight * (min(seconds, self.seconds * _MOST_TIMES) - self.seconds)


class Cost:
    """Sizes between two powers of two are taken together; between what is known of these, a straight line.

    How far runs are off is learned of all sizes together, relative to what was estimated: sizes that are rare under
    load would otherwise keep the doubts of their first run for ever.
    """

    def __init__(self) -> None:
        self._known: dict[int, _Known] = {}
        self._points: list[tuple[float, float]] | None = None  # rows, seconds; made when asked for
        self._deviation = _DEVIATION
        self._estimated = 1

    def __repr__(self) -> str:
        points = ", ".join(f"{rows:g} rows {1000 * mean:.3g} ms" for rows, mean in self._line())
        return f"<Cost {points or 'unknown'}>"

    def __bool__(self) -> bool:
        """Whether anything is known."""
        return bool(self._known)

    def observe(self, rows: int, seconds: float) -> None:
        """A run of so many rows, padding included, took so long."""
        if (estimated := self.estimate(rows)) > 0:
            self._estimated += 1
            off = min(abs(seconds / estimated - 1), _MOST_TIMES)
            self._deviation += max(1 / self._estimated, _RECENT_DEVIATION) * (off - self._deviation)
        known = self._known.get(rows.bit_length())
        if known is None:
            self._known[rows.bit_length()] = _Known(rows, seconds)
        else:
            known.observe(rows, seconds)
        self._points = None

    def estimate(self, rows: int, *, sure: bool = False) -> float:
        """Seconds that a run takes; 0 while nothing is known.

        Args:
            sure: what it takes at most but for rare cases, instead of the mean.
        """
        seconds = self._mean(rows)
        return seconds * (1 + max(_LEAST_MARGIN, _DEVIATIONS * self._deviation)) if sure else seconds

    def rows_within(self, seconds: float, most: int) -> int:
        """The most rows, at least 1 and at most `most`, that a run takes within so many seconds."""
        low, high = 1, most
        while low < high:  # more rows never take less
            middle = (low + high + 1) // 2
            if self.estimate(middle) <= seconds:
                low = middle
            else:
                high = middle - 1
        return low

    def _mean(self, rows: int) -> float:
        points = self._line()
        if not points:
            return 0.0
        first, last = points[0], points[-1]
        if rows <= first[0]:
            return first[1]
        if rows >= last[0]:
            if len(points) == 1:
                return last[1] * rows / last[0]
            return last[1] + (last[1] - first[1]) / (last[0] - first[0]) * (rows - last[0])
        right = bisect_left(points, (rows,))
        low, high = points[right - 1], points[right]
        return low[1] + (high[1] - low[1]) * (rows - low[0]) / (high[0] - low[0])

    def _line(self) -> list[tuple[float, float]]:
        """What is known, by rows. Sizes that seem to take less than smaller ones share one mean with these, in which
        each counts by its runs: so a slow first run of one size is outvoted by what is known of larger ones."""
        if self._points is None:
            groups: list[tuple[list[float], float, float]] = []  # sizes, seconds, weight
            for _, known in sorted(self._known.items()):
                sizes, seconds, weight = [known.rows], known.seconds, float(min(known.runs, _FEW))
                while groups and groups[-1][1] > seconds:
                    smaller, theirs, votes = groups.pop()
                    seconds = (seconds * weight + theirs * votes) / (weight + votes)
                    sizes, weight = smaller + sizes, weight + votes
                groups.append((sizes, seconds, weight))
            self._points = [(rows, seconds) for sizes, seconds, _ in groups for rows in sizes]
        return self._points
