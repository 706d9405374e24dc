"""Decides, from what is on disk and what is loaded, what to do next. Pure."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from serving.core.spec import Latest, ModelSpec
from serving.repository.disk.layout import FoundVersion


def wanted(numbers: Collection[int], spec: ModelSpec) -> set[int]:
    """The version numbers to serve, out of those that could be."""
    if spec.versions == "all":
        return set(numbers)
    if isinstance(spec.versions, Latest):
        return set(sorted(numbers)[-spec.versions.latest :])
    return set(numbers) & set(spec.versions)


def made_of(found: FoundVersion, spec: ModelSpec) -> object:
    """What a version in memory is made of: while it is equal, nothing has to be loaded again.

    Which versions are served, and what they are called, is settled without touching those that stay.
    """
    return found.fingerprint, spec.model_copy(
        update={"versions": Latest(), "version_labels": {}, "traffic": None, "latency_limit": None}
    )


def is_settled(found: FoundVersion, wall_now: float, quiet_s: float, settle_s: float) -> bool:
    """May its files be read, or may they still be being written?

    Args:
        wall_now: seconds since the epoch.
        quiet_s: for how long this server has seen the same fingerprint; the clocks of file servers are not trusted.
        settle_s: how long the files must have been left alone.
    """
    return quiet_s >= settle_s or 0 <= settle_s <= wall_now - found.changed_at


@dataclass(frozen=True)
class Held:
    """A version object that the server has: which number, made of what, and how it stands."""

    number: int
    made_of: object
    ready: bool
    failed: bool  # of the others, each is on its way up


@dataclass(frozen=True)
class Plan:
    load: tuple[int, ...]
    unload: tuple[int, ...]
    forget: tuple[int, ...]  # failed versions that were removed or have changed


def plan(
    candidates: Mapping[int, object],
    present: Collection[int],
    held: Collection[Held],
    spec: ModelSpec,
    pinned: Collection[int] = (),
    again: Collection[int] = (),
) -> Plan:
    """What brings one model nearer to what is wanted of it.

    A version that failed is no candidate until its files or settings change, so the next best takes its place. A ready
    version that is no longer wanted stays until every wanted one is ready: nothing is taken away before its successor
    serves.

    Args:
        candidates: versions on disk whose files have settled, and what each would be made of.
        present: all version numbers on disk, settled or not.
        held: live and failed version objects; a number may occur twice (serving, and its successor that failed).
        pinned: versions that are wanted whatever the policy says, since a label or a share of the traffic is theirs.
            One that serves stays even if it is no longer on disk.
        again: versions that failed and may be tried once more.
    """
    failed = {h.number: h for h in held if h.failed}
    live = {h.number: h for h in held if not h.failed and h.ready}
    coming = {h.number: h for h in held if not h.failed and not h.ready}

    changed = {n for n, h in failed.items() if n in candidates and (n in again or candidates[n] != h.made_of)}
    forget = changed | {n for n in failed if n not in present}
    able = {n for n in candidates if n not in failed or n in forget}
    # A version whose files are being replaced, or whose replacement failed, goes on serving what is in memory.
    target = wanted(able | {n for n in live if n in present}, spec) | {n for n in pinned if n in able or n in live}

    load, done = [], True
    for number in sorted(target):
        if number in coming:
            done = False
        elif number in able and (number not in live or live[number].made_of != candidates[number]):
            load.append(number)
            done = False
    unload = [n for n in live if n not in target] if done and target else []
    return Plan(tuple(load), tuple(sorted(unload)), tuple(sorted(forget)))


def pause_s(attempt: int, limit_s: float, luck: float) -> float:
    """How long to wait before what has failed is tried again: 1, 2, 4 ... seconds up to a limit, and up to a quarter
    less, so that many that failed together do not all come back together.

    Args:
        attempt: how often it has failed, from 1.
        luck: from 0 to 1.
    """
    return min(2.0 ** min(attempt - 1, 30), limit_s) * (1 - luck / 4)
