"""What was asked for by hand: how it changes a model's settings, and what ends it."""

from dataclasses import replace
from pathlib import Path

import pytest

from serving.core.spec import Latest, ModelSpec, SpecError
from serving.core.traffic import Limits, Traffic
from serving.repository.control.orders import Order, Orders, Rollout, Wanted, dump_list, dump_rollout, of_list
from serving.repository.disk.layout import Kind
from serving.repository.disk.survey import Source

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
    orders.replace(of_list([(LISTED, PLACE)]))
    assert orders.of("m") == Order(place=PLACE, wanted=LISTED)
    assert orders.of("n") == orders.of("o") == Order(kept_out=True)


def test_what_a_list_says_of_a_model_outlives_its_loads() -> None:
    orders = Orders()
    orders.replace(of_list([(LISTED, PLACE)]))
    orders.give("m", orders.loaded("m", READ, UPLOAD))
    assert orders.of("m") == Order(place=UPLOAD, spec=READ, wanted=LISTED)
    orders.give("m", orders.unloaded("m"))
    assert orders.of("m") == Order(kept_out=True, place=PLACE, wanted=LISTED)
    orders.give("m", orders.loaded("m"))
    assert orders.of("m") == Order(place=PLACE, wanted=LISTED)
    orders.give("n", orders.loaded("n"))  # one that is not on the list may be loaded by hand
    assert orders.of("n") == Order()


ALL: list[Order] = [
    Order(kept_out=True),
    Order(spec=ModelSpec(max_batch_size=64, versions=(1, 2))),
    Order(place=Source(Path("/repo/other"), "m", Kind.MODEL), wanted=LISTED),
    Order(kept_out=True, wanted=Wanted("m", versions=Latest(latest=3), labels={"a": 2**63 - 1})),
]


@pytest.mark.parametrize("order", ALL, ids=str)
def test_an_order_as_text_is_the_same_order(order: Order) -> None:
    orders, others = Orders(), Orders()
    listed = {"m": Order(place=order.place)} if order.place else {}
    if listed:
        orders.replace(listed)
    text = orders.dump("m", order)
    assert text is not None
    others.restore(dump_list(listed) if listed else None, {"m": text}, {}, lambda place: True)
    again = others.of("m")
    assert again == order
    if order.spec is not None and again.spec is not None:  # only what was set counts
        assert again.spec.model_fields_set == order.spec.model_fields_set


def test_uploads_and_what_holds_anyway_have_no_text() -> None:
    orders = Orders()
    assert orders.dump("m", orders.loaded("m", READ, UPLOAD)) is None
    assert orders.dump("m", orders.loaded("m")) is None
    explicit = Orders(explicit=True, asked=("m",))
    assert explicit.of("m") == Order() and explicit.of("n") == Order(kept_out=True)
    assert explicit.dump("m", explicit.loaded("m")) is None
    assert explicit.dump("m", explicit.unloaded("m")) is not None
    assert explicit.dump("n", explicit.loaded("n")) is not None
    assert explicit.dump("n", explicit.unloaded("n")) is None


@pytest.mark.parametrize(
    "rollout",
    [
        Rollout({"stable": 1, "old": None}),
        Rollout(traffic=Traffic(weights={"stable": 95, "2": 5}, sticky="x-user", limits=Limits(error_rate=0.1))),
        Rollout(before=(1, 2**63 - 1)),
    ],
    ids=str,
)
def test_a_rollout_as_text_is_the_same_rollout(rollout: Rollout) -> None:
    orders = Orders()
    text = dump_rollout(rollout)
    assert text is not None
    orders.restore(None, {}, {"m": text}, lambda place: True)
    assert orders.rollout("m") == rollout
    assert dump_rollout(Rollout()) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"kept_out": "perhaps"}', '{"later": 1}', '{"spec": {"later": 1}}'])
def test_an_order_that_cannot_be_understood_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="the order for model 'm' cannot be understood"):
        Orders().restore(None, {"m": text}, {}, lambda place: True)


def test_orders_for_places_that_are_not_served_are_left_out() -> None:
    orders = Orders()
    listed = {"m": Order(place=PLACE, wanted=LISTED), "n": Order()}
    text = '{"place": {"path": "repo/x", "name": "m", "kind": null}}'
    assert orders.restore(dump_list(listed), {"m": text}, {}, lambda place: False) == ["m"]
    assert orders.of("m") == orders.of("o") == Order(kept_out=True) and orders.of("n") == Order()


@pytest.mark.parametrize("asked", [(), ("m",), ("*",)])
def test_the_end_of_a_list_is_as_the_start_was(asked: tuple[str, ...]) -> None:
    orders, fresh = (Orders(explicit=True, asked=asked) for _ in range(2))
    orders.replace(of_list([(LISTED, PLACE)]))
    orders.give("n", orders.loaded("n", READ))
    orders.roll("m", Rollout(before=(1,)))
    assert orders.is_list
    orders.end_list()
    assert not orders.is_list and orders.places() == ()
    for model in ("m", "n", "o"):
        assert orders.of(model) == fresh.of(model)
    assert orders.rollout("m") == Rollout(before=(1,))
    assert orders.loaded("m") == Order()


def test_a_list_has_a_say_on_labels_and_not_on_what_was_rolled_back() -> None:
    orders = Orders()
    stays = Rollout(labels={"canary": None}, traffic=Traffic(weights={"stable": 100}), before=(1,))
    orders.roll("m", replace(stays, labels={"stable": 2, "canary": None}))
    orders.roll("n", Rollout(labels={"stable": 2}))
    orders.roll("o", Rollout(labels={"stable": 2}))
    labelled = [Wanted(name, labels={"stable": 3}) for name in ("m", "n")]
    listed = of_list([(wanted, None) for wanted in labelled])
    assert orders.rollouts_under(listed) == {"m": stays, "o": Rollout(labels={"stable": 2})}
    orders.replace(listed)
    assert orders.rollout("m") == stays and orders.rollout("n") == Rollout()
