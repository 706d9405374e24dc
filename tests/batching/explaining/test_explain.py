"""What is said of made-up accounts. Figures in the sentences are worked out by hand."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from serving.batching.cost import Cost
from serving.batching.explaining.account import Account, Refused, Snapshot
from serving.batching.explaining.advice import RULES, Settings
from serving.batching.explaining.explain import ENOUGH_RUNS, Report, explain
from serving.batching.item import Closed


class Story:
    """A batcher's life, told in runs, which are spread evenly over the seconds until it is asked."""

    def __init__(self, instances: int = 1, seconds: float = 50.0) -> None:
        self.now = 1000.0
        self.account = Account(instances, lambda: self.now)
        self.seconds = seconds
        self._events: list[Callable[[], None]] = []

    def runs(
        self, count: int, items: int = 1, rows: int | None = None, closed: Closed = Closed.FREE, **more: Any
    ) -> "Story":
        """So many equal runs; times are in seconds, `wait_s` of each request."""
        wait_s, run_s, padded = more.get("wait_s", 0.0), more.get("run_s", 0.001), more.get("padded", 0)
        size = items if rows is None else rows
        run = partial(self.account.ran, items, size, padded, closed, items * wait_s, wait_s, 0.0, run_s, 0.0)
        self._events += [run] * count
        return self

    def refused(self, cause: Refused, count: int) -> "Story":
        self._events += [partial(self.account.refused, cause)] * count
        return self

    def end(self) -> Snapshot:
        began = self.now
        for number, event in enumerate(self._events, 1):
            self.now = began + self.seconds * number / (len(self._events) + 1)
            event()
        self._events.clear()
        self.now = began + self.seconds
        return self.account.snapshot()

    def told(self, run_ms: float = 0.0, **settings: Any) -> Report:
        """`run_ms`: what the cost model says of a run: so much for each row, and as much again for the run."""
        known = Settings(**{"processors": 2, **settings})
        return explain(self.end(), known, lambda rows: run_ms / 1000 * (1 + rows))


def test_nothing_has_come() -> None:
    report = Story().told()
    assert report.what == ("No request has come so far.",) and report.advice == ()


def test_too_little_for_advice() -> None:
    report = Story().runs(3, wait_s=5.0).told()
    assert report.what[-1] == "3 runs so far say too little for advice." and report.advice == ()
    assert Story().runs(1).told().what[-1] == "1 run so far says too little for advice."


def test_what_it_did() -> None:
    story = Story().runs(60, 2, 3, wait_s=0.004, run_s=0.25).runs(40, 64, 64, Closed.FULL, wait_s=0.016, run_s=0.5)
    assert story.told().what == (
        "In the last 50 s: 2,680 requests with 2,740 rows in 100 runs; 54 requests/s, 27 rows a run, 64 at most.",
        "Runs closed because: 60 % an instance was free and took all that waited; 40 % they were full "
        "(max_batch_size 64).",
        "A request took 504 ms here, 15 ms of it waiting (16 ms at most). A run took 350 ms: 0.00 ms to join its "
        "requests, 350 ms to run, 0.00 ms to cut the answer apart.",
        "The instance was busy 70 % of the time.",
    )


def test_a_load_that_did_not_last() -> None:
    """What is said of it does not depend on how long ago it was."""
    story = Story(seconds=5).runs(500, run_s=0.0095, wait_s=0.1)
    story.end()
    story.now += 20
    report = story.told()
    assert report.what[0].startswith("In the last 30 s, with requests in 5 s of it: 500 requests in 500 runs; 100 ")
    assert report.what[-1] == "The instance was busy 95 % of that time."
    assert report.advice[0].startswith("The instance was busy 95 % of the time and runs had 1 rows")


def test_nothing_to_improve() -> None:
    report = Story().runs(100, wait_s=0.0001, run_s=0.0019).told()
    assert report.advice == ("Nothing to improve: requests wait 0.10 ms of 2.0 ms.",)


def test_all_time_is_told_where_the_last_minute_says_too_little() -> None:
    story = Story().runs(ENOUGH_RUNS + 5)
    story.end()
    story.now += 600
    report = story.runs(1).told()
    assert report.what[0].startswith("In all, in 12 min, with requests in 36 s of it: 36 requests in 36 runs; 1 ")
    assert report.recent.runs == 1 and report.told is report.total


def busy_and_full() -> Story:
    return Story().runs(100, 64, 64, Closed.FULL, wait_s=2.0, run_s=0.485)


def test_full_and_busy_instances_want_more_power() -> None:
    (power, *_) = busy_and_full().told(instances=1, threads=1).advice
    assert power == (
        "The instance was busy 97 % of the time and 100 % of the runs were full; requests waited 2.0 s: more instances "
        "or threads would help (1 of 2 processors are used)."
    )
    (power, *_) = busy_and_full().told(instances=1, threads=2).advice
    assert power.endswith("all 2 processors are used, so only a faster model or more machines would help.")
    (power, *_) = busy_and_full().told(processors=None).advice
    assert power.endswith("more instances would help if the device is not at its limit.")


def test_a_larger_batch_is_proposed_by_what_runs_cost() -> None:
    """A run takes 1 + rows times 0.1 ms: nothing is gained at 64 rows, much at 4."""
    advice = busy_and_full().told(run_ms=0.1).advice
    assert advice[1] == (
        "A larger max_batch_size would not help: by what was measured, a run of 128 rows takes 13 ms and one of 64 "
        "takes 6.5 ms, which is no more rows a second."
    )
    story = Story().runs(100, 4, 4, Closed.FULL, wait_s=2.0, run_s=0.485)
    assert story.told(run_ms=0.1, max_batch_size=4).advice[1] == (
        "Set max_batch_size to 8: by what was measured, a run of 8 rows takes 0.90 ms and one of 4 takes 0.50 ms, so "
        "11 % more rows a second."
    )


def test_where_nothing_is_known_of_costs_nothing_is_said_of_them() -> None:
    assert len(busy_and_full().told(run_ms=0.0).advice) == 1


def test_where_one_size_is_known_nothing_is_said_of_others() -> None:
    cost = Cost()
    cost.observe(64, 0.485)
    assert len(explain(busy_and_full().end(), Settings(processors=2), cost.estimate).advice) == 1
    cost.observe(8, 0.2)
    assert "by what was measured" in explain(busy_and_full().end(), Settings(processors=2), cost.estimate).advice[1]


def test_a_delay_that_brings_little() -> None:
    story = Story().runs(80, 2, 2, Closed.DELAY, wait_s=0.005).runs(20)
    assert story.told(run_ms=1, max_queue_delay_ms=5).advice == (
        "The delay of 5 ms was waited out in 80 % of the runs and brought 1 rows. Without it the instances would be "
        "busy less than 1 % of the time at most: set max_queue_delay_ms to 0.",
    )


def test_a_delay_that_is_needed_is_left_alone() -> None:
    """A run of one row takes 20 ms, and 100 requests come in a second: alone, they would not be through."""
    story = Story().runs(500, 10, 10, Closed.DELAY, wait_s=0.05, run_s=0.06)
    assert story.told(run_ms=10, max_queue_delay_ms=100).advice[0].startswith("Nothing to improve")


def test_a_delay_that_nobody_shares() -> None:
    story = Story().runs(100, 1, 1, Closed.DELAY, wait_s=0.005)
    assert story.told(max_queue_delay_ms=5).advice == (
        "The delay of 5 ms was waited out in 100 % of the runs and brought 0 rows: set max_queue_delay_ms to 0.",
    )


def test_requests_of_other_shapes() -> None:
    story = Story().runs(63, 2, 2, Closed.LANE).runs(37)
    (advice,) = story.told().advice
    assert advice.startswith("63 % of the runs closed at 2 rows because requests of other shapes")
    assert "declare 'padding'" in advice
    (advice,) = Story().runs(63, 2, 2, Closed.LANE).runs(37).told(padding=True).advice
    assert "fewer sizes in 'padding'" in advice


def test_padding_that_is_too_much() -> None:
    report = Story().runs(100, 5, 5, padded=11).told(allowed_batch_sizes=(1, 16))
    assert "Of the rows that were run, 69 % were padding." in report.what
    assert report.advice == (
        "69 % of the rows that were run were padding, and runs had 5 rows: add 5 to allowed_batch_sizes.",
    )


def test_allowed_sizes_that_leave_requests_behind() -> None:
    story = Story().runs(100, 16, 16, Closed.SIZE, run_s=0.5)
    assert story.told(allowed_batch_sizes=(16, 64)).advice[1].startswith("100 % of the runs left requests behind")


def test_an_objective_that_is_too_low() -> None:
    story = Story().runs(100, 8, 8, Closed.SLO, run_s=0.5)
    assert story.told(run_ms=1, slo_ms=20).advice[1] == (
        "slo_ms 20 kept 100 % of the runs at 8 rows, where one of 64 rows takes 65 ms: a higher slo_ms would let "
        "more requests through."
    )


def test_deadlines() -> None:
    (advice,) = Story().runs(100, 3, 3, Closed.DEADLINE).told().advice
    assert advice.startswith("100 % of the runs closed at 3 rows because a request could not have waited for more")


def test_a_full_queue_of_busy_instances() -> None:
    report = busy_and_full().refused(Refused.FULL, 1600).told(run_ms=0.1)
    assert "Of 8,000 requests, 1,600 (20 %) were refused since the queue was full (max_queue_rows 4096)." in report.what
    assert (
        "20 % of the requests were refused since 4096 rows waited, and instances were busy 97 % of the time; full runs "
        "do 9,846 rows/s at most. A longer queue would only make clients wait."
    ) in report.advice


def test_a_full_queue_of_idle_instances() -> None:
    (advice,) = Story().runs(100).refused(Refused.FULL, 100).told(max_queue_rows=8).advice
    assert advice == (
        "50 % of the requests were refused since 8 rows waited, although instances were busy less than 1 % of the "
        "time: a larger max_queue_rows would take the bursts."
    )


@pytest.mark.parametrize("cause", [Refused.HOPELESS, Refused.EXPIRED, Refused.CANCELLED])
def test_requests_whose_time_was_over(cause: Refused) -> None:
    report = Story().runs(75, wait_s=0.0).refused(cause, 25).told()
    assert any(sentence.startswith("Of 100 requests, 25 (25 %) ") for sentence in report.what)
    assert report.advice[0].startswith("25 % of the requests ran out of time before they ran")


def test_all_were_refused() -> None:
    report = Story().refused(Refused.EXPIRED, 100).told()
    assert report.what[0] == "In the last 50 s: no run."
    assert report.advice[0].startswith("100 % of the requests ran out of time")


def test_requests_that_may_not_share() -> None:
    (advice,) = Story().runs(100, closed=Closed.ALONE).told(max_batch_size=0, unbatched_because="axis 0 is 1").advice
    assert advice == (
        "100 % of the runs had one request that may not share a run, since this model is not batched (axis 0 is 1)."
    )
    (advice,) = Story().runs(100, 1, 200, Closed.ALONE).told().advice
    assert "it has more than 64 rows" in advice


def test_instances_that_nobody_needs() -> None:
    (advice,) = Story(instances=4).runs(100, run_s=0.2).told(instances=4).advice
    assert advice == (
        "The 4 instances were busy 10 % of the time and requests waited 0.00 ms of 200 ms: set instances to 1."
    )


def test_bursts() -> None:
    (advice,) = Story().runs(100, 10, 10, wait_s=0.02, run_s=0.002).told().advice
    assert advice.startswith("Requests waited 20 ms although instances were busy less than 1 % of the time")


@pytest.mark.parametrize("closed", list(Closed))
def test_each_reason_has_words(closed: Closed) -> None:
    report = Story().runs(100, closed=closed).told(slo_ms=5)
    assert report.what[1].startswith("Runs closed because: 100 % ")


def test_no_sentence_without_a_figure() -> None:
    every = busy_and_full().refused(Refused.FULL, 500).refused(Refused.EXPIRED, 500)
    for closed in Closed:
        every.runs(50, 4, 4, closed, padded=4)
    report = every.told(run_ms=0.1, max_queue_delay_ms=1, slo_ms=3, allowed_batch_sizes=(8, 64))
    assert len(report.advice) >= 3 and len(RULES) == 11
    assert all(any(letter.isdigit() for letter in sentence) for sentence in (*report.what, *report.advice))
