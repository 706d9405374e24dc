"""How many users there are when. Pure; knows nothing of locust (`pace` tells it)."""

from collections.abc import Callable
from math import ceil

RAMP = 0.05  # of a soak, in which users come one after the other
SPIKE = 0.4, 0.6  # of the time
CALM = 0.1  # of the users, outside of a spike


def steady(share: float, most: int, steps: int) -> int:
    return most


def step(share: float, most: int, steps: int) -> int:
    """More users in equal steps, each as long as the others."""
    return ceil(most * min(steps, int(share * steps) + 1) / steps)


def spike(share: float, most: int, steps: int) -> int:
    """Few users, all at once in the middle, and few again: does it come back to where it was?"""
    return most if SPIKE[0] <= share < SPIKE[1] else max(1, round(CALM * most))


def soak(share: float, most: int, steps: int) -> int:
    return max(1, min(most, ceil(most * share / RAMP)))


# Each is given how much of the time has passed, 0 to 1, the most users that there may be, and a number of steps.
SHAPES: dict[str, Callable[[float, int, int], int]] = {"steady": steady, "step": step, "spike": spike, "soak": soak}
