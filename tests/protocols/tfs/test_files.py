"""The files that TensorFlow Serving's flags name."""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.spec import Latest, ModelSpec
from serving.engine import Wanted
from serving.protocols.tfs import files
from serving.protocols.tfs.files import FileError, ModelConfigFile

TWO = """
model_config_list {
  config {
    name: 'my_first_model'
    base_path: '/tmp/my_first_model/'
    model_platform: 'tensorflow'
    model_version_policy { specific { versions: 42 versions: 43 } }
    version_labels { key: 'stable' value: 42 }
    version_labels { key: 'canary' value: 43 }
  }
  config {
    name: 'my_second_model'
    base_path: 'gs://bucket/my_second_model'
    model_platform: 'tensorflow'
  }
}
"""
MODELS = [
    Wanted("my_first_model", "/tmp/my_first_model/", (42, 43), {"stable": 42, "canary": 43}),
    Wanted("my_second_model", "gs://bucket/my_second_model", Latest(), {}),
]


def file(tmp_path: Path, text: str) -> Path:
    """In one step, as nobody may see half of it."""
    path = tmp_path / "file.config"
    path.with_suffix(".new").write_text(text)
    return path.with_suffix(".new").rename(path)


def refusal(call: Any) -> str:
    with pytest.raises(FileError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


# The list of models


def test_a_list(tmp_path: Path) -> None:
    assert ModelConfigFile(file(tmp_path, TWO)).read() == MODELS
    assert ModelConfigFile(file(tmp_path, "model_config_list { }")).read() == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "ServerModelConfig type not supported"),
        ("custom_model_config { }", "ServerModelConfig type not supported"),
        ("model_config_list {", "1:19: "),
        ("model_config_list {\n  config { name: 3 }\n}", "2:18: "),
        ("model_config_list { config { name: 'a' base_path: 'a' } }", "Expected model a to have an absolute path or"),
        ("model_config_list { config { name: 'a' } }", "Expected model a to have an absolute path or URI; got base_"),
        ("model_config_list { config { base_path: '/a' } }", "a model cannot be called ''"),
        (
            "model_config_list { config { name: 'a' base_path: '/a' } config { name: 'a' base_path: '/b' } }",
            "Illegal to list model a multiple times in config list",
        ),
        (
            "model_config_list { config { name: 'a' base_path: '/a' "
            "model_version_policy { specific { versions: 0 } } } }",
            "versions are numbers > 0, got [0]",
        ),
    ],
)  # fmt: skip
def test_no_list(tmp_path: Path, text: str, told: str) -> None:
    path = file(tmp_path, text)
    assert refusal(ModelConfigFile(path).read).startswith((f"{path}: {told}", f"{path}:{told}"))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    assert refusal(ModelConfigFile(tmp_path / "nosuch").read) == f"{tmp_path}/nosuch: No such file or directory"
    (tmp_path / "binary").write_bytes(b"\xff")
    assert refusal(ModelConfigFile(tmp_path / "binary").read).startswith(f"{tmp_path}/binary: not text: ")


def test_what_means_nothing_here_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = """model_config_list { config {
        name: 'a' base_path: '/a' model_platform: 'other' brand_new: 1
        logging_config { sampling_config { sampling_rate: 1 } }
    } }"""
    ModelConfigFile(file(tmp_path, text)).read()
    assert [record.getMessage().removeprefix(f"{tmp_path}/file.config: ") for record in caplog.records] == [
        "line 2: unknown field 'model_config_list.config.brand_new'",
        "model 'a': logging_config: requests are not logged",
        "model 'a': model_platform 'other': what a model is, its files say",
    ]


def test_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each new content once; what is wrong is told once, and changes nothing."""

    async def follow() -> None:
        config = ModelConfigFile(file(tmp_path, TWO), poll_s=0.01)
        config.read()
        changes = config.changes()

        async def told(number: int) -> None:
            while len(caplog.records) < number:  # noqa: ASYNC110  (nothing but the log tells)
                await asyncio.sleep(0.01)

        file(tmp_path, "model_config_list { }")
        assert await anext(changes) == []
        coming = asyncio.ensure_future(anext(changes))
        file(tmp_path, "nonsense")
        await told(1)
        config.path.unlink()
        await told(2)
        file(tmp_path, TWO)
        assert await coming == MODELS

    asyncio.run(follow())
    syntax, missing = (record.getMessage() for record in caplog.records)
    assert syntax.startswith(f"{tmp_path}/file.config:1:") and syntax.endswith("; the models stay as they are")
    assert missing == f"{tmp_path}/file.config: No such file or directory; the models stay as they are"


def test_a_file_that_is_read_once(tmp_path: Path) -> None:
    async def follow() -> list[Any]:
        return [models async for models in ModelConfigFile(file(tmp_path, TWO)).changes()]

    assert asyncio.run(follow()) == []


# Batching


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("", {"max_request_rows": 1000, "max_queue_rows": 10_000}),
        (
            """max_batch_size { value: 128 }
            batch_timeout_micros { value: 1500 }
            max_enqueued_batches { value: 1000000 }
            num_batch_threads { value: 8 }
            thread_pool_name { value: "mine" }""",
            {
                "max_batch_size": 128,
                "max_request_rows": 128,
                "max_queue_delay_ms": 1.5,
                "max_queue_rows": 128_000_000,
                "instances": 8,
            },
        ),
        (
            """max_batch_size { value: 1024 }
            enable_large_batch_splitting { value: true }
            max_execution_batch_size { value: 32 }
            allowed_batch_sizes: [8, 32]""",
            {"max_batch_size": 32, "max_request_rows": 1024, "max_queue_rows": 10_240},
        ),
    ],
)
def test_batching(tmp_path: Path, text: str, settings: dict[str, Any]) -> None:
    said = files.batching(file(tmp_path, text))
    assert said.value == settings
    ModelSpec.model_validate(said.value)


def test_batching_without_a_file() -> None:
    assert files.batching(None) == files.Said({"max_request_rows": 1000, "max_queue_rows": 10_000})


def test_what_batching_does_not_do_is_told(tmp_path: Path) -> None:
    path = file(tmp_path, "max_batch_size { value: 8 } allowed_batch_sizes: 8 pad_variable_length_inputs: true zzz: 1")
    assert files.batching(path).warnings == (
        f"{path}: line 1: unknown field 'zzz'",
        f"{path}: allowed_batch_sizes: batches are not padded, so they have any size",
        f"{path}: pad_variable_length_inputs: inputs of different shapes are not batched together",
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("max_batch_size: 8", ":1:17: "),
        ("max_batch_size { value: 0 }", ": max_batch_size has to be from 1 to 2147483647, got 0"),
        ("num_batch_threads { value: -1 }", ": num_batch_threads has to be from 1 to "),
        ("batch_timeout_micros { value: 60000001 }", ": batch_timeout_micros has to be from 0 to 60000000"),
        ("allowed_batch_sizes: [4, 2] max_batch_size { value: 2 }", ": allowed_batch_sizes [4, 2] have to grow"),
        ("allowed_batch_sizes: [2, 4]", ": allowed_batch_sizes [2, 4] have to grow, and to end with the largest"),
    ],
)
def test_batching_that_cannot_be_had(tmp_path: Path, text: str, told: str) -> None:
    path = file(tmp_path, text)
    assert refusal(lambda: files.batching(path)).startswith(f"{path}{told}")


# Monitoring


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("", ""),
        ("prometheus_config { enable: false path: '/m' }", ""),
        ("prometheus_config { enable: true, path: \"/m\" }", "/m"),
        ("prometheus_config { enable: true }", "/monitoring/prometheus/metrics"),
    ],
)  # fmt: skip
def test_monitoring(tmp_path: Path, text: str, where: str) -> None:
    assert files.monitoring(file(tmp_path, text)).value == where


def test_monitoring_at_no_path(tmp_path: Path) -> None:
    path = file(tmp_path, "prometheus_config { enable: true path: 'm' }")
    assert refusal(lambda: files.monitoring(path)) == f"{path}: prometheus_config.path has to begin with '/', got 'm'"


WORDS = st.sampled_from([
    "model_config_list", "config", "name", "base_path", "'/a'", "'a'", "version_labels", "key", "value", "latest",
    "model_version_policy", "specific", "versions", "max_batch_size", "allowed_batch_sizes", "prometheus_config",
    "enable", "true", "1", "-1", ":", "{", "}", "[", "]", "zzz",
])  # fmt: skip


@given(st.lists(WORDS, max_size=30).map(" ".join))
def test_whatever_comes_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.config"
    path.write_text(text)
    for read in (ModelConfigFile(path).read, lambda: files.batching(path), lambda: files.monitoring(path)):
        with suppress(FileError):
            read()
