"""Settings from flags, environment and file: who wins, and how a mistake is told."""

import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from serving.config import ConfigError, Settings, load
from serving.core.spec import ModelSpec

# For each setting: how it is written in the environment, and what that means; never the default.
SAMPLES: dict[str, tuple[str, Any]] = {
    "paths": (os.pathsep.join(["models", "/srv/more"]), ("models", "/srv/more")),
    "model_name": ("digits", "digits"),
    "server_name": ("edge-7", "edge-7"),
    "host": ("0.0.0.0", "0.0.0.0"),
    "http_port": ("9000", 9000),
    "grpc_port": ("9001", 9001),
    "http_max_input_size": ("1024", 1024),
    "http_max_connections": ("5", 5),
    "grpc_max_message_size": ("1024", 1024),
    "http_max_header_size": ("4096", 4096),
    "http_max_header_lines": ("4096", 4096),
    "http_header_timeout_s": ("2.5", 2.5),
    "http_body_timeout_s": ("2.5", 2.5),
    "http_min_body_rate": ("4096", 4096),
    "http_idle_timeout_s": ("2.5", 2.5),
    "http_max_bodies_size": ("4096", 4096),
    "grpc_max_decompressed_size": ("4096", 4096),
    "grpc_max_connections": ("4096", 4096),
    "grpc_max_streams": ("4096", 4096),
    "grpc_max_open_calls": ("4096", 4096),
    "grpc_max_metadata_size": ("4096", 4096),
    "grpc_idle_timeout_s": ("2.5", 2.5),
    "grpc_max_connection_age_s": ("2.5", 2.5),
    "grpc_keepalive_s": ("2.5", 2.5),
    "max_concurrent_requests": ("4096", 4096),
    "http": ("false", False),
    "grpc": ("false", False),
    "grpc_socket": ("serving.sock", Path("serving.sock")),
    "metrics_path": ("/monitoring/prometheus/metrics", "/monitoring/prometheus/metrics"),
    "tfs_rest_timeout_s": ("2.5", 2.5),
    "reload_roots": ("/models:/srv/more", (Path("/models"), Path("/srv/more"))),
    "model_defaults": ("{max_batch_size: 8, tags: [serve, gpu]}", ModelSpec(max_batch_size=8, tags=("serve", "gpu"))),
    "tls_cert": ("server.pem", Path("server.pem")),
    "tls_key": ("server.key", Path("server.key")),
    "tls_client_ca": ("clients.pem", Path("clients.pem")),
    "api_keys": ("keys.yaml", Path("keys.yaml")),
    "api_key": ("srv_0123456789abcdef", SecretStr("srv_0123456789abcdef")),
    "manage_host": ("10.0.0.1", "10.0.0.1"),
    "manage_port": ("8100", 8100),
    "manage_grpc_port": ("8101", 8101),
    "cors_origins": ("https://a.example,https://b.example", ("https://a.example", "https://b.example")),
    "allow_model_upload": ("true", True),
    "allow_client_shm": ("true", True),
    "allow_unsafe_ops": ("true", True),
    "trace_file": ("traces.json", Path("traces.json")),
    "capture_rate": ("0.01", 0.01),
    "capture_dir": ("kept", Path("kept")),
    "capture_max_mb": ("50", 50),
    "capture_model": ("digits,shapes", ("digits", "shapes")),
    "mode": ("explicit", "explicit"),
    "load_model": ("digits,shapes", ("digits", "shapes")),
    "state_dir": ("state", Path("state")),
    "cache_dir": ("cache", Path("cache")),
    "retry_limit_s": ("5", 5.0),
    "trial_load": ("false", False),
    "trial_limit_s": ("20", 20.0),
    "memory_limit_mb": ("2048", 2048),
    "memory_pressure": ("unload_first", "unload_first"),
    "idle_unload_s": ("600", 600.0),
    "max_concurrent_runs": ("2", 2),
    "settle_s": ("0.25", 0.25),
    "poll_s": ("30", 30.0),
    "remote_poll_s": ("120", 120.0),
    "stop_grace_s": ("2.5", 2.5),
    "drain_limit_s": ("5", 5.0),
    "log_format": ("json", "json"),
    "log_level": ("debug", "debug"),
    "access_log": ("access.log", Path("access.log")),
    "metrics_names": ("triton,serving", ("triton", "serving")),
    "otlp_endpoint": ("http://collector:4318", "http://collector:4318"),
    "trace_sample_rate": ("0.25", 0.25),
}


def written(path: Path, text: str) -> Path:
    file = path / "serving.yaml"
    file.write_text(text)
    return file


def refusal(*args: Any) -> str:
    with pytest.raises(ConfigError) as error:
        load(*args)
    message = str(error.value)
    assert "\n" not in message
    return message


# Sources


def test_defaults() -> None:
    settings = load({}, {})
    assert settings == Settings()
    assert (settings.host, settings.http_port, settings.grpc_port) == ("127.0.0.1", 8000, 8001)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_can_be_given_in_the_environment(name: str) -> None:
    text, meaning = SAMPLES[name]
    settings = load({}, {f"SERVING_{name.upper()}": text})
    assert getattr(settings, name) == meaning != getattr(Settings(), name)
    assert settings.model_fields_set == {name}


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_can_be_given_as_flag_or_in_the_file(name: str, tmp_path: Path) -> None:
    text, meaning = SAMPLES[name]
    assert getattr(load({name: meaning}, {}), name) == meaning
    lists = {"paths": "[models, /srv/more]", "load_model": "[digits, shapes]", "reload_roots": "[/models, /srv/more]"}
    lists["cors_origins"] = "[https://a.example, https://b.example]"
    lists["capture_model"] = lists["load_model"]
    in_yaml = lists.get(name, text)
    assert getattr(load({}, {}, written(tmp_path, f"{name}: {in_yaml}")), name) == meaning


@pytest.mark.parametrize(
    ("flags", "env", "file", "port"),
    [
        ({"http_port": 1}, {"SERVING_HTTP_PORT": "2"}, "http_port: 3", 1),
        ({}, {"SERVING_HTTP_PORT": "2"}, "http_port: 3", 2),
        ({"http_port": None}, {"SERVING_HTTP_PORT": "2"}, "http_port: 3", 2),  # a flag that was not given
        ({}, {}, "http_port: 3", 3),
        ({}, {}, "", 8000),
        ({"http_port": 0}, {"SERVING_HTTP_PORT": "2"}, "", 0),  # a flag that was given, and is false
    ],
)
def test_flags_win_over_environment_over_file_over_defaults(
    flags: dict[str, Any], env: dict[str, str], file: str, port: int, tmp_path: Path
) -> None:
    assert load(flags, env, written(tmp_path, file)).http_port == port


def test_each_setting_comes_from_the_strongest_source_that_has_it(tmp_path: Path) -> None:
    file = written(tmp_path, "http_port: 3\ngrpc_port: 3\nhost: file\nmode: fixed")
    settings = load({"http_port": 1}, {"SERVING_GRPC_PORT": "2", "SERVING_HTTP_PORT": "2"}, file)
    assert (settings.http_port, settings.grpc_port, settings.host, settings.mode) == (1, 2, "file", "fixed")


@pytest.mark.parametrize("key", ["PATH", "SERVING_SERVICE_HOST", "SERVING_PORT_8000_TCP", "serving_http_port", "PORT"])
def test_variables_of_other_software_are_ignored(key: str) -> None:
    assert load({}, {key: "tcp://10.0.0.1:80"}) == Settings()


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("s3://bucket/models", ("s3://bucket/models",)),
        ("s3://bucket/models:/srv/more:gs://other/models", ("s3://bucket/models", "/srv/more", "gs://other/models")),
        ("models:s3://bucket", ("models", "s3://bucket")),
        ("models::/srv/more:", ("models", "/srv/more")),
    ],
)
def test_paths_in_the_environment_may_be_urls(text: str, paths: tuple[str, ...]) -> None:
    assert load({}, {"SERVING_PATHS": text}).paths == paths


@pytest.mark.parametrize("text", ["", os.pathsep])
def test_no_path_in_the_environment_is_not_the_working_directory(text: str) -> None:
    assert load({}, {"SERVING_PATHS": text}).paths == ()


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n"])
def test_an_empty_file_sets_nothing(text: str, tmp_path: Path) -> None:
    assert load({}, {}, written(tmp_path, text)) == Settings()


# Mistakes


def test_an_unknown_key_in_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, "htpp_port: 8000")
    assert refusal({}, {}, file) == f"{file}: unknown key 'htpp_port'; did you mean 'http_port'?"


def test_an_unknown_key_like_no_other(tmp_path: Path) -> None:
    said = refusal({}, {}, written(tmp_path, "colour: blue"))
    assert said.endswith(f"unknown key 'colour'; valid keys are {', '.join(Settings.model_fields)}")


def test_an_unknown_flag() -> None:
    assert refusal({"prot": 1}, {}).startswith("command line: unknown key 'prot'")


@pytest.mark.parametrize(
    ("flags", "env", "file", "source"),
    [
        ({"http_port": 70000}, {}, "", "command line"),
        ({}, {"SERVING_HTTP_PORT": "70000"}, "", "environment (SERVING_...)"),
        ({}, {}, "http_port: 70000", "{file}"),
        ({"http_port": 1}, {}, "http_port: 70000", "{file}"),  # wrong, though it would not count
    ],
)
def test_a_bad_value_is_told_with_its_source(
    flags: dict[str, Any], env: dict[str, str], file: str, source: str, tmp_path: Path
) -> None:
    path = written(tmp_path, file)
    said = refusal(flags, env, path)
    where = source.format(file=path)
    assert said.startswith(f"{where}: 'http_port': input should be less than or equal to 65535, got ")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("http_port", "-1"),
        ("http_port", "eighty"),
        ("http_port", ""),
        ("grpc_max_message_size", str(2**31)),
        ("http_max_connections", "0"),
        ("settle_s", "2.1"),
        ("settle_s", "nan"),
        ("poll_s", "0"),
        ("stop_grace_s", "-1"),
        ("drain_limit_s", "nan"),
        ("mode", "perhaps"),
        ("retry_limit_s", "0"),
        ("trial_load", "perhaps"),
        ("memory_limit_mb", "0"),
        ("memory_pressure", "panic"),
        ("idle_unload_s", "0"),
        ("log_format", "xml"),
        ("log_level", "loud"),
    ],
)
def test_values_that_cannot_be(name: str, text: str) -> None:
    assert refusal({}, {f"SERVING_{name.upper()}": text}).startswith(f"environment (SERVING_...): '{name}': ")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"- http_port", "expected keys and values, got list"),
        (b"http_port: [", "not valid YAML: "),
        (b"\xff\xfe\xfa", "not valid YAML: "),
        (b"since: 2020-13-45", "not valid YAML: "),
        (b"1: 2", "'1': keys should be strings"),
    ],
)
def test_a_file_that_cannot_be_understood(content: bytes, told: str, tmp_path: Path) -> None:
    file = tmp_path / "serving.yaml"
    file.write_bytes(content)
    assert refusal({}, {}, file).startswith(f"{file}: {told}")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    assert refusal({}, {}, tmp_path / "none.yaml") == f"{tmp_path}/none.yaml: No such file or directory"
    assert refusal({}, {}, tmp_path) == f"{tmp_path}: Is a directory"
