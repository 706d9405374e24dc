"""Token buckets: what may pass, in the long run and at once."""

from hypothesis import given
from hypothesis import strategies as st

from serving.transport.access.rates import Buckets, Rate


def test_a_burst_and_then_as_many_as_the_rate_allows() -> None:
    buckets, rate = Buckets(), Rate(per_s=2, burst=3)
    assert [buckets.take("a", rate, 10.0) for _ in range(5)] == [0, 0, 0, 0.5, 0.5]
    assert [buckets.take("a", rate, 10.5) for _ in range(2)] == [0, 0.5]
    assert [buckets.take("a", rate, 100.0) for _ in range(4)] == [0, 0, 0, 0.5]  # no more than a burst is kept


def test_each_name_has_its_own() -> None:
    buckets, rate = Buckets(), Rate(1, 1)
    assert [buckets.take(name, rate, 0.0) for name in "abab"] == [0, 0, 1, 1]


def test_another_rate_begins_anew_and_the_same_one_does_not() -> None:
    buckets = Buckets()
    assert buckets.take("a", Rate(1, 1), 0.0) == 0
    assert buckets.take("a", Rate(1, 1), 0.0) == 1
    assert buckets.take("a", Rate(1, 2), 0.0) == 0
    assert buckets.take("a", Rate(1, 2), 0.0) == 0
    assert buckets.take("a", Rate(1, 2), 0.0) == 1


@given(
    st.floats(0.1, 1000),
    st.integers(1, 50),
    st.lists(st.floats(0, 5), min_size=1, max_size=80),
)
def test_never_more_than_promised_and_who_waits_as_told_passes(per_s: float, burst: int, pauses: list[float]) -> None:
    buckets, rate, now, passed = Buckets(), Rate(per_s, burst), 0.0, 0
    for pause in pauses:
        now += pause
        wait_s = buckets.take("a", rate, now)
        if wait_s == 0:
            passed += 1
        else:
            now += wait_s * (1 + 1e-9) + 1e-9
            assert buckets.take("a", rate, now) == 0
            passed += 1
        assert passed <= burst + now * per_s + 1e-6
