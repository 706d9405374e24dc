"""Labels, shares, promotion and rollback: what follows from what, and that it is done with real models."""

import asyncio
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from serving.core.errors import ErrorKind, ServingError
from serving.core.traffic import Limits, Shadow, Traffic
from serving.repository.control.events import Event, Kind
from serving.repository.control.orders import Rollout
from serving.repository.control.rollouts import Standing, described, labelled, promoted, restored, without
from serving.repository.control.state import Store
from serving.repository.routing.judge import Verdict
from tests.batching.control import on_loop, turns
from tests.repository.build import add_version, corrupt_version
from tests.repository.test_manager import HeldLoad, Served, serving

LIMITS = Limits(requests=10, error_rate=0.1)
CANARY = Traffic(weights={"stable": 95, "canary": 5}, sticky="x-user", limits=LIMITS)
ALL_TO_STABLE = Traffic(weights={"stable": 100}, sticky="x-user", limits=LIMITS)


def standing(
    traffic: Traffic | None = None,
    default: int | None = 1,
    before: tuple[int, ...] = (),
    set_by_hand: bool = True,
    **labels: int,
) -> Standing:
    """As operators have set it, or as the model's settings say."""
    rollout = Rollout(labels, traffic, before) if set_by_hand else Rollout(before=before)
    return Standing(rollout, labels, traffic, default)


@pytest.mark.parametrize(
    ("now", "number", "then"),
    [
        # The first promotion of all.
        (standing(), 1, Rollout({"stable": 1}, Traffic(weights={"stable": 100}))),
        (standing(default=None), 4, Rollout({"stable": 4}, Traffic(weights={"stable": 100}))),
        # A canary takes over; what the model's settings called canary is so no more.
        (
            standing(CANARY, stable=1, canary=2),
            2,
            Rollout({"stable": 2, "canary": None}, ALL_TO_STABLE, (1,)),
        ),
        (
            standing(CANARY, set_by_hand=False, stable=1, canary=2),
            2,
            Rollout({"stable": 2, "canary": None}, ALL_TO_STABLE, (1,)),
        ),
        # Another than the canary, whose trial ends by that; other labels stay.
        (
            standing(CANARY, 1, (7,), stable=1, canary=2, old=7),
            3,
            Rollout({"stable": 3, "canary": None, "old": 7}, ALL_TO_STABLE, (7, 1)),
        ),
        # Again, and once more what had been stable before.
        (standing(ALL_TO_STABLE, 2, (1,), stable=2), 2, Rollout({"stable": 2}, ALL_TO_STABLE, (1,))),
        (standing(ALL_TO_STABLE, 3, (1, 2), stable=3), 1, Rollout({"stable": 1}, ALL_TO_STABLE, (2, 3))),
        # Weights by number.
        (
            standing(Traffic(weights={"1": 9, "2": 1}, shadow=Shadow(to="3"))),
            2,
            Rollout({"stable": 2}, Traffic(weights={"stable": 100}), (1,)),
        ),
    ],
)
def test_a_version_that_is_promoted_takes_all(now: Standing, number: int, then: Rollout) -> None:
    assert promoted(now, number) == then


def test_only_so_many_earlier_versions_are_remembered() -> None:
    now = standing(ALL_TO_STABLE, 50, tuple(range(1, 50)), stable=50)
    before = promoted(now, 51).before
    assert len(before) == 20 and before[-1] == 50


@pytest.mark.parametrize(
    ("now", "number", "then"),
    [
        (
            standing(CANARY, 1, (7,), stable=1, canary=2),
            1,
            Rollout({"stable": 1, "canary": None}, ALL_TO_STABLE, (7,)),
        ),
        (standing(ALL_TO_STABLE, 3, (1, 2), stable=3), 2, Rollout({"stable": 2}, ALL_TO_STABLE, (1,))),
        (standing(ALL_TO_STABLE, 3, (1, 2), stable=3), 1, Rollout({"stable": 1}, ALL_TO_STABLE)),
        (standing(default=3), 2, Rollout({"stable": 2}, Traffic(weights={"stable": 100}))),
        (
            standing(Traffic(shadow=Shadow(to="2"))),
            1,
            Rollout({"stable": 1}, Traffic(weights={"stable": 100})),
        ),
    ],
)
def test_an_earlier_version_that_is_restored_takes_all(now: Standing, number: int, then: Rollout) -> None:
    assert restored(now, number) == then


@pytest.mark.parametrize(
    ("now", "gone", "then"),
    [
        (
            standing(CANARY, stable=1, canary=2),
            2,
            Rollout({"stable": 1, "canary": None}, CANARY.model_copy(update={"weights": {"stable": 95}}), ()),
        ),
        # Of three, the others keep what they have.
        (
            standing(Traffic(weights={"1": 80, "2": 10, "3": 10}), before=(4,)),
            3,
            Rollout({}, Traffic(weights={"1": 80, "2": 10}), (4,)),
        ),
        # All of its names; other labels of it do no harm, and stay.
        (
            standing(Traffic(weights={"1": 80, "2": 10, "next": 10}), next=2, other=2),
            2,
            Rollout({"next": 2, "other": 2}, Traffic(weights={"1": 80})),
        ),
        # The shadow ends with it, and not with another.
        (
            standing(Traffic(weights={"1": 9, "2": 1}, shadow=Shadow(to="2"))),
            2,
            Rollout({}, Traffic(weights={"1": 9})),
        ),
        (
            standing(Traffic(weights={"1": 9, "2": 1}, shadow=Shadow(to="3"))),
            2,
            Rollout({}, Traffic(weights={"1": 9}, shadow=Shadow(to="3"))),
        ),
        # Without any weights the highest version would take all, which is the one that has to go.
        (
            standing(Traffic(shadow=Shadow(to="2"), limits=LIMITS)),
            2,
            Rollout({"stable": 1}, Traffic(weights={"stable": 100}, limits=LIMITS)),
        ),
        (
            standing(Traffic(weights={"2": 1, "nosuch": 1}), default=1),
            2,
            Rollout({"stable": 1}, Traffic(weights={"stable": 100})),
        ),
    ],
)
def test_a_version_that_has_to_go_gets_nothing_more(now: Standing, gone: int, then: Rollout) -> None:
    assert without(now, gone) == then


def test_a_label_goes_on_top_of_the_settings() -> None:
    now = Standing(Rollout({"old": 1}), {"old": 1, "canary": 2}, None, 1)
    assert labelled(now, "canary", 3).labels == {"old": 1, "canary": 3}
    assert labelled(now, "canary", None).labels == {"old": 1, "canary": None}


@pytest.mark.parametrize(
    ("traffic", "labels", "trials"),
    [
        (None, {}, {}),
        (CANARY, {"stable": 1, "canary": 2}, {"canary": 2}),
        (CANARY, {"stable": 1}, {}),
        (ALL_TO_STABLE, {"stable": 1}, {}),
        (Traffic(weights={"1": 1, "2": 0}), {}, {}),
        (Traffic(weights={"1": 1, "2": 0}, shadow=Shadow(to="2")), {}, {"2": 2}),
        (Traffic(shadow=Shadow(to="1")), {}, {}),
    ],
)
def test_what_is_on_trial(traffic: Traffic | None, labels: dict[str, int], trials: dict[str, int]) -> None:
    assert Standing(Rollout(), labels, traffic, 1).trials == trials


@pytest.mark.parametrize(
    ("traffic", "words"),
    [
        (CANARY, "stable 95, canary 5, sticky by x-user"),
        (Traffic(shadow=Shadow(to="2", percent=12.5)), "all to the highest version, copies of 12.5 % to 2"),
    ],
)
def test_shares_in_words(traffic: Traffic, words: str) -> None:
    assert described(traffic) == words


# With real models


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """The model m with versions 1 to 3, each of which multiplies by its number."""
    for number in (1, 2, 3):
        add_version(tmp_path / "repo", number)
    return tmp_path / "repo"


async def happened(served: Served, *kinds: Kind) -> list[tuple[str, int | None, str]]:
    events: list[Event] = await served.manager.events()
    return [(e.kind.value, e.version, e.text) for e in events if e.kind in kinds]


async def factors(served: Served, requests: int = 200) -> Counter[float]:
    return Counter([await served.factor() for _ in range(requests)])


async def refused(change: Any) -> tuple[ErrorKind, str]:
    with pytest.raises(ServingError) as error:
        await change
    return error.value.kind, error.value.message


@on_loop
async def test_a_rollout_and_a_rollback(repo: Path) -> None:
    """Versions that the policy does not want are loaded when they are needed, and stay for as long as they are."""
    async with serving(repo) as served:
        assert served.states() == {"m/3": "READY"}
        await served.manager.promote("m", "2")
        assert served.states()["m/2"] == "READY" and await factors(served) == {2: 200}
        await served.manager.label("m", "canary", 3)
        assert await factors(served) == {2: 200}
        await served.manager.share("m", Traffic(weights={"stable": 1, "canary": 1}))
        assert set(await factors(served)) == {2, 3}
        await served.manager.promote("m")
        assert await factors(served) == {3: 200}
        await served.settle()
        assert served.states() == {"m/3": "READY"}
        assert served.engine.catalog.models["m"].labels == {"stable": 3}
        await served.manager.rollback("m")
        assert await factors(served) == {2: 200}
        await served.manager.rollback("m")  # nothing was stable before that
        assert await factors(served) == {1: 200}
        assert await happened(served, Kind.PROMOTED, Kind.LABELLED, Kind.TRAFFIC, Kind.ROLLED_BACK) == [
            ("promoted", 2, "stable was 3"),
            ("labelled", 3, "'canary'"),
            ("traffic", None, "stable 1, canary 1"),
            ("promoted", 3, "stable was 2"),
            ("rolled_back", 3, "by hand: version 2 takes all requests"),
            ("rolled_back", 2, "by hand: version 1 takes all requests"),
        ]
        assert served.always_served()


@on_loop
async def test_what_appears_after_a_promotion_waits_for_its_own(repo: Path) -> None:
    async with serving(repo) as served:
        await served.manager.promote("m")
        add_version(repo, 4)
        await served.settle()
        assert served.states() == {"m/3": "READY", "m/4": "READY"}
        assert await factors(served) == {3: 200} and await served.factor(number=4) == 4
        await served.manager.promote("m")
        assert await factors(served) == {4: 200}


@on_loop
async def test_a_rollback_ends_what_is_on_trial(repo: Path) -> None:
    async with serving(repo) as served:
        await served.manager.promote("m", "1")
        await served.manager.label("m", "canary", 3)
        await served.manager.share("m", Traffic(weights={"stable": 40, "canary": 60}, sticky="x-user"))
        await served.manager.rollback("m")
        assert await factors(served) == {1: 200}
        model = served.engine.catalog.models["m"]
        assert model.labels == {"stable": 1} and served.engine.catalog.sticky("m") == "x-user"
        assert (await happened(served, Kind.ROLLED_BACK)) == [
            ("rolled_back", 3, "by hand: version 1 takes all requests")
        ]


@on_loop
async def test_a_rollback_goes_to_what_is_there(repo: Path) -> None:
    """By itself to versions that are on disk, in the order in which they were stable; or to the next lower one."""
    async with serving(repo) as served:
        for number in ("1", "2", "3"):
            await served.manager.promote("m", number)
        shutil.rmtree(repo / "m" / "2")
        await served.settle()
        await served.manager.rollback("m")
        assert await factors(served) == {1: 200}
    async with serving(repo) as served:
        await served.manager.rollback("m")
        assert await factors(served) == {1: 200}
        kind, text = await refused(served.manager.rollback("m"))
        assert kind is ErrorKind.PRECONDITION and text == "model 'm': there is no version before 1"
        await served.manager.rollback("m", "3")
        assert await factors(served) == {3: 200}


@on_loop
async def test_a_change_to_a_version_that_cannot_be_loaded_changes_nothing(repo: Path) -> None:
    corrupt_version(repo, 4)
    async with serving(repo) as served:
        await served.manager.promote("m", "3")
        for change in (
            served.manager.promote("m", "4"),
            served.manager.rollback("m", "4"),
            served.manager.label("m", "canary", 4),
            served.manager.share("m", Traffic(weights={"3": 1, "4": 1})),
            served.manager.share("m", Traffic(shadow=Shadow(to="4"))),
        ):
            kind, text = await refused(change)
            assert kind is ErrorKind.PRECONDITION
            assert text.startswith("model 'm': version 4 cannot be loaded: ")
        assert await factors(served) == {3: 200}
        assert served.engine.catalog.models["m"].labels == {"stable": 3}
        assert len(await happened(served, Kind.PROMOTED, Kind.ROLLED_BACK, Kind.LABELLED, Kind.TRAFFIC)) == 1


@on_loop
async def test_what_cannot_be_asked_for(repo: Path) -> None:
    async with serving(repo) as served:
        manager = served.manager
        await manager.promote("m")
        stable = Traffic(weights={"stable": 1, "nosuch": 1})
        for change, kind, text in (
            (manager.promote("nosuch"), ErrorKind.NOT_FOUND, "unknown model 'nosuch'"),
            (manager.promote("m", "9"), ErrorKind.NOT_FOUND, "model 'm': version 9 is not found"),
            (manager.promote("m", "beta"), ErrorKind.NOT_FOUND, "model 'm': no label 'beta'; there are stable"),
            (
                manager.promote("m"),
                ErrorKind.PRECONDITION,
                "model 'm': version 3 is stable already, and no higher one is ready",
            ),
            (manager.share("m", stable), ErrorKind.NOT_FOUND, "model 'm': no label 'nosuch'; there are stable"),
            (manager.label("m", "beta", None), ErrorKind.NOT_FOUND, "model 'm': no label 'beta'"),
            (
                manager.label("m", "stable", None),
                ErrorKind.PRECONDITION,
                "model 'm': requests go by the label 'stable': share them out in another way first",
            ),
            *(
                (
                    manager.label("m", label, 3),
                    ErrorKind.INVALID,
                    f"'{label[:100]}' is not a label: expected a name, and no number",
                )
                for label in ("7", "", "x" * 101, "a\nb")
            ),
        ):
            assert await refused(change) == (kind, text)
        await manager.unload("m")
        kind, text = await refused(manager.promote("m", "2"))
        assert (kind, text) == (ErrorKind.PRECONDITION, "model 'm': it is unloaded; load it first")


@on_loop
async def test_a_label_can_be_taken_away_when_no_request_goes_by_it(repo: Path) -> None:
    async with serving(repo) as served:
        await served.manager.label("m", "beta", 2)
        assert served.states() == {"m/2": "READY", "m/3": "READY"}
        await served.manager.label("m", "beta", None)
        await served.settle()
        assert served.states() == {"m/3": "READY"} and not served.engine.catalog.models["m"].labels
        assert await happened(served, Kind.LABELLED) == [
            ("labelled", 2, "'beta'"),
            ("labelled", None, "'beta' is taken away from version 2"),
        ]


@on_loop
async def test_shares_can_be_given_back_to_the_settings(repo: Path) -> None:
    (repo / "m" / "model.yaml").write_text("traffic: {weights: {'1': 100}}\n")
    async with serving(repo) as served:
        assert await factors(served) == {1: 200}
        await served.manager.share("m", Traffic(weights={"2": 1}))
        assert await factors(served) == {2: 200}
        await served.manager.share("m", None)
        assert await factors(served) == {1: 200}


@on_loop
async def test_a_version_that_is_still_written_is_waited_for(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.repository.control.rollouts._LOOK_AGAIN_S", 0.01)
    async with serving(repo, settle_s=0.3) as served:
        add_version(repo, 4)
        assert "m/4" not in served.states()
        await served.manager.promote("m", "4")
        assert await factors(served) == {4: 200}


@on_loop
async def test_requests_go_by_the_old_version_while_the_new_one_loads(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(repo) as served:
        held = HeldLoad(monkeypatch)
        promotion = asyncio.ensure_future(served.manager.promote("m", "1"))
        await held.until("m/1")
        assert await factors(served, 20) == {3: 20}
        held.let.set()
        await promotion
        assert await served.factor() == 1  # the very next request
        assert served.always_served()


@on_loop
async def test_a_model_that_sleeps_is_woken_first(repo: Path) -> None:
    async with serving(repo, idle_unload_s=3600) as served:
        await served.manager.promote("m", "1")
        for change, factor in ((served.manager.promote, 3), (served.manager.rollback, 1)):
            await served.manager._sleepers.sleep(["m"])
            assert served.engine.catalog.asleep == {"m"}
            await change("m")
            assert await factors(served, 20) == {factor: 20}


@on_loop
async def test_a_change_outlives_the_server(repo: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "state")
    async with serving(repo, store=store) as served:
        await served.manager.promote("m", "1")
        await served.manager.promote("m", "2")
        await served.manager.label("m", "canary", 3)
        await served.manager.share("m", CANARY)
    store.close()
    store = Store(tmp_path / "state")
    async with serving(repo, store=store) as served:
        model = served.engine.catalog.models["m"]
        assert model.labels == {"stable": 2, "canary": 3}
        assert model.routing is not None and model.routing.sticky == "x-user"
        assert dict(model.routing.shares) == {2: 0.95, 3: 0.05}
        await served.manager.rollback("m")
        await served.manager.rollback("m")
        assert await factors(served) == {1: 200}
    store.close()


@on_loop
async def test_what_cannot_be_kept_does_not_count(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(repo) as served:
        await served.manager.promote("m", "1")
        full = ServingError(ErrorKind.UNAVAILABLE, "no space left on device")

        async def save_rollout(*_: Any) -> None:
            raise full

        monkeypatch.setattr(served.manager._store, "save_rollout", save_rollout)
        assert await refused(served.manager.promote("m", "2")) == (full.kind, full.message)
        assert await factors(served) == {1: 200}
        await served.settle()
        assert "m/2" not in served.states()


@on_loop
async def test_a_full_disk_does_not_keep_a_bad_version_in_service(
    repo: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(repo) as served:
        await served.manager.share("m", Traffic(weights={"1": 50, "3": 50}))

        async def save_rollout(*_: Any) -> None:
            raise ServingError(ErrorKind.UNAVAILABLE, "no space left on device")

        monkeypatch.setattr(served.manager._store, "save_rollout", save_rollout)
        served.manager._rollouts.condemn("m", Verdict(3, "it is bad"))
        await turns(5)
        assert await factors(served) == {1: 200}
        assert "the rollback of 'm' will not outlive this server: no space left on device" in caplog.text


@on_loop
async def test_settings_that_lead_to_a_version_that_is_not_ready_wait_for_it(repo: Path) -> None:
    """Nor does one that cannot be loaded take the place of one that serves."""
    settings = repo / "m" / "model.yaml"
    settings.write_text("traffic: {weights: {'1': 1}}\n")
    corrupt_version(repo, 4)
    async with serving(repo) as served:
        assert await factors(served, 20) == {1: 20}
        settings.write_text("traffic: {weights: {'4': 1}}\n")
        await served.settle()
        assert await factors(served, 20) == {1: 20}
        settings.write_text("traffic: {weights: {stable: 1}}\nversion_labels: {stable: 2}\n")
        await served.settle()
        assert await factors(served, 20) == {2: 20}
        defaults = [catalog.models["m"].default for catalog in served.published]
        numbers = [version.number for version in defaults if version]
        assert sorted(numbers) == numbers == [1] * numbers.count(1) + [2] * numbers.count(2)
        assert None not in defaults[defaults.index(defaults[-1]) :] and served.always_served()


@on_loop
async def test_what_the_judge_finds_counts_at_once_and_outlives_the_server(repo: Path, tmp_path: Path) -> None:
    (repo / "m" / "model.yaml").write_text(
        "version_labels: {stable: 1, canary: 3}\ntraffic: {weights: {stable: 50, canary: 50}}\n"
    )
    store = Store(tmp_path / "state")
    async with serving(repo, store=store) as served:
        assert set(await factors(served)) == {1, 3}
        served.manager._rollouts.condemn("m", Verdict(3, "it failed on 11 of 11 requests"))
        await turns()
        assert await factors(served) == {1: 200}
        assert served.engine.catalog.models["m"].labels == {"stable": 1}
        assert await served.factor(number=3) == 3  # who names it gets it
        assert await happened(served, Kind.ROLLED_BACK) == [("rolled_back", 3, "it failed on 11 of 11 requests")]
        await served.manager._store.flush()
    store.close()
    store = Store(tmp_path / "state")
    async with serving(repo, store=store) as served:
        assert await factors(served) == {1: 200}
    store.close()


@on_loop
async def test_a_change_that_the_judge_overtakes_does_not_undo_the_rollback(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(repo) as served:
        await served.manager.share("m", Traffic(weights={"1": 50, "3": 50}))
        writing, written = asyncio.Event(), asyncio.Event()

        async def save_rollout(*_: Any) -> None:
            writing.set()
            await written.wait()

        monkeypatch.setattr(served.manager._store, "save_rollout", save_rollout)
        labelling = asyncio.ensure_future(served.manager.label("m", "beta", 2))
        await writing.wait()
        served.manager._rollouts.condemn("m", Verdict(3, "it is bad"))
        await turns()
        written.set()
        await labelling
        assert await factors(served) == {1: 200}
        assert served.engine.catalog.models["m"].labels == {"beta": 2}
