"""The examples in deploy/, read by the official clients: each where its client is installed, for not all of them can be
beside this project (Katib's needs protobuf < 5). This file needs nothing else:

    python -m pytest -c /dev/null --noconftest --import-mode=importlib tests/trainers/search/test_clients.py
"""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).parents[3] / "deploy"


def documents(pattern: str) -> list[dict[str, Any]]:
    found = [document for path in sorted(DEPLOY.glob(pattern)) for document in yaml.safe_load_all(path.read_text())]
    assert found
    return found


def test_katib_reads_its_experiments() -> None:
    katib = pytest.importorskip("kubeflow.katib")
    client = katib.ApiClient()
    for document in documents("kubeflow/katib-*.yaml"):
        experiment = client.deserialize(SimpleNamespace(data=json.dumps(document)), "V1beta1Experiment")
        assert client.sanitize_for_serialization(experiment) == document


def test_the_training_operators_client_reads_a_tf_job() -> None:
    training = pytest.importorskip("kubeflow.training")
    client = training.ApiClient()
    for document in documents("kubeflow/tfjob-*.yaml"):
        if document["kind"] == "TFJob":
            job = client.deserialize(SimpleNamespace(data=json.dumps(document)), "KubeflowOrgV1TFJob")
            assert client.sanitize_for_serialization(job) == document


def test_kubeflow_trainers_client_reads_a_train_job_and_its_runtime() -> None:
    models = pytest.importorskip("kubeflow_trainer_api.models")
    kinds = {"TrainJob": models.TrainerV1alpha1TrainJob, "TrainingRuntime": models.TrainerV1alpha1TrainingRuntime}
    for document in documents("kubeflow/trainjob-*.yaml"):
        if kind := kinds.get(document["kind"]):
            assert kind.from_dict(document).to_dict() == document


def test_kfp_reads_the_pipeline() -> None:
    spec = pytest.importorskip("kfp.pipeline_spec.pipeline_spec_pb2")
    from google.protobuf import json_format
    from kfp import components

    for path in sorted(DEPLOY.glob("kubeflow/pipeline-*.yaml")):
        document = yaml.safe_load(path.read_text())
        pipeline = json_format.ParseDict(document, spec.PipelineSpec())
        assert set(pipeline.root.dag.tasks) == {"data", "train", "evaluate", "publish", "promote"}
        assert components.load_component_from_text(path.read_text()).name == document["pipelineInfo"]["name"]


def test_vertex_ais_client_reads_a_tuning_job() -> None:
    types = pytest.importorskip("google.cloud.aiplatform_v1.types")
    from google.protobuf import json_format

    for document in documents("cloud/vertex-*.yaml"):
        job = json_format.ParseDict(document, types.HyperparameterTuningJob.pb()())
        assert json_format.MessageToDict(job) == document
