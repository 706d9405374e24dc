"""A state directory that is full, cannot be written, is damaged or belongs to another server."""

from collections.abc import Callable
from pathlib import Path
from signal import SIGKILL

import pytest

from tests.e2e.conftest import Serve
from tests.e2e.faults import builders
from tests.e2e.faults.disks import AS_USER, SmallDisk, SmallFiles
from tests.e2e.faults.operators import Operator, RefusedError
from tests.e2e.faults.site import Site
from tests.e2e.server import Server, command, error_line, wait_for


def test_second_server_is_refused(serve: Serve, tmp_path: Path) -> None:
    state = tmp_path / "state"
    builders.put(tmp_path / "repo", "m", 1)
    first = serve(tmp_path / "repo", "--state-dir", state)
    ports = ("--http-port", 0, "--grpc-port", 0)
    second = command("start", tmp_path / "repo", "--state-dir", state, *ports)
    assert str(state) in error_line(second)
    assert Operator(first, "m").label("stable", 1)["labels"] == {"stable": 1}
    first.signal()
    assert first.wait() == 0
    third = serve(tmp_path / "repo", "--state-dir", state)
    assert Operator(third, "m").status()["labels"] == {"stable": 1}


def test_quarantine_survives_a_kill(serve: Serve, tmp_path: Path) -> None:
    """What has killed a trial once is not tried again before its content changes, or somebody insists."""
    repo, arguments = tmp_path / "repo", ("--state-dir", tmp_path / "state", "--settle-s", "0.2")
    builders.put(repo, "m", 1)
    server = serve(repo, *arguments)
    builders.put(repo, "m", 2, builders.dies())
    wait_for(lambda: server.state("m", 2)[1].startswith("quarantined: "), "version 2 to fail")
    unavailable, reason = server.state("m", 2)
    assert unavailable == "UNAVAILABLE" and "SIGFPE" in reason
    server.signal(SIGKILL)
    server.wait()

    server = serve(repo, *arguments)
    operator = Operator(server, "m")
    assert server.state("m", 2) == ("UNAVAILABLE", reason)
    assert server.state("m", 1)[0] == "READY"
    assert loads(operator, 2) == 1
    with pytest.raises(RefusedError, match="SIGFPE"):
        operator.load(force=True)
    assert loads(operator, 2) == 2
    assert server.state("m", 2) == ("UNAVAILABLE", reason)
    assert server.state("m", 1)[0] == "READY"
    builders.put(repo, "m", 2)
    wait_for(lambda: server.state("m", 2)[0] == "READY", "version 2 to be taken")


def loads(operator: Operator, version: int) -> int:
    """How often it was tried to load a version."""
    return sum(event["version"] == version for event in operator.events("loading"))


def read_only(state: Path) -> None:
    state.chmod(0o555)


def a_file(state: Path) -> None:
    state.rmdir()
    state.write_text("")


def damaged(state: Path) -> None:
    (state / "state.db").write_bytes(b"this is no database" * 1000)


@pytest.mark.parametrize("break_it", [read_only, a_file, damaged])
def test_unusable_from_the_start(tmp_path: Path, break_it: Callable[[Path], None]) -> None:
    """The server does not start, rather than forget what it was told."""
    state = tmp_path / "state"
    state.mkdir()
    break_it(state)
    builders.put(tmp_path / "repo", "m", 1)
    server = Server(tmp_path / "logs", tmp_path / "repo", "--state-dir", state, under=AS_USER)
    try:
        assert server.wait() != 0
    finally:
        server.end()
    (line,) = server.log.strip().splitlines()
    assert line.startswith("error: ") and str(state) in line


def small_disk(state: Path) -> SmallDisk:
    return SmallDisk(state)


def small_files(state: Path) -> SmallFiles:
    return SmallFiles(state / "state.db-wal")


@pytest.mark.parametrize("small", [small_disk, small_files])
def test_full(tmp_path: Path, small: Callable[[Path], SmallDisk | SmallFiles]) -> None:
    """Changes that cannot be kept are refused whole; what serves, serves on, and versions come and go."""
    state = tmp_path / "state"
    disk = small(state)
    with Site(tmp_path, flags=("--state-dir", state), under=disk.under) as site, site.model("m") as m:
        operator = Operator(site.server, "m")
        operator.label("stable", 1)
        before = operator.traffic(weights={"stable": 100})
        disk.fill(site.server)
        changes: list[Callable[[], object]] = [
            lambda: operator.label("canary", 1),
            lambda: operator.traffic(weights={"1": 100}),
            lambda: operator.promote(1),
            operator.unload,
        ]
        for change in changes:
            with pytest.raises(RefusedError) as refused:
                change()
            assert refused.value.status == 503, refused.value
        now = operator.status()
        assert [now[key] for key in ("labels", "traffic", "before")] == [
            before[key] for key in ("labels", "traffic", "before")
        ]
        m.only(1)
        m.put(2)
        m.only(1)  # as the weights say
        site.check("m")
        disk.empty(site.server)
        wait_for(lambda: accepted(lambda: operator.promote(2)), "the disk to take changes again")
        m.only(2)


def accepted(change: Callable[[], object]) -> bool:
    try:
        change()
    except RefusedError:
        return False
    return True
