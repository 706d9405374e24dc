"""A repository that cannot be read, is emptied, goes away or is another: what was loaded from it is served on."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.faults import builders
from tests.e2e.faults.disks import AS_USER
from tests.e2e.faults.site import Site
from tests.e2e.server import wait_for

PLACES = ("unreadable", "blocked", "emptied", "renamed", "another", "newer", "linked")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Each test has a repository of its own, of the same name as its only model."""
    directory = tmp_path_factory.mktemp("repositories")
    for name in PLACES:
        builders.put(directory / name, name, 1)
    (directory / "linked").rename(directory / "release-1")
    (directory / "linked").symlink_to("release-1")
    paths = [directory / name for name in PLACES]
    with Site(directory, paths=paths, savedmodel=True, under=AS_USER) as made:
        yield made


class Place:
    """One of the repositories."""

    def __init__(self, site: Site, name: str) -> None:
        self.site, self.name = site, name
        self.path, self.away = site.directory / name, site.directory / f"{name}-away"

    def put(self, version: int) -> None:
        builders.put(self.path, self.name, version)

    def serves(self, version: int) -> None:
        """And no other one, to requests that name none."""
        self.site.load.wait_for(self.name, str(version))

    def wait_for_complaint(self, text: str) -> None:
        """The problem has been seen, so that from here on the server knows."""
        wait_for(
            lambda: any(str(self.path) in line and text in line for line in self.site.server.log.splitlines()), text
        )


@pytest.fixture
def place(site: Site, request: pytest.FixtureRequest) -> Iterator[Callable[[str], Place]]:
    """Takes a repository into the load; whatever happened to it, all answer at the end, it included."""
    taken = []

    def take(name: str) -> Place:
        taken.append(name)
        site.load.add(name)
        site.check(name)
        return Place(site, name)

    yield take
    site.check(*taken)
    for name in taken:
        site.load.remove(name)


Take = Callable[[str], Place]


def test_unreadable(place: Take) -> None:
    it = place("unreadable")
    it.path.chmod(0)
    it.wait_for_complaint("Permission denied")
    it.serves(1)
    it.path.chmod(0o755)
    it.put(2)
    it.serves(2)


def test_file_in_its_place(place: Take) -> None:
    it = place("blocked")
    it.path.rename(it.away)
    it.path.write_text("not a directory")
    it.wait_for_complaint("Not a directory")
    it.serves(1)
    it.path.unlink()
    it.away.rename(it.path)
    it.put(2)
    it.serves(2)


def test_emptied(place: Take) -> None:
    it = place("emptied")
    shutil.rmtree(it.path / it.name)
    it.wait_for_complaint("empty")
    it.serves(1)
    it.put(2)
    it.serves(2)


def test_renamed_away_and_back(place: Take) -> None:
    it = place("renamed")
    it.path.rename(it.away)
    it.wait_for_complaint("no such")
    it.serves(1)
    builders.put(it.away, it.name, 2)
    it.away.rename(it.path)
    it.serves(2)


def test_replaced_by_one_with_other_models(site: Site, place: Take) -> None:
    """Those are served too: nobody has said that what was there before shall go."""
    it = place("another")
    builders.put(it.away, "stranger", 1)
    exchange(it.path, it.away)
    wait_for(lambda: site.server.state("stranger", 1)[0] == "READY", "the other model")
    it.wait_for_complaint("has no 'another'")
    site.load.add("stranger")
    site.check(it.name, "stranger")
    exchange(it.path, it.away)
    it.put(2)
    it.serves(2)
    site.check("stranger")
    site.load.remove("stranger")


def test_replaced_by_one_with_a_newer_version(place: Take) -> None:
    """The old directory goes, and another one of the same name comes."""
    it = place("newer")
    builders.put(it.away, it.name, 2)
    exchange(it.path, it.away)
    it.serves(2)
    shutil.rmtree(it.away)
    it.put(3)
    it.serves(3)


def test_link_to_another_release(site: Site, place: Take) -> None:
    """As tools do that switch a whole tree at once, there and back."""
    it = place("linked")
    builders.put(site.directory / "release-2", it.name, 2)
    for release in (2, 1, 2):
        it.away.symlink_to(f"release-{release}")
        it.away.rename(it.path)
        it.serves(release)
        wait_for(lambda: [number for _, number in site.server.index(it.name)] == [release], "the other version to go")  # noqa: B023


def test_link_of_a_model_to_another_release(site: Site, tmp_path: Path) -> None:
    for release in (1, 2):
        builders.put(tmp_path / f"release-{release}", "m", release)
    (site.repo / "linked_model").symlink_to(tmp_path / "release-1/m")
    wait_for(lambda: site.server.state("linked_model", 1)[0] == "READY", "version 1")
    site.load.add("linked_model")
    (tmp_path / "next").symlink_to(tmp_path / "release-2/m")
    (tmp_path / "next").rename(site.repo / "linked_model")
    site.load.wait_for("linked_model", "2")
    site.check("linked_model")
    site.load.remove("linked_model")
    (site.repo / "linked_model").unlink()
    wait_for(lambda: not site.server.index("linked_model"), "the model to go")


def exchange(one: Path, other: Path) -> None:
    """So fast that hardly anybody sees neither."""
    between = one.with_name(one.name + "-between")
    one.rename(between)
    other.rename(one)
    between.rename(other)
