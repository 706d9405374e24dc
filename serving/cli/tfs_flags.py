"""The flags of TensorFlow Serving's `tensorflow_model_server`: which there are, and how they are written. Pure.

Those that mean something here are read by `tfs`. The others are of two kinds: what they ask for makes no difference to
answers, and is said to be left; or it would, and is refused.
"""

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

Value = bool | int | float | str


class FlagError(ValueError):
    """Flags that cannot be used; the message is one line."""


@dataclass(frozen=True)
class Flag:
    """One flag. Its kind is that of its default; `help` is what it means here.

    `left` and `refused` say why, where it means nothing here and something else is asked for than the default.
    """

    default: Value
    help: str = ""
    left: str = ""
    refused: str = ""


_NO_THREADS = "one event loop does that"
_NO_TFLITE = "TensorFlow Lite models are not served"

FLAGS: Mapping[str, Flag] = {
    "port": Flag(8500, "gRPC port; 0: do not listen for gRPC"),
    "grpc_socket_path": Flag("", "Unix socket to listen on for gRPC too"),
    "rest_api_port": Flag(0, "REST port; 0: do not listen for REST"),
    "rest_api_timeout_in_ms": Flag(30_000, "how long a REST request may wait"),
    "model_name": Flag("default", "name of the model at model_base_path"),
    "model_base_path": Flag("", "directory of one model's versions"),
    "model_config_file": Flag("", "file that lists the models; the two above do not count then"),
    "model_config_file_poll_wait_seconds": Flag(0, "how often that file is read again; 0: never"),
    "file_system_poll_wait_seconds": Flag(1, "how often directories are read; 0: once"),
    "saved_model_tags": Flag("serve", "which graph of a SavedModel is loaded, tags separated by commas"),
    "enable_model_warmup": Flag(True, "run models before their first request"),
    "enable_batching": Flag(False, "limit what one request may hold; requests share runs in either case"),
    "batching_parameters_file": Flag("", "how; needs enable_batching"),
    "tensorflow_session_parallelism": Flag(0, "threads that one run may use; 0: one"),
    "tensorflow_intra_op_parallelism": Flag(0, "the same"),
    "monitoring_config_file": Flag("", "where on the REST port metrics are, besides at /metrics"),
    "load_retry_interval_micros": Flag(60_000_000, "longest pause before a failed load is tried again"),
    "version": Flag(False, "show the version"),
    # What makes no difference to answers.
    "allow_version_labels_for_unavailable_models": Flag(
        False, left="a label of the file holds as soon as its version is ready, and one of a client's list needs it"
    ),
    "max_num_load_retries": Flag(5, left="failed loads are tried again until they succeed or their files change"),
    "num_load_threads": Flag(0, left="two versions load at a time, beside the requests"),
    "num_unload_threads": Flag(0, left="unloading is not in the way of requests"),
    "flush_filesystem_caches": Flag(True, left="that is up to the system"),
    "tensorflow_inter_op_parallelism": Flag(0, left="a run stays on its thread"),
    "grpc_max_threads": Flag(0, left=_NO_THREADS),
    "rest_api_num_threads": Flag(0, left=_NO_THREADS),
    "grpc_channel_arguments": Flag("", left="gRPC's own defaults hold"),
    "num_request_iterations_for_warmup": Flag(0, left="each request for warm-up is run once"),
    "per_process_gpu_memory_fraction": Flag(0.0, left="memory is taken as it is needed"),
    "enable_per_model_batching_parameters": Flag(
        False, left="batching_params.pbtxt is not read; a model.yaml beside the versions is"
    ),
    "remove_unused_fields_from_bundle_metagraph": Flag(True, left="nothing of that is kept"),
    "enable_signature_method_name_check": Flag(False, left="methods are always checked"),
    "enable_profiler": Flag(False, left="there is no profiler service"),
    "xla_cpu_compilation_enabled": Flag(False, left="that is up to TensorFlow"),
    "thread_pool_factory_config_file": Flag("", left="threads are those of the settings"),
    "num_tflite_pools": Flag(0, left=_NO_TFLITE),
    "num_tflite_interpreters_per_pool": Flag(0, left=_NO_TFLITE),
    "prefer_tflite_model": Flag(False, left="the SavedModel beside it is served"),
    # What would.
    "use_tflite_model": Flag(False, refused=_NO_TFLITE),
    "platform_config_file": Flag("", refused="there are no other platforms than TensorFlow and ONNX Runtime"),
    "tensorflow_session_config_file": Flag("", refused="sessions are set up by a model's settings alone"),
    "ssl_config_file": Flag("", refused="TLS is set up by --tls_cert, --tls_key and --tls_client_ca"),
    "use_alts_credentials": Flag(False, refused="ALTS is not offered"),
    "rest_api_enable_cors_support": Flag(False, refused="name the origins with --cors_origins"),
    "mixed_precision": Flag("", refused="models run in the precision that they have"),
}

_TRUE, _FALSE = ("true", "t", "yes", "1"), ("false", "f", "no", "0")


@dataclass(frozen=True)
class Given:
    """Flags as they were given.

    Attributes:
        values: of TensorFlow Serving's flags.
        settings: of our own settings, as text.
        warnings: a line for each flag that means nothing here.
    """

    values: Mapping[str, Value] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()

    def get(self, name: str) -> Value:
        return self.values.get(name, FLAGS[name].default)

    def text(self, name: str) -> str:
        return str(self.get(name))

    def number(self, name: str) -> int:
        return int(self.get(name))


def parse(args: Sequence[str], settings: Collection[str]) -> Given:
    """Reads `--flag=value`, `--flag value`, and `--flag` where that is enough.

    Args:
        settings: names of our own settings, which are flags too.

    Raises:
        FlagError: names the flag and what is wrong; an unknown one comes with the nearest.
    """
    values: dict[str, Value] = {}
    own: dict[str, str] = {}
    rest = iter(args)
    for arg in rest:
        if not arg.startswith("--") or arg == "--":
            raise FlagError(f"unexpected argument '{arg}'; everything is a flag, such as --model_base_path=/models/m")
        written, equals, value = arg.removeprefix("--").partition("=")
        name = written.replace("-", "_")
        flag = FLAGS.get(name)
        if flag is None and name not in settings:
            near = difflib.get_close_matches(name, [*FLAGS, *settings], n=1)
            raise FlagError(f"unknown flag --{written}" + (f"; did you mean --{near[0]}?" if near else ""))
        if not equals and not (flag and isinstance(flag.default, bool)):
            value = next(rest, "")
            if not value:
                raise FlagError(f"--{written} needs a value")
        if flag is None:
            own[name] = value
        else:
            values[name] = _value(name, flag.default, value) if equals or value else True
    return Given(values, own, _left(values))


def _value(name: str, default: Value, text: str) -> Value:
    try:
        if isinstance(default, bool):
            if text.lower() in (*_TRUE, *_FALSE):
                return text.lower() in _TRUE
            raise ValueError
        return type(default)(text)
    except ValueError:
        kind = {bool: "true or false", int: "a whole number", float: "a number"}[type(default)]
        raise FlagError(f"--{name}: expected {kind}, got '{text}'") from None


def _left(values: Mapping[str, Value]) -> list[str]:
    """Raises: FlagError: one that is refused."""
    warnings = []
    for name, value in values.items():
        flag = FLAGS[name]
        if value != flag.default and flag.refused:
            raise FlagError(f"--{name} is not supported: {flag.refused}")
        if value != flag.default and flag.left:
            warnings.append(f"--{name} changes nothing here: {flag.left}")
    return warnings


def usage() -> str:
    """All flags, in lines."""
    kinds = {bool: "true|false", int: "number", float: "number", str: "text"}
    lines = ["Serve models with the flags of TensorFlow Serving's tensorflow_model_server.", ""]
    for name, flag in FLAGS.items():
        if flag.help:
            default = str(flag.default).lower() if isinstance(flag.default, bool) else str(flag.default)
            shown = f" [default: {default}]" if default else ""
            lines.append(f"  --{name}={kinds[type(flag.default)]}\n        {flag.help}{shown}")
    lines += ["", "Settings of `serving start` are flags too, such as --host=127.0.0.1 or --state_dir=/state.", ""]
    lines.append("Accepted, and without effect: " + ", ".join(name for name, flag in FLAGS.items() if flag.left) + ".")
    lines.append("Refused: " + ", ".join(name for name, flag in FLAGS.items() if flag.refused) + ".")
    return "\n".join(lines)
