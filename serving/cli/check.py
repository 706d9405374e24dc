"""`serving check`: what would be served, and everything that is wrong with it."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape

from serving.cli.describe import fail, how_batched, tensors
from serving.core.spec import ModelSpec, SpecError
from serving.repository import loading
from serving.repository.layout import FoundModel, FoundVersion, LayoutError, scan
from serving.repository.manager import read_spec
from serving.repository.policy import wanted


def run(path: Path) -> int:
    """Loads each wanted version in turn, as the server would. Exit code 0: all of them can be served."""
    try:
        found = scan(path)
    except LayoutError as error:
        return fail(str(error))
    if not any(model.versions for model in found.values()):
        return fail(f"nothing to serve: '{path}' holds no model (looked for <name>/<version>/model.onnx)")
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
    signature = session.signature
    console.print(f"[green]good[/]    {title}: {session.platform} on {', '.join(spec.providers)}")
    console.print(f"        inputs   {escape(tensors(signature.inputs.values()))}")
    console.print(f"        outputs  {escape(tensors(signature.outputs.values()))}")
    console.print(f"        batching {escape(how_batched(loaded.contract, loaded.unbatched_because))}")
    session.close()
    return 0
