"""How often a key may be used: a token bucket for each. Pure; time is an argument."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    """`burst` requests at once, and `per_s` in the long run."""

    per_s: float
    burst: int


@dataclass(slots=True)
class _Bucket:
    rate: Rate
    left: float
    at: float


class Buckets:
    """By name, so that what was used is not forgotten when keys are read again."""

    def __init__(self) -> None:
        self._buckets: dict[str, _Bucket] = {}

    def take(self, name: str, rate: Rate, now: float) -> float:
        """Takes one request out.

        Args:
            now: in seconds, on a clock that never goes back.

        Returns:
            0.0, or the seconds after which there will be one to take, in which case none was taken.
        """
        bucket = self._buckets.get(name)
        if bucket is None or bucket.rate != rate:
            bucket = self._buckets[name] = _Bucket(rate, float(rate.burst), now)
        bucket.left = min(bucket.left + (now - bucket.at) * rate.per_s, float(rate.burst))
        bucket.at = now
        if bucket.left < 1.0:
            return (1.0 - bucket.left) / rate.per_s
        bucket.left -= 1.0
        return 0.0
