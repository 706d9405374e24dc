"""TensorFlow Serving's flags, and what they come to."""

from pathlib import Path
from typing import Any

import pytest

from serving import config
from serving.cli import tfs
from serving.cli.tfs_flags import FLAGS, FlagError, Value, parse, usage
from serving.config import Settings
from serving.core.spec import ModelSpec
from serving.engine import Wanted
from serving.protocols.tfs.files import FileError

OWN = {"state_dir", "host", "http_port", "log_format"}


def refusal(*args: str) -> str:
    def read() -> None:
        given = parse(args, OWN)
        tfs.settings_of(given, {})
        tfs.models_of(given)

    with pytest.raises((FlagError, FileError)) as error:
        read()
    assert "\n" not in str(error.value)
    return str(error.value)


def settings(*args: str, env: dict[str, str] | None = None) -> Settings:
    """Of these flags alone."""
    values, _ = tfs.settings_of(parse(args, Settings.model_fields), env or {})
    return config.load(values, env or {})


# How they are written


@pytest.mark.parametrize(
    ("args", "values"),
    [
        ([], {}),
        (["--port=1"], {"port": 1}),
        (["--port", "1"], {"port": 1}),
        (["--model-name=a=b"], {"model_name": "a=b"}),
        (["--enable_batching"], {"enable_batching": True}),
        (["--enable_batching", "--port=2"], {"enable_batching": True, "port": 2}),
        (["--enable_batching=true"], {"enable_batching": True}),
        (["--enable_batching=False"], {"enable_batching": False}),
        (["--enable_batching=0"], {"enable_batching": False}),
        (["--port=1", "--port=2"], {"port": 2}),
        (["--file_system_poll_wait_seconds=-1"], {"file_system_poll_wait_seconds": -1}),
        (["--per_process_gpu_memory_fraction=0.5"], {"per_process_gpu_memory_fraction": 0.5}),
        (["--ssl_config_file="], {"ssl_config_file": ""}),
    ],
    ids=str,
)
def test_every_way_to_write(args: list[str], values: dict[str, Value]) -> None:
    assert parse(args, OWN).values == values


def test_our_own_settings_are_flags_too() -> None:
    given = parse(["--state_dir=/s", "--log-format", "json", "--host=::1"], OWN)
    assert given.settings == {"state_dir": "/s", "log_format": "json", "host": "::1"}
    assert given.values == {} and given.warnings == []


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--model_nmae=a"], "unknown flag --model_nmae; did you mean --model_name?"),
        (["--state-dri=a"], "unknown flag --state-dri; did you mean --state_dir?"),
        (["--colour=blue"], "unknown flag --colour"),
        (["/models"], "unexpected argument '/models'; everything is a flag"),
        (["-p", "1"], "unexpected argument '-p'"),
        (["--"], "unexpected argument '--'"),
        (["--port"], "--port needs a value"),
        (["--port=many"], "--port: expected a whole number, got 'many'"),
        (["--port=1.5"], "--port: expected a whole number, got '1.5'"),
        (["--enable_batching=maybe"], "--enable_batching: expected true or false, got 'maybe'"),
        (["--per_process_gpu_memory_fraction=x"], "--per_process_gpu_memory_fraction: expected a number, got 'x'"),
        (["--ssl_config_file=ssl.txt"], "--ssl_config_file is not supported: TLS is set up by --tls_cert"),
        (["--use_alts_credentials"], "--use_alts_credentials is not supported"),
    ],
    ids=str,
)
def test_what_cannot_be_used_is_named(args: list[str], told: str) -> None:
    assert refusal(*args).startswith(told)


@pytest.mark.parametrize("name", [name for name, flag in FLAGS.items() if flag.left or flag.refused])
def test_every_flag_that_means_nothing_here_says_so(name: str) -> None:
    """But not where it is given with its default, as scripts do."""
    flag = FLAGS[name]
    default = str(flag.default).lower() if isinstance(flag.default, bool) else str(flag.default)
    assert parse([f"--{name}={default}"], OWN).warnings == []
    other = {bool: str(not flag.default).lower(), int: "77", float: "0.7", str: "x"}[type(flag.default)]
    if flag.left:
        assert parse([f"--{name}={other}"], OWN).warnings == [f"--{name} changes nothing here: {flag.left}"]
    else:
        assert flag.refused in refusal(f"--{name}={other}")


def test_the_help_has_every_flag() -> None:
    assert all(name in usage() for name in FLAGS)


# What they mean


def test_defaults() -> None:
    """As there: gRPC on 8500 of all addresses, no REST, directories read each second, no limit for a request."""
    found = settings()
    assert (found.host, found.grpc, found.grpc_port, found.http) == ("0.0.0.0", True, 8500, False)
    assert (found.mode, found.poll_s, found.retry_limit_s, found.tfs_rest_timeout_s) == ("watched", 1, 60, 30)
    assert found.model_defaults == ModelSpec(
        tags=("serve",), warmup=True, max_request_rows=2**31 - 1, max_queue_rows=1_000_000
    )


@pytest.mark.parametrize(
    ("args", "values"),
    [
        (["--port=9000"], {"grpc": True, "grpc_port": 9000}),
        (["--port=0", "--rest_api_port=8501"], {"grpc": False, "http": True, "http_port": 8501}),
        (["--http_port=0"], {"http": True, "http_port": 0}),
        (["--port=0", "--grpc_socket_path=/s"], {"grpc": False, "http": False, "grpc_socket": Path("/s")}),
        (["--rest_api_timeout_in_ms=500"], {"tfs_rest_timeout_s": 0.5}),
        (["--file_system_poll_wait_seconds=60"], {"poll_s": 60, "mode": "watched"}),
        (["--file_system_poll_wait_seconds=0"], {"mode": "explicit", "load_model": ("*",)}),
        (["--load_retry_interval_micros=5000000"], {"retry_limit_s": 5}),
        (["--host=127.0.0.1", "--settle_s=0.5"], {"host": "127.0.0.1", "settle_s": 0.5}),
        (["--reload_roots=/models,/more"], {"reload_roots": (Path("/models"), Path("/more"))}),
    ],
    ids=str,
)
def test_settings(args: list[str], values: dict[str, Any]) -> None:
    found = settings(*args)
    assert {name: getattr(found, name) for name in values} == values


@pytest.mark.parametrize(
    ("args", "values"),
    [
        (["--saved_model_tags=serve,gpu"], {"tags": ("serve", "gpu")}),
        (["--enable_model_warmup=false"], {"warmup": False}),
        (["--tensorflow_session_parallelism=4"], {"threads": 4}),
        (["--tensorflow_intra_op_parallelism=2", "--tensorflow_session_parallelism=4"], {"threads": 2}),
        (["--tensorflow_inter_op_parallelism=8"], {"threads": None}),
        (["--enable_batching"], {"max_batch_size": 64, "max_request_rows": 1000, "max_queue_rows": 10_000}),
    ],
    ids=str,
)
def test_settings_of_models(args: list[str], values: dict[str, Any]) -> None:
    found = settings(*args).model_defaults
    assert {name: getattr(found, name) for name in values} == values


def test_an_address_in_the_environment_counts() -> None:
    assert settings(env={"SERVING_HOST": "127.0.0.1"}).host == "127.0.0.1"


def test_files(tmp_path: Path) -> None:
    (tmp_path / "batching").write_text("max_batch_size { value: 128 }\nallowed_batch_sizes: 128")
    (tmp_path / "monitoring").write_text("prometheus_config { enable: true }")
    given = parse(
        [
            "--enable_batching",
            f"--batching_parameters_file={tmp_path}/batching",
            f"--monitoring_config_file={tmp_path}/monitoring",
        ],
        OWN,
    )
    values, warnings = tfs.settings_of(given, {})
    assert values["model_defaults"]["max_batch_size"] == 128
    assert values["metrics_path"] == "/monitoring/prometheus/metrics"
    assert values["metrics_names"] == ("serving", "tensorflow-serving")
    assert warnings == [f"{tmp_path}/batching: allowed_batch_sizes: batches are not padded, so they have any size"]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--rest_api_port=8500"], "--rest_api_port and --port are the same"),
        (["--port=0"], "--port and --rest_api_port are both 0"),
        (["--batching_parameters_file=b"], "--batching_parameters_file is set, and --enable_batching is not"),
        (["--enable_batching", "--batching_parameters_file=/nosuch"], "/nosuch: No such file or directory"),
        (["--monitoring_config_file=/nosuch"], "/nosuch: No such file or directory"),
        (["--model_config_file=/nosuch"], "/nosuch: No such file or directory"),
        ([f"--tensorflow_{name}_parallelism=1" for name in ("session", "intra_op", "inter_op")], "--tensorflow_sess"),
        ([], "nothing to serve: give --model_base_path or --model_config_file"),
        (
            ["--model_base_path=models/m", "--model_name=m"],
            "Expected model m to have an absolute path or URI; got base_path()=models/m",
        ),
        (["--model_base_path=/m", "--model_name=a/b"], "a model cannot be called 'a/b'"),
    ],
    ids=str,
)
def test_what_does_not_go_together(args: list[str], told: str) -> None:
    assert refusal(*args).startswith(told)


def test_models(tmp_path: Path) -> None:
    one, changes = tfs.models_of(parse(["--model_base_path=/models/m"], OWN))
    assert (one, changes) == ([Wanted("default", "/models/m")], None)
    (tmp_path / "models").write_text("model_config_list { config { name: 'a' base_path: 's3://b/a' } }")
    given = parse([f"--model_config_file={tmp_path}/models", "--model_base_path=/models/m"], OWN)
    listed, changes = tfs.models_of(given)
    assert listed == [Wanted("a", "s3://b/a")] and changes is not None
