"""What operators have asked for, beside what is on disk: models kept out, other settings, other places. Pure.

An order is looked up by the model's name and outlives the model, so it holds too for one that is not there yet.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from serving.core.spec import Latest, ModelSpec, SpecError, Versions
from serving.repository.survey import Source


@dataclass(frozen=True)
class Wanted:
    """One model of a list that shall be all that is served.

    `path` is the model's directory, empty where its name says it; `versions` and `labels` replace those of its
    `model.yaml`.
    """

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


class Orders:
    """The orders that are in force, by model. At first there are none: all that is found is served as its files say."""

    def __init__(self) -> None:
        self._orders: dict[str, Order] = {}
        self._listed: dict[str, Order] = {}  # as the last list has them; what is done to one model later is above
        self._others = Order()  # for every model that has no order of its own

    def of(self, model: str) -> Order:
        return self._orders.get(model, self._others)

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

    def replace(self, models: Sequence[tuple[Wanted, Source | None]]) -> None:
        """These models are served, each from its place if it has one, and no others. All earlier orders end."""
        self._listed = {wanted.name: Order(place=place, wanted=wanted) for wanted, place in models}
        self._orders = dict(self._listed)
        self._others = Order(kept_out=True)
