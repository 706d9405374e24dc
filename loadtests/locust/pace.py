"""Tells locust how many users there shall be now."""

from typing import Any

from locust import LoadTestShape

from loadtests.locust.shapes import SHAPES


class Shape(LoadTestShape):  # type: ignore[misc]
    """One of SHAPES, for `seconds`."""

    use_common_options = True

    def __init__(self, name: str, seconds: float, most: int, steps: int) -> None:
        super().__init__()
        self._users = SHAPES[name]
        self._seconds, self._most, self._steps = seconds, most, steps

    def tick(self) -> tuple[int, float] | None:
        passed: Any = self.get_run_time()
        if passed >= self._seconds:
            return None
        return self._users(passed / self._seconds, self._most, self._steps), float(self._most)
