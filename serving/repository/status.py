"""How models and their versions stand right now, for operators: plain values, made of what the manager holds. Pure.

Unlike the catalog, which says what can be asked for, this says everything: what failed and when it is tried again, what
waits on disk, what each version takes and does.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from serving.core.errors import ErrorKind, ServingError
from serving.core.metrics import ShadowMetrics
from serving.core.traffic import Traffic
from serving.repository.model import Model
from serving.repository.version import State, Version

ON_DISK = "ON_DISK"  # the state of a version that is there, and neither served nor wanted


@dataclass(frozen=True)
class ShadowStatus:
    """What came of the copies of requests that one version got; see `ShadowMetrics`."""

    same: int
    different: int
    failed: int
    dropped: int
    largest_absolute: float
    largest_relative: float


@dataclass(frozen=True)
class VersionStatus:
    """One version. There may be two of a number: one that serves, and one made from changed files.

    Attributes:
        state: see `State`, or `ON_DISK`.
        trying: it is loaded in a process of its own, before it is loaded in the server.
        quarantined: not tried again before its content changes, or someone forces it.
        retry_in_s: when it is tried again; None: not by itself.
        memory_bytes: what it takes; None: not known.
        load_s: how long it took to load; None: it has not, or not yet.
        requests: answered since it was loaded; `failures`: on which the model failed.
        in_flight: requests that use it now.
        shadow: None: it got no copies of requests.
        notes: what its backend says of it.
    """

    number: int
    state: str
    reason: str = ""
    trying: bool = False
    quarantined: bool = False
    retry_in_s: float | None = None
    memory_bytes: int | None = None
    load_s: float | None = None
    requests: int = 0
    failures: int = 0
    in_flight: int = 0
    queued_rows: int = 0
    shadow: ShadowStatus | None = None
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelStatus:
    """One model with all of its versions, lowest number first.

    Attributes:
        path: its directory or file.
        settings_file: what its settings are read from; empty: it has none.
        warnings: what they ask for in vain.
        settings_error: why that file does not count, as it is now; empty: it does.
        kept_out: it was unloaded by hand.
        asleep: unloaded because nobody asked for it; the next request loads it.
        labels: as they are wanted; one may be of a version that is not ready.
        shares: percent of the requests that name no version, by version; one that gets none is left out.
        default: the version that stands for the model; None: nothing serves.
        before: versions that were stable earlier, the last one last.
        traffic: how requests are to be shared out, if that was set.
    """

    name: str
    path: str
    settings_file: str
    warnings: tuple[str, ...]
    settings_error: str
    kept_out: bool
    asleep: bool
    labels: Mapping[str, int]
    shares: Mapping[int, float]
    default: int | None
    before: tuple[int, ...]
    traffic: Traffic | None
    versions: tuple[VersionStatus, ...]


def status_of(model: Model, now: float) -> ModelStatus:
    """
    Args:
        now: on the monotonic clock.
    """
    return ModelStatus(
        name=model.name,
        path=str(model.found.path),
        settings_file=str(model.found.spec_file or ""),
        warnings=model.warnings,
        settings_error=model.spec_error,
        kept_out=model.order.kept_out,
        asleep=bool(model.asleep),
        labels=model.labels,
        shares={number: 100 * share for number, share in model.shares.items()},
        default=None if model.default is None else model.default.number,
        before=model.rollout.before,
        traffic=model.traffic,
        versions=tuple(sorted(_versions(model, now), key=lambda version: version.number)),
    )


def unknown(name: str, known: Iterable[str]) -> ServingError:
    near = difflib.get_close_matches(name[:255], known, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return ServingError(ErrorKind.NOT_FOUND, f"there is no model '{name[:100]}'{hint}")


def _versions(model: Model, now: float) -> Iterator[VersionStatus]:
    """Those that are in memory or have failed, and what else is on disk."""
    known = set()
    for version in model.versions():
        known.add(version.number)
        yield _version(version, now)
    for number in model.found.versions.keys() - known:
        if model.order.kept_out:
            yield VersionStatus(number, ON_DISK, "unloaded")
        elif number in model.unsettled:
            yield VersionStatus(number, State.NEW.value, "its files are still being written")
        else:
            yield VersionStatus(number, ON_DISK)


def _version(version: Version, now: float) -> VersionStatus:
    equipped = version.state in (State.READY, State.DRAINING)
    return VersionStatus(
        number=version.number,
        state=version.state.value,
        reason=version.reason,
        trying=version.trying,
        quarantined=version.quarantined,
        retry_in_s=None if version.retry_at is None else max(0.0, version.retry_at - now),
        memory_bytes=version.memory_bytes,
        load_s=version.load_s,
        requests=version.statistics.success.count,
        failures=version.statistics.fail.count,
        in_flight=version.leases,
        queued_rows=version.batcher.queued_rows if equipped else 0,
        shadow=None if version.shadowed is None else _shadow(version.shadowed),
        notes=dict(version.notes),
    )


def _shadow(seen: ShadowMetrics) -> ShadowStatus:
    return ShadowStatus(
        seen.same, seen.different, seen.failed, seen.dropped, seen.largest_absolute, seen.largest_relative
    )
