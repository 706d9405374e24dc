"""model.yaml: what is accepted, and that each mistake gets one line that says how to mend it."""

import pytest

from serving.core.declared import Declared, Sample, SampleInput
from serving.core.padding import Padding
from serving.core.spec import Latest, ModelSpec, SpecError, parse_spec
from serving.core.traffic import Traffic

SOURCE = "models/digits/model.yaml"


def refusal(text: str) -> str:
    """The one line with which `text` is refused, without the name of the file that it begins with."""
    with pytest.raises(SpecError) as refused:
        parse_spec(text, SOURCE)
    message = str(refused.value)
    assert "\n" not in message
    assert message.startswith(f"{SOURCE}: ")
    return message.removeprefix(f"{SOURCE}: ")


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n", "---\n", "{}"])
def test_every_key_is_optional(text: str) -> None:
    assert parse_spec(text, SOURCE) == ModelSpec()


def test_every_key_can_be_set() -> None:
    spec = parse_spec(
        """
        backend: onnx
        file: net.onnx
        versions: [1, 4]
        max_batch_size: 8
        max_request_rows: 100
        allowed_batch_sizes: [2, 8]
        padding: {tokens: {axis: 1, sizes: [16, 32], value: 1, outputs: {scores: 1}}}
        batching: adaptive
        slo_ms: 20
        priority_levels: 3
        default_priority_level: 2
        share: 2
        max_queue_delay_ms: 1.5
        max_queue_rows: 100
        queue_timeout_ms: 250
        instances: 2
        threads: 4
        providers: [CPUExecutionProvider]
        cache_optimized: true
        devices: [0, 2]
        device_memory_mb: 500
        cuda_graphs: true
        version_labels: {stable: 4}
        class_labels: {probabilities: labels.txt}
        inputs: {x: FP32}
        outputs: {probabilities: {datatype: FP32, shape: [-1, 10], reshape: [-1, 10, 1], format: NCHW}}
        tags: [serve, gpu]
        accelerate: onnx
        accelerate_tolerance: 0.001
        warmup: false
        samples: [{name: one, inputs: {x: {datatype: FP32, shape: [1, 4], values: zero}}, runs: 3}]
        traffic: {weights: {stable: 95, "5": 5}}
        latency_limit: 1.5
        """,
        SOURCE,
    )
    assert spec == ModelSpec(
        backend="onnx",
        file="net.onnx",
        versions=(1, 4),
        max_batch_size=8,
        max_request_rows=100,
        allowed_batch_sizes=(2, 8),
        padding={"tokens": Padding(axis=1, sizes=(16, 32), value=1, outputs={"scores": 1})},
        batching="adaptive",
        slo_ms=20,
        priority_levels=3,
        default_priority_level=2,
        share=2,
        max_queue_delay_ms=1.5,
        max_queue_rows=100,
        queue_timeout_ms=250,
        instances=2,
        threads=4,
        providers=("CPUExecutionProvider",),
        cache_optimized=True,
        devices=(0, 2),
        device_memory_mb=500,
        cuda_graphs=True,
        version_labels={"stable": 4},
        class_labels={"probabilities": "labels.txt"},
        inputs={"x": Declared(datatype="FP32")},
        outputs={"probabilities": Declared(datatype="FP32", shape=(-1, 10), reshape=(-1, 10, 1), format="NCHW")},
        tags=("serve", "gpu"),
        accelerate="onnx",
        accelerate_tolerance=0.001,
        warmup=False,
        samples=(Sample(name="one", inputs={"x": SampleInput(datatype="FP32", shape=(1, 4), values="zero")}, runs=3),),
        traffic=Traffic(weights={"stable": 95, "5": 5}),
        latency_limit=1.5,
    )
    assert spec.model_fields_set == set(ModelSpec.model_fields)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("allowed_batch_sizes: [4, 2]", "'allowed_batch_sizes' must be ascending, got [4, 2]"),
        (
            "allowed_batch_sizes: [2, 4]\nmax_batch_size: 8",
            "the largest of 'allowed_batch_sizes' must be max_batch_size, which is 8, got 4",
        ),
        ("default_priority_level: 1", "'default_priority_level' must be at most priority_levels, got 1 and 0"),
        ("padding: {x: {sizes: [8, 4]}}", "sizes must be positive and ascending, got [8, 4]"),
        ("padding: {x: {sizes: [8], outputs: {y: 0}}}", "an output is cut along axis 1 or a later one, got 0"),
        ("padding: {x: {sizes: [8], sizs: [8]}}", "unknown key 'sizs' in 'padding'; did you mean 'sizes'?"),
        ("share: 0", "'share': input should be greater than 0, got 0"),
    ],
)
def test_settings_of_batches_that_do_not_agree(text: str, told: str) -> None:
    with pytest.raises(SpecError) as error:
        parse_spec(text, SOURCE)
    assert told in str(error.value)


def test_sizes_that_are_allowed_say_how_large_a_batch_may_be() -> None:
    assert parse_spec("allowed_batch_sizes: [32, 128]", SOURCE).max_batch_size == 128


@pytest.mark.parametrize(
    ("text", "versions"),
    [("versions: all", "all"), ("versions: {latest: 3}", Latest(latest=3)), ("versions: [2, 5]", (2, 5))],
)
def test_three_ways_to_choose_versions(text: str, versions: object) -> None:
    assert parse_spec(text, SOURCE).versions == versions


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("max_batch_siez", "max_batch_size"),
        ("MaxBatchSize", "max_batch_size"),
        ("instance", "instances"),
        ("max_queue_delay", "max_queue_delay_ms"),
        ("provider", "providers"),
        ("version", "versions"),
    ],
)
def test_an_unknown_key_comes_with_the_nearest_valid_one(key: str, nearest: str) -> None:
    assert refusal(f"{key}: 3") == f"unknown key '{key}'; did you mean '{nearest}'?"


def test_an_unknown_key_like_no_other_comes_with_all_valid_ones() -> None:
    assert refusal("colour: blue") == f"unknown key 'colour'; valid keys are {', '.join(ModelSpec.model_fields)}"


def test_all_mistakes_are_told_at_once() -> None:
    assert refusal("threads: 0\nmax_batch_siez: 3") == (
        "'threads': input should be greater than or equal to 1, got 0; "
        "unknown key 'max_batch_siez'; did you mean 'max_batch_size'?"
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("backend: torch", "'backend': input should be 'onnx', 'tensorflow' or 'identity', got 'torch'"),
        ("max_batch_size: -1", "'max_batch_size': input should be greater than or equal to 0, got -1"),
        ("max_batch_size: many", "'max_batch_size': input should be a valid integer"),
        ("max_batch_size: 2147483648", "'max_batch_size': input should be less than or equal to 2147483647"),
        ("max_batch_size: 2.5", "'max_batch_size': input should be a valid integer"),
        ("max_queue_delay_ms: -1", "'max_queue_delay_ms': input should be greater than or equal to 0, got -1"),
        ("max_queue_delay_ms: 1e6", "'max_queue_delay_ms': input should be"),
        ("max_queue_delay_ms: .nan", "'max_queue_delay_ms': input should be"),
        ("file: ../up.onnx", "'file': string should match pattern"),
        ("file: .hidden", "'file': string should match pattern"),
        ("max_request_rows: 0", "'max_request_rows': input should be greater than or equal to 1, got 0"),
        ("inputs: {x: {datatpye: FP32}}", "'inputs' (datatype): field required"),
        ("inputs: {x: {datatype: FP32, shap: [1]}}", "unknown key 'shap' in 'inputs'; did you mean 'shape'?"),
        ("inputs: {x: {datatype: FP32, shape: [-2]}}", "'inputs' (0): input should be greater than or equal to -1"),
        ("inputs: {x: {datatype: FP32, reshape: [3]}}", "inputs.x: 'reshape' needs a 'shape'"),
        (
            "inputs: {x: {datatype: FP32, shape: [2, -1], reshape: [3, -1]}}",
            "inputs.x: [2, -1] and [3, -1] have not the same number of elements and open axes",
        ),
        ("samples: [{inputs: {x: {datatype: FP31, shape: [1]}}}]", "samples.0.inputs.x: unknown datatype 'FP31'"),
        ("max_queue_rows: 0", "'max_queue_rows': input should be greater than or equal to 1, got 0"),
        ("queue_timeout_ms: 0", "'queue_timeout_ms': input should be greater than 0, got 0"),
        ("max_queue_rows: 2147483648", "'max_queue_rows': input should be less than or equal to 2147483647"),
        ("queue_timeout_ms: .nan", "'queue_timeout_ms': input should be"),
        ("queue_timeout_ms: .inf", "'queue_timeout_ms': input should be"),
        ("version_labels: {stable: 9223372036854775808}", "'version_labels' (stable): input should be less than"),
        ("instances: 0", "'instances': input should be greater than or equal to 1, got 0"),
        ("instances: 257", "'instances': input should be less than or equal to 256, got 257"),
        ("threads: 0", "'threads': input should be greater than or equal to 1, got 0"),
        ("providers: []", "'providers': "),
        ("providers: CPUExecutionProvider", "'providers': input should be a valid tuple, got 'CPUExecutionProvider'"),
        ("warmup: maybe", "'warmup': input should be a valid boolean"),
        ("1: 2", "'1': keys should be strings"),
    ],
)
def test_a_bad_value_is_told_with_its_key(text: str, told: str) -> None:
    assert refusal(text).startswith(told)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("versions: newest", ("'versions'", "latest", "all", "'newest'")),
        ("versions: {latest: 0}", ("'versions'", "latest", "greater than or equal to 1")),
        ("versions: {lates: 2}", ("'versions'", "'lates'", "'latest'")),
        ("versions: [0]", ("'versions'", "greater than or equal to 1")),
        ("versions: [9223372036854775808]", ("'versions'", "less than or equal to 9223372036854775807")),
    ],
)
def test_a_bad_choice_of_versions_is_told_by_the_form_that_was_meant(text: str, told: tuple[str, ...]) -> None:
    message = refusal(text)
    assert [part for part in told if part not in message] == [], message


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("- max_batch_size", "expected keys and values, got list"),
        ("just text", "expected keys and values, got str"),
        ("a: [", "not valid YAML: "),
        ("a: b: c", "not valid YAML: "),
        ("\ta: b", "not valid YAML: "),
        ("? [a]\n: b", "not valid YAML: "),
        ("text: \0", "not valid YAML: "),
        ("!!python/object/apply:os.getcwd []", "not valid YAML: "),
        pytest.param("trained: 2020-13-45", "not valid YAML: ", id="no such date"),
        pytest.param(f"seed: {'1' * 5000}", "not valid YAML: ", id="a number too long for Python"),
        pytest.param("[" * 5000, "not valid YAML: ", id="nested too deep"),
    ],
)
def test_text_that_is_no_mapping_is_refused(text: str, told: str) -> None:
    assert refusal(text).startswith(told)


def test_a_value_that_repeats_itself_without_end_is_told_in_a_line() -> None:
    lines = ["a0: &a0 [" + "x, " * 9 + "x]"]
    lines += [f"a{n}: &a{n} [" + f"*a{n - 1}, " * 9 + f"*a{n - 1}]" for n in range(1, 12)]  # 10**12 in all
    message = refusal("\n".join([*lines, "max_batch_size: *a11"]))
    assert "'max_batch_size': input should be a valid integer, got [[[" in message and len(message) < 10_000
