"""Changes keys of a `model.yaml` and leaves everything else in it as it is, comments too. Pure but for `write`."""

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path

import yaml

from serving.core.spec import parse_spec, read_yaml


def changed(text: str, values: Mapping[str, int | float], source: str) -> str:
    """The text with these keys set: in their lines where they have one each, otherwise at the end.

    Where the text is written in such a way that this would not do (all in one line, say), it is written anew, without
    comments.

    Raises:
        SpecError: the settings would not be valid.
    """
    wanted = {**read_yaml(text), **values}
    edited = text
    for key, value in values.items():
        edited = _with(edited, key, value)
    try:
        done = read_yaml(edited) == wanted
    except ValueError:
        done = False
    if not done:
        edited = yaml.safe_dump(wanted, sort_keys=False, allow_unicode=True)
    parse_spec(edited, source)
    return edited


def _with(text: str, key: str, value: int | float) -> str:
    line = re.compile(rf"^(['\"]?){re.escape(key)}\1[ \t]*:[ \t]*[^\s#]*(?P<rest>[ \t]*(?:#.*)?)$", re.MULTILINE)
    made, count = line.subn(lambda match: f"{key}: {value}{match['rest']}", text)
    if count:
        return made
    return f"{text}{'' if not text or text.endswith(chr(10)) else chr(10)}{key}: {value}\n"


def diff(before: str, after: str, name: str) -> list[str]:
    """Lines of a unified diff; none: nothing changes."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), name, name, lineterm="", n=2)
    return list(lines)


def write(file: Path, text: str) -> None:
    """Replaces the file as a whole, so that a server that reads it meanwhile sees the old or the new one.

    Raises:
        OSError: it cannot be written; it is as before.
    """
    made = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        made.write_text(text, encoding="utf-8")
        if file.exists():
            made.chmod(file.stat().st_mode & 0o7777)
        made.replace(file)
    finally:
        made.unlink(missing_ok=True)
