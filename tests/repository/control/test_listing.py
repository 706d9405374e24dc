"""A list of models against what is on disk: where they are, whether they are, and what their labels mean."""

from pathlib import Path

import pytest

from serving.core.errors import ErrorKind, ServingError
from serving.core.spec import Versions
from serving.repository.control import listing
from serving.repository.control.orders import Wanted
from serving.repository.disk.layout import FoundModel, Kind
from serving.repository.disk.survey import Finding, Source
from tests.repository.build import found


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    for name in ("repo/m/1", "repo/deep/er/1", "elsewhere/x/1"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "repo/link").symlink_to(tmp_path / "elsewhere/x")
    (tmp_path / "also-repo").symlink_to(tmp_path / "repo")
    return tmp_path / "repo"


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("{repo}/m", "m"),
        ("{repo}/m/", "m"),
        ("{repo}/deep/er", "deep/er"),
        ("{repo}/deep/../m", "m"),
        ("m", "m"),
        ("deep/er", "deep/er"),
        ("{repo}/link", "link"),  # which an operator made
        ("{repo}", "."),
    ],
)
def test_a_path_inside_a_served_one(repo: Path, path: str, place: str) -> None:
    wanted = Wanted("n", path.format(repo=repo))
    assert listing.places([wanted], [Source(repo)]) == [(wanted, Source(repo / place, "n", Kind.MODEL))]


def test_a_served_path_by_either_of_its_names(repo: Path) -> None:
    link = repo.parent / "also-repo"
    for served, asked in ((link, link / "m"), (link, repo / "m")):
        ((_, place),) = listing.places([Wanted("n", str(asked))], [Source(served)])
        assert place is not None and place.path == asked


def test_a_path_that_a_models_name_leads_to_anyway_is_no_place_of_its_own(repo: Path) -> None:
    for wanted, served in (
        (Wanted("m", f"{repo}/m"), Source(repo)),
        (Wanted("m", f"{repo}/m"), Source(repo / "m")),
        (Wanted("x", f"{repo}/m"), Source(repo / "m", "x")),
        (Wanted("m"), Source(repo)),
    ):
        assert listing.places([wanted], [served]) == [(wanted, None)]


@pytest.mark.parametrize("path", ["{repo}/../elsewhere/x", "{repo}-secret/m", "/", "/etc", "..", "m/../../elsewhere"])
def test_a_path_outside_is_forbidden(repo: Path, path: str) -> None:
    with pytest.raises(ServingError) as error:
        listing.places([Wanted("n", path.format(repo=repo))], [Source(repo)])
    assert error.value.kind is ErrorKind.FORBIDDEN
    assert f"is not inside one that this server was started with: '{repo}'" in error.value.message


def test_a_name_may_come_once() -> None:
    with pytest.raises(ServingError, match="Illegal to list model m multiple times in config list"):
        listing.places([Wanted("m"), Wanted("n"), Wanted("m", "x")], [])


REPO, PLACE = Source(Path("repo")), Source(Path("repo/x"), "n", Kind.MODEL)


def holding(source: Source, name: str, *numbers: int) -> Finding:
    return Finding(source, models={name: FoundModel(name, source.path, None, {n: found(n) for n in numbers})})


@pytest.mark.parametrize(
    ("versions", "labels", "place"),
    [("all", {"a": 1, "b": 3}, None), ((3, 9), {"a": 3}, None), ("all", {}, PLACE)],
    ids=["all", "some", "place"],
)
def test_a_list_that_can_be_had(versions: Versions, labels: dict[str, int], place: Source | None) -> None:
    name = "n" if place else "m"
    findings = [holding(PLACE, "n", 1), holding(REPO, "m", 1, 3)]
    listing.check([(Wanted(name, "", versions, labels), place)], findings, [REPO])


@pytest.mark.parametrize(
    ("finding", "wanted", "place", "kind", "told"),
    [
        (holding(REPO, "m", 1), Wanted("n"), None, ErrorKind.INVALID, "failed to poll from model repository"),
        (holding(REPO, "m"), Wanted("m"), None, ErrorKind.INVALID, "failed to poll from model repository"),
        (holding(REPO, "n", 1), Wanted("n"), PLACE, ErrorKind.INVALID, "failed to poll from model repository"),
        (holding(PLACE, "n", 1), Wanted("n"), None, ErrorKind.INVALID, "failed to poll from model repository"),
        (Finding(REPO, problem="no disk"), Wanted("m"), None, ErrorKind.INVALID, "model repository: no disk"),
        (holding(REPO, "m", 1, 3), Wanted("m", "", (2, 4)), None, ErrorKind.INVALID, "[2, 4] is in 'repo', which has"),
        (
            holding(REPO, "m", 1, 3),
            Wanted("m", labels={"stable": 1}),
            None,
            ErrorKind.PRECONDITION,
            "Request to assign label to version 1 of model m, which is not currently available for inference",
        ),
    ],
    ids=["unknown", "empty", "not at its place", "place of another", "unreadable", "versions", "label"],
)
def test_a_list_that_cannot(finding: Finding, wanted: Wanted, place: Source | None, kind: ErrorKind, told: str) -> None:
    with pytest.raises(ServingError) as error:
        listing.check([(wanted, place)], [finding], [REPO])
    assert error.value.kind is kind and told in error.value.message


def test_directories_that_are_not_served_and_may_be_named(repo: Path) -> None:
    """A model in them has its place there, whatever its name."""
    roots = [repo.parent / "elsewhere", repo.parent / "gone"]
    for path in (f"{repo.parent}/elsewhere/x", f"{repo.parent}/elsewhere"):
        wanted = Wanted("x", path)
        assert listing.places([wanted], [Source(repo)], roots) == [(wanted, Source(Path(path), "x", Kind.MODEL))]
        assert listing.is_served(Source(Path(path)), [Source(repo)], roots)
    with pytest.raises(ServingError, match="is not inside one that this server was started with") as error:
        listing.places([Wanted("x", "x")], [], roots)
    assert str(roots[1]) in error.value.message
