"""What to load and unload next: a table of situations, and a made-up server that acts on every plan."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from serving.core.spec import Latest, ModelSpec
from serving.repository.policy import Held, Plan, is_settled, pause_s, plan, wanted
from tests.repository.build import LONG_AGO, found

LATEST, TWO, ALL = ModelSpec(), ModelSpec(versions=Latest(latest=2)), ModelSpec(versions="all")


def only(*numbers: int) -> ModelSpec:
    return ModelSpec(versions=numbers)


@pytest.mark.parametrize(
    ("spec", "there", "expected"),
    [
        (LATEST, {1, 2, 10}, {10}),
        (TWO, {1, 2, 10}, {2, 10}),
        (TWO, {1}, {1}),
        (ALL, {1, 2, 10}, {1, 2, 10}),
        (only(2, 5), {1, 2, 10}, {2}),
        (only(7), {1}, set()),
        (LATEST, set(), set()),
        (ALL, set(), set()),
    ],
)
def test_wanted(spec: ModelSpec, there: set[int], expected: set[int]) -> None:
    assert wanted(there, spec) == expected


@pytest.mark.parametrize(
    ("age_s", "quiet_s", "settle_s", "settled"),
    [
        (10.0, 0.0, 1.0, True),
        (1.0, 0.0, 1.0, True),
        (0.5, 0.0, 1.0, False),
        (0.5, 1.0, 1.0, True),  # watched for as long as it has to be
        (-3600.0, 0.0, 1.0, False),  # from the future: another machine's clock
        (-3600.0, 1.0, 1.0, True),
        (0.0, 0.0, 0.0, True),
        (-3600.0, 0.0, 0.0, True),
    ],
)
def test_settled(age_s: float, quiet_s: float, settle_s: float, settled: bool) -> None:
    assert is_settled(found(1), LONG_AGO + age_s, quiet_s, settle_s) is settled


# A table: `1a` is version 1 with content a. On disk, `?` marks files that have not settled; in memory, no mark means
# serving, `+` on its way up, `!` failed.


def on_disk(text: str) -> tuple[dict[int, object], set[int]]:
    words = text.split()
    return {int(w[0]): w[1] for w in words if not w.endswith("?")}, {int(w[0]) for w in words}


def in_memory(text: str) -> list[Held]:
    return [Held(int(w[0]), w[1], ready=len(w) == 2, failed=w.endswith("!")) for w in text.split()]


def decided(made: Plan) -> str:
    return " ".join(
        [f"load {n}" for n in made.load] + [f"unload {n}" for n in made.unload] + [f"forget {n}" for n in made.forget]
    )


@pytest.mark.parametrize(
    ("disk", "memory", "spec", "expected"),
    [
        # beginning
        ("", "", LATEST, ""),
        ("1a", "", LATEST, "load 1"),
        ("1a 2a 3a", "", LATEST, "load 3"),
        ("1a 2a 3a", "", TWO, "load 2 load 3"),
        ("1a 2a 3a", "", ALL, "load 1 load 2 load 3"),
        ("1a 2a 3a", "", only(1, 9), "load 1"),
        ("1a", "1a+", LATEST, ""),
        ("1a", "1a", LATEST, ""),
        # files that are still being written
        ("1a?", "", LATEST, ""),
        ("1a 2a?", "", LATEST, "load 1"),
        ("1a 2a?", "1a", LATEST, ""),
        # a new version: beside the old one, then instead of it
        ("1a 2a", "1a", LATEST, "load 2"),
        ("1a 2a", "1a 2a+", LATEST, ""),
        ("1a 2a", "1a 2a", LATEST, "unload 1"),
        ("1a 2a", "1a 2a", TWO, ""),
        ("1a 2a 3a", "1a 2a+", LATEST, "load 3"),
        ("1a 2a 3a", "1a 2a 3a+", LATEST, ""),
        ("1a 2a 3a", "1a 2a 3a", LATEST, "unload 1 unload 2"),
        ("1a 2a 3a", "1a 2a", TWO, "load 3"),
        ("1a 2a 3a", "1a 2a 3a", TWO, "unload 1"),
        # a new version that fails
        ("1a 2a", "1a 2a!", LATEST, ""),
        ("1a 2a", "2a!", LATEST, "load 1"),
        ("1a 2a 3a", "1a 2a 3a!", LATEST, "unload 1"),
        ("1a 2b", "1a 2a!", LATEST, "load 2 forget 2"),
        ("1a 2b?", "1a 2a!", LATEST, ""),
        ("1a", "1a 2a!", LATEST, "forget 2"),
        # removal
        ("1a", "1a 2a", LATEST, "unload 2"),
        ("", "1a", LATEST, ""),
        ("", "1a", ALL, ""),
        ("1a", "2a", LATEST, "load 1"),
        ("1a", "2a 1a+", LATEST, ""),
        ("1a", "2a 1a", LATEST, "unload 2"),
        ("2a", "1a 2a", ALL, "unload 1"),
        # changed in place
        ("1b", "1a", LATEST, "load 1"),
        ("1b?", "1a", LATEST, ""),
        ("1a 2b?", "1a 2a", ALL, ""),
        ("1a 2b?", "1a 2a", LATEST, "unload 1"),
        ("1b", "1a 1b+", LATEST, ""),
        ("1c", "1a 1b+", LATEST, ""),  # one at a time
        ("1c", "1b", LATEST, "load 1"),
        ("1b", "1a 1b!", LATEST, ""),
        ("1a 2b", "1a 2a 2b!", ALL, ""),
        ("1c", "1a 1b!", LATEST, "load 1 forget 1"),
        ("1a", "1a 1b!", LATEST, "forget 1"),
        # another wish
        ("1a 2a", "2a", only(1), "load 1"),
        ("1a 2a", "1a 2a", only(1), "unload 2"),
        ("1a 2a", "1a 2a", only(9), ""),  # nothing that is wanted could take over
    ],
)
def test_plan(disk: str, memory: str, spec: ModelSpec, expected: str) -> None:
    candidates, present = on_disk(disk)
    assert decided(plan(candidates, present, in_memory(memory), spec)) == expected


# A server that acts on every plan


@dataclass
class OnDisk:
    content: int
    settled: bool


def test_pauses_double_up_to_a_limit_and_differ() -> None:
    assert [pause_s(attempt, 60.0, 0.0) for attempt in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert pause_s(10_000, 60.0, 0.0) == 60.0
    assert pause_s(1, 0.5, 0.0) == 0.5
    assert [pause_s(3, 60.0, luck) for luck in (0.0, 0.5, 1.0)] == [4.0, 3.5, 3.0]


def test_a_pinned_version_that_vanished_stays_as_long_as_it_serves() -> None:
    """A label or a share of the traffic is its own: what is gone from the disk cannot be had back."""
    held = [Held(1, "a", ready=True, failed=False), Held(2, "b", ready=True, failed=False)]
    for pinned, unload in (({1}, ()), (set(), (1,))):
        assert plan({2: "b"}, {2}, held, ModelSpec(), pinned) == Plan((), unload, ())


class Server(RuleBasedStateMachine):
    """Versions come, change, settle and go; loads end well or badly; after each event the plan is carried out."""

    numbers = st.integers(1, 4)
    specs = st.sampled_from([LATEST, TWO, ALL, only(1, 3), only(2)])

    @initialize(spec=specs)
    def begin(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.disk: dict[int, OnDisk] = {}
        self.contents = 0
        self.live: dict[int, object] = {}  # number: content
        self.coming: dict[int, object] = {}
        self.failed: dict[int, object] = {}
        self.has_served = False

    # Events

    @rule(number=numbers, settled=st.booleans())
    def write(self, number: int, settled: bool) -> None:
        """A new version, or new files in an old one."""
        self.contents += 1
        self.disk[number] = OnDisk(self.contents, settled)
        self._act()

    @precondition(lambda self: self.disk)
    @rule(which=numbers)
    def settle(self, which: int) -> None:
        sorted(self.disk.items())[which % len(self.disk)][1].settled = True
        self._act()

    @precondition(lambda self: self.disk)
    @rule(which=numbers)
    def remove(self, which: int) -> None:
        del self.disk[sorted(self.disk)[which % len(self.disk)]]
        self._act()

    @rule(spec=specs)
    def change_wish(self, spec: ModelSpec) -> None:
        self.spec = spec
        self._act()

    @precondition(lambda self: self.coming)
    @rule(which=numbers, well=st.booleans())
    def end_a_load(self, which: int, well: bool) -> None:
        number = sorted(self.coming)[which % len(self.coming)]
        content = self.coming.pop(number)
        (self.live if well else self.failed)[number] = content
        self._act()

    def _act(self) -> None:
        candidates = {n: d.content for n, d in self.disk.items() if d.settled}
        held = [
            *(Held(n, f, ready=True, failed=False) for n, f in self.live.items()),
            *(Held(n, f, ready=False, failed=False) for n, f in self.coming.items()),
            *(Held(n, f, ready=False, failed=True) for n, f in self.failed.items()),
        ]
        todo = plan(candidates, self.disk.keys(), held, self.spec)
        for number in todo.forget:
            assert number not in self.disk or candidates[number] != self.failed[number]
            del self.failed[number]
        for number in todo.load:
            content = candidates[number]  # nothing is read before it has settled
            assert number not in self.coming, "loaded twice"
            assert self.live.get(number) != content, "loaded though it serves"
            assert self.failed.get(number) != content, "loaded though it failed"
            self.coming[number] = content
        for number in todo.unload:
            assert number not in self._target(), "unloaded though it is wanted"
            assert not todo.load, "unloaded before its successor came"
            del self.live[number]
        assert not (todo.unload and self.coming.keys() & self._target()), "unloaded while its successor came"

    def _target(self) -> set[int]:
        able = {n for n, d in self.disk.items() if d.settled and self.failed.get(n) != d.content}
        return wanted(able | (self.live.keys() & self.disk.keys()), self.spec)

    # What must hold

    @invariant()
    def who_has_served_goes_on_serving(self) -> None:
        self.has_served = self.has_served or bool(self.live)
        assert bool(self.live) == self.has_served

    def teardown(self) -> None:
        """When all is quiet, what serves is what is wanted, from the files that are there."""
        if not hasattr(self, "disk"):
            return
        for there in self.disk.values():
            there.settled = True
        self._act()
        while self.coming:
            self.end_a_load(0, well=True)
        target = self._target()
        if target:
            assert set(self.live) == target
            for number in target:
                assert self.disk[number].content in (self.live[number], self.failed.get(number))


TestServer: Callable[..., object] = Server.TestCase
TestServer.settings = settings(max_examples=150, stateful_step_count=30)  # type: ignore[attr-defined]
