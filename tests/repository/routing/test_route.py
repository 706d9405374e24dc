"""Who answers a request that names no version: by shares, by key, and by what is ready."""

import random
from collections import Counter
from math import lgamma, log

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.core.traffic import Shadow, Traffic
from serving.repository.routing.route import Routing, number_of, route
from serving.repository.version import Version
from tests.repository.build import version

KEYS = [f"user-{i}" for i in range(2000)]
LABELS = {"stable": 1, "canary": 2}


def ready(*numbers: int) -> dict[int, Version]:
    return {number: version(number) for number in numbers}


def routed(
    traffic: Traffic | None, *numbers: int, labels: dict[str, int] | None = None, model: str = "m"
) -> Routing | None:
    return route(model, traffic, LABELS if labels is None else labels, ready(*numbers))


def must(traffic: Traffic | None, *numbers: int, labels: dict[str, int] | None = None, model: str = "m") -> Routing:
    found = routed(traffic, *numbers, labels=labels, model=model)
    assert found is not None
    return found


def shared(**weights: float) -> Traffic:
    return Traffic(weights={name.lstrip("_"): weight for name, weight in weights.items()})


def picked(routing: Routing, key: str | None = None) -> int:
    found = routing.pick(key)
    assert found is not None
    return found.number


@pytest.mark.parametrize(
    ("name", "number"), [("stable", 1), ("canary", 2), ("7", 7), ("3", 4), ("nosuch", None), ("²", None), ("-1", None)]
)
def test_what_a_name_means(name: str, number: int | None) -> None:
    assert number_of(name, {**LABELS, "3": 4}) == number


@pytest.mark.parametrize(
    "traffic",
    [
        None,
        Traffic(),
        Traffic(sticky="x-user"),
        shared(nosuch=1),
        Traffic(shadow=Shadow(to="nosuch")),
        Traffic(weights={"nosuch": 1}, shadow=Shadow(to="neither")),
    ],
)
def test_nothing_to_route_by(traffic: Traffic | None) -> None:
    assert routed(traffic, 1, 2) is None


@pytest.mark.parametrize(
    ("traffic", "numbers", "shares", "default", "trials"),
    [
        (shared(stable=95, canary=5), (1, 2), {1: 0.95, 2: 0.05}, 1, [2]),
        (shared(stable=3, canary=1), (1, 2), {1: 0.75, 2: 0.25}, 1, [2]),
        (shared(stable=40, canary=60), (1, 2), {1: 0.4, 2: 0.6}, 1, [2]),  # far on in its rollout, and still on trial
        (shared(stable=0, canary=1), (1, 2), {2: 1.0}, 2, []),
        (shared(_3=30, _4=60, _5=10), (3, 4, 5), {3: 0.3, 4: 0.6, 5: 0.1}, 4, [3, 5]),
        (shared(_3=1, _4=1), (3, 4), {3: 0.5, 4: 0.5}, 3, [4]),
        (shared(stable=1, _1=1, canary=2), (1, 2), {1: 0.5, 2: 0.5}, 1, [2]),  # two names for one version
        # What is not ready is shared out over the others, in proportion.
        (shared(stable=95, canary=5), (1,), {1: 1.0}, 1, []),
        (shared(stable=95, canary=5), (2, 3), {2: 1.0}, 2, []),
        (shared(_3=30, _4=60, _5=10), (3, 5, 6), {3: 0.75, 5: 0.25}, 3, [5]),
        # A label that nobody has is left out, too.
        (shared(stable=50, nosuch=50), (1, 2), {1: 1.0}, 1, []),
        # A version that nobody asked for does not step in.
        (shared(stable=100), (2, 3), {}, None, []),
        (shared(stable=100), (), {}, None, []),
    ],
)
def test_what_each_version_gets(
    traffic: Traffic, numbers: tuple[int, ...], shares: dict[int, float], default: int | None, trials: list[int]
) -> None:
    routing = must(traffic, *numbers)
    assert dict(routing.shares) == pytest.approx(shares)
    assert (routing.default.number if routing.default else None) == default
    assert list(routing.trials) == trials
    if default is None:
        assert routing.pick() is None and routing.pick("key") is None
    else:
        assert {picked(routing) for _ in range(200)} <= set(shares)


@pytest.mark.parametrize(
    ("weights", "to", "numbers", "default", "target"),
    [
        ({"stable": 1}, "canary", (1, 2), 1, 2),
        ({}, "canary", (1, 2), 1, 2),  # the highest, but not the one that is only there for copies
        ({}, "2", (1, 2, 3), 3, 2),
        ({"stable": 90, "canary": 10}, "canary", (1, 2), 1, 2),
        ({"stable": 1}, "canary", (1,), 1, None),
        ({"stable": 1}, "stable", (1, 2), 1, None),
        ({"stable": 1}, "nosuch", (1, 2), 1, None),
        ({"stable": 1}, "canary", (2,), None, None),
        ({}, "canary", (2,), None, None),  # nor does it step in
    ],
)
def test_who_gets_copies(
    weights: dict[str, float], to: str, numbers: tuple[int, ...], default: int | None, target: int | None
) -> None:
    traffic = Traffic(weights=weights, shadow=Shadow(to=to, percent=10))
    routing = must(traffic, *numbers)
    assert (routing.default.number if routing.default else None) == default
    assert (routing.shadow[0].number if routing.shadow else None) == target
    assert (target is not None) == (target in routing.trials)
    if routing.shadow:
        assert routing.shadow[1] is traffic.shadow


def test_requests_without_a_key_are_drawn_by_weight() -> None:
    routing = must(shared(_1=50, _2=30, _3=20), 1, 2, 3)
    drawn = Counter(v.number for i in range(1000) if (v := routing.pick(draw=lambda i=i: i / 1000)))
    assert drawn == {1: 500, 2: 300, 3: 200}
    assert {v.number for v in [routing.pick(draw=lambda: 1 - 2**-53)] if v} == {3}


def test_a_canary_gets_its_share_of_10000_requests() -> None:
    routing, draw = must(shared(stable=95, canary=5), 1, 2), random.Random(0).random
    canary = sum(version.number == 2 for _ in range(10_000) if (version := routing.pick(draw=draw)))
    assert _within(canary, 10_000, 0.05)


def test_keys_are_shared_out_by_weight() -> None:
    routing = must(shared(stable=80, canary=20), 1, 2)
    assert _within(sum(picked(routing, key) == 2 for key in KEYS), len(KEYS), 0.2)


def test_a_key_stays_with_its_version_also_on_another_server() -> None:
    """The answer of today is written down: a server that started anew has nothing else to go by."""
    routing = must(shared(stable=50, canary=50), 1, 2, model="digits")
    assert [picked(routing, f"user-{i}") for i in range(16)] == [1, 1, 2, 2, 1, 1, 2, 1, 2, 2, 1, 1, 1, 2, 2, 2]
    again = must(shared(canary=50, stable=50), 1, 2, model="digits")
    assert [picked(again, key) for key in KEYS] == [picked(routing, key) for key in KEYS]


def test_who_has_the_canary_of_one_model_is_not_who_has_that_of_another() -> None:
    a, b = (must(shared(stable=80, canary=20), 1, 2, model=name) for name in ("a", "b"))
    both = sum(picked(a, key) == picked(b, key) == 2 for key in KEYS)
    assert _within(both, len(KEYS), 0.04)


def test_any_key_will_do() -> None:
    routing = must(shared(stable=50, canary=50), 1, 2)
    for key in ("", "ü", "\0", "\ud800", "x" * 10_000):
        assert picked(routing, key) == picked(routing, key)


WEIGHT = st.integers(1, 1000)


@settings(max_examples=30, deadline=None)
@given(st.lists(WEIGHT, min_size=2, max_size=5), st.data())
def test_a_weight_that_grows_takes_users_and_loses_none(weights: list[int], data: st.DataObject) -> None:
    """And no user is moved between two versions whose weights did not change."""
    grown = data.draw(st.integers(0, len(weights) - 1))
    more = [w + data.draw(WEIGHT) if i == grown else w for i, w in enumerate(weights)]
    numbers = range(1, len(weights) + 1)
    before, after = (
        must(Traffic(weights={str(n): w for n, w in zip(numbers, each, strict=True)}), *numbers)
        for each in (weights, more)
    )
    for key in KEYS[:200]:
        was, is_now = picked(before, key), picked(after, key)
        assert is_now in (was, grown + 1)


@settings(max_examples=30, deadline=None)
@given(st.lists(WEIGHT, min_size=2, max_size=5), st.data())
def test_a_version_that_goes_hands_over_its_own_users_only(weights: list[int], data: st.DataObject) -> None:
    numbers = range(1, len(weights) + 1)
    gone = data.draw(st.sampled_from(numbers))
    traffic = Traffic(weights={str(n): w for n, w in zip(numbers, weights, strict=True)})
    before, after = must(traffic, *numbers), must(traffic, *(n for n in numbers if n != gone))
    for key in KEYS[:200]:
        was = picked(before, key)
        assert picked(after, key) == was or was == gone


def test_a_label_that_moves_takes_its_users_along() -> None:
    traffic = shared(stable=80, canary=20)
    before = must(traffic, 1, 2, 3)
    after = must(traffic, 1, 2, 3, labels={"stable": 1, "canary": 3})
    assert [picked(after, key) for key in KEYS] == [{1: 1, 2: 3}[picked(before, key)] for key in KEYS]


def _within(count: int, of: int, share: float) -> bool:
    """Whether so few or many are to be had by chance: neither tail, as it is exactly, is below one in a million."""

    def probability(k: int) -> float:
        return 2.718281828459045 ** (
            lgamma(of + 1) - lgamma(k + 1) - lgamma(of - k + 1) + k * log(share) + (of - k) * log(1 - share)
        )

    low = sum(probability(k) for k in range(count + 1))
    return 1e-6 < low < 1 - 1e-6
