"""A search as a Katib Experiment (kubeflow.org/v1beta1): each trial is a Job, or a TFJob of several workers. Pure.

Katib reads the metric from what a trial prints last, `NAME VALUE`. A trainer prints it once, so there is nothing to
stop early by. A trial's model is thrown away: train again with the best settings, or search with our own command.
"""

from typing import Any

from trainers.contract import Goal, TrainingError
from trainers.search.containers import SCRATCH, label, pod, text, training
from trainers.search.jobs import tf_job_spec
from trainers.search.samplers import startup_trials
from trainers.search.space import Categorical, Integer, Parameter, Space
from trainers.search.study import Search

_ALGORITHMS = {
    "random": "random",
    "grid": "grid",
    "quasi-random": "sobol",
    "tpe": "multivariate-tpe",
    "gaussian-process": "bayesianoptimization",
    "cma-es": "cmaes",
}
_CONTAINER = "tensorflow"  # the name that a TFJob asks for


def experiment(
    search: Search, space: Space, goal: Goal, *, image: str, workers: int = 1, gpus: int = 0
) -> dict[str, Any]:
    """Raises TrainingError: Katib cannot do what the search asks for."""
    if search.pruner != "none":
        raise TrainingError("--pruner: a trainer prints its metric once, at the end: Katib could not stop it before")
    if search.sampler == "quasi-random" and any(
        not isinstance(parameter, Categorical) and parameter.scale == "log" for parameter in space.parameters.values()
    ):
        raise TrainingError("--sampler quasi-random: Katib's sobol knows no log scale, choose another")
    command = training(search, {name: f"${{trialParameters.{name}}}" for name in space.parameters}, repo=SCRATCH)
    if workers > 1:
        kind = {"apiVersion": "kubeflow.org/v1", "kind": "TFJob"}
        spec = tf_job_spec(pod(_CONTAINER, image, command, gpus=gpus), workers)
    else:
        kind = {"apiVersion": "batch/v1", "kind": "Job"}
        spec = {"backoffLimit": 0, "template": pod(_CONTAINER, image, command, gpus=gpus)}
    return {
        "apiVersion": "kubeflow.org/v1beta1",
        "kind": "Experiment",
        "metadata": {"name": f"{label(search.name)}-search"},
        "spec": {
            "objective": {
                "type": goal.direction,
                "objectiveMetricName": goal.metric,
                "metricStrategies": [{"name": goal.metric, "value": "latest"}],
            },
            "algorithm": {"algorithmName": _ALGORITHMS[search.sampler], **_algorithm_settings(search)},
            "maxTrialCount": search.trials,
            "parallelTrialCount": search.parallel,
            "maxFailedTrialCount": search.trials,  # a learning rate that is too high fails, and that is an answer
            "metricsCollectorSpec": {
                "collector": {"kind": "StdOut"},
                "source": {"filter": {"metricsFormat": [metrics_format(goal.metric)]}},
            },
            "parameters": [
                {"name": name, **_parameter(parameter, grid=search.sampler == "grid")}
                for name, parameter in space.parameters.items()
            ],
            "trialTemplate": {
                "primaryContainerName": _CONTAINER,
                "trialParameters": [
                    {"name": name, "description": f"the setting {name}", "reference": name} for name in space.parameters
                ],
                "trialSpec": {**kind, "spec": spec},
            },
        },
    }


def metrics_format(metric: str) -> str:
    """The regular expression (RE2) that finds a metric's name and value at the start of a line."""
    return rf"^({metric})\s+([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"


def _algorithm_settings(search: Search) -> dict[str, Any]:
    settings: dict[str, Any]
    match search.sampler:
        case "random" | "cma-es":
            settings = {"random_state": search.seed}
        case "tpe":
            settings = {"n_startup_trials": startup_trials(search.trials), "random_state": search.seed}
        case "gaussian-process":
            settings = {
                "base_estimator": "GP",
                "acq_func": "EI",
                "n_initial_points": startup_trials(search.trials),
                "random_state": search.seed,
            }
        case "grid" | "quasi-random":
            return {}
    return {"algorithmSettings": [{"name": name, "value": str(value)} for name, value in settings.items()]}


def _parameter(parameter: Parameter, *, grid: bool) -> dict[str, Any]:
    """Katib takes numbers as text. A grid's points are given one by one: Katib's own have equal steps only."""
    if isinstance(parameter, Categorical):
        return {"parameterType": "categorical", "feasibleSpace": {"list": [text(value) for value in parameter.values]}}
    if grid:
        return {"parameterType": "discrete", "feasibleSpace": {"list": [text(value) for value in parameter.grid()]}}
    return {
        "parameterType": "int" if isinstance(parameter, Integer) else "double",
        "feasibleSpace": {
            "min": str(parameter.min),
            "max": str(parameter.max),
            "distribution": "logUniform" if parameter.scale == "log" else "uniform",
        },
    }
