"""Files of keys: what they say, what is refused, and that a change counts."""

import hashlib
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving.transport.access import keys
from serving.transport.access.keys import Key, KeyRing
from serving.transport.access.rates import Rate
from serving.transport.access.scopes import Scope
from serving.transport.watched import UnusableError


def entry(**more: Any) -> dict[str, Any]:
    return {"name": "web", "sha256": keys.digest_of("a key"), "scopes": ["infer"]} | more


def parsed(*entries: dict[str, Any]) -> list[Key]:
    return keys.parse(yaml.safe_dump({"keys": list(entries)}))


def test_the_least_that_a_key_has() -> None:
    assert parsed(entry()) == [Key("web", hashlib.sha256(b"a key").digest(), frozenset([Scope.INFER]))]


def test_all_that_a_key_may_have() -> None:
    (key,) = parsed(
        entry(
            scopes=["infer", "observe", "manage"], requests_per_s=2.5, burst=7, models=["a", "b"], expires="2030-06-30"
        )
    )
    assert key.scopes == frozenset(Scope)
    assert key.rate == Rate(2.5, 7)
    assert key.models == frozenset(["a", "b"])


@pytest.mark.parametrize(
    ("written", "moment"),
    [
        ("2030-06-30", datetime(2030, 7, 1, tzinfo=UTC)),  # a day lasts until its end
        ("'2030-06-30'", datetime(2030, 7, 1, tzinfo=UTC)),
        ("2030-06-30T12:00:00Z", datetime(2030, 6, 30, 12, tzinfo=UTC)),
        ("2030-06-30 12:00:00", datetime(2030, 6, 30, 12, tzinfo=UTC)),
        ("'2030-06-30T12:00:00+02:00'", datetime(2030, 6, 30, 10, tzinfo=UTC)),
    ],
)
def test_when_a_key_expires(written: str, moment: datetime) -> None:
    text = yaml.safe_dump({"keys": [entry()]}) + f"  expires: {written}\n"
    assert keys.parse(text)[0].expires == moment.timestamp()


@pytest.mark.parametrize(("given", "burst"), [(2.5, 3), (0.1, 1), (100, 100)])
def test_a_burst_is_what_one_second_allows(given: float, burst: int) -> None:
    assert parsed(entry(requests_per_s=given))[0].rate == Rate(given, burst)


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([], "expected 'keys', a list of at least one"),
        ([entry(scopes=[])], "key 'web': 'scopes'"),
        ([entry(scopes=["infre"])], "key 'web': 'scopes' .*'infer', 'observe' or 'manage', got 'infre'"),
        ([entry(scope=["infer"])], "key 'web': unknown key 'scope'; did you mean 'scopes'"),
        ([entry(name="")], "key '': 'name'"),
        ([entry(name="a\nb")], "key 'a\nb': name: a name is of letters that can be printed"),
        ([entry(), entry(sha256="0" * 64)], "key 'web' is there twice"),
        ([entry(), entry(name="b")], "key 'b' has the hash of another one"),
        ([entry(burst=3)], "key 'web': 'burst' is for a key with 'requests_per_s'"),
        ([entry(requests_per_s=0)], "key 'web': 'requests_per_s'"),
        ([entry(models=[])], "key 'web': 'models'"),
        ([entry(expires="soon")], "key 'web': 'expires'"),
        (["text"], "key number 1: "),
        ([{"sha256": "0" * 64, "scopes": ["infer"]}], "key number 1: 'name': field required"),
    ],
)
def test_mistakes_are_named(entries: list[Any], says: str) -> None:
    with pytest.raises(ValueError, match=f"^{says}"):
        parsed(*entries)


def test_a_key_in_place_of_its_hash_is_not_repeated() -> None:
    with pytest.raises(ValueError, match="and not the key itself") as error:
        parsed(entry(sha256="srv_secret"))
    assert "srv_secret" not in str(error.value)


@pytest.mark.parametrize("text", ["", "keys: 3", "- a", "keys: [", "other: 1\nkeys: []"])
def test_texts_that_are_no_file_of_keys(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        keys.parse(text)


def test_a_file_is_named_by_what_is_wrong_with_it(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    with pytest.raises(UnusableError, match=r"cannot read '.*keys\.yaml': No such file"):
        keys.read(file)
    file.write_bytes(b"\xff")
    with pytest.raises(UnusableError, match=r"'.*keys\.yaml': "):
        keys.read(file)


def test_a_key_is_found_by_what_it_hashes_to() -> None:
    first, second = keys.new_key(), keys.new_key()
    ring = KeyRing(parsed(entry(sha256=keys.digest_of(first)), entry(name="b", sha256=keys.digest_of(second))))
    found = [ring.find(token.encode()) for token in (first, second, first.upper(), first[:-1], "")]
    assert [key and key.name for key in found] == ["web", "b", None, None, None]


def test_hashes_that_begin_alike_are_told_apart() -> None:
    digest = bytes.fromhex(keys.digest_of("right"))
    alike = Key("alike", digest[:-1] + bytes([digest[-1] ^ 1]), frozenset([Scope.INFER]))
    right = Key("right", digest, frozenset([Scope.INFER]))
    for order in ([alike, right], [right, alike]):
        assert KeyRing(order).find(b"right") is right
    assert KeyRing([alike]).find(b"right") is None


def test_new_keys_are_long_and_never_the_same() -> None:
    made = {keys.new_key() for _ in range(100)}
    assert len(made) == 100
    assert all(re.fullmatch(r"srv_[\w-]{43}", key) for key in made)


def test_the_key_of_the_environment_is_for_everything_and_may_be_a_hash() -> None:
    plain, hashed = (
        keys.of_environment(t) for t in ("srv_0123456789ab", f"sha256:{keys.digest_of('srv_0123456789ab')}")
    )
    assert plain == hashed and plain.scopes == frozenset(Scope)
    with pytest.raises(UnusableError, match="at least 16 characters") as error:
        keys.of_environment("short")
    assert "short" not in str(error.value)
