"""`serving tfs`: the server behind TensorFlow Serving's flags. What they come to is settings and a list of models."""

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from serving import __version__, config, logs
from serving.cli.describe import fail
from serving.cli.tfs_flags import FlagError, Given, parse, usage
from serving.config import Settings
from serving.core.errors import ServingError
from serving.engine import Wanted
from serving.protocols.tfs import files, reload
from serving.protocols.tfs.files import FileError, ModelConfigFile

log = logging.getLogger(__name__)

_ANY_ADDRESS = "0.0.0.0"
_MOST_ROWS = 2**31 - 1
_MOST_WAITING_ROWS = 1_000_000

# Settings that are given in another way here.
_NOT_FLAGS = {"paths", "model_name", "http", "grpc", "model_defaults", "api_key"}


def run(args: Sequence[str], env: Mapping[str, str]) -> int:
    if {"--help", "-h"} & set(args):
        print(usage())
        return 0
    try:
        given = parse(args, Settings.model_fields.keys() - _NOT_FLAGS)
        if given.get("version"):
            print(f"serving {__version__}")
            return 0
        flags, warnings = settings_of(given, env)
        settings = config.load(flags, env)
        logs.configure(settings.log_format, settings.log_level)
        for text in (*given.warnings, *warnings):
            log.warning("%s", text)
        models, changes = models_of(given)
    except (FlagError, FileError, config.ConfigError) as error:
        return fail(str(error))
    from serving.cli.start import serve

    return serve(settings, models, changes)


def settings_of(given: Given, env: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """Settings by name, and what their author should know. Reads the files that the flags name; blocking.

    Raises:
        FlagError: flags that do not go together.
        FileError: a file that cannot be used.
    """
    warnings: list[str] = []
    settings: dict[str, Any] = {"model_defaults": _model_defaults(given, warnings)}
    for flag, name in (("port", "grpc"), ("rest_api_port", "http")):
        port = given.number(flag)
        settings[name] = port != 0 or f"{name}_port" in given.settings
        if port:
            settings[f"{name}_port"] = port
    if settings["http"] and settings["grpc"] and settings.get("http_port") == settings.get("grpc_port"):
        raise FlagError("--rest_api_port and --port are the same; give each a port of its own")
    if not settings["http"] and not settings["grpc"] and not given.text("grpc_socket_path"):
        raise FlagError("--port and --rest_api_port are both 0, so nobody could ask for anything")
    if given.text("grpc_socket_path"):
        settings["grpc_socket"] = given.text("grpc_socket_path")
    if "SERVING_HOST" not in env:
        settings["host"] = _ANY_ADDRESS
    if (timeout_ms := given.number("rest_api_timeout_in_ms")) > 0:
        settings["tfs_rest_timeout_s"] = timeout_ms / 1000
    if path := given.text("monitoring_config_file"):
        monitoring = files.monitoring(Path(path))
        warnings += monitoring.warnings
        if monitoring.value:
            names = ("serving", "tensorflow-serving")
            settings |= {"metrics_path": monitoring.value, "metrics_names": names}
    seconds = given.number("file_system_poll_wait_seconds")
    if seconds > 0:
        settings["poll_s"] = seconds
    else:  # directories are read when a client asks for it
        settings |= {"mode": "explicit", "load_model": ["*"]}
    if (micros := given.number("load_retry_interval_micros")) > 0:
        settings["retry_limit_s"] = micros / 1e6
    own = {name: value.split(",") if name in ("load_model", "reload_roots", "cors_origins") else value
           for name, value in given.settings.items()}  # fmt: skip
    return settings | own, warnings


def _model_defaults(given: Given, warnings: list[str]) -> dict[str, Any]:
    defaults: dict[str, Any] = {
        "tags": [tag for tag in given.text("saved_model_tags").split(",") if tag],
        "warmup": bool(given.get("enable_model_warmup")),
    }
    parameters = given.text("batching_parameters_file")
    if given.get("enable_batching"):
        batching = files.batching(Path(parameters) if parameters else None)
        warnings += batching.warnings
        defaults |= batching.value
    elif parameters:
        raise FlagError("--batching_parameters_file is set, and --enable_batching is not")
    else:  # there any request runs as it comes, whatever its size
        defaults |= {"max_request_rows": _MOST_ROWS, "max_queue_rows": _MOST_WAITING_ROWS}
    threads = [given.number(f"tensorflow_{name}_parallelism") for name in ("session", "intra_op", "inter_op")]
    if all(number > 0 for number in threads):
        raise FlagError("--tensorflow_session_parallelism or the intra_op and inter_op ones, but not all of them")
    if (most := threads[1] or threads[0]) > 0:
        defaults["threads"] = most
    return defaults


def models_of(given: Given) -> tuple[list[Wanted], AsyncIterator[list[Wanted]] | None]:
    """The models to serve, and the lists that take their place later. Blocking.

    Raises:
        FlagError: there are none, or a path is not a whole one.
        FileError: the file that lists them cannot be used.
    """
    if path := given.text("model_config_file"):
        file = ModelConfigFile(Path(path), given.number("model_config_file_poll_wait_seconds"))
        return file.read(), file.changes()
    if not given.text("model_base_path"):
        raise FlagError("nothing to serve: give --model_base_path or --model_config_file")
    model = Wanted(given.text("model_name"), given.text("model_base_path"))
    try:
        return reload.checked([model]), None
    except ServingError as error:
        raise FlagError(error.message) from None
