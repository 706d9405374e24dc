"""What operators have asked for, beside what is on disk: models kept out, other settings, other places. Pure.

An order is looked up by the model's name and outlives the model, so it holds too for one that is not there yet. Those
that can outlive the server have a form as text, JSON; an upload cannot, its files are gone with the server.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar

from pydantic import ConfigDict, TypeAdapter

from serving.core.spec import Latest, ModelSpec, SpecError, Versions
from serving.core.traffic import Traffic
from serving.repository.disk.survey import Source

_STRICT = ConfigDict(extra="forbid")  # for their form as text


@dataclass(frozen=True)
class Wanted:
    """One model of a list that shall be all that is served.

    `path` is the model's directory, empty where its name says it; `versions` and `labels` replace those of its
    `model.yaml`.
    """

    __pydantic_config__: ClassVar = _STRICT

    name: str
    path: str = ""
    versions: Versions = field(default_factory=Latest)
    labels: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Order:
    """What was asked for one model.

    `place` is where its files are, instead of where its name would lead to. Of `spec`, the settings that were set
    count; what it leaves out is as `model.yaml` has it.
    """

    __pydantic_config__: ClassVar = _STRICT

    kept_out: bool = False
    place: Source | None = None
    spec: ModelSpec | None = None
    wanted: Wanted | None = None

    def settings(self, read: ModelSpec | SpecError) -> ModelSpec | SpecError:
        """The settings that count, where `read` is what `model.yaml` says."""
        changes: dict[str, Any] = {}
        if self.spec is not None:
            changes = {name: getattr(self.spec, name) for name in self.spec.model_fields_set}
            if isinstance(read, SpecError):
                read = ModelSpec()
        if self.wanted is not None:
            changes |= {"versions": self.wanted.versions, "version_labels": dict(self.wanted.labels)}
        return read.model_copy(update=changes) if changes and isinstance(read, ModelSpec) else read


@dataclass(frozen=True)
class Rollout:
    """How operators have shared out a model's requests among its versions, over what `model.yaml` says.

    Attributes:
        labels: by name; None: the label of `model.yaml` is taken away.
        traffic: None: as `model.yaml` has it.
        before: versions that were stable earlier, the last one last; a rollback goes to that.
    """

    __pydantic_config__: ClassVar = _STRICT

    labels: Mapping[str, int | None] = field(default_factory=dict)
    traffic: Traffic | None = None
    before: tuple[int, ...] = ()


_NO_ROLLOUT = Rollout()
_ORDER = TypeAdapter(Order)
_LIST = TypeAdapter(dict[str, Order])
_ROLLOUT = TypeAdapter(Rollout)
_T = TypeVar("_T")


class Orders:
    """The orders that are in force, by model.

    Args:
        explicit: False: a model without an order of its own is served, as its files say. True: it is not.
        asked: models that are served all the same; `*`: all.

    Attributes:
        is_list: whether `replace` has given all that there is, and what was ordered since.
    """

    def __init__(self, explicit: bool = False, asked: Sequence[str] = ()) -> None:
        self._first = Order(kept_out=explicit and "*" not in asked)
        self._asked = tuple(asked) if self._first.kept_out else ()
        self._listed: dict[str, Order]  # as the list has them; what is done to one model later is in the next
        self._orders: dict[str, Order]
        self._rollouts: dict[str, Rollout] = {}
        self._others: Order  # for every model that has no order of its own
        self.end_list()

    def of(self, model: str) -> Order:
        return self._orders.get(model, self._others)

    def rollout(self, model: str) -> Rollout:
        return self._rollouts.get(model, _NO_ROLLOUT)

    def roll(self, model: str, rollout: Rollout) -> None:
        self._rollouts[model] = rollout

    def places(self) -> tuple[Source, ...]:
        return tuple(dict.fromkeys(order.place for order in self._orders.values() if order.place is not None))

    def loaded(self, model: str, spec: ModelSpec | None = None, upload: Source | None = None) -> Order:
        """To serve the model, with `spec` and from `upload` until its next load; a list's say on it stays."""
        order = replace(self._listed.get(model, Order()), spec=spec)
        return replace(order, place=upload) if upload else order

    def unloaded(self, model: str) -> Order:
        """To keep the model out, and forget what its last load brought."""
        return replace(self._listed.get(model, Order()), kept_out=True)

    def give(self, model: str, order: Order) -> None:
        self._orders[model] = order

    def replace(self, listed: Mapping[str, Order]) -> None:
        """These models are served, and no others. All that was ordered before ends, but for `rollouts_under` it."""
        self._rollouts = self.rollouts_under(listed)
        self._listed = dict(listed)
        self._orders = dict(listed)
        self._others = Order(kept_out=True)
        self.is_list = True

    def rollouts_under(self, listed: Mapping[str, Order]) -> dict[str, Rollout]:
        """What stays of the rollouts with such a list: all but the labels that it has a say on. Otherwise a list that
        is sent again and again would bring back what was rolled back."""
        said = {model: order.wanted.labels for model, order in listed.items() if order.wanted is not None}
        left = {
            model: replace(rollout, labels={k: v for k, v in rollout.labels.items() if k not in said.get(model, ())})
            for model, rollout in self._rollouts.items()
        }
        return {model: rollout for model, rollout in left.items() if rollout != _NO_ROLLOUT}

    def end_list(self) -> None:
        """What holds at the start of a server holds again. All that was ordered before ends, but for rollouts."""
        self._listed = dict.fromkeys(self._asked, Order())
        self._orders = dict(self._listed)
        self._others = self._first
        self.is_list = False

    # As text

    def dump(self, model: str, order: Order) -> str | None:
        """None: it is what holds without a word, or it is about files that were uploaded."""
        listed = self._listed.get(model, self._others)
        if order == listed or order.place not in (None, listed.place):
            return None
        return _ORDER.dump_json(order, exclude_unset=True).decode()

    def restore(
        self,
        listed: str | None,
        orders: Mapping[str, str],
        rollouts: Mapping[str, str],
        served: Callable[[Source], bool],
    ) -> list[str]:
        """Takes over what `dump`, `dump_list` and `dump_rollout` have made; returns the models whose orders are left
        out, since their places are not `served` any more.

        Raises:
            ValueError: names what cannot be understood.
        """
        left = []
        if listed is not None:
            found = _parse("the list of models", _LIST, listed)
            left += [model for model, order in found.items() if order.place and not served(order.place)]
            self.replace({model: order for model, order in found.items() if model not in left})
        for model, text in orders.items():
            order = _parse(f"the order for model '{model}'", _ORDER, text)
            if order.place is None or served(order.place):
                self.give(model, order)
            elif model not in left:
                left.append(model)
        for model, text in rollouts.items():
            self.roll(model, _parse(f"the rollout of model '{model}'", _ROLLOUT, text))
        return left


def of_list(models: Sequence[tuple[Wanted, Source | None]]) -> dict[str, Order]:
    """The orders that a list comes to, each model from its place if it has one."""
    return {wanted.name: Order(place=place, wanted=wanted) for wanted, place in models}


def dump_list(listed: Mapping[str, Order]) -> str:
    return _LIST.dump_json(dict(listed), exclude_unset=True).decode()


def dump_rollout(rollout: Rollout) -> str | None:
    """None: there is nothing in it."""
    return None if rollout == _NO_ROLLOUT else _ROLLOUT.dump_json(rollout, exclude_unset=True).decode()


def _parse(what: str, adapter: TypeAdapter[_T], text: str) -> _T:
    try:
        return adapter.validate_json(text)
    except ValueError as error:  # pydantic's ValidationError is one
        raise ValueError(f"{what} cannot be understood: {' '.join(str(error).split())[:200]}") from None
