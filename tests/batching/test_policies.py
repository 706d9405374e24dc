"""Policies by themselves; what the queue makes of them is in `test_queue_order`."""

from dataclasses import dataclass

import pytest

from serving.batching import policies
from serving.batching.cost import Cost
from serving.batching.policies import Adaptive, Continuous, FixedDelay, PolicySettings


@dataclass
class Arrivals:
    """One row at each of these times."""

    times: list[float]

    @property
    def rows(self) -> int:
        return len(self.times)

    @property
    def oldest(self) -> float:
        return self.times[0]

    def rows_by(self, time: float) -> int:
        return sum(each <= time for each in self.times)


WAITING = Arrivals([1.0, 2.0, 3.0, 9.0])


def test_continuous_takes_all_at_once_and_waits_only_if_told_to() -> None:
    assert Continuous(PolicySettings(8)).start(WAITING) == 1.0
    assert Continuous(PolicySettings(8)).rows(WAITING, Cost()) == 8
    assert Continuous(PolicySettings(8, delay_s=5.0)).start(WAITING) == 6.0
    assert Continuous(PolicySettings(4, delay_s=5.0)).start(WAITING) == 1.0, "a full batch waits for nobody"


def test_continuous_keeps_two_runs_within_the_objective() -> None:
    cost = Cost()
    cost.observe(1, 0.002)
    cost.observe(8, 0.009)
    assert Continuous(PolicySettings(64, slo_s=0.018)).rows(WAITING, cost) == 8
    assert Continuous(PolicySettings(64, slo_s=0.001)).rows(WAITING, cost) == 1


def test_fixed_delay_leaves_out_who_came_after_the_delay() -> None:
    policy = FixedDelay(PolicySettings(8, delay_s=2.0))
    assert policy.start(WAITING) == 3.0
    assert policy.rows(WAITING, Cost()) == 3
    assert FixedDelay(PolicySettings(2, delay_s=2.0)).rows(WAITING, Cost()) == 2


def test_adaptive_grows_while_runs_are_quick_and_shrinks_when_one_is_not() -> None:
    policy = Adaptive(PolicySettings(64, slo_s=0.1))
    assert policy.rows(WAITING, Cost()) == 1
    for rows in range(1, 20):
        policy.ran(rows, 0.01)
    assert policy.rows(WAITING, Cost()) == 20
    policy.ran(20, 0.06)
    assert policy.rows(WAITING, Cost()) == 18
    policy.ran(3, 0.01)
    assert policy.rows(WAITING, Cost()) == 18, "a run that was not full says nothing of larger ones"


def test_adaptive_never_exceeds_what_a_run_may_hold() -> None:
    policy = Adaptive(PolicySettings(4))
    for rows in [1, 2, 3, 4, 4, 4]:
        policy.ran(rows, 0.01)
    assert policy.rows(WAITING, Cost()) == 4


def test_find_names_what_there_is() -> None:
    assert policies.find("continuous") is Continuous
    with pytest.raises(ValueError, match=r"no batching policy 'nix'; there are adaptive, continuous, fixed_delay"):
        policies.find("nix")


def test_find_takes_those_of_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint, EntryPoints

    mine = EntryPoint("mine", "serving.batching.policies:FixedDelay", "serving.batching")
    monkeypatch.setattr(policies, "entry_points", lambda group: EntryPoints([mine]).select(group=group))
    assert policies.find("mine") is FixedDelay
