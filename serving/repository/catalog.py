"""What can be asked for right now: a frozen snapshot that the manager replaces as a whole.

A request resolves its version in one snapshot, so it never sees half of a change.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from serving.core.errors import ErrorKind, ServingError
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


@dataclass(frozen=True)
class Catalog:
    models: Mapping[str, CatalogModel] = field(default_factory=lambda: MappingProxyType({}))
    index: tuple[IndexEntry, ...] = ()
    ready: bool = False  # every wanted model has a ready version

    def resolve(self, name: str, number: int | None = None) -> Version:
        """The version that a request means; the highest ready one if it names none.

        Raises:
            ServingError: NOT_FOUND, or NOT_READY for a version on its way up.
        """
        model = self.models.get(name)
        if model is None:
            raise ServingError(ErrorKind.NOT_FOUND, f"Request for unknown model: '{name}' is not found")
        if number is None:
            if model.latest is not None:
                return model.latest
            if model.coming:
                raise ServingError(
                    ErrorKind.NOT_READY,
                    f"Request for unknown model: '{name}' version {max(model.coming)} is not at ready state",
                )
            raise ServingError(ErrorKind.NOT_FOUND, f"Request for unknown model: '{name}' has no available versions")
        version = model.ready.get(number)
        if version is not None:
            return version
        if number in model.coming:
            raise ServingError(
                ErrorKind.NOT_READY,
                f"Request for unknown model: '{name}' version {number} is not at ready state",
            )
        raise ServingError(ErrorKind.NOT_FOUND, f"Request for unknown model: '{name}' version {number} is not found")
