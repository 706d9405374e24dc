"""A loop that is held up is seen to be late."""

import asyncio
import time

from serving.core.metrics import Histogram
from serving.observe.lag import Lag


class Looks(Histogram):
    """Says when something was observed."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        super().__init__(bounds)
        self.seen = asyncio.Event()

    def observe(self, value: float) -> None:
        super().observe(value)
        self.seen.set()


def test_a_busy_loop_is_late() -> None:
    async def main() -> None:
        looks = Looks((0.1, 1.0))
        lag = Lag(looks, every_s=0.01)
        time.sleep(0.2)  # noqa: ASYNC251  # the loop cannot run meanwhile
        await looks.seen.wait()
        assert looks.counts[0] == 0 and looks.total > 0.1
        looks.seen.clear()
        await looks.seen.wait()  # it goes on
        lag.close()
        looks.seen.clear()
        await asyncio.sleep(0.03)
        assert not looks.seen.is_set()

    asyncio.run(main())
