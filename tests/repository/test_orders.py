"""What was asked for by hand: how it changes a model's settings, and what ends it."""

from pathlib import Path

import pytest

from serving.core.spec import Latest, ModelSpec, SpecError
from serving.repository.layout import Kind
from serving.repository.orders import Order, Orders, Wanted
from serving.repository.survey import Source

READ = ModelSpec(max_batch_size=8, threads=2, version_labels={"stable": 1})
BROKEN = SpecError("model.yaml: unknown key")
PLACE, UPLOAD = Source(Path("repo/x"), "m", Kind.MODEL), Source(Path("tmp/1"), "m", Kind.MODEL)
LISTED = Wanted("m", "repo/x", "all", {"canary": 2})


@pytest.mark.parametrize(
    ("order", "read", "counts"),
    [
        (Order(), READ, READ),
        (Order(), BROKEN, BROKEN),
        (Order(spec=ModelSpec(max_batch_size=16)), READ, READ.model_copy(update={"max_batch_size": 16})),
        (Order(spec=ModelSpec(max_batch_size=64)), READ, READ.model_copy(update={"max_batch_size": 64})),
        (Order(spec=ModelSpec(max_batch_size=16)), BROKEN, ModelSpec(max_batch_size=16)),
        (
            Order(wanted=LISTED),
            READ,
            READ.model_copy(update={"versions": "all", "version_labels": {"canary": 2}}),
        ),
        (
            Order(wanted=Wanted("m")),
            READ.model_copy(update={"versions": "all"}),
            READ.model_copy(update={"versions": Latest(), "version_labels": {}}),
        ),
        (Order(wanted=LISTED), BROKEN, BROKEN),
        (
            Order(spec=ModelSpec(versions=(7,)), wanted=LISTED),
            READ,
            READ.model_copy(update={"versions": "all", "version_labels": {"canary": 2}}),
        ),
    ],
    ids=["none", "none, broken", "set", "set to the default", "mends", "list", "bare list", "list, broken", "both"],
)
def test_settings(order: Order, read: ModelSpec | SpecError, counts: ModelSpec | SpecError) -> None:
    assert order.settings(read) == counts


def test_a_load_ends_what_the_load_before_it_brought() -> None:
    orders = Orders()
    orders.give("m", orders.loaded("m", READ, UPLOAD))
    assert orders.of("m") == Order(place=UPLOAD, spec=READ) and orders.places() == (UPLOAD,)
    orders.give("m", orders.loaded("m"))
    assert orders.of("m") == Order() and orders.places() == ()


def test_an_unload_ends_it_too_and_a_load_ends_the_unload() -> None:
    orders = Orders()
    orders.give("m", orders.loaded("m", READ, UPLOAD))
    orders.give("m", orders.unloaded("m"))
    assert orders.of("m") == Order(kept_out=True)
    assert orders.of("n") == Order()
    orders.give("m", orders.loaded("m"))
    assert orders.of("m") == Order()


def test_a_list_ends_all_orders_and_keeps_the_others_out() -> None:
    orders = Orders()
    orders.give("m", orders.unloaded("m"))
    orders.give("n", orders.loaded("n", READ))
    orders.replace([(LISTED, PLACE)])
    assert orders.of("m") == Order(place=PLACE, wanted=LISTED)
    assert orders.of("n") == orders.of("o") == Order(kept_out=True)


def test_what_a_list_says_of_a_model_outlives_its_loads() -> None:
    orders = Orders()
    orders.replace([(LISTED, PLACE)])
    orders.give("m", orders.loaded("m", READ, UPLOAD))
    assert orders.of("m") == Order(place=UPLOAD, spec=READ, wanted=LISTED)
    orders.give("m", orders.unloaded("m"))
    assert orders.of("m") == Order(kept_out=True, place=PLACE, wanted=LISTED)
    orders.give("m", orders.loaded("m"))
    assert orders.of("m") == Order(place=PLACE, wanted=LISTED)
    orders.give("n", orders.loaded("n"))  # one that is not on the list may be loaded by hand
    assert orders.of("n") == Order()
