"""One pass that brings the local tree in line with the store, in two steps: what is there, and fetch what is needed.

Blocking; one step at a time, in the mirror's thread. Which versions are needed is asked in between, where the models
are known. Whatever fails leaves what is in the tree as it is.
"""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from pydantic import ValidationError

from serving.backends.registry import KNOWN_ARTIFACTS
from serving.core.artifact import MANIFEST, Manifest
from serving.core.spec import ModelSpec, SpecError
from serving.repository.disk.layout import Kind, LayoutError
from serving.repository.disk.reading import Reading
from serving.repository.disk.survey import Source, survey
from serving.repository.remote.arrange import RemoteModel, arrange, kind_of
from serving.repository.remote.cache import Cache, CacheError, failures, key_of
from serving.repository.remote.fetch import Fetcher
from serving.repository.remote.store import Object, Store, StoreError
from serving.repository.remote.tree import Tree

log = logging.getLogger(__name__)

Needed = Mapping[str, Collection[int]]  # versions by model


@dataclass(frozen=True)
class Found:
    """What the store has: settings are in the tree already, versions are not.

    Attributes:
        only: the one model that was looked for; empty: all.
        held: versions in the tree, by model.
        problems: by model, why it has to stay as it is.
    """

    only: str
    models: Mapping[str, RemoteModel]
    specs: Mapping[str, ModelSpec | SpecError]
    held: Mapping[str, Collection[int]]
    problems: Mapping[str, str]


@dataclass
class Outcome:
    """
    Attributes:
        problems: what could not be brought in line, and why; a line each.
        waiting: versions that may still be being written, so that they were not taken.
    """

    problems: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)


class Synchroniser:
    """
    Args:
        reading: how the settings of models come about.
        url: as it may be shown.
        name: of the model, where the URL is one model; None: as the URL says.
    """

    def __init__(
        self, store: Store, cache: Cache, tree: Tree, fetcher: Fetcher, reading: Reading, url: str, name: str | None
    ) -> None:
        self._store = store
        self._cache = cache
        self._tree = tree
        self._fetcher = fetcher
        self._reading = reading
        self._url = url
        self._given_name = name
        self._name = name or PurePosixPath(url.rstrip("/")).name.removesuffix(".onnx")
        self._kind = _recorded(cache)
        self._needed: dict[str, set[Object]] = {}  # by model
        self._seen: dict[tuple[str, int], frozenset[Object]] = {}  # versions as they were listed the last time

    def look(self, only: str = "") -> Found:
        """
        Raises:
            StoreError: the listing is not known to be complete, or there is no model in it.
            CacheError
            FetchStoppedError
        """
        narrow = only if self._kind is Kind.REPOSITORY else ""
        objects = self._store.look(narrow)
        if self._kind is None and objects:
            self._kind = self._decide(objects)
        models = arrange(objects, self._kind or Kind.REPOSITORY, self._name)
        if not models and not narrow:
            raise StoreError(f"it holds no model (looked for <name>/<version>/ with {KNOWN_ARTIFACTS})", lasting=True)
        models = {name: model for name, model in models.items() if only in ("", name)}
        begun = self._fetcher.begin(item for model in models.values() for item in model.loose.values())
        problems: dict[str, str] = {}
        try:
            for name, model in models.items():
                try:
                    contents = {path: begun[item].result() for path, item in model.loose.items()}
                    self._tree.put_loose(name, contents)
                except StoreError as error:
                    if error.of_store:
                        raise
                    problems[name] = f"model '{name}': {error}"
        except CacheError as error:
            if error.full and self._needed:
                self._collect(at_once=True)
            raise
        finally:
            self._fetcher.end(begun.values())
        finding = survey([Source(self._tree.root, kind=Kind.REPOSITORY)], {}, self._reading)[0]
        held = {name: set(self._tree.versions(name)) for name in models}
        return Found(only, models, finding.specs, held, problems)

    def bring(self, found: Found, needed: Needed, *, at_once: bool) -> Outcome:
        """
        Args:
            needed: which versions shall be in the tree, if they are in the store.
            at_once: also those that may still be being written.

        Raises:
            StoreError: nothing can be had of the store now; some may have been brought in line.
            CacheError: the same, of the cache.
            FetchStoppedError
        """
        outcome = Outcome(list(found.problems.values()))
        failed = set(found.problems)
        # The highest first: where there is not room for all, they are what is wanted most.
        todo = {
            (name, number): model.versions[number]
            for name, model in found.models.items()
            if name not in found.problems
            for number in sorted(set(needed.get(name, ())) & set(model.versions), reverse=True)
        }
        self._note_needed(found, todo)
        fitting = self._that_fit(todo, failed, outcome)
        begun = self._fetcher.begin(item for files in fitting.values() for item in files.values())
        try:
            for (name, number), files in fitting.items():
                try:
                    contents = {path: begun[item].result() for path, item in files.items()}
                    self._take(name, number, files, contents, at_once, outcome)
                except (StoreError, CacheError) as error:
                    if isinstance(error, StoreError) and error.of_store:
                        raise
                    if isinstance(error, CacheError):
                        if not error.full:
                            raise
                        self._fetcher.end(begun[item] for item in files.values())
                        self._cache.drop(files.values())
                    failed.add(name)
                    outcome.problems.append(f"model '{name}' version {number}: {error}")
        finally:
            self._fetcher.end(begun.values())
        self._remember(found)
        for name in found.models.keys() - failed:
            unneeded = set(self._tree.versions(name)) - {number for model, number in todo if model == name}
            self._tree.remove_versions(name, unneeded)
        if not found.only:
            for name in set(self._tree.models()) - found.models.keys():
                self._tree.remove(name)
            if not outcome.problems:
                self._collect()
                self._cache.synced()
        return outcome

    def _that_fit(
        self, todo: Mapping[tuple[str, int], Mapping[str, Object]], failed: set[str], outcome: Outcome
    ) -> dict[tuple[str, int], Mapping[str, Object]]:
        """The versions for which there is room. If there is not enough, what is kept for later goes before its time."""
        lacking = {key: self._cache.lacks(files.values()) for key, files in todo.items()}
        free = self._cache.free_bytes()
        if sum(lacking.values()) > free:
            self._collect(at_once=True)
            free = self._cache.free_bytes()
        fitting = {}
        for (name, number), files in todo.items():
            takes = lacking[name, number]
            if takes <= free:
                free -= takes
                fitting[name, number] = files
            else:
                failed.add(name)
                size_mb = sum(item.size for item in files.values()) / 1e6
                text = f"no space is left in '{self._cache.directory}' for its {size_mb:,.1f} MB"
                outcome.problems.append(f"model '{name}' version {number}: {text}")
        return fitting

    def _take(
        self,
        name: str,
        number: int,
        files: Mapping[str, Object],
        contents: Mapping[str, str],
        at_once: bool,
        outcome: Outcome,
    ) -> None:
        """Puts a version that has been fetched into the tree, unless it may still be being written."""
        quiet = self._seen.get((name, number)) == frozenset(files.values())
        if at_once or quiet or self._tallies(contents):
            directory = self._cache.version(contents)
            self._tree.put_version(name, number, directory)
        else:
            outcome.waiting.append(f"{name}/{number}")

    def _tallies(self, contents: Mapping[str, str]) -> bool:
        """Whether the version has a manifest, and is all that the manifest says."""
        if MANIFEST not in contents:
            return False
        try:
            manifest = Manifest.model_validate_json(self._cache.object(contents[MANIFEST]).read_bytes())
        except (OSError, ValidationError):
            return False
        return all(contents.get(path) == content for path, content in manifest.files.items())

    def _remember(self, found: Found) -> None:
        for name in [found.only] if found.only else {model for model, _ in self._seen}:
            self._seen = {key: files for key, files in self._seen.items() if key[0] != name}
        for name, model in found.models.items():
            for number, files in model.versions.items():
                self._seen[name, number] = frozenset(files.values())

    def _note_needed(self, found: Found, todo: Mapping[tuple[str, int], Mapping[str, Object]]) -> None:
        before, self._needed = self._needed, dict(self._needed) if found.only else {}
        for name, model in found.models.items():
            if name in found.problems:
                self._needed[name] = before.get(name, set())
            else:
                self._needed[name] = set(model.loose.values())
        for (name, _), files in todo.items():
            self._needed[name] |= set(files.values())

    def _collect(self, *, at_once: bool = False) -> None:
        """Removes what has not been needed for long, or, `at_once`, what is not needed now."""
        versions = {name for model in self._tree.models() for name in self._tree.versions(model).values()}
        keys = {key_of(item) for items in self._needed.values() for item in items}
        contents = {content for key in keys if (content := self._cache.known(key)) is not None}
        self._cache.collect(versions, contents, keys, at_once=at_once)

    def _decide(self, objects: list[Object]) -> Kind:
        """Finds out what the URL is; once, since a repository stays one whatever is put into it."""
        try:
            kind = kind_of(objects, self._url)
        except LayoutError as error:
            raise StoreError(str(error), lasting=True) from None
        if kind is Kind.REPOSITORY and self._given_name is not None:
            text = f"'{self._url}' is a repository of models, so --model-name cannot name it"
            raise StoreError(text, lasting=True)
        with failures(self._cache.directory):
            (self._cache.directory / "kind").write_text(kind.name)
        return kind


def _recorded(cache: Cache) -> Kind | None:
    try:
        return Kind[(cache.directory / "kind").read_text()]
    except (OSError, KeyError):
        return None
