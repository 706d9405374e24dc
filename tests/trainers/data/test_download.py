import hashlib
import socket
import threading
from pathlib import Path

import pytest

from tests.trainers.data.web import Web
from trainers.contract import DataError
from trainers.data.download import fetch

DATA = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(DATA).hexdigest()
PART = ".file.part"


@pytest.fixture(autouse=True)
def file(web: Web) -> None:
    web.files["file"] = DATA


def error(web: Web, to: Path, *, sha256: str = SHA256, name: str = "file") -> str:
    with pytest.raises(DataError) as raised:
        fetch(f"{web.url}/{name}", sha256, to)
    assert "\n" not in str(raised.value)
    assert not to.exists()
    return str(raised.value)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_file_is_fetched_whole_into_a_directory_that_is_made(web: Web, tmp_path: Path) -> None:
    fetch(f"{web.url}/file", SHA256, tmp_path / "new/file")
    assert (tmp_path / "new/file").read_bytes() == DATA
    assert names(tmp_path / "new") == ["file"]
    assert web.asked == [("file", None)]


def test_one_that_is_there_is_not_asked_for(web: Web, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"there")
    fetch(f"{web.url}/file", SHA256, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"there"
    assert names(tmp_path) == ["file"] and web.asked == []


def test_a_connection_that_is_cut_is_taken_up_where_it_ended(web: Web, tmp_path: Path) -> None:
    web.cuts = [100_000, 1, 500_000]
    fetch(f"{web.url}/file", SHA256, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == DATA
    assert [wanted for _, wanted in web.asked] == [None, "bytes=100000-", "bytes=100001-", "bytes=600001-"]


def test_what_an_earlier_attempt_received_is_kept(web: Web, tmp_path: Path) -> None:
    web.cuts = [300_000, 0]
    message = error(web, tmp_path / "file")
    assert "the connection ended after 300,000 of 1,048,576 bytes" in message
    assert "the next attempt goes on from there" in message
    assert names(tmp_path) == [PART]
    fetch(f"{web.url}/file", SHA256, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == DATA
    assert names(tmp_path) == ["file"]
    assert web.asked[-1] == ("file", "bytes=300000-")


def test_a_server_that_gives_no_parts_is_asked_for_the_whole(web: Web, tmp_path: Path) -> None:
    web.ranges = False
    web.cuts = [300_000]
    fetch(f"{web.url}/file", SHA256, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == DATA


def test_a_server_that_gives_no_parts_and_always_cuts_is_given_up(web: Web, tmp_path: Path) -> None:
    web.ranges = False
    web.cuts = [300_000, 300_000, 300_000]
    assert "the connection ended after 300,000" in error(web, tmp_path / "file")
    assert len(web.asked) == 2


def test_all_received_but_not_yet_renamed(web: Web, tmp_path: Path) -> None:
    (tmp_path / PART).write_bytes(DATA)
    fetch(f"{web.url}/file", SHA256, tmp_path / "file")
    assert names(tmp_path) == ["file"]


def test_another_checksum_is_refused_and_the_next_attempt_starts_anew(web: Web, tmp_path: Path) -> None:
    (tmp_path / PART).write_bytes(b"of something else")
    message = error(web, tmp_path / "file")
    assert f"{web.url}/file" in message and f"not {SHA256}" in message
    fetch(f"{web.url}/file", SHA256, tmp_path / "file")
    assert web.asked == [("file", "bytes=17-"), ("file", None)]


def test_a_file_that_the_server_does_not_have(web: Web, tmp_path: Path) -> None:
    assert error(web, tmp_path / "file", name="none") == f"{web.url}/none: the server answers 404 Not Found"


def test_a_refused_connection(web: Web, tmp_path: Path) -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        web.url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert "no connection: [Errno 111] Connection refused" in error(web, tmp_path / "file")


def test_a_full_disk(web: Web, tmp_path: Path) -> None:
    (tmp_path / PART).symlink_to("/dev/full")
    message = error(web, tmp_path / "file")
    assert message == f"{tmp_path / 'file'}: cannot be written: No space left on device"


def test_a_file_where_the_directory_should_be(web: Web, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"")
    assert "cannot be written: File exists" in error(web, tmp_path / "data/file")


def test_of_several_that_want_the_file_one_fetches_it(web: Web, tmp_path: Path) -> None:
    threads = [threading.Thread(target=fetch, args=(f"{web.url}/file", SHA256, tmp_path / "file")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "file").read_bytes() == DATA
    assert names(tmp_path) == ["file"] and len(web.asked) == 1
