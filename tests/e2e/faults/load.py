"""A steady load of mixed models over every protocol, in a process of its own, that looks at each answer's values.

    with Load(server) as load:
        load.add("m", "scale")
        load.wait_for("m", "2")
        load.check()

The process runs one thread and one connection per form of request; each asks all models in turn, with short pauses, so
that there is time left for the server. It reads commands from standard input, one line of JSON each, and answers each
with one line: what was seen so far.
"""

import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc
import tritonclient.http

from loadtests import tfs
from serving.core import dtypes
from serving.protocols.messages import tfs as m
from tests.e2e.server import LIMIT_S, ROOT, Server, wait_for

PAUSE_S = 0.01

Ask = Callable[[str, np.ndarray], tuple[str, np.ndarray]]  # model, x -> the version that answered, "" untold; and y

# By the name of a law: the width of x, and y for an x and the version that answered.
LAWS: Mapping[str, tuple[int, Callable[[np.ndarray, int], np.ndarray]]] = {
    "scale": (4, lambda x, version: x * version),
    "same": (4, lambda x, version: x),
    "half_plus_two": (1, lambda x, version: x / 2 + 2),
}


@dataclass(frozen=True)
class Seen:
    """All since the load began: right answers by model, form and version, and what went wrong, in words."""

    answers: Counter[tuple[str, str, str]]
    problems: list[str]

    def of(self, model: str, version: str | None = None) -> int:
        return sum(n for (name, _, by), n in self.answers.items() if name == model and version in (None, by))

    def versions(self, model: str) -> set[str]:
        return {version for name, _, version in self.answers if name == model}


class Load:
    """The process, from the test's side."""

    def __init__(self, server: Server) -> None:
        argv = [sys.executable, "-m", "tests.e2e.faults.load", server.http, server.grpc]
        self._process = subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> "Load":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        if kind is not None:
            self._process.kill()
        self._process.stdin.close()
        code = self._process.wait(LIMIT_S)
        self._process.stdout.close()
        assert code == 0 or kind is not None

    def add(self, model: str, law: str = "scale") -> None:
        """From now on this model is asked too."""
        self._tell({"add": model, "law": law})

    def remove(self, model: str) -> None:
        """Returns when no request to this model is under way, or will be."""
        self._tell({"remove": model})

    def seen(self) -> Seen:
        return self._tell({})

    def wait_for(self, model: str, version: str | None = None, count: int = 10) -> Seen:
        """Returns when this model has given `count` more right answers, of this version or of any."""
        goal = self.seen().of(model, version) + count

        def enough() -> Seen | None:
            seen = self.seen()
            assert not seen.problems, "\n".join(seen.problems)
            return seen if seen.of(model, version) >= goal else None

        seen = wait_for(enough, f"{count} answers of {model}")
        assert seen is not None
        return seen

    def check(self, *steady: str) -> None:
        """Nothing has gone wrong, and these models answer over every form of request, now."""
        before = self.seen()
        for model in steady:
            wait_for(partial(self._answers, model, before), f"answers of {model}")

    def _answers(self, model: str, before: Seen) -> bool:
        now = self.seen()
        assert not now.problems, "\n".join(now.problems)
        return {form for name, form, _ in now.answers - before.answers if name == model} == FORMS.keys()

    def _tell(self, command: dict[str, Any]) -> Seen:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the load has ended"
        answer = json.loads(line)
        return Seen(Counter({tuple(key): n for key, n in answer["answers"]}), answer["problems"])


# From here on: in the process.


class _Book:
    """What is asked, and what came of it."""

    def __init__(self) -> None:
        self._laws: dict[str, str] = {}
        self._asked: Counter[str] = Counter()  # under way, by model
        self._answers: Counter[tuple[str, str, str]] = Counter()
        self._problems: list[str] = []
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)

    def obey(self, command: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            if "add" in command:
                self._laws[command["add"]] = command["law"]
            if "remove" in command:
                del self._laws[command["remove"]]
                self._idle.wait_for(lambda: not self._asked[command["remove"]])
            return {"answers": list(self._answers.items()), "problems": self._problems}

    def run(self, form: str, ask: Ask) -> None:
        number = 0.0
        while True:
            with self._lock:
                models = list(self._laws)
            for model in models:
                number += 1 / 8
                self._ask(form, ask, model, 1 + number % 1000)
            time.sleep(PAUSE_S)

    def _ask(self, form: str, ask: Ask, model: str, number: float) -> None:
        with self._lock:
            if model not in self._laws:
                return
            width, law = LAWS[self._laws[model]]
            self._asked[model] += 1
        x = np.full((1 + int(number) % 3, width), number, np.float32)
        problem = None
        try:
            version, y = ask(model, x)
            factor = float(y[0, 0] / x[0, 0])
            by = int(version or factor)
            if not np.array_equal(y, law(x, by)):
                problem = f"{model} over {form}: version {version or '?'} answered {y} for {x}"
        except Exception as error:  # whatever it is, the test shall see it
            problem = f"{model} over {form}: {type(error).__name__}: {error}"
        with self._lock:
            self._asked[model] -= 1
            self._idle.notify_all()
            if problem is None:
                self._answers[model, form, str(by)] += 1
            elif len(self._problems) < 100:
                self._problems.append(f"{time.strftime('%H:%M:%S')} {problem}")


def _triton(library: Any, address: str, **options: bool) -> Ask:
    """An unmodified tritonclient."""
    is_rest = library is tritonclient.http
    client = library.InferenceServerClient(
        address, **({"connection_timeout": LIMIT_S, "network_timeout": LIMIT_S} if is_rest else {})
    )
    wanted = library.InferRequestedOutput("y", **options)

    def ask(model: str, x: np.ndarray) -> tuple[str, np.ndarray]:
        given = library.InferInput("x", list(x.shape), "FP32")
        given.set_data_from_numpy(x, **options)
        result = client.infer(model, [given], outputs=[wanted])
        response = result.get_response()
        return response["model_version"] if is_rest else response.model_version, result.as_numpy("y")

    return ask


def _tfs_rest(address: str) -> Ask:
    connection = http.client.HTTPConnection(address, timeout=LIMIT_S)

    def ask(model: str, x: np.ndarray) -> tuple[str, np.ndarray]:
        connection.request("POST", tfs.predict_path(model), tfs.encode_rows({"x": x}))
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise ValueError(f"{answer.status}: {body[:300]!r}")
        return "", tfs.decode_rows(body, {"y": dtypes.FP32})["y"]

    return ask


def _tfs_grpc(address: str) -> Ask:
    call = grpc.insecure_channel(address).unary_unary(tfs.GRPC_PREDICT, None, m.PredictResponse.FromString)

    def ask(model: str, x: np.ndarray) -> tuple[str, np.ndarray]:
        answer = call(tfs.encode_predict(model, {"x": x}), timeout=LIMIT_S)
        return str(answer.model_spec.version.value), tfs.decode_predict(answer.SerializeToString())["y"]

    return ask


FORMS: Mapping[str, Callable[[str, str], Ask]] = {
    "oip-json": lambda rest, _: _triton(tritonclient.http, rest, binary_data=False),
    "oip-binary": lambda rest, _: _triton(tritonclient.http, rest, binary_data=True),
    "oip-grpc": lambda _, grpc: _triton(tritonclient.grpc, grpc),
    "tfs-rest": lambda rest, _: _tfs_rest(rest),
    "tfs-grpc": lambda _, grpc: _tfs_grpc(grpc),
}


def _main(rest: str, grpc_address: str) -> None:
    book = _Book()

    def client(form: str) -> None:
        book.run(form, FORMS[form](rest, grpc_address))  # made in its thread: one of the libraries wants that

    for form in FORMS:
        threading.Thread(target=client, args=(form,), daemon=True).start()
    for line in sys.stdin:
        print(json.dumps(book.obey(json.loads(line))), flush=True)
    os._exit(0)  # at an ordinary end the clients' libraries would go from under their threads


if __name__ == "__main__":
    _main(*sys.argv[1:])
