"""Sends a published version to a running server: Open Inference Protocol's model load, with the files in the request.

The server has to be started with `--allow-model-upload`. Blocks until the version serves, or says why it does not.
"""

import json
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from trainers.contract import TrainingError

ANSWER_S = 600.0  # a load takes as long as its model; the server has limits of its own


def push(url: str, version_dir: Path) -> str:
    """Makes a server serve `<repo>/<name>/<version>`, and returns the address of the model's version there.

    The server gets what the repository has: the version's files, manifest and golden sample among them, and those
    beside the versions, such as `model.yaml`. It checks them, and serves the version instead of all that it had of the
    model, which goes on serving until then and where the new one fails. The version keeps its number, unless the server
    has as high a one: then it gets the next. What was pushed is forgotten when the server ends.

    Args:
        url: of the server's REST port; `http://` may be left out.

    Raises:
        TrainingError: there is no such version, no such server, or it does not take the version, with its reason.
        OSError: a file cannot be read.
    """
    url = _address(url)
    version_dir = version_dir.resolve()
    name, own = version_dir.parent.name, version_dir.name
    if not own.isdecimal() or not version_dir.is_dir():
        raise TrainingError(f"{version_dir}: not the directory of a published version, such as model_repo/digits/1")
    number = _number(url, name, int(own))
    _post(url, f"/v2/repository/models/{quote(name, safe='')}/load", _body(_files(version_dir, number)))
    return f"{url}/v2/models/{quote(name, safe='')}/versions/{number}"


def reach(url: str) -> None:
    """Raises TrainingError where there is no server that models could be sent to."""
    _number(_address(url), "", 1)


def _address(text: str) -> str:
    url = (text if "://" in text else f"http://{text}").rstrip("/")
    with suppress(ValueError):  # a port or an IPv6 address that is none
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return url
    raise TrainingError(f"{text}: not the address of a server, such as http://127.0.0.1:8000")


def _number(url: str, name: str, own: int) -> int:
    """A version's own number, or one more than the highest that the server has of its model."""
    entries = _post(url, "/v2/repository/index")
    try:
        there = [int(entry.get("version", 0)) for entry in entries if entry["name"] == name]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise TrainingError(f"{url}: not a server that takes models: its index is not a list of models") from None
    return max(own, max(there, default=0) + 1)


def _files(version_dir: Path, number: int) -> dict[str, Path]:
    """Files by their path in the model's directory; hidden ones are not sent."""
    beside = {path.name: path for path in sorted(version_dir.parent.iterdir()) if path.is_file()}
    inside = {path.relative_to(version_dir): path for path in sorted(version_dir.rglob("*")) if path.is_file()}
    named = {f"{number}/{path.as_posix()}": file for path, file in inside.items()}
    return {name: path for name, path in (beside | named).items() if not any(map(_hidden, name.split("/")))}


def _hidden(part: str) -> bool:
    return part.startswith(".")


def _body(files: Mapping[str, Path]) -> bytes:
    """A load request. Put together of bytes: a model is large, and a JSON library would copy it several times."""

    def members() -> Iterator[bytes]:
        yield b'"config":"{}"'
        for name, path in files.items():
            yield b'%s:"%s"' % (json.dumps(f"file:{name}").encode(), b64encode(path.read_bytes()))

    return b'{"parameters":{%s}}' % b",".join(members())


def _post(url: str, path: str, body: bytes = b"") -> Any:
    """What the server answers, read as JSON; None for an empty answer. Raises TrainingError."""
    request = urllib.request.Request(url + path, data=body, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_S) as response:
            content = response.read()
        return json.loads(content) if content else None
    except urllib.error.HTTPError as error:
        raise TrainingError(f"{url}: {_reason(error)}") from None
    except TimeoutError:
        raise TrainingError(f"{url}: no answer within {ANSWER_S:g} s") from None
    except urllib.error.URLError as error:
        reason = error.reason
        text = (isinstance(reason, OSError) and reason.strerror) or str(reason)
        raise TrainingError(f"{url}: cannot be reached: {text}") from None
    except (OSError, HTTPException) as error:
        raise TrainingError(f"{url}: the connection broke: {error}") from None
    except ValueError:
        raise TrainingError(f"{url}: not a server that takes models: its answer is not JSON") from None


def _reason(error: urllib.error.HTTPError) -> str:
    """One line: what the server says is wrong, or the HTTP status where it says nothing."""
    try:
        text = json.loads(error.read())["error"]
        return " ".join(str(text).split())
    except (OSError, ValueError, KeyError, TypeError):
        return f"HTTP {error.code} {error.reason}"
