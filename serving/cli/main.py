"""The commands and their flags; what they do is in the modules beside this one, imported when they run."""

import os
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
    shown = "" if default in (None, ()) else f" [default: {default}]"
    return typer.Option(help=f"{field.description}{shown}", show_default=False, **more)


Url = Annotated[
    str, typer.Option(help="server: http://host:port for REST, grpc://host:port for gRPC", envvar="SERVING_URL")
]


@app.command()
def start(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="PATH",
            help="repositories, model directories, .onnx files or SavedModels",
            show_default=False,
        ),
    ] = None,
    model_name: Annotated[str | None, _flag("model_name")] = None,
    host: Annotated[str | None, _flag("host")] = None,
    http_port: Annotated[int | None, _flag("http_port")] = None,
    grpc_port: Annotated[int | None, _flag("grpc_port")] = None,
    watch: Annotated[bool | None, _flag("watch")] = None,
    settle_s: Annotated[float | None, _flag("settle_s")] = None,
    poll_s: Annotated[float | None, _flag("poll_s")] = None,
    http_max_input_size: Annotated[int | None, _flag("http_max_input_size")] = None,
    http_max_connections: Annotated[int | None, _flag("http_max_connections")] = None,
    grpc_max_message_size: Annotated[int | None, _flag("grpc_max_message_size")] = None,
    allow_model_upload: Annotated[bool | None, _flag("allow_model_upload")] = None,
    allow_client_shm: Annotated[bool | None, _flag("allow_client_shm")] = None,
    trace_file: Annotated[Path | None, _flag("trace_file")] = None,
    stop_grace_s: Annotated[float | None, _flag("stop_grace_s")] = None,
    drain_limit_s: Annotated[float | None, _flag("drain_limit_s")] = None,
    server_name: Annotated[str | None, _flag("server_name")] = None,
    log_format: Annotated[str | None, _flag("log_format")] = None,
    log_level: Annotated[str | None, _flag("log_level")] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file of settings", envvar="SERVING_CONFIG", show_default=False)
    ] = None,
) -> None:
    """Serve models until stopped. SIGTERM and Ctrl-C drain."""
    flags = {**locals()}
    file = flags.pop("config")
    flags["paths"] = paths or None
    # gRPC's newer event engine does its reads and writes on threads of its own, each of which then has to wait for the
    # interpreter; its older poller costs this server a tenth less per call. Read when gRPC is first imported.
    os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")
    from serving.cli.start import run

    _exit(run(flags, os.environ, file))


@app.command()
def check(
    path: Annotated[Path, typer.Argument(help="a repository, a model directory, an .onnx file or a SavedModel")],
) -> None:
    """Load everything that would be served, without serving. Exit code 1 if anything is wrong."""
    from serving.cli.check import run

    _exit(run(path))


@app.command()
def predict(
    model: Annotated[str, typer.Argument(help="the model's name")],
    input: Annotated[  # noqa: A002  (it is the flag's name)
        Path | None,
        typer.Option("--input", "-i", help="JSON file, .npy (one input) or .npz (by input name)", show_default=False),
    ] = None,
    random: Annotated[bool, typer.Option("--random", help="send generated values")] = False,
    rows: Annotated[int, typer.Option(min=1, help="rows of generated values")] = 1,
    model_version: Annotated[str, typer.Option("--model-version", help="a version; by default the latest")] = "",
    url: Url = "http://127.0.0.1:8000",
) -> None:
    """Send one request to a running server and print the outputs as JSON."""
    from serving.cli.ask import predict as run

    _exit(run(url, model, model_version, input, random, rows))


@app.command()
def models(url: Url = "http://127.0.0.1:8000") -> None:
    """List the models of a running server."""
    from serving.cli.ask import models as run

    _exit(run(url))


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
