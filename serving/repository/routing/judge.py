"""Whether a version on trial has to go: counts what came of its requests, and tells when a limit is passed. Pure.

A limit is about the latest `requests` requests on trial. It is passed when so many of them are bad that no further
request could change that: with 10 % of 100, at the 11th error, be it the 11th request. So a version that always fails
is found out after a few requests, and none is watched for longer than a limit needs.

What counts:

- An error is the model's own failure (`failed`), or a refusal of what the default version would have taken. Mistakes of
  clients, full queues, requests that expired and callers that left say nothing of the model. What the model cannot take
  fails on the default version as well, so only errors beyond its rate count.
- Latency is the time of the run alone, since waiting is the fault of the load. Runs take longer for more rows, and a
  version with a small share gets small batches; so each run is held against the default version's median for about as
  many rows. The median of the trial is beyond the limit if more than half of its runs are.
- Answers differ where a copy's outputs were not within the shadow's tolerance.
"""

from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from statistics import median

from serving.core.traffic import Limits

_ENOUGH = 5  # runs of the default version that make a median


@dataclass(frozen=True)
class Verdict:
    """Why a version has to go, with the figures."""

    version: int
    reason: str


class Judge:
    """The trial of one model's versions.

    Args:
        default: the version that those on trial are held against.
        trials: those on trial.
        report: is told of each verdict, one at most for each version. What is reported of a version later is ignored.
    """

    def __init__(
        self, limits: Limits, default: int, trials: Collection[int], report: Callable[[Verdict], None]
    ) -> None:
        self._limits = limits
        self._default = default
        self._normal = _Normal(limits.requests)
        self._trials = {number: _Trial(limits.requests) for number in trials}
        self._report = report

    def answered(self, version: int, run_s: float, rows: int) -> None:
        """A request was answered.

        Args:
            run_s: how long the run took that it was part of, and `rows`, how many rows that had.
        """
        if version == self._default:
            self._normal.ran(run_s, rows)
            return
        trial = self._trials.get(version)
        if trial is None:
            return
        trial.errors.add(False)
        ratio = self._limits.latency_ratio
        if ratio is not None and (usual := self._normal.run_s(rows)) is not None:
            trial.ran(run_s, usual, ratio)
            self._decide(version, trial)

    def failed(self, version: int) -> None:
        """The model failed on a request, or the version refused what the default one would have taken."""
        if version == self._default:
            self._normal.errors.add(True)
        elif (trial := self._trials.get(version)) is not None:
            trial.errors.add(True)
            self._decide(version, trial)

    def compared(self, version: int, same: bool) -> None:
        """A copy was answered, and held against the default version's answer."""
        if (trial := self._trials.get(version)) is not None:
            trial.differences.add(not same)
            self._decide(version, trial)

    def _decide(self, version: int, trial: "_Trial") -> None:
        reason = self._errors(trial) or self._latency(trial) or self._differences(trial)
        if reason:
            del self._trials[version]
            self._report(Verdict(version, reason))

    def _errors(self, trial: "_Trial") -> str:
        limit, errors, normal = self._limits.error_rate, trial.errors, self._normal.errors.share
        if limit is None or errors.certain <= limit + normal:
            return ""
        beyond = f" beyond the {normal * 100:.4g} % of version {self._default}" if normal else ""
        return f"it failed on {errors.told}; allowed are {limit * 100:.4g} % of {errors.size}{beyond}"

    def _latency(self, trial: "_Trial") -> str:
        if trial.slow.certain <= 0.5:
            return ""
        runs, usual = median(trial.runs), median(trial.usual)
        return (
            f"its runs took {runs * 1e3:.3g} ms where those of version {self._default} take {usual * 1e3:.3g} ms "
            f"(medians), and more than {self._limits.latency_ratio:g} times as long in {trial.slow.told}"
        )

    def _differences(self, trial: "_Trial") -> str:
        limit, differences = self._limits.different_rate, trial.differences
        if limit is None or differences.certain <= limit:
            return ""
        return (
            f"its answers differ from those of version {self._default} in {differences.told}; "
            f"allowed are {limit * 100:.4g} % of {differences.size}"
        )


class _Window:
    """The latest outcomes, at most `size`."""

    __slots__ = ("_outcomes", "bad", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.bad = 0
        self._outcomes: deque[bool] = deque(maxlen=size)

    def add(self, bad: bool) -> None:
        if len(self._outcomes) == self.size:
            self.bad -= self._outcomes[0]
        self._outcomes.append(bad)
        self.bad += bad

    @property
    def certain(self) -> float:
        """The share of bad ones that there will be at least when the window is full."""
        return self.bad / self.size

    @property
    def share(self) -> float:
        """Of bad ones, so far."""
        return self.bad / len(self._outcomes) if self._outcomes else 0.0

    @property
    def told(self) -> str:
        return f"{self.bad} of {len(self._outcomes)} requests"


class _Normal:
    """How the default version does."""

    def __init__(self, size: int) -> None:
        self.errors = _Window(size)
        self._size = max(size, _ENOUGH)
        self._runs: dict[int, deque[float]] = {}  # seconds, by the power of two that rows are below

    def ran(self, run_s: float, rows: int) -> None:
        self.errors.add(False)
        runs = self._runs.get(rows.bit_length())
        if runs is None:
            runs = self._runs[rows.bit_length()] = deque(maxlen=self._size)
        runs.append(run_s)

    def run_s(self, rows: int) -> float | None:
        """The median for about so many rows, or for more if there were none of these; None: not known yet."""
        enough = (b for b, runs in self._runs.items() if b >= rows.bit_length() and len(runs) >= _ENOUGH)
        bucket = min(enough, default=None)
        return None if bucket is None else median(self._runs[bucket])


class _Trial:
    """How a version on trial does."""

    def __init__(self, size: int) -> None:
        self.errors = _Window(size)
        self.slow = _Window(size)
        self.differences = _Window(size)
        self.runs: deque[float] = deque(maxlen=size)
        self.usual: deque[float] = deque(maxlen=size)  # what the default version takes for each of these

    def ran(self, run_s: float, usual_s: float, ratio: float) -> None:
        self.slow.add(run_s > ratio * usual_s)
        self.runs.append(run_s)
        self.usual.append(usual_s)
