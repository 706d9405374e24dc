"""`serving check`: what would be served, and everything that is wrong with it."""

import dataclasses
import json
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from serving.backends import safety
from serving.cli.describe import fail, seconds, size
from serving.cli.examine import ModelReport, Report, VersionReport, examine
from serving.cli.places import places
from serving.cli.remedies import Problem

_COLOURS = {"good": "green", "wrong": "bold red", "warning": "yellow", "empty": "yellow", "ignored": "yellow"}
_COLOURS |= {"skipped": "dim", "memory": "bold", "traffic": ""}
_WORD = 8  # columns, with the space behind it
_FACT = 9


def run(
    paths: Sequence[str],
    model_config_file: Path | None,
    limit_s: float,
    as_json: bool,
    allow_unsafe_ops: bool = False,
) -> int:
    """Exit code 0: everything that would be served can be.

    Args:
        limit_s: how long the load of one version may take.
        allow_unsafe_ops: as for the server.
    """
    safety.allow_unsafe_ops = allow_unsafe_ops
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's own lines are about this machine, not the models
    if not paths and model_config_file is None:
        return fail("nothing to check: name a repository, a model directory or a model file")
    with places(paths, model_config_file) as found:
        report = examine(found.sources, found.reading, limit_s)
    report.problems[:0] = found.problems
    problems = sum(1 for _ in report.all_problems())
    if as_json:
        value = {**dataclasses.asdict(report), "problem_count": problems}
        print(found.named(json.dumps(value, ensure_ascii=False, indent=2)))
    elif report.models:
        _Page(found.named).print(report, problems)
    else:
        for problem in report.problems:
            place = "" if not problem.where or problem.where in problem.what else f"{problem.where}: "
            fail(found.named(place + problem.what))
    return 1 if problems else 0


class _Page:
    """Lines of a word and a text; in a terminal, long ones are broken so that the words stand alone on the left.

    Args:
        named: makes of a text one that people can read.
    """

    def __init__(self, named: Callable[[str], str]) -> None:
        self._named = named
        self._console = Console(soft_wrap=True, highlight=False, markup=False)
        self._width = self._console.width if sys.stdout.isatty() else None

    def print(self, report: Report, problems: int) -> None:
        for model in report.models:
            self._model(model)
            self._console.print()
        for problem in report.problems:
            self._problem("", problem)
        self._word("memory", _memory(report))
        self._console.print(f"problems: {problems}" if problems else "no problems")

    def _model(self, model: ModelReport) -> None:
        for problem in model.problems:
            self._problem(model.name, problem)
        for warning in model.warnings:
            self._word("warning", f"{model.name}: {warning}")
        if not model.versions and not model.skipped:
            self._word("empty", f"{model.name}: no version directory holds files")
        for version in model.versions:
            self._version(model, version)
        for number, why in model.skipped.items():
            self._word("skipped", f"{model.name} version {number}: {why}")
        for name in model.ignored:
            self._word("ignored", f"{model.name}/{name}: a version's directory is named by a number > 0 alone")
        if model.traffic:
            self._word("traffic", f"{model.name}: {model.traffic}")

    def _version(self, model: ModelReport, version: VersionReport) -> None:
        title = f"{model.name} version {version.number}"
        for problem in version.problems:
            self._problem(title, problem)
        if version.problems:
            return
        self._word("good", f"{title}: {version.runs_on}")
        for name, text in _facts(model, version):
            self._fact(name, text)

    def _problem(self, title: str, problem: Problem) -> None:
        self._word("wrong", f"{title}: {problem.what}" if title else problem.what)
        if problem.where:
            self._fact("at", problem.where)
        if problem.fix:
            self._fact("fix", problem.fix)

    def _word(self, word: str, text: str) -> None:
        self._beside(word.ljust(_WORD), text, _COLOURS[word])

    def _fact(self, name: str, text: str) -> None:
        self._beside(" " * _WORD + name.ljust(_FACT - 1) + " ", text)

    def _beside(self, left: str, text: str, colour: str = "") -> None:
        text = self._named(text)
        lines = [text]
        if self._width is not None:
            room = max(20, self._width - len(left))
            lines = textwrap.wrap(text, room, break_on_hyphens=False, break_long_words=False) or [""]
        self._console.print(Text.assemble((left, colour), lines[0]))
        for line in lines[1:]:
            self._console.print(" " * len(left) + line)


def _facts(model: ModelReport, version: VersionReport) -> Iterator[tuple[str, str]]:
    yield "file", version.artifact
    if model.settings:
        yield "settings", model.settings
    if labels := [label for label, number in model.labels.items() if number == version.number]:
        yield "labels", ", ".join(labels)
    yield from version.notes.items()
    for signature in version.signatures:
        if len(version.signatures) > 1:
            yield "signature", f"{signature.name} ({signature.method})"
        yield "inputs", signature.inputs
        yield "outputs", signature.outputs
        yield "batching", signature.batching
    yield "manifest", version.manifest
    yield "golden", version.golden
    if version.memory_bytes is not None and version.peak_bytes is not None and version.load_s is not None:
        yield "memory", f"{_sizes(version.memory_bytes, version.peak_bytes)} ({seconds(version.load_s)})"


def _sizes(memory_bytes: int, peak_bytes: int) -> str:
    least, most = size(memory_bytes), size(peak_bytes)
    return least if least == most else f"{least}, at most {most} while loading"


def _memory(report: Report) -> str:
    versions = sum(version.memory_bytes is not None for model in report.models for version in model.versions)
    count = "1 version takes" if versions == 1 else f"{versions} versions take"
    taken = _sizes(report.memory_bytes, report.peak_bytes)
    return f"{count} {taken}; {size(report.free_bytes)} are free {report.free_where}"
