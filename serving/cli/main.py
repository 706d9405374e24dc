"""The commands and their flags; what they do is in the modules beside this one, imported when they run."""

import functools
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from serving import __version__
from serving.config import Settings

app = typer.Typer(
    help="A model server: ONNX and SavedModel over the Open Inference Protocol and TensorFlow Serving's API, batched.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _flag(name: str, **more: Any) -> Any:
    """A flag for a setting: its text and default come from there, and None means that it was not given."""
    field = Settings.model_fields[name]
    default = field.get_default()
    if isinstance(default, tuple):
        default = ",".join(map(str, default)) or None
    shown = "" if default is None else f" [default: {default}]"
    return typer.Option(help=f"{field.description}{shown}", show_default=False, **more)


_OPERATION = "Commands for a running server"
_HERE = "http://127.0.0.1:8000"
_JSON = typer.Option("--json", help="as JSON")

_LET_IN = "To be let in by a server"
_KEY = typer.Option(help="key, better given in the environment", envvar="SERVING_CLIENT_KEY", rich_help_panel=_LET_IN)
_CA_CERT = typer.Option(
    help="roots of the server's certificate (PEM)",
    envvar="SERVING_CA_CERT",
    show_default=False,
    rich_help_panel=_LET_IN,
)
_CLIENT_CERT = typer.Option(
    help="certificate and its key in one file (PEM)",
    envvar="SERVING_CLIENT_CERT",
    show_default=False,
    rich_help_panel=_LET_IN,
)


def _asks(command: Callable[..., None]) -> Callable[..., None]:
    """Adds what it takes to be let in to a command that asks a server: its `url` becomes a `Target`."""

    @functools.wraps(command)
    def asking(url: str, api_key: str, ca_cert: Path | None, client_cert: Path | None, **given: Any) -> None:
        from serving.client import Target

        command(url=Target(url, api_key, ca_cert, client_cert), **given)

    more = {
        "api_key": (Annotated[str, _KEY], ""),
        "ca_cert": (Annotated[Path | None, _CA_CERT], None),
        "client_cert": (Annotated[Path | None, _CLIENT_CERT], None),
    }
    signature = inspect.signature(command)
    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default) in more.items()
    ]
    asking.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *parameters])  # type: ignore[attr-defined]
    asking.__annotations__ = command.__annotations__ | {name: kind for name, (kind, _) in more.items()}
    return asking


Model = Annotated[str, typer.Argument(help="the model's name")]
RestUrl = Annotated[str, typer.Option(help="server: http://host:port, or https://", envvar="SERVING_URL")]
Url = Annotated[
    str, typer.Option(help="server: http(s)://host:port for REST, grpc(s)://host:port for gRPC", envvar="SERVING_URL")
]


@app.command()
def start(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATH",
            help="repositories, model directories, .onnx files or SavedModels; s3:// and gs:// too",
            show_default=False,
        ),
    ] = None,
    model_name: Annotated[str | None, _flag("model_name")] = None,
    host: Annotated[str | None, _flag("host")] = None,
    http: Annotated[bool | None, _flag("http")] = None,
    grpc: Annotated[bool | None, _flag("grpc")] = None,
    http_port: Annotated[int | None, _flag("http_port")] = None,
    grpc_port: Annotated[int | None, _flag("grpc_port")] = None,
    grpc_socket: Annotated[Path | None, _flag("grpc_socket")] = None,
    metrics_path: Annotated[str | None, _flag("metrics_path")] = None,
    tfs_rest_timeout_s: Annotated[float | None, _flag("tfs_rest_timeout_s")] = None,
    mode: Annotated[str | None, _flag("mode")] = None,
    load_model: Annotated[list[str] | None, _flag("load_model")] = None,
    state_dir: Annotated[Path | None, _flag("state_dir")] = None,
    cache_dir: Annotated[Path | None, _flag("cache_dir")] = None,
    retry_limit_s: Annotated[float | None, _flag("retry_limit_s")] = None,
    trial_load: Annotated[bool | None, _flag("trial_load")] = None,
    trial_limit_s: Annotated[float | None, _flag("trial_limit_s")] = None,
    memory_limit_mb: Annotated[int | None, _flag("memory_limit_mb")] = None,
    memory_pressure: Annotated[str | None, _flag("memory_pressure")] = None,
    idle_unload_s: Annotated[float | None, _flag("idle_unload_s")] = None,
    max_concurrent_runs: Annotated[int | None, _flag("max_concurrent_runs")] = None,
    settle_s: Annotated[float | None, _flag("settle_s")] = None,
    poll_s: Annotated[float | None, _flag("poll_s")] = None,
    remote_poll_s: Annotated[float | None, _flag("remote_poll_s")] = None,
    http_max_input_size: Annotated[int | None, _flag("http_max_input_size")] = None,
    http_max_connections: Annotated[int | None, _flag("http_max_connections")] = None,
    http_max_header_size: Annotated[int | None, _flag("http_max_header_size")] = None,
    http_max_header_lines: Annotated[int | None, _flag("http_max_header_lines")] = None,
    http_header_timeout_s: Annotated[float | None, _flag("http_header_timeout_s")] = None,
    http_body_timeout_s: Annotated[float | None, _flag("http_body_timeout_s")] = None,
    http_min_body_rate: Annotated[int | None, _flag("http_min_body_rate")] = None,
    http_idle_timeout_s: Annotated[float | None, _flag("http_idle_timeout_s")] = None,
    http_max_bodies_size: Annotated[int | None, _flag("http_max_bodies_size")] = None,
    grpc_max_message_size: Annotated[int | None, _flag("grpc_max_message_size")] = None,
    grpc_max_decompressed_size: Annotated[int | None, _flag("grpc_max_decompressed_size")] = None,
    grpc_max_connections: Annotated[int | None, _flag("grpc_max_connections")] = None,
    grpc_max_streams: Annotated[int | None, _flag("grpc_max_streams")] = None,
    grpc_max_open_calls: Annotated[int | None, _flag("grpc_max_open_calls")] = None,
    grpc_max_metadata_size: Annotated[int | None, _flag("grpc_max_metadata_size")] = None,
    grpc_idle_timeout_s: Annotated[float | None, _flag("grpc_idle_timeout_s")] = None,
    grpc_max_connection_age_s: Annotated[float | None, _flag("grpc_max_connection_age_s")] = None,
    grpc_keepalive_s: Annotated[float | None, _flag("grpc_keepalive_s")] = None,
    max_concurrent_requests: Annotated[int | None, _flag("max_concurrent_requests")] = None,
    tls_cert: Annotated[Path | None, _flag("tls_cert")] = None,
    tls_key: Annotated[Path | None, _flag("tls_key")] = None,
    tls_client_ca: Annotated[Path | None, _flag("tls_client_ca")] = None,
    api_keys: Annotated[Path | None, _flag("api_keys")] = None,
    manage_host: Annotated[str | None, _flag("manage_host")] = None,
    manage_port: Annotated[int | None, _flag("manage_port")] = None,
    manage_grpc_port: Annotated[int | None, _flag("manage_grpc_port")] = None,
    cors_origins: Annotated[list[str] | None, _flag("cors_origins")] = None,
    allow_model_upload: Annotated[bool | None, _flag("allow_model_upload")] = None,
    reload_roots: Annotated[
        list[Path] | None,
        typer.Option(
            "--reload-root",
            help="directory that clients' lists of models may name besides those that are served",
            show_default=False,
        ),
    ] = None,
    allow_client_shm: Annotated[bool | None, _flag("allow_client_shm")] = None,
    allow_unsafe_ops: Annotated[bool | None, _flag("allow_unsafe_ops")] = None,
    trace_file: Annotated[Path | None, _flag("trace_file")] = None,
    capture_rate: Annotated[float | None, _flag("capture_rate")] = None,
    capture_dir: Annotated[Path | None, _flag("capture_dir")] = None,
    capture_max_mb: Annotated[int | None, _flag("capture_max_mb")] = None,
    capture_model: Annotated[list[str] | None, _flag("capture_model")] = None,
    stop_grace_s: Annotated[float | None, _flag("stop_grace_s")] = None,
    drain_limit_s: Annotated[float | None, _flag("drain_limit_s")] = None,
    server_name: Annotated[str | None, _flag("server_name")] = None,
    log_format: Annotated[str | None, _flag("log_format")] = None,
    log_level: Annotated[str | None, _flag("log_level")] = None,
    access_log: Annotated[Path | None, _flag("access_log")] = None,
    metrics_names: Annotated[str | None, _flag("metrics_names")] = None,
    otlp_endpoint: Annotated[str | None, _flag("otlp_endpoint")] = None,
    trace_sample_rate: Annotated[float | None, _flag("trace_sample_rate")] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file of settings", envvar="SERVING_CONFIG", show_default=False)
    ] = None,
) -> None:
    """Serve models until stopped. SIGTERM and Ctrl-C drain."""
    flags = {**locals()}
    file = flags.pop("config")
    flags |= {"paths": paths or None, "load_model": load_model or None, "reload_roots": reload_roots or None}
    flags |= {"cors_origins": cors_origins or None, "capture_model": capture_model or None}
    _choose_poller()
    from serving.cli.start import run

    _exit(run(flags, os.environ, file))


def _choose_poller() -> None:
    """gRPC's newer event engine does its reads and writes on threads of its own, each of which then has to wait for the
    interpreter; its older poller costs this server a tenth less per call. Read when gRPC is first imported."""
    os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # or it writes a line for each handshake that fails


@app.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    add_help_option=False,
)
def tfs(context: typer.Context) -> None:
    """Serve models with the flags of TensorFlow Serving's tensorflow_model_server; --help lists them."""
    _choose_poller()
    from serving.cli.tfs import run

    _exit(run(context.args, os.environ))


@app.command()
def check(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATH",
            help="repositories, model directories, .onnx files or SavedModels; s3:// and gs:// too",
            show_default=False,
        ),
    ] = None,
    model_config_file: Annotated[
        Path | None, typer.Option(help="TensorFlow Serving's list of models", show_default=False)
    ] = None,
    trial_limit_s: Annotated[float, typer.Option(min=0, help="how long the load of a version may take")] = 300.0,
    allow_unsafe_ops: Annotated[
        bool,
        typer.Option("--allow-unsafe-ops", help="as for start", envvar="SERVING_ALLOW_UNSAFE_OPS"),
    ] = False,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Load everything that would be served, without serving. Exit code 1 if anything is wrong."""
    from serving.cli.check import run

    _exit(run(paths or (), model_config_file, trial_limit_s, json, allow_unsafe_ops))


@app.command()
def tune(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="a model's directory, a .onnx file or a SavedModel")],
    p99_ms: Annotated[float, typer.Option(min=0.1, help="what 99 of 100 requests have to be answered within")],
    rate: Annotated[
        float | None,
        typer.Option(min=0.1, help="requests per second that come; by default as many as can be", show_default=False),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="rows of a request")] = 1,
    seconds: Annotated[float, typer.Option(min=1, help="how long it may take")] = 60.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show what would be written")] = False,
    report: Annotated[
        Path | None, typer.Option(help="directory for the report; by default one below runs/tune", show_default=False)
    ] = None,
    model_version: Annotated[
        int | None,
        typer.Option(
            "--model-version", min=1, help="a version; by default the one that would be served", show_default=False
        ),
    ] = None,
) -> None:
    """Find batch size, delay, instances and threads for a latency bound by measuring, and write them to model.yaml."""
    from serving.cli.tune import run

    _exit(run(model, model_version, p99_ms, rate, rows, seconds, dry_run, report))


@app.command()
def optimize(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="a model's directory, or an .onnx file")],
    fp16: Annotated[bool, typer.Option("--fp16", help="weights and arithmetic in float16, for GPUs")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="weights as int8, for processors")] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="directory of the model that gets the version [default: MODEL]", show_default=False),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="how far answers may differ, against the largest one [default: 0.01 with --fp16, 0.1 with --int8]",
            show_default=False,
        ),
    ] = None,
    top1: Annotated[float, typer.Option(min=0, max=1, help="share of rows whose highest class has to stay")] = 0.99,
    model_version: Annotated[
        int | None,
        typer.Option(
            "--model-version", min=1, help="a version; by default the one that would be served", show_default=False
        ),
    ] = None,
) -> None:
    """Add a version with smaller weights to a model, if it still answers as the original does."""
    from serving.cli.describe import fail

    if fp16 == int8:
        _exit(fail("choose one of --fp16 and --int8"))
    from serving.cli.optimize import run

    _exit(run(model, model_version, "fp16" if fp16 else "int8", out, tolerance, top1))


@app.command(rich_help_panel=_OPERATION)
@_asks
def predict(
    model: Annotated[str, typer.Argument(help="the model's name")],
    input: Annotated[  # noqa: A002  (it is the flag's name)
        Path | None,
        typer.Option("--input", "-i", help="JSON file, .npy (one input) or .npz (by input name)", show_default=False),
    ] = None,
    random: Annotated[bool, typer.Option("--random", help="send generated values")] = False,
    rows: Annotated[int, typer.Option(min=1, help="rows of generated values")] = 1,
    model_version: Annotated[str, typer.Option("--model-version", help="a version; by default the latest")] = "",
    url: Url = _HERE,
) -> None:
    """Send one request to a running server and print the outputs as JSON."""
    from serving.cli.ask import predict as run

    _exit(run(url, model, model_version, input, random, rows))


capture = typer.Typer(help="Requests that a server kept on disk: --capture-rate.", no_args_is_help=True)
app.add_typer(capture, name="capture", rich_help_panel=_OPERATION)

Captured = Annotated[Path, typer.Argument(metavar="DIR", help="what --capture-dir named, or a file in it", exists=True)]


@capture.command()
def show(
    path: Captured,
    model: Annotated[str, typer.Option(help="of this model alone", show_default=False)] = "",
    records: Annotated[bool, typer.Option("--records", help="a line for each request")] = False,
    trace: Annotated[
        Path | None,
        typer.Option(help="write when they came to this file, for loadtests.simulate", show_default=False),
    ] = None,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Show what was kept: how many requests of which models, when, and how long they took."""
    from serving.cli.capture import show as run

    _exit(run(path, model, records, trace, json))


@app.command(rich_help_panel=_OPERATION)
@_asks
def replay(
    path: Captured,
    model: Annotated[str, typer.Option(help="of this model alone", show_default=False)] = "",
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="requests per second; by default, as answers come")
    ] = None,
    as_recorded: Annotated[bool, typer.Option("--as-recorded", help="at the times at which they came")] = False,
    connections: Annotated[int, typer.Option(min=1, max=1000, help="requests that may be under way at once")] = 8,
    limit: Annotated[int | None, typer.Option(min=1, help="the first so many", show_default=False)] = None,
    pinned: Annotated[bool, typer.Option("--pinned", help="ask for the version that answered then")] = False,
    compare: Annotated[bool, typer.Option("--compare", help="hold answers against those that were kept")] = False,
    atol: Annotated[float, typer.Option(min=0, help="how far floats may differ")] = 1e-4,
    rtol: Annotated[float, typer.Option(min=0, help="the same, relative to the kept answer")] = 1e-4,
    json: Annotated[bool, _JSON] = False,
    url: Url = _HERE,
) -> None:
    """Send captured requests to a running server. Exit code 1 if one fails, or is answered otherwise."""
    from serving.cli.replay import Tolerance, run

    tolerance = Tolerance(atol, rtol) if compare else None
    _exit(run(path, url, model, rate, as_recorded, connections, limit, tolerance, pinned, json))


@app.command(rich_help_panel=_OPERATION)
@_asks
def models(url: Url = _HERE) -> None:
    """List the models of a running server, with their inputs and outputs."""
    from serving.cli.ask import models as run

    _exit(run(url))


@app.command(rich_help_panel=_OPERATION)
@_asks
def status(
    model: Annotated[str, typer.Argument(help="one model; by default all", show_default=False)] = "",
    watch: Annotated[bool, typer.Option("--watch", "-w", help="again and again, until Ctrl-C")] = False,
    json: Annotated[bool, _JSON] = False,
    url: RestUrl = _HERE,
) -> None:
    """Show how models and their versions stand: states, shares, labels, memory, requests, and what is wrong."""
    from serving.cli.status import run

    _exit(run(url, model, watch, json))


@app.command(rich_help_panel=_OPERATION)
@_asks
def explain(
    model: Model,
    model_version: Annotated[
        str, typer.Option("--model-version", "--version", help="a version; by default the latest")
    ] = "",
    json: Annotated[bool, _JSON] = False,
    url: RestUrl = _HERE,
) -> None:
    """Say what the batcher of a model did and why, and what would help."""
    from serving.cli.explain import run

    _exit(run(url, model, model_version, json))


@app.command(rich_help_panel=_OPERATION)
@_asks
def events(
    model: Annotated[str, typer.Argument(help="one model; by default all", show_default=False)] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="and those that come, until Ctrl-C")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="the latest so many")] = 100,
    json: Annotated[bool, _JSON] = False,
    url: RestUrl = _HERE,
) -> None:
    """Show what has happened to models, and why."""
    from serving.cli.history import run

    _exit(run(url, model, follow, limit, json))


@app.command(rich_help_panel=_OPERATION)
@_asks
def load(
    model: Model,
    force: Annotated[bool, typer.Option("--force", help="also what is in quarantine, or slower than allowed")] = False,
    url: RestUrl = _HERE,
) -> None:
    """Read a model's directory now, and wait until its versions are served."""
    from serving.cli.operate import load as run

    _exit(run(url, model, force))


@app.command(rich_help_panel=_OPERATION)
@_asks
def unload(model: Model, url: RestUrl = _HERE) -> None:
    """Take a model out of service until it is loaded again."""
    from serving.cli.operate import unload as run

    _exit(run(url, model))


@app.command(rich_help_panel=_OPERATION)
@_asks
def promote(
    model: Model,
    version: Annotated[
        str, typer.Argument(help="a version or label [default: the canary, or the highest]", show_default=False)
    ] = "",
    url: RestUrl = _HERE,
) -> None:
    """Make a version the stable one, which takes all requests."""
    from serving.cli.operate import promote as run

    _exit(run(url, model, version))


@app.command(rich_help_panel=_OPERATION)
@_asks
def rollback(
    model: Model,
    version: Annotated[
        str, typer.Argument(help="a version or label [default: the stable one, or the one before]", show_default=False)
    ] = "",
    url: RestUrl = _HERE,
) -> None:
    """End what is on trial, or go back to the version that was stable before."""
    from serving.cli.operate import rollback as run

    _exit(run(url, model, version))


@app.command(rich_help_panel=_OPERATION)
@_asks
def label(
    model: Model,
    name: Annotated[str, typer.Argument(metavar="LABEL", help="such as canary")],
    version: Annotated[int | None, typer.Argument(min=1, help="the version's number", show_default=False)] = None,
    remove: Annotated[bool, typer.Option("--remove", help="take the label away")] = False,
    url: RestUrl = _HERE,
) -> None:
    """Give a label to a version, which is loaded first if need be."""
    from serving.cli.operate import label as run

    _exit(run(url, model, name, version, remove))


@app.command(rich_help_panel=_OPERATION)
@_asks
def traffic(
    model: Model,
    weights: Annotated[
        list[str] | None,
        typer.Argument(metavar="VERSION=WEIGHT", help="shares by version or label, such as stable=95 canary=5"),
    ] = None,
    sticky: Annotated[str | None, typer.Option(metavar="HEADER", help="same value, same version")] = None,
    shadow: Annotated[str | None, typer.Option(metavar="VERSION", help="gets copies of requests")] = None,
    shadow_percent: Annotated[float | None, typer.Option(help="of the requests that are copied")] = None,
    shadow_atol: Annotated[float | None, typer.Option(help="difference of outputs that is none")] = None,
    shadow_rtol: Annotated[float | None, typer.Option(help="the same, relative to the output")] = None,
    limit_errors: Annotated[float | None, typer.Option(help="share of failed requests, such as 0.05")] = None,
    limit_latency: Annotated[float | None, typer.Option(help="times the latency of the other, such as 1.5")] = None,
    limit_differences: Annotated[float | None, typer.Option(help="share of different outputs, such as 0.01")] = None,
    limit_requests: Annotated[int | None, typer.Option(help="how many a judgement is about")] = None,
    reset: Annotated[bool, typer.Option("--reset", help="back to what the model's settings say")] = False,
    url: RestUrl = _HERE,
) -> None:
    """Share a model's requests out among its versions. Replaces all that was set before.

    A version that passes a limit is rolled back by itself.
    """
    from serving.cli.operate import traffic as run

    copies = {"to": shadow, "percent": shadow_percent, "atol": shadow_atol, "rtol": shadow_rtol}
    limits = {"error_rate": limit_errors, "latency_ratio": limit_latency, "different_rate": limit_differences}
    limits |= {"requests": limit_requests}
    _exit(run(url, model, weights or (), sticky, copies, limits, reset))


keys = typer.Typer(
    no_args_is_help=True, help="Keys that clients need: make one, list them, look whether a file is right."
)
app.add_typer(keys, name="keys")

KeyFile = Annotated[Path, typer.Argument(metavar="FILE", help="what `serving start --api-keys` reads")]


@keys.command("new")
def new_key(
    file: KeyFile,
    name: Annotated[str, typer.Argument(help="whose it is; log lines say it")],
    scopes: Annotated[
        list[str],
        typer.Option("--scope", help="infer, observe or manage; more than one can be given", show_default=False),
    ],
    models: Annotated[
        list[str] | None, typer.Option("--model", help="the models that it is for [default: all]", show_default=False)
    ] = None,
    requests_per_s: Annotated[
        float | None, typer.Option(help="how often it may be used [default: any number]", show_default=False)
    ] = None,
    burst: Annotated[
        int | None, typer.Option(help="requests at once [default: those of a second]", show_default=False)
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(
            metavar="DATE", help="last day (UTC), such as 2030-12-31, or a moment [default: none]", show_default=False
        ),
    ] = None,
) -> None:
    """Make a key, add its hash to a file, and print it: it is shown this once."""
    from serving.cli.keys import new

    more = {"models": models or None, "requests_per_s": requests_per_s, "burst": burst, "expires": expires}
    _exit(
        new(file, {"name": name, "scopes": scopes, **{key: value for key, value in more.items() if value is not None}})
    )


@keys.command("list")
def list_keys(file: KeyFile) -> None:
    """Show the keys of a file: names, scopes, and what they are limited to."""
    from serving.cli.keys import show

    _exit(show(file))


@keys.command("check")
def check_key(
    file: KeyFile,
    key: Annotated[bool, typer.Option("--key", help="read a key from standard input, and say which one it is")] = False,
) -> None:
    """Say whether a file of keys can be used. Exit code 1 if not, or if the key is not in it, or has expired."""
    from serving.cli.keys import check

    _exit(check(file, key))


def _version(show: bool) -> None:
    if show:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _common(
    _show: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="show the version")
    ] = False,
) -> None:
    pass


def _exit(code: int) -> None:
    raise typer.Exit(code)


def main() -> None:
    app()
