"""Which versions are worth a download."""

from typing import Any

import pytest

from serving.core.spec import Latest, ModelSpec
from serving.repository.remote.needs import needed


@pytest.mark.parametrize(
    ("versions", "more", "numbers"),
    [
        (Latest(), {}, {4, 5}),  # the latest, and the one before
        (Latest(latest=2), {}, {3, 4, 5}),
        (Latest(latest=9), {}, {1, 2, 3, 4, 5}),
        ("all", {}, {1, 2, 3, 4, 5}),
        ((2, 4, 7), {}, {2, 4}),  # what is asked for by number, and nothing else
        (Latest(), {"failed": [5]}, {3, 4, 5}),  # its reason stays to be seen, and another one comes
        (Latest(), {"failed": [4, 5]}, {2, 3, 4, 5}),
        (Latest(), {"failed": [1, 2, 3, 4, 5]}, {1, 2, 3, 4, 5}),
        (Latest(), {"pinned": [1, 9]}, {1, 4, 5}),
        (Latest(), {"live": [2, 9]}, {2, 4, 5}),  # until another one serves
    ],
)
def test_needed(versions: Any, more: dict[str, Any], numbers: set[int]) -> None:
    assert needed(range(1, 6), ModelSpec(versions=versions), **more) == numbers


def test_of_nothing() -> None:
    assert needed([], ModelSpec(), pinned=[1], failed=[2], live=[3]) == set()
    assert needed([7], ModelSpec()) == {7}
