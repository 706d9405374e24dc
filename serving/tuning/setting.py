"""What is tried, and what came of it. Plain data."""

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Setting:
    """Those of a model's settings that are tuned. `max_batch_size` 0: its requests run one at a time."""

    instances: int = 1
    threads: int = 1
    max_batch_size: int = 64
    max_queue_delay_ms: float = 0.0

    def __str__(self) -> str:
        split = f"{self.instances} x {self.threads}"
        if not self.max_batch_size:
            return split
        return f"{split}, batch {self.max_batch_size}, delay {self.max_queue_delay_ms:g} ms"

    @property
    def values(self) -> dict[str, int | float]:
        """As `model.yaml` has them."""
        split: dict[str, int | float] = {"instances": self.instances, "threads": self.threads}
        if not self.max_batch_size:
            return split
        delay = self.max_queue_delay_ms
        batch = {
            "max_batch_size": self.max_batch_size,
            "max_queue_delay_ms": int(delay) if delay == int(delay) else delay,
        }
        return batch | split


@dataclass(frozen=True)
class Trial:
    """Requests that were sent at random times at a mean `rate`. Latencies count from when each was meant to be sent.

    `sent` is all that should have been answered; `p99_ms` as `offered.typical_p99` has it; `rows_per_run` the mean.
    """

    rate: float
    seconds: float
    sent: int
    answered: int
    p50_ms: float
    p99_ms: float
    rows_per_run: float

    def holds(self, p99_ms: float) -> bool:
        return self.answered == self.sent > 0 and self.p99_ms <= p99_ms


@dataclass(frozen=True)
class Outcome:
    """What came of one setting.

    `best` is the trial that counts, if one held the bound. `capacity`: requests per second with as many in flight as
    fill the batches twice, whatever their latency; 0: not measured. `lost`: it was not measured to the end, because
    another one is better.
    """

    setting: Setting
    trials: tuple[Trial, ...] = ()
    best: Trial | None = None
    capacity: float = 0.0
    lost: bool = False
