"""Keys as files have them: names, hashes, and what each is for. No key itself is ever kept.

A key is 256 random bits, so that one round of SHA-256 is hash enough: there is nothing to guess.
"""

import hashlib
import hmac
import math
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from serving.core.spec import explain, read_yaml
from serving.transport.access.rates import Rate
from serving.transport.access.scopes import Scope
from serving.transport.watched import UnusableError, content

FROM_ENVIRONMENT = "SERVING_API_KEY"
LEAST_LENGTH = 16  # of a key that somebody else has made
_PREFIX = "srv_"
_HASHED = re.compile(r"sha256:([0-9a-fA-F]{64})")


@dataclass(frozen=True, slots=True)
class Key:
    """
    Attributes:
        digest: SHA-256 of the key.
        expires: in seconds since the epoch; None: never.
        models: those that it may ask for; None: all.
    """

    name: str
    digest: bytes
    scopes: frozenset[Scope]
    rate: Rate | None = None
    expires: float | None = None
    models: frozenset[str] | None = None


class KeyRing:
    """All keys that count now."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self.keys = tuple(keys)
        self._by_start: dict[bytes, list[Key]] = {}
        for key in self.keys:
            self._by_start.setdefault(key.digest[:4], []).append(key)

    def find(self, token: bytes) -> Key | None:
        """Whose hash is compared in a time that tells nothing; that of the look-up before depends on a hash alone, and
        nobody can make one to measure."""
        digest = hashlib.sha256(token).digest()
        found = None
        for key in self._by_start.get(digest[:4], ()):
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found


def new_key() -> str:
    return _PREFIX + secrets.token_urlsafe(32)


def digest_of(token: str) -> str:
    """In hexadecimal, as key files have it."""
    return hashlib.sha256(token.encode()).hexdigest()


class Entry(BaseModel):
    """One key in a file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=100)
    sha256: str
    scopes: frozenset[Scope] = Field(min_length=1)
    requests_per_s: float | None = Field(None, gt=0, le=1e9)
    burst: int | None = Field(None, ge=1, le=1_000_000_000)
    expires: datetime | date | None = None
    models: frozenset[str] | None = Field(None, min_length=1)

    @field_validator("name")
    @classmethod
    def _is_printable(cls, name: str) -> str:
        if not name.isprintable():
            raise ValueError("a name is of letters that can be printed")
        return name

    @field_validator("sha256")
    @classmethod
    def _is_a_hash(cls, text: str) -> str:
        if re.fullmatch("[0-9a-fA-F]{64}", text) is None:  # what was given may be the key, so it is not shown
            raise ValueError(
                "expected the 64 hexadecimal digits that `serving keys new` prints, and not the key itself"
            )
        return text

    @field_validator("expires", mode="before")
    @classmethod
    def _is_a_day(cls, given: Any) -> Any:
        """Which a text may be too; pydantic would take it for its first moment."""
        is_day = isinstance(given, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", given) is not None
        return date.fromisoformat(given) if is_day else given

    def key(self) -> Key:
        """Raises: ValueError: a burst of no rate."""
        rate = None
        if self.requests_per_s is not None:
            rate = Rate(self.requests_per_s, self.burst or max(math.ceil(self.requests_per_s), 1))
        elif self.burst is not None:
            raise ValueError("'burst' is for a key with 'requests_per_s'")
        expires = None if self.expires is None else _moment(self.expires)
        return Key(self.name, bytes.fromhex(self.sha256), self.scopes, rate, expires, self.models)


def _moment(when: datetime | date) -> float:
    """Without a zone it is UTC, and a day lasts until its end."""
    if not isinstance(when, datetime):
        when = datetime.combine(when, time(), UTC) + timedelta(days=1)
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def read(path: Path) -> list[Key]:
    """The keys of a file. Blocking.

    Raises:
        UnusableError: it cannot be read, has a mistake, or holds no key.
    """
    try:
        return parse(content(path).decode())
    except UnusableError:
        raise
    except ValueError as error:
        raise UnusableError(f"'{path}': {error}") from None


def parse(text: str) -> list[Key]:
    """Raises: ValueError: one line; it names the key."""
    values = read_yaml(text)
    entries = values.pop("keys", None)
    if values:
        raise ValueError(f"unknown key '{next(iter(values))}'; expected 'keys', a list")
    if not isinstance(entries, list) or not entries:
        raise ValueError("expected 'keys', a list of at least one")
    found: dict[str, Key] = {}
    for number, entry in enumerate(entries, 1):
        name = entry.get("name") if isinstance(entry, dict) else None
        where = f"key '{name}'" if isinstance(name, str) else f"key number {number}"
        try:
            key = Entry.model_validate(entry).key()
        except ValidationError as error:
            raise ValueError(f"{where}: {explain(error, tuple(Entry.model_fields))}") from None
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        if key.name in found:
            raise ValueError(f"{where} is there twice")
        if any(key.digest == other.digest for other in found.values()):
            raise ValueError(f"{where} has the hash of another one")
        found[key.name] = key
    return list(found.values())


def of_environment(text: str) -> Key:
    """The one key that may stand in the environment, as it is or as `sha256:` and its hash; it is for everything.

    Raises:
        UnusableError: it is too short.
    """
    match = _HASHED.fullmatch(text)
    if match is None and len(text) < LEAST_LENGTH:
        raise UnusableError(
            f"{FROM_ENVIRONMENT}: a key has at least {LEAST_LENGTH} characters; `serving keys new` makes one"
        )
    digest = match[1] if match else digest_of(text)
    return Key("environment", bytes.fromhex(digest), frozenset(Scope))
