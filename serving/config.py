"""Settings of the server: flags over environment over file over defaults. Reads, never acts."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from serving.core.spec import ModelSpec, explain, read_yaml

ENV_PREFIX = "SERVING_"

_BETWEEN_PATHS = re.compile(re.escape(os.pathsep) + "(?!//)")  # that of a URL's scheme is not one


class ConfigError(ValueError):
    """Settings that cannot be used; the message is one line that names where, what and the remedy."""


class Settings(BaseModel):
    """Every setting of `serving start`. Each is a flag, a key of the file, and `SERVING_<NAME>` in the environment;
    `model_defaults` and `api_key` are no flags."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    paths: tuple[str, ...] = Field(
        (), description="repositories, model directories or model files; URLs too, such as s3://bucket/models"
    )
    model_name: str | None = Field(None, description="name of the model, where the path is one model")
    server_name: str = Field("serving", description="what server metadata calls this server")

    host: str = Field("127.0.0.1", description="address to listen on")
    http: bool = Field(True, description="listen for REST")
    grpc: bool = Field(True, description="listen for gRPC")
    http_port: int = Field(8000, ge=0, le=65535, description="REST port; 0: any free one")
    grpc_port: int = Field(8001, ge=0, le=65535, description="gRPC port; 0: any free one")
    grpc_socket: Path | None = Field(None, description="Unix socket to listen on for gRPC too")
    metrics_path: str = Field("/metrics", pattern="^/", description="path of the metrics, beside /metrics")
    tfs_rest_timeout_s: float | None = Field(
        None, gt=0, le=1e9, description="how long a request to TensorFlow Serving's REST API may wait"
    )
    http_max_input_size: int = Field(64 * 1024 * 1024, ge=1, description="bytes that one HTTP body may have")
    http_max_connections: int = Field(10_000, ge=1, description="open HTTP connections; more are refused")
    http_max_header_size: int = Field(32 * 1024, ge=1024, description="bytes that one HTTP header may have")
    http_max_header_lines: int = Field(100, ge=1, description="lines that one HTTP header may have")
    http_header_timeout_s: float = Field(10.0, gt=0, description="how long an HTTP header may take to arrive")
    http_body_timeout_s: float = Field(60.0, gt=0, description="how long an HTTP body may take to arrive")
    http_min_body_rate: int = Field(
        1024, ge=0, description="bytes per second at which an HTTP body has to arrive, after five seconds; 0: any"
    )
    http_idle_timeout_s: float = Field(75.0, gt=0, description="how long an HTTP connection may be idle")
    http_max_bodies_size: int = Field(
        1024 * 1024 * 1024, ge=1, description="bytes of HTTP bodies that may be held at once, of all connections"
    )
    grpc_max_message_size: int = Field(2**31 - 1, ge=1, le=2**31 - 1, description="bytes that one message may have")
    grpc_max_decompressed_size: int = Field(
        64 * 1024 * 1024, ge=1, description="bytes that a compressed message may have when it is decompressed"
    )
    grpc_max_connections: int = Field(4000, ge=1, le=2**31 - 1, description="open gRPC connections; more are closed")
    grpc_max_streams: int = Field(1000, ge=1, le=2**31 - 1, description="calls at once on one gRPC connection")
    grpc_max_open_calls: int = Field(20_000, ge=1, description="calls at once on all gRPC connections")
    grpc_max_metadata_size: int = Field(
        16 * 1024, ge=1024, le=2**31 - 1, description="bytes that the metadata of a call may have"
    )
    grpc_idle_timeout_s: float = Field(300.0, gt=0, description="how long a gRPC connection may be without a call")
    grpc_max_connection_age_s: float | None = Field(
        None, gt=0, description="when a gRPC connection is told to end; its calls may take as long again"
    )
    grpc_keepalive_s: float = Field(
        60.0, ge=1, description="how often a silent gRPC client is asked whether it is still there"
    )
    max_concurrent_requests: int = Field(
        10_000, ge=0, description="requests under way at once, over both protocols; more are refused; 0: any number"
    )

    tls_cert: Path | None = Field(
        None, description="certificate for REST and gRPC (PEM, with those up to its root); read again when it changes"
    )
    tls_key: Path | None = Field(None, description="its private key (PEM, not encrypted)")
    tls_client_ca: Path | None = Field(
        None, description="roots that clients' certificates have to come from; without it clients need none"
    )
    api_keys: Path | None = Field(
        None, description="file of the keys that clients need; `serving keys` writes it; read again when it changes"
    )
    api_key: SecretStr | None = Field(None, description="one key that is for everything, or sha256: and its hash")
    manage_host: str | None = Field(
        None, description="address of management and metrics, with --manage-port [default: as --host]"
    )
    manage_port: int | None = Field(
        None, ge=0, le=65535, description="REST port that management and metrics have to themselves; 0: any free one"
    )
    manage_grpc_port: int | None = Field(
        None, ge=0, le=65535, description="gRPC port that management has to itself; 0: any free one"
    )
    cors_origins: tuple[str, ...] = Field(
        (), description="origins of web pages that may read answers, such as https://example.org; *: any"
    )

    allow_model_upload: bool = Field(False, description="let clients load model files that they send")
    reload_roots: tuple[Path, ...] = Field(
        (), description="directories that clients' lists of models may name besides those that are served"
    )
    allow_client_shm: bool = Field(False, description="let clients on this machine register shared memory")
    allow_unsafe_ops: bool = Field(
        False, description="load models that read or write files, run Python or use the network: docs/model-safety.md"
    )
    trace_file: Path | None = Field(None, description="file for request traces; without it there are none")
    capture_rate: float = Field(0.0, ge=0, le=1, description="share of requests that is kept on disk: docs/capture.md")
    capture_dir: Path | None = Field(None, description="directory for requests that are kept")
    capture_max_mb: int = Field(1000, ge=1, description="what they may take there; the oldest go")
    capture_model: tuple[str, ...] = Field((), description="models whose requests are kept; without it: all")

    mode: Literal["watched", "explicit", "fixed"] = Field(
        "watched",
        description="watched: serve what is there, and changes to it; explicit: serve what is asked for; "
        "fixed: serve what is there at the start, and nothing changes",
    )
    load_model: tuple[str, ...] = Field((), description="explicit mode: models to load at the start; '*': all")
    state_dir: Path | None = Field(
        None, description="directory that keeps rollouts, quarantine and history over restarts; without it: in memory"
    )
    cache_dir: Path | None = Field(
        None,
        description="directory for models of remote repositories [default: in the state directory, or a user cache]",
    )
    retry_limit_s: float = Field(60.0, gt=0, description="longest pause before what failed to load is tried again")

    model_defaults: ModelSpec = Field(
        default_factory=ModelSpec, description="settings of every model, where its own file does not say otherwise"
    )

    trial_load: bool = Field(True, description="load each version in a process of its own first")
    trial_limit_s: float = Field(300.0, gt=0, description="how long that may take")
    memory_limit_mb: int | None = Field(
        None, ge=1, description="memory that the server may use [default: the container's limit, or what is there]"
    )
    memory_pressure: Literal["refuse", "unload_first"] = Field(
        "refuse", description="what to do with a new version that does not fit beside the one that serves"
    )
    idle_unload_s: float | None = Field(
        None, gt=0, description="unload a model that was not asked for this long; its next request loads it again"
    )
    max_concurrent_runs: int = Field(
        0, ge=0, description="runs of all models under way at once on one device, shared by their weight; 0: any number"
    )

    settle_s: float = Field(1.0, ge=0, le=2, description="how long a version's files must be left alone first")
    poll_s: float = Field(5.0, gt=0, description="how often directories are read when no file event comes")
    remote_poll_s: float = Field(30.0, gt=0, description="how often remote repositories are listed")

    stop_grace_s: float = Field(0.0, ge=0, description="on stop: seconds of 'not ready' before listeners close")
    drain_limit_s: float = Field(30.0, ge=0, description="on stop: seconds that requests under way may take")

    log_format: Literal["human", "json"] = Field("human", description="form of log lines")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level that is logged")
    access_log: Path | None = Field(
        None, description="file for one line per request, in the form of log lines; '-': standard output"
    )
    metrics_names: tuple[Literal["serving", "triton", "tensorflow-serving"], ...] = Field(
        ("serving",), description="whose names metrics have: serving, triton, tensorflow-serving; several with commas"
    )
    otlp_endpoint: str | None = Field(
        None,
        pattern="^https?://",
        description="OpenTelemetry collector that traces are sent to over HTTP, such as http://localhost:4318",
    )
    trace_sample_rate: float = Field(
        1.0, ge=0, le=1, description="share of requests that are traced, of those whose client has not decided it"
    )

    @field_validator("metrics_names", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return value.split(",") if isinstance(value, str) else value


def load(flags: Mapping[str, Any], env: Mapping[str, str], file: Path | None = None) -> Settings:
    """Joins the sources.

    Args:
        flags: by setting name; None means not given.
        env: variables; those that are no setting of ours are ignored, because platforms set their own.
        file: YAML with setting names as keys; an unknown one is an error.

    Raises:
        ConfigError: names the source and the key, and the nearest valid key or what is allowed.
    """
    values: dict[str, Any] = {}
    if file is not None:
        values |= _checked(_read(file), str(file))
    variables: dict[str, Any] = {
        name: env[key] for name in Settings.model_fields if (key := ENV_PREFIX + name.upper()) in env
    }
    if "paths" in variables:
        variables["paths"] = [path for path in _BETWEEN_PATHS.split(variables["paths"]) if path]
    if "reload_roots" in variables:
        variables["reload_roots"] = [path for path in variables["reload_roots"].split(os.pathsep) if path]
    if "model_defaults" in variables:
        try:
            variables["model_defaults"] = read_yaml(variables["model_defaults"])
        except ValueError as error:
            raise ConfigError(f"environment (SERVING_MODEL_DEFAULTS): {error}") from None
    for name in ("load_model", "cors_origins", "capture_model"):
        if name in variables:
            variables[name] = [part.strip() for part in variables[name].split(",") if part.strip()]
    values |= _checked(variables, "environment (SERVING_...)")
    values |= _checked({k: v for k, v in flags.items() if v is not None}, "command line")
    return Settings.model_validate(values)


def _read(file: Path) -> dict[str, Any]:
    try:
        return read_yaml(file.read_text())
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: not valid YAML: {error}") from None
    except ValueError as error:
        raise ConfigError(f"{file}: {error}") from None


def _checked(values: dict[str, Any], source: str) -> dict[str, Any]:
    """`values` as they are; checked here so that an error can name its source."""
    try:
        Settings.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{source}: {explain(error, tuple(Settings.model_fields))}") from None
    return values
