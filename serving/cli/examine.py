"""What a server would make of repositories, and everything that is wrong with them. Blocking; prints nothing.

Each wanted version is loaded as the server loads it first: in a process of its own, so that no model can end this one.
What is wrong with one thing does not keep the others from being looked at.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

from serving.backends.registry import KNOWN_ARTIFACTS, find_artifact
from serving.cli import remedies
from serving.cli.describe import batching, size, tensors
from serving.cli.remedies import Problem
from serving.core.artifact import GOLDEN, MANIFEST, read_golden, read_manifest, verify
from serving.core.errors import LoadError
from serving.core.spec import Latest, ModelSpec, SpecError
from serving.repository.control.rollouts import described
from serving.repository.disk.layout import FoundModel, FoundVersion, Kind, version_number
from serving.repository.disk.reading import Reading
from serving.repository.disk.survey import Finding, Source, survey
from serving.repository.loads.loading import GOLDEN_TOLERANCE
from serving.repository.loads.memory import free
from serving.repository.loads.trial import Trials
from serving.repository.policy import wanted
from serving.repository.routing.route import number_of


@dataclass(frozen=True)
class SignatureReport:
    """One signature, in words."""

    name: str
    method: str
    inputs: str
    outputs: str
    batching: str


@dataclass
class VersionReport:
    """One version that would be loaded.

    Attributes:
        artifact: the file or directory that it is loaded from; empty: there is none.
        manifest: whether its files are those that were published, in words; so is `golden`, of its answers.
        runs_on: its backend and where that runs.
        peak_bytes: the most memory while it loads, and `memory_bytes` afterwards.
    """

    number: int
    artifact: str = ""
    manifest: str = ""
    golden: str = ""
    runs_on: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)
    signatures: list[SignatureReport] = field(default_factory=list)
    load_s: float | None = None
    peak_bytes: int | None = None
    memory_bytes: int | None = None
    problems: list[Problem] = field(default_factory=list)


@dataclass
class ModelReport:
    """One model.

    Attributes:
        settings: the file that they are read from; empty: it has none, or one that cannot be used.
        warnings: what the settings ask for in vain.
        skipped: why versions that are there would not be loaded, by number.
        ignored: what else is in its directory, and looks as if it were meant to be a version.
    """

    name: str
    path: str
    settings: str = ""
    warnings: Sequence[str] = ()
    labels: Mapping[str, int] = field(default_factory=dict)
    traffic: str = ""
    versions: list[VersionReport] = field(default_factory=list)
    skipped: dict[int, str] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


@dataclass
class Report:
    """All that was looked at.

    Attributes:
        problems: those that are of no model.
        memory_bytes: what all versions take together, and `peak_bytes`, while the worst of them loads as the last one.
        free_bytes: what may be taken here; `free_where`: what allows no more.
    """

    models: list[ModelReport] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    memory_bytes: int = 0
    peak_bytes: int = 0
    free_bytes: int = 0
    free_where: str = ""

    def all_problems(self) -> Iterator[Problem]:
        yield from self.problems
        for model in self.models:
            yield from model.problems
            for version in model.versions:
                yield from version.problems


def examine(sources: Sequence[Source], reading: Reading, limit_s: float) -> Report:
    """
    Args:
        reading: how the settings of models are read.
        limit_s: how long the load of one version may take.
    """
    report = Report()
    owners: dict[str, Path] = {}
    trials = Trials(limit_s, lambda: free().bytes)
    try:
        for finding in survey(sources, {}, reading):
            _source(report, finding, owners, trials)
    finally:
        trials.close()
    _add_up(report)
    return report


def _add_up(report: Report) -> None:
    """All together have to fit, too."""
    versions = [version for model in report.models for version in model.versions]
    report.memory_bytes = sum(version.memory_bytes or 0 for version in versions)
    beyond = max(((version.peak_bytes or 0) - (version.memory_bytes or 0) for version in versions), default=0)
    report.peak_bytes = report.memory_bytes + max(0, beyond)
    here = free()
    report.free_bytes, report.free_where = here.bytes, here.where
    if report.peak_bytes > here.bytes:
        what = f"all together they take {size(report.peak_bytes)}, and {size(here.bytes)} are free {here.where}"
        report.problems.append(Problem("", what, "serve fewer models or versions, or give the server more memory"))


def _source(report: Report, finding: Finding, owners: dict[str, Path], trials: Trials) -> None:
    path = finding.source.path
    if finding.problem:
        report.problems.append(Problem(str(path), finding.problem, "name a path that holds models"))
        return
    if not any(model.versions for model in finding.models.values()):
        what = f"nothing to serve: '{path}' holds no model (looked for <name>/<version>/ with {KNOWN_ARTIFACTS})"
        report.problems.append(
            Problem(str(path), what, "put each model at <name>/<version>/, such as digits/1/model.onnx")
        )
    for name, model in finding.models.items():
        if name in owners:
            what = f"model '{name}' is in '{owners[name]}' as well"
            report.problems.append(Problem(str(model.path), what, "rename one of them, or leave one path out"))
            continue
        owners[name] = path
        report.models.append(_model(model, finding, trials))


def _model(found: FoundModel, finding: Finding, trials: Trials) -> ModelReport:
    settings = str(found.spec_file or "")
    model = ModelReport(found.name, str(found.path), settings, ignored=list(_ignored(found, finding.kind)))
    model.warnings = finding.warnings.get(found.name, ())
    spec = finding.specs[found.name]
    if isinstance(spec, SpecError):  # the rest is looked at all the same
        fix = "correct it; the versions were looked at with default settings"
        model.problems.append(remedies.problem_of(spec, Path(settings), fix))
        spec, model.settings = ModelSpec(), ""
    model.labels, model.traffic = spec.version_labels, described(spec.traffic) if spec.traffic else ""
    model.problems += _pointing_nowhere(found, spec)
    served = would_serve(found.versions.keys(), spec)
    for number, version in found.versions.items():
        if number in served:
            model.versions.append(_version(found, version, spec, trials))
        else:
            model.skipped[number] = _why_skipped(spec)
    return model


def _ignored(found: FoundModel, kind: Kind | None) -> Iterator[str]:
    """Directories beside the versions that hold a model, and are none: `v2`, `1.0`, `0`."""
    if kind not in (Kind.MODEL, Kind.REPOSITORY):
        return
    for path in sorted(found.path.iterdir()):
        if path.is_dir() and version_number(path.name) is None and find_artifact(path) is not None:
            yield path.name


def would_serve(numbers: Collection[int], spec: ModelSpec) -> set[int]:
    """Of these versions: those that the policy wants, and those with a label or a share of the traffic."""
    named = spec.traffic.names if spec.traffic else ()
    pinned = {*spec.version_labels.values(), *(number_of(name, spec.version_labels) for name in named)}
    return wanted(numbers, spec) | {number for number in numbers if number in pinned}


def _pointing_nowhere(found: FoundModel, spec: ModelSpec) -> Iterator[Problem]:
    """Settings that name versions or labels that are not there."""
    there = ", ".join(map(str, sorted(found.versions))) or "none"
    where = str(found.spec_file)
    fix = f"name one that is there ({there}), or publish it"
    if not isinstance(spec.versions, str | Latest):
        for number in spec.versions:
            if number not in found.versions:
                yield Problem(where, f"versions: version {number} is not there", fix)
    for label, number in spec.version_labels.items():
        if number not in found.versions:
            yield Problem(where, f"version_labels: '{label}' is for version {number}, which is not there", fix)
    for name in spec.traffic.names if spec.traffic else ():
        target = number_of(name, spec.version_labels)
        if target is None:
            yield Problem(where, f"traffic: there is no label '{name}'", "add it to version_labels, or name a version")
        elif name not in spec.version_labels and target not in found.versions:
            yield Problem(where, f"traffic: version {name} is not there", fix)


def _why_skipped(spec: ModelSpec) -> str:
    if isinstance(spec.versions, Latest):
        latest = spec.versions.latest
        return "only the highest version is served" if latest == 1 else f"only the {latest} highest versions are served"
    return f"not among the versions that are served, which are {list(spec.versions)}"


def _version(model: FoundModel, found: FoundVersion, spec: ModelSpec, trials: Trials) -> VersionReport:
    artifact = _artifact(found, spec)
    version = VersionReport(found.number, str(artifact or ""))
    version.problems += _damage(found, version)
    if version.problems:  # the server would not go on either
        return version
    _import_backend(found, spec)
    try:
        with TemporaryDirectory(prefix="serving-check-") as scratch:
            report = trials.run(model.name, found, spec, Path(scratch))
    except LoadError as error:
        version.problems.append(remedies.of(str(error), model.spec_file, artifact or found.path, found.path))
        return version
    about = report.about
    assert about is not None
    version.runs_on = about.platform
    if about.platform.startswith("onnxruntime"):
        version.runs_on += f" on {', '.join(spec.providers)}"
    version.notes = about.notes
    version.load_s, version.peak_bytes, version.memory_bytes = report.seconds, report.peak_bytes, report.resident_bytes
    for name, contract in about.contracts.items():
        given, gives = (tensors(side.values()) for side in (contract.signature.inputs, contract.signature.outputs))
        method = contract.signature.method.name.lower()
        version.signatures.append(SignatureReport(name, method, given, gives, batching(contract)))
    return version


def _artifact(found: FoundVersion, spec: ModelSpec) -> Path | None:
    if found.path.is_file():
        return found.path
    artifact = find_artifact(found.path, spec.backend, spec.file) or find_artifact(found.path)
    return artifact[1] if artifact else None


def _import_backend(found: FoundVersion, spec: ModelSpec) -> None:
    """Imported here, a runtime is no part of what a version takes: the server has it once for all."""
    artifact = ("onnx", found.path) if found.path.is_file() else find_artifact(found.path, spec.backend, spec.file)
    if artifact is not None and not spec.accelerate:
        with suppress(LoadError):  # it is not installed, which the trial will tell
            import_module(f"serving.backends.{artifact[0]}")


def _damage(found: FoundVersion, version: VersionReport) -> Iterator[Problem]:
    """Where its files are not those that were published. Notes in `version` what they say."""
    version.manifest = version.golden = "none"
    if not found.path.is_dir():
        return
    publish = "publish the version again, as a whole and under a new number"
    allowed = GOLDEN_TOLERANCE
    try:
        manifest = read_manifest(found.path)
        wrong = verify(found.path, manifest) if manifest else []
    except ValueError as error:
        yield remedies.problem_of(error, found.path / MANIFEST, publish)
        wrong = []
    else:
        if manifest is not None:
            allowed = manifest.golden or allowed
            version.manifest = "every hash matches"
    for problem in wrong:
        name, _, what = problem.partition(": ")
        yield Problem(str(found.path / name), f"it is not what {MANIFEST} says: {what}", publish)
    try:
        if read_golden(found.path) is not None:
            version.golden = f"reproduced, within {allowed.atol:g} + {allowed.rtol:g} x |expected|"
    except ValueError as error:
        fix = (
            f"write it again, or remove it ({MANIFEST} names it)"
            if found.has_manifest
            else "write it again, or remove it"
        )
        yield remedies.problem_of(error, found.path / GOLDEN, fix)
