"""The documents that other systems take, as far as ours use them: fields, types and words as they were published.

Kubernetes: core and batch v1. Katib: kubeflow.org/v1beta1. Training operator: kubeflow.org/v1. Kubeflow Trainer:
trainer.kubeflow.org/v1alpha1 with JobSet v1alpha2. AI Platform Training: ml v1. Vertex AI: aiplatform v1. Kubeflow
Pipelines: the intermediate representation 2.1. An unknown field is an error, and nothing is converted: a number is not
a text.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel


class Document(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=to_camel)


Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
Number = Annotated[str, StringConstraints(pattern=r"^-?\d+(\.\d+)?(e-?\d+)?$")]
Int64 = Annotated[str, StringConstraints(pattern=r"^-?\d+$")]


class Metadata(Document):
    name: Name | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Mount(Document):
    name: Name
    mount_path: str
    read_only: bool = False


class Claim(Document):
    claim_name: Name


class ConfigMapName(Document):
    name: Name


class Volume(Document):
    name: Name
    persistent_volume_claim: Claim | None = None
    config_map: ConfigMapName | None = None


class Resources(Document):
    limits: dict[str, int]


class Container(Document):
    name: Name
    image: str
    command: list[str]
    resources: Resources | None = None
    volume_mounts: list[Mount] = []


class PodSpec(Document):
    containers: list[Container] = Field(min_length=1)
    restart_policy: Literal["Always", "OnFailure", "Never"] | None = None
    volumes: list[Volume] = []


class Pod(Document):
    metadata: Metadata
    spec: PodSpec


class JobSpec(Document):
    backoff_limit: int
    template: Pod


class Job(Document):
    api_version: Literal["batch/v1"]
    kind: Literal["Job"]
    spec: JobSpec


class ConfigMap(Document):
    api_version: Literal["v1"]
    kind: Literal["ConfigMap"]
    metadata: Metadata
    data: dict[str, str]


class Replica(Document):
    replicas: int = Field(ge=1)
    restart_policy: Literal["Always", "OnFailure", "Never", "ExitCode"]
    template: Pod


class RunPolicy(Document):
    backoff_limit: int
    clean_pod_policy: Literal["All", "Running", "None"]


class TFJobSpec(Document):
    run_policy: RunPolicy
    tf_replica_specs: dict[Literal["Chief", "Worker", "PS", "Evaluator"], Replica]


class TFJob(Document):
    api_version: Literal["kubeflow.org/v1"]
    kind: Literal["TFJob"]
    metadata: Metadata = Metadata()
    spec: TFJobSpec


class JobTemplate(Document):
    metadata: Metadata
    spec: JobSpec


class ReplicatedJob(Document):
    name: Name
    template: JobTemplate


class JobSetSpec(Document):
    replicated_jobs: list[ReplicatedJob]


class JobSetTemplate(Document):
    spec: JobSetSpec


class MLPolicy(Document):
    num_nodes: int


class TrainingRuntimeSpec(Document):
    ml_policy: MLPolicy
    template: JobSetTemplate


class TrainingRuntime(Document):
    api_version: Literal["trainer.kubeflow.org/v1alpha1"]
    kind: Literal["TrainingRuntime"]
    metadata: Metadata
    spec: TrainingRuntimeSpec


class RuntimeRef(Document):
    api_group: Literal["trainer.kubeflow.org"]
    kind: Literal["TrainingRuntime", "ClusterTrainingRuntime"]
    name: Name


class Trainer(Document):
    image: str
    command: list[str]
    num_nodes: int
    resources_per_node: Resources | None = None


class TrainJobSpec(Document):
    runtime_ref: RuntimeRef
    trainer: Trainer


class TrainJob(Document):
    api_version: Literal["trainer.kubeflow.org/v1alpha1"]
    kind: Literal["TrainJob"]
    metadata: Metadata
    spec: TrainJobSpec


class Strategy(Document):
    name: str
    value: Literal["min", "max", "latest"]


class Objective(Document):
    type: Literal["maximize", "minimize"]
    objective_metric_name: str
    metric_strategies: list[Strategy]


class Setting(Document):
    name: str
    value: str


class Algorithm(Document):
    algorithm_name: Literal["random", "grid", "sobol", "tpe", "multivariate-tpe", "bayesianoptimization", "cmaes"]
    algorithm_settings: list[Setting] = []


class FeasibleSpace(Document):
    min: Number | None = None
    max: Number | None = None
    distribution: Literal["uniform", "logUniform", "normal", "logNormal"] | None = None
    values: list[str] | None = Field(None, alias="list")


class KatibParameter(Document):
    name: str
    parameter_type: Literal["double", "int", "discrete", "categorical"]
    feasible_space: FeasibleSpace


class CollectorKind(Document):
    kind: Literal["StdOut", "File", "TensorFlowEvent", "PrometheusMetric", "Custom", "None", "Push"]


class MetricsFilter(Document):
    metrics_format: list[str]


class Source(Document):
    filter: MetricsFilter


class Collector(Document):
    collector: CollectorKind
    source: Source


class TrialParameter(Document):
    name: str
    description: str
    reference: str


class TrialTemplate(Document):
    primary_container_name: Name
    trial_parameters: list[TrialParameter]
    trial_spec: Job | TFJob


class ExperimentSpec(Document):
    objective: Objective
    algorithm: Algorithm
    max_trial_count: int
    parallel_trial_count: int
    max_failed_trial_count: int
    metrics_collector_spec: Collector
    parameters: list[KatibParameter]
    trial_template: TrialTemplate


class Experiment(Document):
    api_version: Literal["kubeflow.org/v1beta1"]
    kind: Literal["Experiment"]
    metadata: Metadata
    spec: ExperimentSpec


ScaleType = Literal["UNIT_LINEAR_SCALE", "UNIT_LOG_SCALE", "UNIT_REVERSE_LOG_SCALE"]
Goal = Literal["MAXIMIZE", "MINIMIZE"]
SearchAlgorithm = Literal["GRID_SEARCH", "RANDOM_SEARCH"]


class Param(Document):
    parameter_name: str
    type: Literal["DOUBLE", "INTEGER", "CATEGORICAL", "DISCRETE"]
    min_value: float | int | None = None
    max_value: float | int | None = None
    categorical_values: list[str] | None = None
    discrete_values: list[float | int] | None = None
    scale_type: ScaleType | None = None


class Hyperparameters(Document):
    goal: Goal
    hyperparameter_metric_tag: str
    max_trials: int
    max_parallel_trials: int
    max_failed_trials: int
    enable_trial_early_stopping: bool
    algorithm: SearchAlgorithm | None = None
    params: list[Param]


class Accelerator(Document):
    count: Int64
    type: str


class ReplicaConfig(Document):
    image_uri: str
    container_command: list[str]
    accelerator_config: Accelerator | None = None


class TrainingInput(Document):
    scale_tier: Literal["BASIC", "STANDARD_1", "PREMIUM_1", "BASIC_GPU", "BASIC_TPU", "CUSTOM"]
    master_type: str
    master_config: ReplicaConfig
    worker_type: str | None = None
    worker_count: Int64 | None = None
    worker_config: ReplicaConfig | None = None
    use_chief_in_tf_config: bool | None = None
    region: str
    args: list[str]
    hyperparameters: Hyperparameters


class AIPlatformJob(Document):
    job_id: Annotated[str, StringConstraints(pattern="^[A-Za-z][A-Za-z0-9_]*$")]
    training_input: TrainingInput


class DoubleSpec(Document):
    min_value: float
    max_value: float


class IntegerSpec(Document):
    min_value: Int64
    max_value: Int64


class WordsSpec(Document):
    values: list[str]


class NumbersSpec(Document):
    values: list[float | int]


class ParameterSpec(Document):
    parameter_id: str
    double_value_spec: DoubleSpec | None = None
    integer_value_spec: IntegerSpec | None = None
    categorical_value_spec: WordsSpec | None = None
    discrete_value_spec: NumbersSpec | None = None
    scale_type: ScaleType | None = None


class MetricSpec(Document):
    metric_id: str
    goal: Goal


class MedianStopping(Document):
    use_elapsed_duration: bool = False


class StudySpec(Document):
    metrics: list[MetricSpec]
    parameters: list[ParameterSpec]
    algorithm: SearchAlgorithm | None = None
    median_automated_stopping_spec: MedianStopping | None = None


class MachineSpec(Document):
    machine_type: str
    accelerator_type: str | None = None
    accelerator_count: int | None = None


class ContainerSpec(Document):
    image_uri: str
    command: list[str]
    args: list[str]


class WorkerPool(Document):
    machine_spec: MachineSpec
    replica_count: Int64
    container_spec: ContainerSpec


class TrialJobSpec(Document):
    worker_pool_specs: list[WorkerPool]


class HyperparameterTuningJob(Document):
    display_name: str
    max_trial_count: int
    parallel_trial_count: int
    max_failed_trial_count: int
    study_spec: StudySpec
    trial_job_spec: TrialJobSpec


class PipelineContainer(Document):
    image: str
    command: list[str]
    args: list[str]


class Executor(Document):
    container: PipelineContainer


class DeploymentSpec(Document):
    executors: dict[str, Executor]


class ComponentRef(Document):
    name: str


class TaskInfo(Document):
    name: str


class Caching(Document):
    enable_cache: bool = False


class Task(Document):
    component_ref: ComponentRef
    task_info: TaskInfo
    caching_options: Caching
    dependent_tasks: list[str] = []
    inputs: dict[Literal["artifacts", "parameters"], dict[str, Any]] = {}


class Dag(Document):
    tasks: dict[str, Task]


class Component(Document):
    executor_label: str
    input_definitions: dict[Literal["artifacts", "parameters"], dict[str, Any]] = {}
    output_definitions: dict[Literal["artifacts", "parameters"], dict[str, Any]] = {}


class Root(Document):
    dag: Dag
    input_definitions: dict[Literal["parameters"], dict[str, Any]]


class PipelineInfo(Document):
    name: Name
    description: str


class Pipeline(Document):
    components: dict[str, Component]
    deployment_spec: DeploymentSpec
    pipeline_info: PipelineInfo
    root: Root
    schema_version: Literal["2.1.0"]
    sdk_version: str


def of(document: dict[str, Any]) -> type[Document]:
    """The schema that a document has to fit."""
    kinds: list[type[Document]] = [ConfigMap, TFJob, TrainingRuntime, TrainJob, Experiment]
    by_kind = {kind.__name__: kind for kind in kinds}
    if "kind" in document:
        return by_kind[document["kind"]]
    keys = {"trainingInput": AIPlatformJob, "studySpec": HyperparameterTuningJob, "deploymentSpec": Pipeline}
    (found,) = (schema for key, schema in keys.items() if key in document)
    return found
