"""Runs the examples of the documentation against a live server and holds what they print against what the text says.

In a document, or that section of it which `_DOCUMENTS` names, the language of a fenced block says what is done with it:

    bash              run by one shell for the whole document
    console           the same: what follows `$ ` is run, the lines below it are its answer
    python            run by one interpreter, until a block that begins with an import, which starts another
    json, text        the answer to the block directly above; `…` stands for anything, white space does not count
    text, yaml        anywhere else: for the reader alone

Any other block is an error. Examples run in a directory that holds the served `model_repo`, and `.venv`.
"""

import os
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

import pytest

from tests import savedmodels
from tests.e2e.conftest import Serve
from tests.e2e.server import LIMIT_S, ROOT, Server

_DOCUMENTS = {
    "README.md": "## First requests",
    "docs/protocols.md": "",
    "docs/rollouts.md": "",
    "docs/migrate-from-triton.md": "",
    "docs/migrate-from-tensorflow-serving.md": "",
}

_FENCE = re.compile(r"```([a-z]*)$")
_ADDRESS = re.compile(r"(?:127\.0\.0\.1|localhost):(8000|8001|8500|8501)\b")
_END = re.compile(rb"\x1f(\d+)\n")

_SHELL = ("bash", "-c", 'while read -r file; do source "$file" </dev/null; printf "\\037%s\\n" $?; done')
_INTERPRETER = (
    sys.executable,
    "-c",
    r"""
import sys, traceback
names = {"__name__": "__main__"}
for file in sys.stdin:
    status = 0
    try:
        exec(compile(open(file.strip()).read(), file.strip(), "exec"), names)
    except Exception:
        traceback.print_exc()
        status = 1
    print(f"\x1f{status}", flush=True)
""",
)


@dataclass
class Example:
    """A block that is run; `line` is where it begins. An empty answer is none."""

    language: str
    line: int
    code: str
    answer: str = ""


def examples(text: str, section: str) -> Iterator[Example]:
    """Those of a document, or of one section of it, which begins with the line `section`.

    Raises:
        ValueError: a block of a language that says neither how to run it nor that it is not run.
    """
    last: Example | None = None  # while nothing but blank lines has come after it
    inside = not section
    lines = iter(enumerate(text.splitlines(), 1))
    for number, line in lines:
        if section and line.startswith("## "):
            inside = line == section
        fence = _FENCE.fullmatch(line)
        if fence is None:
            if line.strip() and last is not None:
                yield last
                last = None
            continue
        body = []
        for _, inner in lines:
            if inner == "```":
                break
            body.append(inner)
        language, content = fence[1], "\n".join(body)
        if not inside:
            continue
        if last is not None:
            if language in ("json", "text"):
                last.answer = content
            yield last
            if last.answer:
                last = None
                continue
            last = None
        if language in ("bash", "python"):
            last = Example(language, number, content)
        elif language == "console":
            yield from _console(number, body)
        elif language not in ("text", "yaml"):
            raise ValueError(f"line {number}: a block of the language '{language}' is neither run nor marked")
    if last is not None:
        yield last


def _console(line: int, body: list[str]) -> Iterator[Example]:
    """An example for each command of a console block; a command goes on as long as its lines end with a backslash."""
    found: Example | None = None
    for number, text in enumerate(body, line + 1):
        if text.startswith("$ "):
            if found is not None:
                yield found
            found = Example("bash", number, text.removeprefix("$ "))
        elif found is None:
            raise ValueError(f"line {number}: a console block begins with '$ '")
        elif found.code.endswith("\\"):
            found.code += f"\n{text}"
        else:
            found.answer += f"{text}\n"
    if found is not None:
        yield found


def matches(printed: str, answer: str) -> bool:
    pattern = ".*".join(re.escape("".join(part.split())) for part in answer.split("…"))
    return re.fullmatch(pattern, "".join(printed.split()), re.DOTALL) is not None


class Session:
    """A process that is given one file after the other, and runs each with what those before have left."""

    def __init__(self, command: tuple[str, ...], directory: Path, env: Mapping[str, str]) -> None:
        self._errors = TemporaryFile()  # noqa: SIM115  (closed by close)
        self._process = subprocess.Popen(
            command, cwd=directory, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors
        )

    def run(self, file: Path) -> tuple[int, str]:
        """The exit status, and what was printed; of a failure also what it wrote to standard error."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{file}\n".encode())
        self._process.stdin.flush()
        output, deadline = b"", time.monotonic() + LIMIT_S
        while (end := _END.search(output)) is None:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"{file.name}: no end within {LIMIT_S:g} s; so far: {output.decode()}"
            piece = os.read(self._process.stdout.fileno(), 1 << 16)
            assert piece, f"{file.name}: the process ended: {self._complaints()}"
            output += piece
        status, printed = int(end[1]), output[: end.start()].decode()
        return status, printed + (self._complaints() if status else "")

    def _complaints(self) -> str:
        self._errors.seek(0)
        return self._errors.read().decode()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()


class Reader:
    """Does what a reader of a document would: types each example in, in order."""

    def __init__(self, directory: Path, server: Server) -> None:
        self._directory = directory
        self._ports = {"8000": server.http_port, "8501": server.http_port}
        self._ports |= {"8001": server.grpc_port, "8500": server.grpc_port}
        plain = {name: value for name, value in os.environ.items() if not name.startswith("SERVING_")}
        self._env = plain | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "SERVING_URL": server.url,
            "NO_COLOR": "1",
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        self._shell = Session(_SHELL, directory, self._env)
        self._interpreter: Session | None = None

    def problem(self, example: Example) -> str:
        """What is wrong with it; empty: nothing."""
        file = self._directory / f"line-{example.line}"
        file.write_text(self._here(example.code) + "\n")
        status, printed = self._session(example).run(file)
        if status:
            return f"line {example.line}: failed with status {status}\n{printed}"
        if not matches(printed, self._here(example.answer)):
            return f"line {example.line}: expected\n{example.answer}\nbut it printed\n{printed}"
        return ""

    def _here(self, text: str) -> str:
        """With the ports of this server, and names of shared memory that no other run of the tests uses."""
        text = text.replace("/serving_docs_", f"/serving_docs_{os.getpid()}_")
        return _ADDRESS.sub(lambda found: f"127.0.0.1:{self._ports[found[1]]}", text)

    def _session(self, example: Example) -> Session:
        if example.language == "bash":
            return self._shell
        if self._interpreter is None or example.code.startswith(("import ", "from ")):
            self._end_interpreter()
            self._interpreter = Session(_INTERPRETER, self._directory, self._env)
        return self._interpreter

    def _end_interpreter(self) -> None:
        if self._interpreter is not None:
            self._interpreter.close()

    def close(self) -> None:
        self._shell.close()
        self._end_interpreter()


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("document", _DOCUMENTS)
def test_examples_print_what_the_document_says(document: str, tmp_path: Path, serve: Serve) -> None:
    found = list(examples((ROOT / document).read_text(), _DOCUMENTS[document]))
    assert found
    repo = tmp_path / "model_repo"
    shutil.copytree(ROOT / "model_repo/digits/1", repo / "digits/1")
    if any("half_plus_two" in example.code for example in found):
        savedmodels.write("half_plus_two", repo / "half_plus_two/123")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    server = _started(document, repo, serve)
    reader = Reader(tmp_path, server)
    try:
        problems = [problem for example in found if (problem := reader.problem(example))]
    finally:
        reader.close()
    assert not problems, f"{document}: " + "\n\n".join(problems)


def _started(document: str, repo: Path, serve: Serve) -> Server:
    """As the document says, where that is with a list of models; otherwise with all that has to be allowed."""
    listed = re.search(
        r"^```text\n(model_config_list .*?)^```$", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL
    )
    if listed is None:
        traces = repo.parent / "traces.json"
        return serve(repo, "--allow-client-shm", "--allow-model-upload", "--trace-file", traces)
    file = repo.parent / "models.config"
    file.write_text(listed[1].replace("/models/", f"{repo}/"))
    return serve(f"--model_config_file={file}", "--host=127.0.0.1", command="tfs")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("```bash\na\n```\n\n```json\n1\n```\n", [Example("bash", 1, "a", "1")]),
        ("```bash\na\n```\nThen\n```text\n1\n```\n", [Example("bash", 1, "a")]),
        ("```python\na\n```\n```python\nb\n```\n", [Example("python", 1, "a"), Example("python", 4, "b")]),
        (
            "```console\n$ a \\\nb\n1\n2\n$ c\n```\n```text\n1\n```\n",
            [Example("bash", 2, "a \\\nb", "1\n2\n"), Example("bash", 6, "c")],
        ),
    ],
)
def test_blocks_are_read_with_their_answers(text: str, expected: list[Example]) -> None:
    assert list(examples(text, "")) == expected


def test_only_the_named_section_is_read() -> None:
    text = "```bash\na\n```\n## Here\n```bash\nb\n```\n### Below\n```bash\nc\n```\n## There\n```bash\nd\n```\n"
    assert [example.code for example in examples(text, "## Here")] == ["b", "c"]


@pytest.mark.parametrize("text", ["```\na\n```\n", "```sh\na\n```\n", "```console\na\n```\n"])
def test_a_block_that_would_not_be_run_has_to_say_so(text: str) -> None:
    with pytest.raises(ValueError, match="line "):
        list(examples(text, ""))


@pytest.mark.parametrize(
    ("printed", "answer", "agree"),
    [("a  b\n", "ab", True), ("abc", "a…c", True), ("abc", "a…", True), ("abc", "…b", False), ("", "", True),
     ("a.c", "abc", False)],
)  # fmt: skip
def test_answers_are_compared_without_white_space(printed: str, answer: str, agree: bool) -> None:
    assert matches(printed, answer) is agree


_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)


def _anchors(text: str) -> set[str]:
    """As GitHub makes them of headings."""
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in _HEADING.findall(text))
    return {heading.strip().replace(" ", "-") for heading in plain}


def test_links_lead_somewhere() -> None:
    broken = []
    for document in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")):
        for link in _LINK.findall(document.read_text()):
            path, _, anchor = link.partition("#")
            if "://" in link:
                continue
            target = document.parent / path if path else document
            if not target.exists() or (anchor and anchor not in _anchors(target.read_text())):
                broken.append(f"{document.relative_to(ROOT)}: {link}")
    assert not broken, broken
