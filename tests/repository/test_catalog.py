"""Which version a request means, and what it is told if there is none."""

import pytest

from serving.core.errors import ErrorKind, ServingError
from serving.repository.catalog import Catalog, CatalogModel
from serving.repository.version import Version
from tests.repository.build import version


def catalog(*ready: int, coming: tuple[int, ...] = ()) -> tuple[Catalog, dict[int, Version]]:
    versions = {number: version(number, "simple") for number in ready}
    latest = versions[max(versions)] if versions else None
    return Catalog({"simple": CatalogModel("simple", versions, latest, frozenset(coming))}), versions


@pytest.mark.parametrize(("asked", "meant"), [(None, 3), (3, 3), (1, 1)])
def test_the_version_that_is_meant(asked: int | None, meant: int) -> None:
    found, versions = catalog(1, 3, coming=(4,))
    assert found.resolve("simple", asked) is versions[meant]


def test_a_version_that_serves_while_its_replacement_comes() -> None:
    found, versions = catalog(1, coming=(1,))
    assert found.resolve("simple") is found.resolve("simple", 1) is versions[1]


@pytest.mark.parametrize(
    ("ready", "coming", "name", "number", "kind", "text"),
    [
        ((1,), (), "nosuch", None, ErrorKind.NOT_FOUND, "'nosuch' is not found"),
        ((1,), (), "nosuch", 1, ErrorKind.NOT_FOUND, "'nosuch' is not found"),
        ((1,), (), "simple", 2, ErrorKind.NOT_FOUND, "'simple' version 2 is not found"),
        ((), (), "simple", 1, ErrorKind.NOT_FOUND, "'simple' version 1 is not found"),
        ((), (), "simple", None, ErrorKind.NOT_FOUND, "'simple' has no available versions"),
        ((), (1, 2), "simple", None, ErrorKind.NOT_READY, "'simple' version 2 is not at ready state"),
        ((1,), (2,), "simple", 2, ErrorKind.NOT_READY, "'simple' version 2 is not at ready state"),
    ],
)
def test_what_is_told_if_there_is_none(
    ready: tuple[int, ...], coming: tuple[int, ...], name: str, number: int | None, kind: ErrorKind, text: str
) -> None:
    with pytest.raises(ServingError) as error:
        catalog(*ready, coming=coming)[0].resolve(name, number)
    assert error.value.kind is kind
    assert error.value.message == f"Request for unknown model: {text}"


def test_before_the_first_scan_nothing_is_known_or_ready() -> None:
    empty = Catalog(complete=False)
    assert not empty.ready and empty.index == ()
    with pytest.raises(ServingError) as error:
        empty.resolve("simple")
    assert error.value.kind is ErrorKind.NOT_READY  # it may be there, and clients may ask again
    assert error.value.message == "Request for unknown model: 'simple' is not at ready state: the server is starting"
