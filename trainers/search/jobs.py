"""Training jobs for Kubeflow: a TFJob (kubeflow.org/v1) or a TrainJob (trainer.kubeflow.org/v1alpha1). Pure.

A job does a whole search in one container, or one training with settings that are known; a TFJob that on several
workers, too. What it needs beside itself (a config map with the space, the runtime of a TrainJob) comes with it.
"""

from typing import Any

from trainers.search.containers import label, pod, resources

_CONTAINER = "tensorflow"  # the name that a TFJob asks for
_RUNTIME = "trainers"


def config_map(name: str, space_text: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": label(name)},
        "data": {"space.yaml": space_text},
    }


def tf_job(name: str, image: str, command: list[str], *, workers: int, gpus: int, space: str | None) -> dict[str, Any]:
    """Workers find each other by TF_CONFIG, which the operator puts into their environment."""
    template = pod(_CONTAINER, image, command, gpus=gpus, space=space and label(space))
    del template["spec"]["restartPolicy"]  # the replicas' own counts
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "TFJob",
        "metadata": {"name": label(name)},
        "spec": tf_job_spec(template, workers),
    }


def tf_job_spec(template: dict[str, Any], workers: int) -> dict[str, Any]:
    replica = {"replicas": workers, "restartPolicy": "OnFailure", "template": template}
    return {
        "runPolicy": {"backoffLimit": 3, "cleanPodPolicy": "None"},
        "tfReplicaSpecs": {"Worker": replica},
    }


def train_job(name: str, image: str, command: list[str], *, gpus: int, space: str | None) -> list[dict[str, Any]]:
    """A runtime of one plain node, since Kubeflow Trainer brings none for TensorFlow, and the job that uses it."""
    template = pod("node", image, command, gpus=gpus, space=space and label(space), restart="OnFailure")
    job_template = {
        "metadata": {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}},
        "spec": {"backoffLimit": 3, "template": template},
    }
    runtime = f"{_RUNTIME}-{label(name)}"
    return [
        {
            "apiVersion": "trainer.kubeflow.org/v1alpha1",
            "kind": "TrainingRuntime",
            "metadata": {"name": runtime},
            "spec": {
                "mlPolicy": {"numNodes": 1},
                "template": {"spec": {"replicatedJobs": [{"name": "node", "template": job_template}]}},
            },
        },
        {
            "apiVersion": "trainer.kubeflow.org/v1alpha1",
            "kind": "TrainJob",
            "metadata": {"name": label(name)},
            "spec": {
                "runtimeRef": {"apiGroup": "trainer.kubeflow.org", "kind": "TrainingRuntime", "name": runtime},
                "trainer": {
                    "image": image,
                    "command": command,
                    "numNodes": 1,
                    **({"resourcesPerNode": resources(gpus)["resources"]} if gpus else {}),
                },
            },
        },
    ]
