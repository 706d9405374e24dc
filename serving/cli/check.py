"""`serving check`: what would be served, and everything that is wrong with it."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape

from serving.backends.registry import KNOWN_ARTIFACTS
from serving.cli.describe import batching, fail, tensors
from serving.core.spec import ModelSpec, SpecError
from serving.repository import loading
from serving.repository.layout import FoundModel, FoundVersion, LayoutError, scan
from serving.repository.policy import wanted
from serving.repository.survey import read_spec


def run(path: Path) -> int:
    """Loads each wanted version in turn, as the server would. Exit code 0: all of them can be served."""
    try:
        found = scan(path)
    except LayoutError as error:
        return fail(str(error))
    if not any(model.versions for model in found.values()):
        return fail(f"nothing to serve: '{path}' holds no model (looked for <name>/<version>/ with {KNOWN_ARTIFACTS})")
    console = Console(soft_wrap=True, highlight=False)
    problems = sum(_check_model(console, model) for model in found.values())
    console.print("\nno problems" if not problems else f"\nproblems: {problems}")
    return 1 if problems else 0


def _check_model(console: Console, model: FoundModel) -> int:
    """Prints about one model; the number of problems."""
    if not model.versions:
        console.print(f"[yellow]empty[/]   {escape(model.name)}: no version directory holds files")
        return 0
    spec = read_spec(model)
    if isinstance(spec, SpecError):
        console.print(f"[bold red]wrong[/]   {escape(model.name)}: {escape(str(spec))}")
        return 1
    return sum(
        _check_version(console, model.name, model.versions[number], spec)
        for number in sorted(wanted(model.versions.keys(), spec))
    )


def _check_version(console: Console, model: str, found: FoundVersion, spec: ModelSpec) -> int:
    title = f"{escape(model)} version {found.number}"
    try:
        session = loading.load(model, found, spec)
        loaded = loading.warm_up(model, found, spec, session)
    except Exception as error:  # whatever a runtime raises is this command's result
        console.print(f"[bold red]wrong[/]   {title}: {escape(str(error) or type(error).__name__)}")
        return 1
    where = f" on {', '.join(spec.providers)}" if session.platform.startswith("onnxruntime") else ""
    console.print(f"[green]good[/]    {title}: {session.platform}{where}")
    for note, text in session.notes.items():
        console.print(f"        {escape(note)}: {escape(text)}")
    for name, contract in loaded.contracts.items():
        if len(loaded.contracts) > 1:
            console.print(f"        signature [bold]{escape(name)}[/] ({contract.signature.method.name.lower()})")
        console.print(f"        inputs   {escape(tensors(contract.signature.inputs.values()))}")
        console.print(f"        outputs  {escape(tensors(contract.signature.outputs.values()))}")
        console.print(f"        batching {escape(batching(contract))}")
    session.close()
    return 0
