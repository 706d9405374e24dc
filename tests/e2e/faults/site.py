"""One server with healthy models under load, beside which things go wrong.

    with Site(directory) as site:
        with site.model("m") as m:      # version 1 is served and asked
            ...                         # something happens to version 2
            m.wait_for(2, "UNAVAILABLE", "why")

Whatever happens, no request may fail: not to the healthy models, and not to `m`, which has a version that works.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import onnx

from tests import savedmodels
from tests.e2e.faults import builders
from tests.e2e.faults.load import Load
from tests.e2e.plain import children
from tests.e2e.server import Server, wait_for

QUICK = ("--settle-s", "0.3", "--poll-s", "1")


class Site:
    """
    Args:
        paths: repositories that the server gets besides its own two, `healthy` and `repo`.
        flags: of the server.
        savedmodel: whether a SavedModel in ONNX form is among the healthy models; it takes seconds to convert.
        under: a command that runs the server, such as one that takes rights from it.
        env: more of its environment.
    """

    def __init__(
        self,
        directory: Path,
        *,
        paths: Sequence[Path | str] = (),
        flags: Sequence[object] = (),
        savedmodel: bool = False,
        under: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self.repo = directory / "repo"
        self.healthy = {"steady": "scale", "echo": "same"} | ({"half": "half_plus_two"} if savedmodel else {})
        healthy = directory / "healthy"
        builders.put(healthy, "steady", 3)
        builders.echo(healthy, "echo")
        if savedmodel:
            savedmodels.write("half_plus_two", healthy / "half/1")
            (healthy / "half/model.yaml").write_text("accelerate: onnx\n")
        builders.put(self.repo, "other", 1)  # a repository that is emptied counts as broken, so this one stays
        self.server = Server(directory / "logs", healthy, self.repo, *paths, *QUICK, *flags, under=under, env=env)

    def __enter__(self) -> "Site":
        with ExitStack() as stack:
            stack.callback(self.server.end)
            self.server.wait_ready()
            self.load = stack.enter_context(Load(self.server))
            for name, law in self.healthy.items():
                self.load.add(name, law)
            self.check()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)
        assert "Traceback" not in self.server.log

    def check(self, *more: str) -> None:
        """All of them answer, rightly, over every form of request; none has failed before; and the server is ready."""
        self.load.check(*self.healthy, *more)
        assert self.server.get("/v2/health/ready").status_code == 200

    @contextmanager
    def model(self, name: str) -> Iterator["Subject"]:
        """A model of which version 1 is served and asked; checked at the end, and removed."""
        builders.put(self.repo, name, 1)
        subject = Subject(self, name)
        subject.wait_for(1, "READY")
        self.load.add(name)
        yield subject
        self.check(name)
        self.load.remove(name)
        shutil.rmtree(self.repo / name)
        wait_for(lambda: not self.server.index(name), f"{name} to go")


def descendants(pid: int) -> set[int]:
    """The processes that it has started, those that they have started, and so on, as far as they live."""
    found = set(children(pid))
    return found.union(*map(descendants, found))


class Subject:
    """A model to which something happens."""

    def __init__(self, site: Site, name: str) -> None:
        self.name = name
        self.repo, self.path = site.repo, site.repo / name
        self.server, self.load = site.server, site.load

    def put(self, version: int, proto: onnx.ModelProto | None = None) -> Path:
        return builders.put(self.repo, self.name, version, proto)

    def release(self, proto: onnx.ModelProto, factor: float | None = None) -> Path:
        return builders.release(self.repo, self.name, proto, factor)

    def elsewhere(self, directory: Path, proto: onnx.ModelProto, factor: float) -> Path:
        """What `release` would make of the second version of a model, outside of the repository."""
        shutil.rmtree(directory / "elsewhere", ignore_errors=True)
        builders.put(directory / "elsewhere", self.name, 1)
        return builders.release(directory / "elsewhere", self.name, proto, factor)

    def failures(self) -> float:
        """How many loads have failed."""
        return self.server.metrics().sum("serving_model_load_seconds_count", model=self.name, outcome="failed")

    def events(self, kind: str) -> list[int]:
        """The versions that were in events of this kind, oldest first."""
        answer = self.server.get(f"/serving/events?model={self.name}&limit=1000")
        assert answer.status_code == 200, answer.text
        return [event["version"] for event in answer.json()["events"] if event["kind"] == kind]

    def wait_until_looked_at(self) -> None:
        """Returns when the server has acted on all that is on disk now."""
        other = builders.put(self.repo, "other", max(int(path.name) for path in (self.repo / "other").iterdir()) + 1)
        wait_for(lambda: self.server.state("other", int(other.name))[0] == "READY", "another model's next version")

    def state(self, version: int) -> tuple[str, str]:
        return self.server.state(self.name, version)

    def wait_for(self, version: int, state: str, text: str = "") -> None:
        def there() -> bool:
            found, reason = self.state(version)
            return found == state and text in reason

        wait_for(there, f"{self.name}/{version} to be {state} {text!r}; it is {self.state(version)}")

    def wait_gone(self, version: int) -> None:
        wait_for(lambda: self.state(version) == ("", ""), f"{self.name}/{version} to go")

    def answers(self, version: int, count: int = 10) -> None:
        """Returns when requests that name no version have got more right answers of this one."""
        self.load.wait_for(self.name, str(version), count)

    def only(self, version: int) -> None:
        """From now on no other version answers."""
        self.answers(version)
        before = self.load.seen()
        self.answers(version, 50)
        now = self.load.seen()
        others = {v: now.of(self.name, v) - before.of(self.name, v) for v in now.versions(self.name) - {str(version)}}
        assert not any(others.values()), f"versions that answered although only {version} should: {others}"
