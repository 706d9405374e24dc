"""Files that came over the network: which are taken, where they go, and that they go away."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from serving.core.errors import ErrorKind, ServingError
from serving.repository.disk.upload import Uploads, check_files, remove

MODEL = {"1/model.onnx": b"graph"}


@pytest.mark.parametrize(
    "names",
    [
        ("1/model.onnx",),
        ("1/model.onnx", "model.yaml", "labels.txt"),
        ("007/model.savedmodel/variables/variables.index", "007/model.savedmodel/saved_model.pb"),
        ("1/model.onnx", "2/model.onnx", "2/größe.bin"),
    ],
    ids=str,
)
def test_what_makes_a_model_is_taken(names: tuple[str, ...]) -> None:
    check_files("m", dict.fromkeys(names, b""))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("", "relative path without empty parts"),
        ("/etc/passwd", "relative path without empty parts"),
        ("//1/model.onnx", "relative path without empty parts"),
        ("1//model.onnx", "relative path without empty parts"),
        ("1/model.onnx/", "relative path without empty parts"),
        ("../m/1/model.onnx", "'.' and '..' are not taken"),
        ("1/../../model.onnx", "'.' and '..' are not taken"),
        ("1/./model.onnx", "'.' and '..' are not taken"),
        ("..", "'.' and '..' are not taken"),
        (".hidden", "hidden files"),
        ("1/.ssh/keys", "hidden files"),
        ("1\\model.onnx", "no backslash"),
        ("1/a\0b", "printable characters"),
        ("1/a\nb", "printable characters"),
        ("1/" + "ü" * 128, "a name of more than 255 bytes"),
        ("1", "a version is a directory"),
        ("labels/x.txt", "the first directory must be a version number"),
        ("0/model.onnx", "the first directory must be a version number"),
        ("-1/model.onnx", "the first directory must be a version number"),
        ("9223372036854775808/model.onnx", "the first directory must be a version number"),
        ("9" * 255 + "/model.onnx", "the first directory must be a version number"),
        ("१/model.onnx", "the first directory must be a version number"),
        ("1/model.onnx/more", "another file has it as its directory"),
    ],
    ids=repr,
)
def test_what_could_leave_the_directory_or_makes_no_model_is_refused(name: str, told: str) -> None:
    with pytest.raises(ServingError) as error:
        check_files("m", {**MODEL, name: b""})
    assert error.value.kind is ErrorKind.INVALID
    assert error.value.message.startswith("failed to load 'm': file '") and told in error.value.message


@pytest.mark.parametrize("names", [(), ("model.yaml",)], ids=str)
def test_a_model_has_a_version(names: tuple[str, ...]) -> None:
    with pytest.raises(ServingError, match="no file is in a version's directory"):
        check_files("m", dict.fromkeys(names, b""))


def test_too_many_files() -> None:
    with pytest.raises(ServingError, match="10001 files are too many"):
        check_files("m", {f"1/{i}": b"" for i in range(10_001)})


def test_each_model_has_a_private_directory_until_nobody_needs_it() -> None:
    uploads = Uploads(allowed=True)
    try:
        one, two = uploads.write("m", {"1/a/b": b"b", "model.yaml": b"y"}), uploads.write("m", MODEL)
        uploads.hold(one)
        uploads.hold(two)
        assert (one / "1/a/b").read_bytes() == b"b" and (one / "model.yaml").read_bytes() == b"y"
        assert one != two and one.parent == two.parent
        assert one.parent.stat().st_mode & 0o777 == one.stat().st_mode & 0o777 == 0o700
        remove(uploads.release_all_but({two}))
        assert not one.exists() and two.exists()
        assert uploads.release_all_but({two}) == []
    finally:
        uploads.close()
    assert not two.parent.exists()


def test_what_a_killed_server_left_is_removed_by_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed = "import os, serving.repository.disk.upload as u; u.Uploads(True).write('m', {'1/x': b''}); os._exit(9)"
    subprocess.run([sys.executable, "-c", killed], env={**os.environ, "TMPDIR": str(tmp_path)}, check=False)
    (left,) = tmp_path.iterdir()
    (tmp_path / "others").mkdir()
    here, too = Uploads(allowed=True), Uploads(allowed=True)
    try:
        assert not left.exists()
        assert here.write("m", MODEL).exists() and too.write("m", MODEL).exists()
    finally:
        here.close()
        too.close()
    assert [path.name for path in tmp_path.iterdir()] == ["others"]


def test_where_uploads_are_not_allowed_nothing_is_made() -> None:
    uploads = Uploads(allowed=False)
    with pytest.raises(ServingError) as error:
        uploads.check("m", MODEL)
    assert error.value.kind is ErrorKind.FORBIDDEN and "--allow-model-upload" in error.value.message
    uploads.close()


def test_a_disk_that_takes_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    uploads = Uploads(allowed=True)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_bytes", full)
            with pytest.raises(ServingError) as error:
                uploads.write("m", MODEL)
        assert error.value.kind is ErrorKind.UNAVAILABLE
        assert error.value.message == "failed to load 'm': its files cannot be stored: No space left on device"
        root = uploads.write("m", MODEL).parent
        assert len(list(root.iterdir())) == 1  # nothing is left of the first
    finally:
        uploads.close()
