"""All that the server has of one model: what is on disk, what is loaded, and how that looks from outside.

On the event loop, like the manager that owns it; decides nothing.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from serving.core.metrics import LiveVersion
from serving.core.spec import ModelSpec, SpecError
from serving.core.traffic import Traffic
from serving.repository.catalog import CatalogModel, IndexEntry
from serving.repository.control.orders import Order, Rollout
from serving.repository.disk.layout import Fingerprint, FoundModel, FoundVersion
from serving.repository.disk.survey import Source
from serving.repository.loads.trial_child import Report
from serving.repository.policy import Held, is_settled
from serving.repository.routing.idle import Sleep
from serving.repository.routing.judge import Judge, Verdict
from serving.repository.routing.route import Routing, numbers_of, route
from serving.repository.version import State, Version


def labels_of(spec: ModelSpec, rollout: Rollout) -> dict[str, int]:
    """Versions by label, as they are wanted; one may not be ready."""
    labels = {**spec.version_labels, **rollout.labels}
    return {label: number for label, number in labels.items() if number is not None}


def pinned_by(spec: ModelSpec, rollout: Rollout) -> set[int]:
    """Versions with a label or a share of the traffic."""
    labels = labels_of(spec, rollout)
    return {*labels.values(), *numbers_of(rollout.traffic or spec.traffic, labels)}


@dataclass
class Model:
    """All that the server has of one model. A number can be in `live` and in `coming` or `failed` at once: serving, and
    the replacement made from changed files."""

    name: str
    source: Source  # where `found` and `read_spec` are from
    found: FoundModel
    read_spec: ModelSpec | SpecError  # as its file is now
    warnings: tuple[str, ...] = ()  # what its owner should know of that file, a line each
    order: Order = field(default_factory=Order)  # what was asked for by hand
    rollout: Rollout = field(default_factory=Rollout)  # how operators have shared out its requests
    spec: ModelSpec = field(default_factory=ModelSpec)  # what counts, as it was when its files had settled
    spec_error: str = ""
    live: dict[int, Version] = field(default_factory=dict)
    coming: dict[int, Version] = field(default_factory=dict)
    failed: dict[int, Version] = field(default_factory=dict)
    leaving: set[Version] = field(default_factory=set)
    proven: dict[int, tuple[object, Report]] = field(default_factory=dict)  # made of what, and how its trial went
    attempts: dict[int, tuple[object, int]] = field(default_factory=dict)  # that failed in a row: of what, how many
    gone: bool = False  # no longer on disk
    required: bool = False  # the server is not ready without it: it was there at the start, or has been ready since
    absent: frozenset[int] = frozenset()  # versions that are wanted by number, and not there
    unsettled: frozenset[int] = frozenset()
    seen: dict[int, tuple[Fingerprint, float]] = field(default_factory=dict)  # and since when (monotonic)
    asleep: frozenset[int] = frozenset()  # the versions that served when it was put to sleep; empty: it is awake
    waking: bool = False  # asleep, and being loaded
    needed: Counter[int] = field(default_factory=Counter)  # versions that changes under way wait for, and how many do
    condemned: Callable[[Verdict], None] = lambda _: None  # is told what the judge finds
    _in_force: tuple[Traffic | None, Mapping[str, int]] | None = None  # what requests went by last, and the labels then
    _judge: tuple[object, Judge] | None = None  # and what it is about

    def versions(self) -> Iterator[Version]:
        """Those that serve first."""
        for held in (self.live, self.coming, self.failed):
            yield from held.values()
        yield from self.leaving

    @property
    def labels(self) -> dict[str, int]:
        return labels_of(self.spec, self.rollout)

    @property
    def traffic(self) -> Traffic | None:
        return self.rollout.traffic or self.spec.traffic

    @property
    def pinned(self) -> set[int]:
        """Versions that have to be there whatever the policy says: those with a label or a share of the traffic, those
        that get requests until then, and those that an operator waits for."""
        routing = self.routing
        in_force = {*routing.shares, *routing.trials} if routing is not None else set()
        return pinned_by(self.spec, self.rollout) | in_force | set(self.needed)

    def settled(self, settle_s: float, now: float, wall_now: float) -> dict[int, FoundVersion]:
        """The versions on disk whose files have been left alone for `settle_s`. Notes what it sees.

        Args:
            now: on the monotonic clock.
            wall_now: seconds since the epoch.
        """
        seen, settled = {}, {}
        for number, version in self.found.versions.items():
            fingerprint, since = self.seen.get(number, (version.fingerprint, now))
            if fingerprint != version.fingerprint:
                since = now
            if is_settled(version, wall_now, now - since, settle_s):
                settled[number] = version
                since = -math.inf  # for good: what was ordered to load at once is not doubted a moment later
            seen[number] = (version.fingerprint, since)
        self.seen = seen
        if settled:  # and `model.yaml` with them, whose age counts for each version
            spec = self.order.settings(self.read_spec)
            if isinstance(spec, SpecError):
                self.spec_error = str(spec)
            else:
                self.spec, self.spec_error = spec, ""
        self.unsettled = frozenset(self.found.versions) - frozenset(settled)
        return settled

    def absent_versions(self) -> frozenset[int]:
        """The versions that are wanted by number, and are neither on disk nor in memory."""
        wanted = self.spec.versions
        return frozenset(wanted if isinstance(wanted, tuple) else ()) - self.found.versions.keys() - self.live.keys()

    def forget_failed(self, number: int | None = None) -> None:
        """One version, or all that failed, may be tried again at once."""
        for failed in [n for n in self.failed if number in (None, n)]:
            self.failed.pop(failed).to(State.END)

    def held(self) -> list[Held]:
        """What there is to plan with; versions on their way out are not."""
        return [
            Held(v.number, v.made_of, v.state is State.READY, v.state is State.FAILED)
            for v in self.versions()
            if v not in self.leaving
        ]

    def in_catalog(self) -> CatalogModel:
        """What can be asked for."""
        ready = MappingProxyType(dict(sorted(self.live.items())))
        latest = self.live[max(self.live)] if self.live else None
        wanted = route(self.name, self.traffic, self.labels, self.live)
        if wanted is None or wanted.default is not None:
            self._in_force = self.traffic, self.labels
        return CatalogModel(
            self.name,
            ready,
            latest,
            frozenset(self.coming),
            self.labels,
            self._judged(self.routing),
            self._sleep() if self.asleep else None,
        )

    def _sleep(self) -> Sleep:
        return Sleep(self.asleep, self.spec.max_queue_rows, self.traffic.sticky if self.traffic else None)

    @property
    def routing(self) -> Routing | None:
        """Which of the versions that serve takes requests that name none; None: the highest takes all.

        Settings that lead to versions none of which is ready are not in force yet: those before them are.
        """
        routing = route(self.name, self.traffic, self.labels, self.live)
        if routing is not None and routing.default is None and self._in_force is not None:
            return route(self.name, *self._in_force, self.live)
        return routing

    @property
    def default(self) -> Version | None:
        """The version that stands for the model."""
        routing = self.routing
        if routing is not None:
            return routing.default
        return self.live[max(self.live)] if self.live else None

    @property
    def shares(self) -> Mapping[int, float]:
        """What each version gets of the requests that name none; they add up to 1."""
        routing = self.routing
        if routing is not None:
            return routing.shares
        return {max(self.live): 1.0} if self.live else {}

    def _judged(self, routing: Routing | None) -> Routing | None:
        """With a judge, if there is something to judge: the same one for as long as it is about the same versions."""
        limits = self.traffic.limits if self.traffic else None
        if routing is None or routing.default is None or not routing.trials or limits is None:
            self._judge = None
            return routing
        about = limits, routing.default, tuple(routing.trials.values())
        if self._judge is None or self._judge[0] != about:
            self._judge = about, Judge(limits, routing.default.number, routing.trials, self.condemned)
        return replace(routing, judge=self._judge[1])

    def in_index(self) -> Iterator[IndexEntry]:
        """A line for each version that is known, or one for the model."""
        entries: dict[int, IndexEntry] = {}
        if self.order.kept_out:
            for number in self.found.versions:
                entries[number] = IndexEntry(self.name, number, State.END, "unloaded")
        for number in self.unsettled if not self.order.kept_out else ():
            entries[number] = IndexEntry(self.name, number, State.NEW, "its files are still being written")
        for number in self.asleep:
            entries[number] = IndexEntry(self.name, number, State.END, "idle: loads on the next request")
        for version in (*self.leaving, *self.failed.values(), *self.coming.values(), *self.live.values()):
            reason = version.reason
            if version.state is State.READY and version.number in self.failed:
                reason = f"its files have changed, and the new ones failed: {_told(self.failed[version.number])}"
            elif version.state is State.FAILED and not self.order.kept_out:
                reason = _told(version)
            state = State.LOADING if version.state is State.NEW else version.state  # its load begins in a moment
            entries[version.number] = IndexEntry(self.name, version.number, state, reason)
        if entries:
            yield from (entries[number] for number in sorted(entries))
        else:
            yield IndexEntry(self.name, None, None, "")

    def live_versions(self) -> Iterator[LiveVersion]:
        """What a scrape reads; versions of one number are one."""
        by_number: dict[int, list[Version]] = {}
        for version in self.versions():
            by_number.setdefault(version.number, []).append(version)
        shares = self.shares
        for number, same in by_number.items():  # the one that serves comes first
            equipped = [v for v in same if v.state in (State.READY, State.DRAINING)]
            tallies = [v.batcher.account.snapshot().total.tally for v in equipped]
            yield LiveVersion(
                self.name,
                str(number),
                same[0].state.value,
                sum(v.batcher.queued_rows for v in equipped),
                sum(v.leases for v in same),
                any(v.quarantined for v in same),
                shares.get(number, 0.0),
                _sum(v.memory_bytes for v in equipped),
                sum(v.batcher.settings.max_queue_rows for v in equipped),
                sum(v.batcher.settings.instances for v in equipped),
                sum(v.batcher.busy for v in equipped),
                sum(tally.padded for tally in tallies),
                sum(tally.busy_s for tally in tallies),
            )


def _sum(amounts: Iterable[int | None]) -> int | None:
    """Of those that are known; None: none is."""
    known = [amount for amount in amounts if amount is not None]
    return sum(known) if known else None


def _told(failed: Version) -> str:
    """Why it failed, and when it is tried again; a time of the day, since what is published stays as it is."""
    if failed.retry_at is None:
        return failed.reason
    at = time.gmtime(time.time() + failed.retry_at - time.monotonic())
    return f"{failed.reason} (tried again at {time.strftime('%H:%M:%S', at)} UTC)"
