"""`serving keys`: what operators do with a file of keys."""

import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from serving.cli.main import app
from serving.transport.access import keys
from serving.transport.access.scopes import Scope


def run(*args: object, given: str = "") -> Result:
    return CliRunner().invoke(app, ["keys", *map(str, args)], input=given)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.yaml"


def test_a_new_key_is_printed_and_its_hash_kept(file: Path) -> None:
    first = run("new", file, "web", "--scope", "infer", "--model", "a", "--model", "b", "--requests-per-s", 5)
    second = run("new", file, "ops", "--scope", "manage", "--scope", "observe", "--expires", "2030-12-31")
    assert first.exit_code == second.exit_code == 0
    web, ops = keys.read(file)
    assert bytes.fromhex(keys.digest_of(first.stdout.strip())) == web.digest
    assert bytes.fromhex(keys.digest_of(second.stdout.strip())) == ops.digest
    assert web.models == {"a", "b"} and web.rate is not None and web.rate.per_s == 5
    assert ops.scopes == {Scope.MANAGE, Scope.OBSERVE} and ops.expires is not None
    assert first.stdout.strip() not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(file.parent.iterdir()) == [file]


def test_what_the_file_says_besides_is_kept(file: Path) -> None:
    run("new", file, "web", "--scope", "infer")
    text = file.read_text() + "  # of the other team:\n"
    file.write_text(text)
    file.chmod(0o640)
    assert run("new", file, "ops", "--scope", "manage").exit_code == 0
    assert file.read_text().startswith(text)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("web", "--scope", "infer"), "key 'web' is there twice"),
        (("ops", "--scope", "mange"), "input should be 'infer', 'observe' or 'manage', got 'mange'"),
        (("ops", "--scope", "infer", "--expires", "soon"), "'expires'"),
        (("ops", "--scope", "infer", "--burst", "3"), "'burst' is for a key with 'requests_per_s'"),
    ],
)
def test_a_mistake_changes_nothing(file: Path, args: tuple[str, ...], says: str) -> None:
    run("new", file, "web", "--scope", "infer")
    before = file.read_text()
    result = run("new", file, *args)
    assert result.exit_code == 1 and says in result.stderr and "srv_" not in result.output
    assert file.read_text() == before


def test_a_key_needs_a_scope(file: Path) -> None:
    assert run("new", file, "web").exit_code == 2
    assert not file.exists()


def test_a_list_shows_no_hash(file: Path) -> None:
    run("new", file, "web", "--scope", "infer", "--model", "a", "--requests-per-s", 5)
    run("new", file, "old", "--scope", "manage", "--expires", "2020-12-31")
    listed = run("list", file)
    assert listed.exit_code == 0
    assert listed.stdout.splitlines()[1].split() == ["web", "infer", "5,", "at", "once", "5", "a", "never"]
    assert "expired 2021-01-01 00:00 UTC" in listed.stdout
    assert not any(key.digest.hex() in listed.stdout for key in keys.read(file))


def test_a_check(file: Path) -> None:
    good = run("new", file, "web", "--scope", "infer").stdout
    late = run("new", file, "old", "--scope", "infer", "--expires", "2020-12-31").stdout
    assert run("check", file).stdout == "2 keys: web, old\n"
    assert run("check", file, "--key", given=good).stdout == "web\n"
    for given, says in ((late, "the key 'old' has expired"), ("srv_other", "the key is not in '")):
        result = run("check", file, "--key", given=given)
        assert result.exit_code == 1 and says in result.stderr
    file.write_text("keys: [")
    assert run("check", file).exit_code == 1
    assert run("list", file).exit_code == 1
