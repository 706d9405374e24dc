"""A search as a Kubeflow Pipeline: data -> train -> evaluate -> publish -> promote. Importing this needs kfp 2.

data        fetches the data sets, and shows by one step of training that they can be read
train       does the search, and publishes the best model into an artifact
evaluate    checks that version, and ends the run if its metric is worse than the bound
publish     sends it to a server
promote     makes it the version that takes all requests
"""

import tempfile
from pathlib import Path
from typing import Any

from kfp import dsl  # type: ignore[import-not-found,unused-ignore]
from kfp.compiler import Compiler  # type: ignore[import-not-found,unused-ignore]

from trainers.contract import Goal
from trainers.search.containers import SCRATCH, job_words, label, set_words
from trainers.search.space import Space
from trainers.search.study import Search

_DATA = (
    'mkdir -p "$1" && exec python -m trainers "$0" --quick --steps 1 --download --data-dir "$1"'
    f" --repo {SCRATCH}/repo --log-dir {SCRATCH}/runs"
)
_TRAIN = (
    f'mkdir -p {SCRATCH} && printf "%s\\n" "$1" > {SCRATCH}/space.yaml && shift && '
    f'exec python -m trainers search "$0" --space {SCRATCH}/space.yaml "$@"'
)
_STEPS = ["python", "-m", "trainers.search.steps"]


def compiled(search: Search, space: Space, goal: Goal, *, image: str, url: str, gpus: int = 0) -> str:
    """The pipeline as Kubeflow runs it, in YAML."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "pipeline.yaml"
        Compiler().compile(_pipeline(search, space, goal, image, url, gpus), str(path))
        return path.read_text(encoding="utf-8")


def _pipeline(search: Search, space: Space, goal: Goal, image: str, url: str, gpus: int) -> Any:
    name = search.name
    line = space.model_dump_json(exclude_defaults=True)  # kfp repeats defaults in a comment of one line
    fixed = ["--sampler", search.sampler, "--pruner", search.pruner, *job_words(search), *set_words(search.values)]

    @dsl.container_component
    def data(datasets: dsl.Output[dsl.Dataset]) -> dsl.ContainerSpec:
        return dsl.ContainerSpec(image=image, command=["sh", "-c", _DATA, name], args=[datasets.path])

    @dsl.container_component
    def train(
        space: str,
        trials: int,
        parallel: int,
        datasets: dsl.Input[dsl.Dataset],
        models: dsl.Output[dsl.Model],
        study: dsl.Output[dsl.Artifact],
    ) -> dsl.ContainerSpec:
        places = ["--data-dir", datasets.path, "--repo", models.path, "--study", study.path, "--log-dir", SCRATCH]
        return dsl.ContainerSpec(
            image=image,
            command=["sh", "-c", _TRAIN, name],
            args=[space, "--trials", trials, "--parallel", parallel, *fixed, *places],
        )

    @dsl.container_component
    def evaluate(bound: float, models: dsl.Input[dsl.Model], metric: dsl.OutputPath(float)) -> dsl.ContainerSpec:  # type: ignore[valid-type,unused-ignore]
        what = ["--model", name, "--metric", goal.metric, "--goal", goal.direction]
        return dsl.ContainerSpec(
            image=image,
            command=[*_STEPS, "evaluate"],
            args=["--repo", models.path, *what, "--bound", bound, "--result", metric],
        )

    @dsl.container_component
    def publish(server: str, models: dsl.Input[dsl.Model]) -> dsl.ContainerSpec:
        return dsl.ContainerSpec(
            image=image,
            command=[*_STEPS, "publish"],
            args=["--repo", models.path, "--model", name, "--url", server],
        )

    @dsl.container_component
    def promote(server: str) -> dsl.ContainerSpec:
        return dsl.ContainerSpec(image=image, command=["serving", "promote"], args=[name, "--url", server])

    @dsl.pipeline(name=f"{label(name)}-search", description=f"Finds settings for {name}, and promotes the best model.")
    def whole(
        bound: float,
        space: str = line,
        trials: int = search.trials,
        parallel: int = search.parallel,
        server: str = url,
    ) -> None:
        fetched = data()
        trained = train(space=space, trials=trials, parallel=parallel, datasets=fetched.outputs["datasets"])
        if gpus:
            trained.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(gpus)
        evaluated = evaluate(bound=bound, models=trained.outputs["models"])
        published = publish(server=server, models=trained.outputs["models"]).after(evaluated)
        promoted = promote(server=server).after(published)
        for task in (published, promoted):  # what they change is not in their outputs
            task.set_caching_options(False)

    return whole
