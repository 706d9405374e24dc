"""Which version is meant, and what is said of the others."""

import pytest

from serving.core.errors import ErrorKind
from serving.protocols import messages as m
from serving.protocols.tfs.servables import Target, resolve, status
from serving.repository.catalog import Catalog, CatalogModel, IndexEntry
from serving.repository.version import State
from tests.protocols.build import refused
from tests.repository.build import version

ONE, TWO = version(1), version(2)
CATALOG = Catalog(
    {
        "m": CatalogModel("m", {1: ONE, 2: TWO}, TWO, frozenset({3}), {"stable": 1, "next": 3}),
        "loading": CatalogModel("loading", {}, None, frozenset({1})),
    }
)


@pytest.mark.parametrize(
    ("target", "expected"),
    [(Target("m"), TWO), (Target("m", 1), ONE), (Target("m", 2), TWO), (Target("m", label="stable"), ONE)],
)
def test_found(target: Target, expected: object) -> None:
    assert resolve(CATALOG, target) is expected


@pytest.mark.parametrize(
    ("target", "kind", "text"),
    [
        (Target("foo"), ErrorKind.NOT_FOUND, "Servable not found for request: Latest(foo)"),
        (Target("foo", 50), ErrorKind.NOT_FOUND, "Servable not found for request: Specific(foo, 50)"),
        (Target("m", 9), ErrorKind.NOT_FOUND, "Servable not found for request: Specific(m, 9)"),
        (Target("m", 0), ErrorKind.NOT_FOUND, "Servable not found for request: Specific(m, 0)"),
        (Target("m", 3), ErrorKind.NOT_FOUND, "Servable not found for request: Specific(m, 3)"),
        (Target("loading"), ErrorKind.NOT_FOUND, "Servable not found for request: Latest(loading)"),
        (Target("m", label="next"), ErrorKind.NOT_FOUND, "Servable not found for request: Specific(m, 3)"),
        (Target("m", label="x"), ErrorKind.INVALID, "Unrecognized servable version label: x"),
        (Target("foo", label="x"), ErrorKind.INVALID, "Unrecognized servable version label: x"),
    ],
)
def test_not_found(target: Target, kind: ErrorKind, text: str) -> None:
    assert refused(lambda: resolve(CATALOG, target), kind) == text


EXPECTED = {
    State.NEW: "START",
    State.LOADING: "LOADING",
    State.WARMING: "LOADING",
    State.READY: "AVAILABLE",
    State.DRAINING: "UNLOADING",
    State.UNLOADING: "UNLOADING",
    State.END: "END",
    State.FAILED: "END",
}


def test_status_of_every_state() -> None:
    entries = [IndexEntry("m", i + 1, state, f"why {i}") for i, state in enumerate(State)]
    catalog = Catalog(index=(IndexEntry("l", 1, State.READY, ""), *entries, IndexEntry("n", None, None, "")))
    lines = status(catalog, "m").model_version_status
    assert [line.version for line in lines] == list(range(len(State), 0, -1))
    for line, (i, state) in zip(reversed(lines), enumerate(State), strict=True):
        assert m.tfs.ModelVersionStatus.State.Name(line.state) == EXPECTED[state]
        failed = state is State.FAILED
        assert line.status.error_code == (m.tf_error.Code.UNKNOWN if failed else m.tf_error.Code.OK)
        assert line.status.error_message == (f"why {i}" if failed else "")
    (line,) = status(catalog, "m", 4).model_version_status
    assert (line.version, line.state) == (4, m.tfs.ModelVersionStatus.AVAILABLE)


@pytest.mark.parametrize(
    ("model", "number", "text"),
    [
        ("m", None, "Could not find any versions of model m"),
        ("m", 9, "Could not find version 9 of model m"),
        ("", None, "Could not find any versions of model "),
    ],
)
def test_status_of_what_is_not_there(model: str, number: int | None, text: str) -> None:
    catalog = Catalog(index=(IndexEntry("l", 1, State.READY, ""), IndexEntry("m", None, None, "")))
    assert refused(lambda: status(catalog, model, number), ErrorKind.NOT_FOUND) == text
