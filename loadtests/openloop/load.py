"""One run of the generator, as a process of its own on a core of its own; and the requests that it sends.

Runs on the main thread. Knows the wire formats of cases.py only through a `Case`.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from loadtests import oip
from loadtests.cases import Case, check
from loadtests.generators import LoadError
from loadtests.openloop.outcomes import Outcomes, Summary
from loadtests.processes import pinned
from serving.protocols.messages import oip as m

WARM = 32  # connections that are open before the first request
MOST = 2000
TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Kind:
    """One of the requests that are mixed; as often as its weight says, beside the others'."""

    name: str
    case: Case
    weight: float = 1.0
    answer_bytes: int | None = None  # of every right answer; None: unchecked


@dataclass(frozen=True)
class Target:
    """A server on loopback, ready, and where the generator runs: on `core`, None for anywhere."""

    name: str
    ports: Mapping[str, int]
    core: int | None
    pid: int


def with_timeout(case: Case, timeout_us: int) -> Case:
    """The same request, which may wait so long and no longer, says its `timeout` parameter."""
    if case.transport == "grpc":
        message = m.ModelInferRequest.FromString(case.body)
        message.parameters["timeout"].int64_param = timeout_us
        return replace(case, body=bytes(message.SerializeToString()))
    json_bytes = int(case.headers[oip.JSON_LENGTH]) if oip.JSON_LENGTH in case.headers else len(case.body)
    head = orjson.loads(case.body[:json_bytes])
    head["parameters"] = {**head.get("parameters", {}), "timeout": timeout_us}
    text = orjson.dumps(head)
    headers = {name: str(len(text)) if name == oip.JSON_LENGTH else value for name, value in case.headers.items()}
    return replace(case, body=text + case.body[json_bytes:], headers=headers)


def checked(target: Target, kinds: Sequence[Kind]) -> list[Kind]:
    """Ask for each once; with the length of the right answer. AnswerError for a wrong one, OSError."""
    return [replace(k, answer_bytes=len(check(k.case, target.ports[k.case.transport]).body)) for k in kinds]


@contextmanager
def task(target: Target, kinds: Sequence[Kind]) -> Iterator[tuple[dict[str, Any], Path]]:
    """What a process that sends these requests has to know, as plain data, and a directory for its files."""
    (transport, path), *others = {(kind.case.transport, kind.case.path) for kind in kinds}
    if others:
        raise ValueError("one transport and one path at a time")
    with tempfile.TemporaryDirectory(prefix="serving-openloop-") as directory:
        files = Path(directory)
        parts = []
        for number, kind in enumerate(kinds):
            body = files / f"body-{number}"
            body.write_bytes(kind.case.body)
            about = {"name": kind.name, "weight": kind.weight, "headers": dict(kind.case.headers)}
            parts.append({**about, "body": str(body), "answer_bytes": kind.answer_bytes})
        yield {"port": target.ports[transport], "transport": transport, "path": path, "kinds": parts}, files


def run(
    target: Target, kinds: Sequence[Kind], rate: float, seconds: float, seed: int = 0, timeout_s: float = TIMEOUT_S
) -> Outcomes:
    """Send `rate` requests a second for `seconds`, all by one transport. LoadError when the generator itself fails."""
    amounts = {"rate": rate, "seconds": seconds, "seed": seed, "warm": WARM, "most": MOST, "timeout_s": timeout_s}
    with task(target, kinds) as (what, files):
        (files / "task.json").write_text(json.dumps({**what, **amounts}))
        argv = [sys.executable, "-m", "loadtests.openloop.sender", str(files / "task.json"), str(files / "result.npz")]
        with pinned(target.core):
            done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + timeout_s + 30, check=False)
        if done.returncode != 0:
            raise LoadError(f"the generator failed: {done.stderr.strip()[-1000:]}")
        return Outcomes.load(files / "result.npz")


def summary(target: Target, kinds: Sequence[Kind], rate: float, seconds: float, seed: int = 0) -> Summary:
    return run(target, kinds, rate, seconds, seed).summary()
