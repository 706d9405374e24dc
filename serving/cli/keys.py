"""`serving keys`: a file of keys, from the operator's side. The server only ever reads it."""

import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from serving.cli.describe import fail
from serving.transport.access import keys
from serving.transport.access.keys import Key, KeyRing
from serving.transport.watched import UnusableError

_HEAD = (
    "# Keys of a server: serving start --api-keys FILE. Hashes only; `serving keys new FILE NAME` adds one.\nkeys:\n"
)


def new(file: Path, entry: Mapping[str, Any]) -> int:
    """
    Args:
        entry: as a file has it, without the hash.
    """
    token = keys.new_key()
    try:
        text = file.read_text() if file.exists() else _HEAD
        lines = yaml.safe_dump([{**entry, "sha256": keys.digest_of(token)}], sort_keys=False, allow_unicode=True)
        text = text.rstrip("\n") + "\n" + "".join(f"  {line}\n" for line in lines.splitlines())
        keys.parse(text)
        _replace(file, text)
    except OSError as error:
        return fail(f"'{file}': {error.strerror}")
    except ValueError as error:
        return fail(f"'{file}': {error}")
    print(token)
    print(f"added to '{file}'. This key is shown once; only its hash is kept.", file=sys.stderr)
    return 0


def _replace(file: Path, text: str) -> None:
    """As a whole, so that a server never reads half of it."""
    part = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            stream.write(text)
        if file.exists():
            part.chmod(file.stat().st_mode & 0o777)
        part.replace(file)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise


def show(file: Path) -> int:
    try:
        found = keys.read(file)
    except UnusableError as error:
        return fail(str(error))
    table = Table(box=None, pad_edge=False)
    for title in ("key", "scopes", "requests/s", "models", "expires"):
        table.add_column(title, overflow="fold")
    for key in found:
        rate = "" if key.rate is None else f"{key.rate.per_s:g}, at once {key.rate.burst}"
        scopes = ", ".join(sorted(scope.value for scope in key.scopes))
        table.add_row(key.name, scopes, rate, ", ".join(sorted(key.models or ())) or "all", _expiry(key))
    Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 200).print(table)
    return 0


def check(file: Path, key: bool) -> int:
    try:
        found = keys.read(file)
    except UnusableError as error:
        return fail(str(error))
    if not key:
        print(f"{len(found)} keys: {', '.join(one.name for one in found)}")
        return 0
    known = KeyRing(found).find(sys.stdin.read().strip().encode())
    if known is None:
        return fail(f"the key is not in '{file}'")
    if known.expires is not None and known.expires <= time.time():
        return fail(f"the key '{known.name}' has expired")
    print(known.name)
    return 0


def _expiry(key: Key) -> str:
    if key.expires is None:
        return "never"
    verb = "expired " if key.expires <= time.time() else ""
    return f"{verb}{datetime.fromtimestamp(key.expires, UTC):%Y-%m-%d %H:%M} UTC"
