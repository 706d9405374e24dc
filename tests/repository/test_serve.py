"""An operator's own list of models, which changes while the server runs."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from serving.core.errors import ErrorKind, ServingError
from serving.core.spec import ModelSpec
from serving.repository.control import listing
from serving.repository.control.orders import Wanted
from serving.repository.control.state import Store
from serving.repository.disk.reading import Reading
from serving.repository.disk.survey import Source
from tests.batching.control import on_loop
from tests.repository.build import add_version
from tests.repository.test_manager import Served, serving


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Models in different places: m with versions 1 to 3, n with version 5; each multiplies by its version's number."""
    for number in (1, 2, 3):
        add_version(tmp_path / "one", number, "m")
    add_version(tmp_path / "two", 5, "n")
    return tmp_path


def started(listed: Sequence[Wanted], **more: object) -> Served:
    sources, wanted = listing.of_operator(listed)
    return Served(*sources, reading=Reading(wanted=wanted), **more)


async def change(served: Served, *listed: Wanted) -> None:
    await served.manager.serve(*listing.of_operator(listed))
    await served.settle()


def m(models: Path, versions: object = (1, 2), **labels: int) -> Wanted:
    return Wanted("m", f"{models}/one/m/", versions, labels)  # type: ignore[arg-type]


@on_loop
async def test_another_list(models: Path) -> None:
    n = Wanted("n", str(models / "two/n"))
    served = started([m(models, stable=1)])
    await served.manager.start()
    try:
        assert served.states() == {"m/1": "READY", "m/2": "READY"}
        before = served.version("m", 1)
        await change(served, m(models, stable=2), n)
        assert served.states() == {"m/1": "READY", "m/2": "READY", "n/5": "READY"}
        assert served.engine.catalog.models["m"].labels == {"stable": 2}
        assert served.version("m", 1) is before  # what stays is not loaded again
        await change(served, n)
        assert served.states() == {"n/5": "READY"}
        await change(served)
        assert served.states() == {}
        await change(served, m(models, (3,)))
        assert served.states() == {"m/3": "READY"}
    finally:
        await served.manager.close()


@on_loop
async def test_a_model_that_moves(models: Path) -> None:
    """There is always one of it."""
    add_version(models / "three", 1, "m", factor=30)
    served = started([m(models, (1,))])
    await served.manager.start()
    try:
        await change(served, Wanted("m", str(models / "three/m"), (1,)))
        assert await served.factor("m") == 30
        assert served.always_served("m")
    finally:
        await served.manager.close()


@on_loop
async def test_the_list_counts_over_the_models_own_settings(models: Path) -> None:
    (models / "one/m/model.yaml").write_text("versions: all\nmax_batch_size: 3\nversion_labels: {old: 1}")
    served = started([m(models, (2,))])
    await served.manager.start()
    try:
        assert served.states() == {"m/2": "READY"}
        assert served.version("m").spec.max_batch_size == 3
        assert served.engine.catalog.models["m"].labels == {}
    finally:
        await served.manager.close()


@on_loop
async def test_a_clients_list_counts_until_the_next_one_of_the_operator(models: Path) -> None:
    first = [m(models, stable=1), Wanted("n", str(models / "two/n"))]
    store = Store(models / "state")
    served = started(first, store=store)
    await served.manager.start()
    try:
        await served.manager.unload("n")
        await served.manager.apply([Wanted("m", "", (2,))])
        await served.settle()
        assert {name for name, state in served.states().items() if state == "READY"} == {"m/2"}
        await change(served, *first)
        assert served.states() == {"m/1": "READY", "m/2": "READY", "n/5": "READY"}
    finally:
        await served.manager.close()
        store.close()
    again = Store(models / "state")
    assert again.saved.list is None and not again.saved.orders
    again.close()


@on_loop
async def test_what_was_done_to_one_model_stays(models: Path) -> None:
    """No list of a client is in force, so the operator's other list is about other models only."""
    served = started([m(models, (1, 2))])
    await served.manager.start()
    try:
        await served.manager.label("m", "mine", 1)
        await change(served, m(models, (1, 2)), Wanted("n", str(models / "two/n")))
        assert served.engine.catalog.models["m"].labels == {"mine": 1}
    finally:
        await served.manager.close()


@on_loop
async def test_a_place_that_is_not_there_yet(models: Path) -> None:
    served = started([m(models, (1,)), Wanted("late", str(models / "late"))])
    await served.manager.start()
    try:
        assert served.states() == {"m/1": "READY"}
        add_version(models, 7, "late")
        await served.settle()
        assert await served.factor("late") == 7
    finally:
        await served.manager.close()


@on_loop
async def test_nothing_changes_in_fixed_mode(models: Path) -> None:
    async with serving(Source(models / "one/m"), mode="fixed") as served:
        with pytest.raises(ServingError) as error:
            await served.manager.serve([], {})
        assert error.value.kind is ErrorKind.FORBIDDEN
        assert served.states() == {"m/3": "READY"}


def test_what_a_list_comes_to() -> None:
    sources, wanted = listing.of_operator([Wanted("m", "/models/../m/", "all", {"a": 1}), Wanted("n", "/n")])
    assert [(str(source.path), source.name) for source in sources] == [("/m", "m"), ("/n", "n")]
    assert wanted["m"] == ModelSpec(versions="all", version_labels={"a": 1})
    assert wanted["n"].model_fields_set == {"versions", "version_labels"}
