"""Decides, from what is on disk and what is loaded, what to do next. Pure."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from serving.core.spec import Latest, ModelSpec
from serving.repository.layout import FoundVersion


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
    return found.fingerprint, spec.model_copy(update={"versions": Latest(), "version_labels": {}})


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


def plan(candidates: Mapping[int, object], present: Collection[int], held: Collection[Held], spec: ModelSpec) -> Plan:
    """What brings one model nearer to what is wanted of it.

    A version that failed is no candidate until its files or settings change, so the next best takes its place. A ready
    version that is no longer wanted stays until every wanted one is ready: nothing is taken away before its successor
    serves.

    Args:
        candidates: versions on disk whose files have settled, and what each would be made of.
        present: all version numbers on disk, settled or not.
        held: live and failed version objects; a number may occur twice (serving, and its successor that failed).
    """
    failed = {h.number: h for h in held if h.failed}
    live = {h.number: h for h in held if not h.failed and h.ready}
    coming = {h.number: h for h in held if not h.failed and not h.ready}

    forget = {n for n, h in failed.items() if n not in present or (n in candidates and candidates[n] != h.made_of)}
    able = {n for n in candidates if n not in failed or n in forget}
    # A version whose files are being replaced, or whose replacement failed, goes on serving what is in memory.
    target = wanted(able | {n for n in live if n in present}, spec)

    load, done = [], True
    for number in sorted(target):
        if number in coming:
            done = False
        elif number in able and (number not in live or live[number].made_of != candidates[number]):
            load.append(number)
            done = False
    unload = [n for n in live if n not in target] if done and target else []
    return Plan(tuple(load), tuple(sorted(unload)), tuple(sorted(forget)))
