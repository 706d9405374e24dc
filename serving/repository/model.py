"""All that the server has of one model: what is on disk, what is loaded, and how that looks from outside.

On the event loop, like the manager that owns it; decides nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from types import MappingProxyType

from serving.core.metrics import LiveVersion
from serving.core.spec import ModelSpec, SpecError
from serving.repository.catalog import CatalogModel, IndexEntry
from serving.repository.layout import Fingerprint, FoundModel, FoundVersion
from serving.repository.orders import Order
from serving.repository.policy import Held, is_settled
from serving.repository.survey import Source
from serving.repository.version import State, Version


@dataclass
class Model:
    """All that the server has of one model. A number can be in `live` and in `coming` or `failed` at once: serving, and
    the replacement made from changed files."""

    name: str
    source: Source  # where `found` and `read_spec` are from
    found: FoundModel
    read_spec: ModelSpec | SpecError  # as `model.yaml` is now
    order: Order = field(default_factory=Order)  # what was asked for by hand
    spec: ModelSpec = field(default_factory=ModelSpec)  # what counts, as it was when its files had settled
    spec_error: str = ""
    live: dict[int, Version] = field(default_factory=dict)
    coming: dict[int, Version] = field(default_factory=dict)
    failed: dict[int, Version] = field(default_factory=dict)
    leaving: set[Version] = field(default_factory=set)
    gone: bool = False  # no longer on disk
    unsettled: frozenset[int] = frozenset()
    seen: dict[int, tuple[Fingerprint, float]] = field(default_factory=dict)  # and since when (monotonic)

    def versions(self) -> Iterator[Version]:
        """Those that serve first."""
        for held in (self.live, self.coming, self.failed):
            yield from held.values()
        yield from self.leaving

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
            seen[number] = (version.fingerprint, since)
            if is_settled(version, wall_now, now - since, settle_s):
                settled[number] = version
        self.seen = seen
        if settled:  # and `model.yaml` with them, whose age counts for each version
            spec = self.order.settings(self.read_spec)
            if isinstance(spec, SpecError):
                self.spec_error = str(spec)
            else:
                self.spec, self.spec_error = spec, ""
        self.unsettled = frozenset(self.found.versions) - frozenset(settled)
        return settled

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
        return CatalogModel(self.name, ready, latest, frozenset(self.coming), self.spec.version_labels)

    def in_index(self) -> Iterator[IndexEntry]:
        """A line for each version that is known, or one for the model."""
        entries: dict[int, IndexEntry] = {}
        if self.order.kept_out:
            for number in self.found.versions:
                entries[number] = IndexEntry(self.name, number, State.END, "unloaded")
        for number in self.unsettled if not self.order.kept_out else ():
            entries[number] = IndexEntry(self.name, number, State.NEW, "its files are still being written")
        for version in (*self.leaving, *self.failed.values(), *self.coming.values(), *self.live.values()):
            reason = version.reason
            if version.state is State.READY and version.number in self.failed:
                reason = f"its files have changed, and the new ones failed: {self.failed[version.number].reason}"
            entries[version.number] = IndexEntry(self.name, version.number, version.state, reason)
        if entries:
            yield from (entries[number] for number in sorted(entries))
        else:
            yield IndexEntry(self.name, None, None, "")

    def live_versions(self) -> Iterator[LiveVersion]:
        """What a scrape reads; versions of one number are one."""
        by_number: dict[int, list[Version]] = {}
        for version in self.versions():
            by_number.setdefault(version.number, []).append(version)
        for number, same in by_number.items():  # the one that serves comes first
            equipped = [v for v in same if v.state in (State.READY, State.DRAINING)]
            yield LiveVersion(
                self.name,
                str(number),
                same[0].state.value,
                sum(v.batcher.queued_rows for v in equipped),
                sum(v.leases for v in same),
            )
