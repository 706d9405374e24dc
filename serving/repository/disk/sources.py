"""The paths that models are served from: what they hold, and whether that may be believed.

On the event loop; directories are read in threads. A listing can be wrong: a disk that is not mounted looks empty, a
directory that is being copied back looks as if most of it were removed. So a listing may always bring models, and takes
one away only when that looks like somebody's will. Decides nothing else.
"""

import asyncio
import logging
import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from serving.repository.control.events import History, Kind
from serving.repository.disk.layout import Kind as SourceKind
from serving.repository.disk.reading import Reading
from serving.repository.disk.survey import Finding, Source, survey

log = logging.getLogger(__name__)

Identity = tuple[str, int, int] | None


@dataclass
class _Memory:
    """What is remembered of one source.

    Attributes:
        kind: what it was found to be; a repository stays one whatever is put into it.
        identity: what its path led to; None: nothing was there.
        missing: models that are not there any more, and since when (monotonic).
        doubted: models that went missing in a way that nobody may have meant. They stay until they were seen again.
        complaints: what was wrong with it when it was last read, by what it is about.
        warnings: what its owners should know of the settings of its models.
    """

    kind: SourceKind | None = None
    identity: Identity = None
    missing: dict[str, float] = field(default_factory=dict)
    doubted: set[str] = field(default_factory=set)
    complaints: dict[str, str] = field(default_factory=dict)
    warnings: frozenset[str] = frozenset()


class Sources:
    """
    Args:
        reading: how the settings of models come about.
    """

    def __init__(self, sources: Sequence[Source], history: History, reading: Reading | None = None) -> None:
        self._sources = tuple(sources)
        self._history = history
        self.reading = reading or Reading()
        self._memories: dict[Source, _Memory] = {}
        self._identities: dict[Source, Identity] = {}  # as they were when the last survey began

    def __iter__(self) -> Iterator[Source]:
        return iter(self._sources)

    def __contains__(self, source: object) -> bool:
        return source in self._sources

    def __len__(self) -> int:
        return len(self._sources)

    def replace(self, sources: Sequence[Source], reading: Reading) -> None:
        """These instead; of those that stay, all is remembered."""
        self._sources = tuple(sources)
        self.reading = reading

    async def survey(self, *places: Source | None) -> list[Finding]:
        """Reads these places and all sources, each once."""
        sources = tuple(dict.fromkeys(filter(None, (*places, *self._sources))))
        kinds = {source: memory.kind for source, memory in self._memories.items() if memory.kind is not None}
        self._identities, findings = await asyncio.to_thread(_look, sources, kinds, self.reading)
        self._memories = {source: self._memories.get(source, _Memory()) for source in sources}
        return findings

    @property
    def losing(self) -> bool:
        """Whether a model is missing, and may have to go soon."""
        return any(memory.missing for memory in self._memories.values())

    def news_of(
        self, finding: Finding, owned: Mapping[str, bool], elsewhere: Mapping[str, Source], settle_s: float
    ) -> list[str]:
        """The models on which this source has a say now: those that it holds, and those of its own that it has lost.

        Args:
            owned: models that are from it, and whether anybody could miss them.
            elsewhere: models that are served from other sources, which come first.
            settle_s: how long a model must have been missing before it counts as removed.
        """
        memory = self._memories[finding.source]
        complaints: dict[str, str] = {}
        news: set[str] = set()
        lost = owned.keys() - finding.models.keys()
        missed = {name for name in lost if owned[name]}
        if finding.problem:
            complaints["problem"] = finding.problem
            memory.doubted |= missed
        else:
            before, memory.identity = memory.identity, self._identities[finding.source]
            moved = before not in (None, memory.identity)
            # Who publishes by switching a link may mean to remove some models by that, but hardly all.
            linked = moved and before and memory.identity and before[0] != memory.identity[0]
            if finding.source in self._sources:
                memory.kind = finding.kind
            if (moved and not linked) or (lost == owned.keys() and (moved or not finding.models)):
                memory.doubted |= missed
            news = set(finding.models) - elsewhere.keys()
        memory.doubted &= missed
        if memory.doubted and not finding.problem:
            complaints["lost"] = _lost(finding, memory.doubted)
        now = time.monotonic()
        gone = set() if finding.problem else lost - memory.doubted
        memory.missing = {name: memory.missing.get(name, now) for name in gone}
        news |= {name for name, since in memory.missing.items() if now - since >= settle_s}
        for name in sorted(finding.models.keys() & elsewhere.keys()):
            if elsewhere[name] in self._sources:  # and not somewhere where an operator has put it
                complaints[name] = f"model '{name}' of '{finding.source.path}' is served from another path already"
        self._complain(finding.source, memory, complaints)
        if not finding.problem:
            self._warn(finding, memory)
        return sorted(news)

    def _warn(self, finding: Finding, memory: _Memory) -> None:
        """Once for each content of a file."""
        told = {f"model '{name}': {text}" for name, texts in finding.warnings.items() for text in texts}
        for text in sorted(told - memory.warnings):
            log.warning("%s", text)
        memory.warnings = frozenset(told)

    def _complain(self, source: Source, memory: _Memory, complaints: dict[str, str]) -> None:
        """What was said the last time is not said again."""
        for about, text in complaints.items():
            if about not in memory.complaints:
                self._history.add(Kind.REPOSITORY, "", text=text)
        if memory.complaints and not complaints:
            self._history.add(Kind.REPOSITORY, "", text=f"'{source.path}' is in order again")
        memory.complaints = complaints


def _lost(finding: Finding, doubted: Collection[str]) -> str:
    if not finding.models:
        return f"'{finding.source.path}' is empty; its models stay as they are"
    names = ", ".join(f"'{name}'" for name in sorted(doubted))
    return (
        f"'{finding.source.path}' was emptied, replaced or out of reach, and has no {names} since then; "
        "what serves of that stays until it is unloaded"
    )


def _look(
    sources: Sequence[Source], kinds: Mapping[Source, SourceKind], reading: Reading
) -> tuple[dict[Source, Identity], list[Finding]]:
    """Blocking."""
    return {source: identity(source.path) for source in sources}, survey(sources, kinds, reading)


def identity(path: Path) -> Identity:
    """Where a path leads to, links followed, and what is there (device and inode). Blocking."""
    try:
        info = path.stat()
        return os.path.realpath(path), info.st_dev, info.st_ino
    except OSError:
        return None
