"""Settings of the server: flags over environment over file over defaults. Reads, never acts."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serving.core.spec import explain, read_yaml

ENV_PREFIX = "SERVING_"


class ConfigError(ValueError):
    """Settings that cannot be used; the message is one line that names where, what and the remedy."""


class Settings(BaseModel):
    """Every setting of `serving start`. Each is a flag, a key of the file, and `SERVING_<NAME>` in the environment."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    paths: tuple[Path, ...] = Field((), description="repositories, model directories or model files")
    model_name: str | None = Field(None, description="name of the model, where the path is one model")
    server_name: str = Field("serving", description="what server metadata calls this server")

    host: str = Field("127.0.0.1", description="address to listen on")
    http_port: int = Field(8000, ge=0, le=65535, description="REST port; 0: any free one")
    grpc_port: int = Field(8001, ge=0, le=65535, description="gRPC port; 0: any free one")
    http_max_input_size: int = Field(64 * 1024 * 1024, ge=1, description="bytes that one HTTP body may have")
    http_max_connections: int = Field(10_000, ge=1, description="open HTTP connections; more are refused")
    grpc_max_message_size: int = Field(2**31 - 1, ge=1, le=2**31 - 1, description="bytes that one message may have")

    allow_model_upload: bool = Field(False, description="let clients load model files that they send")
    allow_client_shm: bool = Field(False, description="let clients on this machine register shared memory")
    trace_file: Path | None = Field(None, description="file for request traces; without it there are none")

    watch: bool = Field(True, description="pick up new versions while running")
    settle_s: float = Field(1.0, ge=0, le=2, description="how long a version's files must be left alone first")
    poll_s: float = Field(5.0, gt=0, description="how often directories are read when no file event comes")

    stop_grace_s: float = Field(0.0, ge=0, description="on stop: seconds of 'not ready' before listeners close")
    drain_limit_s: float = Field(30.0, ge=0, description="on stop: seconds that requests under way may take")

    log_format: Literal["human", "json"] = Field("human", description="form of log lines")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level that is logged")


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
        variables["paths"] = [path for path in variables["paths"].split(os.pathsep) if path]
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
