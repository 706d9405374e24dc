"""A bench that measures nothing: what settings come to follows from a formula, and so does the time that it takes."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from serving.tuning.setting import Setting, Trial


@dataclass
class Pretend:
    """A run of n rows takes `fixed_ms` and `row_ms` for each; a processor more brings `gain` times as much.

    Attributes:
        luck: what a latency is multiplied with, by the number of trials of that setting so far.
    """

    fixed_ms: float = 1.0
    row_ms: float = 0.2
    gain: float = 1.8
    luck: Callable[[Setting, int], float] = lambda _setting, _number: 1.0
    now: float = 100.0
    asked: list[Setting] = field(default_factory=list)
    trials: dict[Setting, int] = field(default_factory=dict)

    def clock(self) -> float:
        return self.now

    def run_ms(self, setting: Setting) -> float:
        rows = max(setting.max_batch_size, 1)
        return (self.fixed_ms + self.row_ms * rows) / (1 + (self.gain - 1) * 0.5 * (setting.threads > 1))

    def per_s(self, setting: Setting) -> float:
        split = self.gain if setting.instances > 1 else 1.0
        return 1000 * split * max(setting.max_batch_size, 1) / self.run_ms(setting)

    def capacity(self, setting: Setting, seconds: float) -> float:
        self.now += seconds
        self.asked.append(setting)
        return self.per_s(setting)

    def trial(self, setting: Setting, rate: float, seconds: float) -> Trial:
        """Waiting grows without limit at the capacity; the delay adds to it."""
        self.now += seconds
        number = self.trials[setting] = self.trials.get(setting, 0) + 1
        load = rate / self.per_s(setting)
        p99 = math.inf
        if load < 1:
            p99 = (self.run_ms(setting) / (1 - load) + setting.max_queue_delay_ms) * self.luck(setting, number)
        sent = max(1, round(rate * seconds))
        return Trial(rate, seconds, sent, sent if load < 1 else sent // 2, p99 / 2, p99, setting.max_batch_size * load)
