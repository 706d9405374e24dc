"""A search as a training job of a cloud, with its tuning block. Pure.

Two forms: `training_input` is the one of AI Platform Training (scale tier, worker counts, hyperparameters), which its
provider ended and others still read; `vertex` is a HyperparameterTuningJob of Vertex AI. In both each trial is a
container of `trainers.search.cloud_trial`, which takes settings as `--name=value` and writes the metric down where the
service looks for it.
"""

from typing import Any

from trainers.contract import Goal, TrainingError
from trainers.search.containers import job_words, label, text
from trainers.search.space import Categorical, Integer, Parameter, Space
from trainers.search.study import Search

_COMMAND = ["python", "-m", "trainers.search.cloud_trial"]
_CPU_MACHINE = "n1-standard-4"
_GPU = "NVIDIA_TESLA_T4"
_ALGORITHMS = {"random": "RANDOM_SEARCH", "grid": "GRID_SEARCH"}  # any other sampler: the service's own


def training_input(
    search: Search, space: Space, goal: Goal, *, image: str, workers: int = 1, gpus: int = 0
) -> dict[str, Any]:
    """AI Platform Training's TrainingInput. One machine is its master; the others are workers."""
    _only_known(search)
    machine: dict[str, Any] = {"imageUri": image, "containerCommand": _COMMAND}
    if gpus:
        machine["acceleratorConfig"] = {"count": str(gpus), "type": _GPU}
    cluster: dict[str, Any] = {"scaleTier": "CUSTOM", "masterType": _CPU_MACHINE, "masterConfig": machine}
    if workers > 1:
        cluster |= {
            "workerType": _CPU_MACHINE,
            "workerCount": str(workers - 1),
            "workerConfig": machine,
            "useChiefInTfConfig": True,
        }
    algorithm = _ALGORITHMS.get(search.sampler)
    return {
        "jobId": f"{search.name}_search",
        "trainingInput": {
            **cluster,
            "region": "us-central1",
            "args": _arguments(search),
            "hyperparameters": {
                "goal": goal.direction.upper(),
                "hyperparameterMetricTag": goal.metric,
                "maxTrials": search.trials,
                "maxParallelTrials": search.parallel,
                "maxFailedTrials": search.trials,
                "enableTrialEarlyStopping": search.pruner == "median",
                **({"algorithm": algorithm} if algorithm else {}),
                "params": [
                    {"parameterName": name, **_param(parameter, grid=search.sampler == "grid")}
                    for name, parameter in space.parameters.items()
                ],
            },
        },
    }


def vertex(search: Search, space: Space, goal: Goal, *, image: str, workers: int = 1, gpus: int = 0) -> dict[str, Any]:
    """Vertex AI's HyperparameterTuningJob. The first pool is the chief, the second the other workers."""
    _only_known(search)
    machine: dict[str, Any] = {"machineType": _CPU_MACHINE}
    if gpus:
        machine |= {"acceleratorType": _GPU, "acceleratorCount": gpus}
    container = {
        "imageUri": image,
        "command": _COMMAND,
        "args": _arguments(search),
    }
    pools = [
        {"machineSpec": machine, "replicaCount": str(count), "containerSpec": container}
        for count in (1, workers - 1)
        if count
    ]
    algorithm = _ALGORITHMS.get(search.sampler)
    stopping: dict[str, Any] = {"medianAutomatedStoppingSpec": {}} if search.pruner == "median" else {}
    return {
        "displayName": f"{label(search.name)}-search",
        "maxTrialCount": search.trials,
        "parallelTrialCount": search.parallel,
        "maxFailedTrialCount": search.trials,
        "studySpec": {
            "metrics": [{"metricId": goal.metric, "goal": goal.direction.upper()}],
            "parameters": [
                {"parameterId": name, **_parameter_spec(parameter, grid=search.sampler == "grid")}
                for name, parameter in space.parameters.items()
            ],
            **({"algorithm": algorithm} if algorithm else {}),
            **stopping,
        },
        "trialJobSpec": {"workerPoolSpecs": pools},
    }


def _only_known(search: Search) -> None:
    """Raises TrainingError: these services choose by their own ways only."""
    if search.pruner == "hyperband":
        raise TrainingError("--pruner hyperband: these services know the median rule only")
    if search.sampler in ("quasi-random", "cma-es"):
        raise TrainingError(f"--sampler {search.sampler}: these services know random, grid and their own (tpe) only")


def _arguments(search: Search) -> list[str]:
    fixed = [f"--{name}={text(value)}" for name, value in search.values.items()]
    return [search.name, *job_words(search), "--download", *fixed]


def _param(parameter: Parameter, *, grid: bool) -> dict[str, Any]:
    if isinstance(parameter, Categorical):
        return {"type": "CATEGORICAL", "categoricalValues": [text(value) for value in parameter.values]}
    if grid:
        return {"type": "DISCRETE", "discreteValues": parameter.grid()}
    return {
        "type": "INTEGER" if isinstance(parameter, Integer) else "DOUBLE",
        "minValue": parameter.min,
        "maxValue": parameter.max,
        "scaleType": _scale(parameter),
    }


def _parameter_spec(parameter: Parameter, *, grid: bool) -> dict[str, Any]:
    if isinstance(parameter, Categorical):
        return {"categoricalValueSpec": {"values": [text(value) for value in parameter.values]}}
    if grid:
        return {"discreteValueSpec": {"values": parameter.grid()}, "scaleType": _scale(parameter)}
    if isinstance(parameter, Integer):
        limits = {"minValue": str(parameter.min), "maxValue": str(parameter.max)}  # int64 is text in JSON
        return {"integerValueSpec": limits, "scaleType": _scale(parameter)}
    return {
        "doubleValueSpec": {"minValue": parameter.min, "maxValue": parameter.max},
        "scaleType": _scale(parameter),
    }


def _scale(parameter: Any) -> str:
    return "UNIT_LOG_SCALE" if parameter.scale == "log" else "UNIT_LINEAR_SCALE"
