"""Brings what is loaded in line with what is on disk and what was ordered, and publishes the result.

On the event loop, so all state here is touched by one thread; directories are read and versions loaded in others. What
is to be done is worked out anew each time from the whole picture (`policy.plan`); nothing depends on having seen every
change. Every change ends in a new `Catalog`. Who orders what, and whether that is kept, is not known here.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from types import MappingProxyType

from serving.core.errors import invalid
from serving.core.metrics import LiveVersion
from serving.repository.catalog import Catalog
from serving.repository.control import listing
from serving.repository.control.events import History, Kind
from serving.repository.control.orders import Orders
from serving.repository.disk.sources import Sources
from serving.repository.disk.survey import Finding, Source
from serving.repository.loads.lifecycle import Lifecycle
from serving.repository.model import Model
from serving.repository.policy import made_of, plan
from serving.repository.policy import wanted as wanted_versions
from serving.repository.routing.judge import Verdict
from serving.repository.version import State, Version

UNSETTLED_CHECK_S = 0.25


class Reconciler:
    """
    Args:
        publish: gets each new catalog.
        settle_s: how long a version's files must have been left alone before they are read.

    Attributes:
        models: all that are known, by name.
        turn: held by whoever reads the sources and acts on what was found.
        condemned: is told of versions on trial that have to go, with the model's name.
        may_sleep: a model that there is no memory for sleeps until it is asked for.
        starting: the models that are found meanwhile are those that the server's readiness depends on.
    """

    def __init__(
        self,
        sources: Sources,
        orders: Orders,
        lifecycle: Lifecycle,
        history: History,
        publish: Callable[[Catalog], None],
        settle_s: float,
    ) -> None:
        self.models: dict[str, Model] = {}
        self.turn = asyncio.Lock()
        self.may_sleep = False
        self.starting = True
        self.condemned: Callable[[str, Verdict], None] = lambda *_: None
        self._sources = sources
        self._orders = orders
        self._lifecycle = lifecycle
        self._history = history
        self._publish = publish
        self._settle_s = settle_s
        self._retries: dict[str, asyncio.TimerHandle] = {}  # by model

    async def reconcile(self, settle_s: float | None = None, only: str | None = None) -> None:
        """Reads the sources and starts what has to be done, for one model or for all; does not wait for loads."""
        async with self.turn:
            findings = await self._sources.survey(*self._orders.places())
            self.take_in(findings, self._settle_s if settle_s is None else settle_s, only)

    @property
    def unsettled(self) -> bool:
        """Whether it is worth while to look again soon."""
        return self._sources.losing or any(model.unsettled for model in self.models.values())

    def take_in(
        self,
        findings: Sequence[Finding],
        settle_s: float,
        only: str | None = None,
        retry: bool = False,
        force: bool = False,
    ) -> None:
        """What was found, of one model or of all, becomes what is known, and is acted on.

        Args:
            retry: what failed before is tried again.
            force: see `Lifecycle.bring_up`.
        """
        for finding in findings:
            source = finding.source
            owners = {name: owner for name in self._names(finding) if (owner := self._owner(name)) is not None}
            owned = {name: self._is_needed(name) for name, owner in owners.items() if owner == source}
            elsewhere = {name: owner for name, owner in owners.items() if owner != source}
            for name in self._sources.news_of(finding, owned, elsewhere, settle_s):
                if only in (None, name):
                    self._update(name, finding, settle_s, retry, force)
        for name, model in list(self.models.items()):
            if only in (None, name) and not model.gone and self._owner(name) is None:  # the place that it had has ended
                model.gone = True
                self._act(model)
        self.publish()

    def _names(self, finding: Finding) -> Iterator[str]:
        yield from finding.models
        yield from (name for name, model in self.models.items() if not model.gone and name not in finding.models)

    def _is_needed(self, name: str) -> bool:
        """Whether it serves, or will in a moment."""
        model = self.models.get(name)
        return model is not None and bool(model.live or model.coming or model.asleep)

    def _update(self, name: str, finding: Finding, settle_s: float, retry: bool, force: bool) -> None:
        found = finding.models.get(name)
        model = self.models.get(name)
        if found is not None and model is None:
            model = self.models[name] = Model(name, finding.source, found, finding.specs[name], required=self.starting)
            model.condemned = partial(self.condemned, name)
        if model is None:
            return
        model.gone = found is None
        if found is not None:
            if not found.versions and model.found.versions:
                text = "has no versions on disk any more; what is loaded stays"
                self._history.add(Kind.REPOSITORY, name, text=text)
            model.source, model.found, model.read_spec = finding.source, found, finding.specs[name]
            model.warnings = finding.warnings.get(name, ())
        if retry:
            model.forget_failed()
            model.waking = bool(model.asleep)
        self._act(model, settle_s, force)

    def _owner(self, name: str) -> Source | None:
        """The one source that may say what this model is; None: the first that has it."""
        place = self._orders.of(name).place
        if place is not None:
            return place
        model = self.models.get(name)
        return model.source if model and not model.gone and model.source in self._sources else None

    def act(self, model: Model) -> None:
        """Does what the plan for one model says."""
        if self.models.get(model.name) is model:
            self._act(model)
            self.publish()

    def _act(self, model: Model, settle_s: float | None = None, force: bool = False) -> None:
        model.order, model.rollout = self._orders.of(model.name), self._orders.rollout(model.name)
        model.waking |= bool(model.asleep and model.needed)
        if model.gone or model.order.kept_out:
            self._take_out(model)
        elif model.waking or not model.asleep:
            self._follow_plan(model, self._settle_s if settle_s is None else settle_s, force)
            self._see_to_sleep(model)
        self._plan_retry(model)

    def _take_out(self, model: Model) -> None:
        model.required = model.waking = False
        model.asleep = frozenset()
        for version in list(model.live.values()):
            self._lifecycle.retire(model, version)
        if model.gone:
            model.forget_failed()
            if not any(model.versions()):
                del self.models[model.name]

    def _follow_plan(self, model: Model, settle_s: float, force: bool) -> None:
        now = time.monotonic()
        settled = model.settled(settle_s, now, time.time())
        candidates = {number: made_of(found, model.spec) for number, found in settled.items()}
        again = {v.number for v in model.failed.values() if v.retry_at is not None and v.retry_at <= now}
        todo = plan(candidates, model.found.versions.keys(), model.held(), model.spec, model.pinned, again)
        for number in todo.forget:
            model.failed.pop(number).to(State.END)
        for number in todo.load:
            version = Version(model.name, settled[number], model.spec)
            self._lifecycle.bring_up(model, version, force=force)
        for number in todo.unload:
            self._lifecycle.retire(model, model.live[number])
        absent = model.absent_versions()
        for number in sorted(absent - model.absent):
            self._history.add(Kind.REPOSITORY, model.name, number, "is wanted, and not on disk")
        model.absent = absent

    def _see_to_sleep(self, model: Model) -> None:
        """A model that was to be woken is awake when all of it has loaded; one that there was no memory for sleeps."""
        if model.coming:
            return
        failed = model.failed.values()
        if model.waking:
            model.waking = False
            if model.live or any(version.retry_at is None for version in failed):  # not what might load next time
                model.asleep = frozenset()
            if model.live:
                self._history.add(Kind.AWAKE, model.name)
        elif self.may_sleep and not model.live and failed and all(version.no_room for version in failed):
            if not model.asleep:
                self._history.add(Kind.ASLEEP, model.name, text="there is no memory for it now")
            model.asleep = frozenset(model.failed)

    def _plan_retry(self, model: Model) -> None:
        """Acts again when the pause of the first version that failed is over."""
        if (timer := self._retries.pop(model.name, None)) is not None:
            timer.cancel()
        due = [version.retry_at for version in model.failed.values() if version.retry_at is not None]
        if due and not model.gone and not model.order.kept_out and not model.asleep:
            # One whose pause is over has files that change just now.
            pause_s = max(min(due) - time.monotonic(), UNSETTLED_CHECK_S)
            self._retries[model.name] = asyncio.get_running_loop().call_later(pause_s, self.act, model)

    def publish(self) -> None:
        for model in self.models.values():
            model.required |= bool(model.live)
        shown = {name: m for name, m in sorted(self.models.items()) if not (m.gone and not m.live)}
        index = tuple(entry for model in shown.values() for entry in model.in_index())
        models = {name: model.in_catalog() for name, model in shown.items()}
        needed = [name for name, model in shown.items() if model.required and model.found.versions]
        ready = all(models[name].default is not None or models[name].asleep for name in needed)
        asleep = frozenset(name for name, model in shown.items() if model.asleep)
        self._publish(Catalog(MappingProxyType(models), index, ready, asleep))

    async def served(self, name: str, passing: bool = False) -> Mapping[int, Version]:
        """What serves of a model when all of its loads have ended.

        Args:
            passing: what fails now gives way to what was before, and nothing is held against it.

        Raises:
            ServingError: INVALID: one failed, or there was nothing to load.
        """
        await self._lifecycle.loads_ended(name)
        model = self.models.get(name)
        if model is None:  # taken away meanwhile
            return {}
        if not model.spec_error and not wanted_versions(model.found.versions, model.spec):
            raise listing.none_of(name, model.spec.versions, model.found)
        if model.failed:
            number, failed = max(model.failed.items())
            reason = failed.reason
            if failed.quarantined and passing:
                reason = reason.removeprefix("quarantined: ")
            elif failed.quarantined:
                reason += "; it is tried again when its content changes, or if the load is forced"
            raise invalid(f"load failed for model '{name}': version {number} is at UNAVAILABLE state: {reason};")
        return model.live

    def live_versions(self) -> Iterator[LiveVersion]:
        """What a scrape reads."""
        return chain.from_iterable(model.live_versions() for model in self.models.values())

    def close(self) -> None:
        """Nothing is tried again any more."""
        for timer in self._retries.values():
            timer.cancel()
