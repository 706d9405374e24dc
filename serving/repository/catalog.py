"""What can be asked for right now: a frozen snapshot that the manager replaces as a whole.

A request resolves its version in one snapshot, so it never sees half of a change.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from serving.core.errors import ErrorKind, ServingError
from serving.repository.routing.idle import Sleep
from serving.repository.routing.route import Routing
from serving.repository.version import State, Version


@dataclass(frozen=True)
class IndexEntry:
    """One line of the repository index. `number` None: the model is known, and none of its versions is."""

    model: str
    number: int | None
    state: State | None
    reason: str


@dataclass(frozen=True)
class CatalogModel:
    """A known model and its ready versions, lowest first."""

    name: str
    ready: Mapping[int, Version]
    latest: Version | None
    coming: frozenset[int] = frozenset()  # versions on their way up
    labels: Mapping[str, int] = field(default_factory=dict)  # as asked for; one that is not ready resolves to nothing
    routing: Routing | None = None  # None: the latest takes all that name no version
    asleep: Sleep | None = None  # it was unloaded while it was idle, and the next request loads it

    @property
    def default(self) -> Version | None:
        """What a question that names no version is about."""
        return self.latest if self.routing is None else self.routing.default

    def pick(self, key: str | None) -> Version | None:
        """What answers a request that names no version; see `Routing.pick`."""
        return self.latest if self.routing is None else self.routing.pick(key)


@dataclass(frozen=True)
class Catalog:
    models: Mapping[str, CatalogModel] = field(default_factory=lambda: MappingProxyType({}))
    index: tuple[IndexEntry, ...] = ()
    ready: bool = False  # every wanted model has a ready version, or sleeps
    asleep: frozenset[str] = frozenset()  # models that sleep
    complete: bool = True  # False: the repositories have not been read yet, so any model may be there

    def sticky(self, name: str) -> str | None:
        """The header of whose values `route` has to be told; None: of none."""
        model = self.models.get(name)
        known = None if model is None else model.asleep or model.routing
        return None if known is None else known.sticky

    def resolve(self, name: str, number: int | None = None) -> Version:
        """The version that a question means; if it names none, the one that stands for the model.

        Raises:
            ServingError: NOT_FOUND, or NOT_READY for a version on its way up.
        """
        model = self.models.get(name)
        version = None if model is None else model.default if number is None else model.ready.get(number)
        if version is None:
            raise self._missing(name, number)
        return version

    def route(self, name: str, number: int | None = None, key: str | None = None) -> Version:
        """The version that answers a request; if it names none, that may be another each time.

        Args:
            key: see `Routing.pick`.

        Raises:
            ServingError: as `resolve`.
        """
        model = self.models.get(name)
        version = None if model is None else model.pick(key) if number is None else model.ready.get(number)
        if version is None:
            raise self._missing(name, number)
        return version

    def _missing(self, name: str, number: int | None) -> ServingError:
        model = self.models.get(name)
        kind, what = ErrorKind.NOT_FOUND, f"'{name}' version {number} is not found"
        if model is None and not self.complete:
            kind, what = ErrorKind.NOT_READY, f"'{name}' is not at ready state: the server is starting"
        elif model is None:
            what = f"'{name}' is not found"
        elif number is None and model.coming:
            kind, what = ErrorKind.NOT_READY, f"'{name}' version {max(model.coming)} is not at ready state"
        elif number is None and model.ready:
            kind, what = ErrorKind.NOT_READY, f"'{name}' has no version at ready state that gets a share of its traffic"
        elif number is None:
            what = f"'{name}' has no available versions"
        elif number in model.coming:
            kind, what = ErrorKind.NOT_READY, f"'{name}' version {number} is not at ready state"
        return ServingError(kind, f"Request for unknown model: {what}")
