"""Which models sleep, and in what order."""

import pytest

from serving.repository.routing.idle import Usage, due, look_s, spare

MODELS = [Usage("a", 30.0, 1), Usage("b", 0.0, 2), Usage("c", 100.0, 3), Usage("d", 99.9, 4), Usage("e", 9.9, 5)]


def test_due_is_what_was_not_asked_for_long_enough() -> None:
    assert due(MODELS, 100.0) == ["c"]
    assert due(MODELS, 30.0) == ["a", "c", "d"]
    assert due([], 1.0) == []


def test_what_was_not_asked_for_longest_goes_first_and_what_is_in_use_not_at_all() -> None:
    assert [usage.model for usage in spare(MODELS, 100.0)] == ["c", "d", "a"]
    assert [usage.model for usage in spare(MODELS, 99.0)] == ["c", "d", "a", "e"]
    assert spare(MODELS, 1001.0) == []


@pytest.mark.parametrize(("limit_s", "seconds"), [(0.1, 0.05), (5.0, 0.5), (600.0, 10.0)])
def test_looks_are_as_frequent_as_the_time_is_short(limit_s: float, seconds: float) -> None:
    assert look_s(limit_s) == seconds
