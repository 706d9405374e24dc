"""What a start needs, made of the settings. Whatever can be wrong with them is told here, as one line."""

import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from serving.backends import optimized, safety
from serving.backends.registry import KNOWN_ARTIFACTS
from serving.capture.recorder import CaptureSettings
from serving.config import Settings
from serving.core.metrics import Metrics
from serving.engine import Wanted
from serving.repository.disk.layout import LayoutError, scan
from serving.repository.loads.memory import MB, Memory
from serving.repository.loads.remembered import Remembered
from serving.repository.loads.trial import Trials
from serving.repository.manager import Source
from serving.repository.remote import Mirror, is_url
from serving.repository.remote.store import redacted
from serving.transport.access.doors import Doors, Protection
from serving.transport.limits import GrpcLimits, HttpLimits
from serving.transport.tls import TlsFiles
from serving.transport.watched import UnusableError


class StartError(Exception):
    """The server cannot start; the message is one line that says why."""


def mirrors(settings: Settings, models: Sequence[Wanted], metrics: Metrics) -> dict[str, Mirror]:
    """What brings those paths here that are URLs; each is looked at when the server starts.

    Raises:
        StartError: there is no place for what they have; or one URL is listed twice.
    """
    names = {path: settings.model_name for path in settings.paths if is_url(path)}
    for model in models:
        if is_url(model.path):
            if model.path in names:
                raise StartError(f"'{redacted(model.path)}' is served twice")
            names[model.path] = model.name
    return {
        url: Mirror(url, cache_dir(settings), metrics, name=name, poll_s=settings.remote_poll_s)
        for url, name in names.items()
    }


def trials(settings: Settings, memory: Memory) -> Trials | None:
    """Also says where optimized graphs are kept and what models may do, in trials and here."""
    safety.allow_unsafe_ops = settings.allow_unsafe_ops
    remembered = None
    with suppress(StartError):  # there is no place: each start measures anew
        directory = cache_dir(settings)
        remembered, optimized.directory = Remembered(directory / "execution"), directory / "graphs"
    if not settings.trial_load:
        return None
    return Trials(settings.trial_limit_s, memory.free_bytes, remembered=remembered)


def capture(settings: Settings) -> CaptureSettings:
    if settings.capture_rate and settings.capture_dir is None:
        raise StartError("--capture-rate needs a place for the requests that are kept; name one with --capture-dir")
    directory = settings.capture_dir or Path()
    return CaptureSettings(directory, settings.capture_rate, settings.capture_max_mb * MB, settings.capture_model)


def cache_dir(settings: Settings) -> Path:
    if settings.cache_dir is not None:
        return settings.cache_dir.absolute()
    if settings.state_dir is not None:
        return settings.state_dir.absolute() / "cache"
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "serving"
    except RuntimeError:  # a user without a home
        raise StartError("no place for models of remote repositories: name one with --cache-dir") from None


def sources(settings: Settings, mirrors: Mapping[str, Mirror], listed: Collection[str]) -> list[Source]:
    """The paths to serve, looked at once so that a mistake ends the start at once.

    Args:
        listed: models that come from elsewhere.

    Raises:
        StartError: a path that is not there, or holds no model.
    """
    if not settings.paths and not listed:
        raise StartError("nothing to serve: name a repository, a model directory or a model file")
    if settings.model_name is not None and len(settings.paths) > 1:
        raise StartError("--model-name names one model, but several paths are given")
    if settings.load_model and settings.mode != "explicit":
        raise StartError(f"--load-model is for explicit mode, and this is {settings.mode} mode; add --mode explicit")
    owners: dict[str, object] = dict.fromkeys(listed, "the list of models")
    for path in (Path(path) for path in settings.paths if path not in mirrors):
        try:
            found = scan(path, settings.model_name)
        except LayoutError as error:
            raise StartError(str(error)) from None
        if settings.mode != "explicit" and not any(model.versions for model in found.values()):
            looked_for = f"<name>/<version>/ with {KNOWN_ARTIFACTS}"
            raise StartError(f"nothing to serve: '{path}' holds no model (looked for {looked_for})")
        for name in found:
            if name in owners:
                raise StartError(f"model '{name}' is in both '{owners[name]}' and '{path}'")
            owners[name] = path
    return [
        mirrors[path].source if path in mirrors else Source(Path(path).absolute(), settings.model_name)
        for path in dict.fromkeys(settings.paths)
    ]


def find_room_for_temporary_files(state_dir: Path | None) -> None:
    """Where the system has no place that can be written, they are below the state directory, for child processes too.
    What an earlier server has left there goes.

    Raises:
        StartError: there is no place at all.
    """
    try:
        tempfile.gettempdir()
        return
    except FileNotFoundError:
        if state_dir is None:
            raise StartError("no directory for temporary files can be written; name one with --state-dir") from None
    directory = state_dir.absolute() / "tmp"
    try:
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(exist_ok=True)
    except OSError as error:
        raise StartError(f"'{directory}' cannot be made: {error.strerror}") from None
    tempfile.tempdir = os.environ["TMPDIR"] = str(directory)


def separate(settings: Settings) -> bool:
    """Management has an address of its own."""
    return settings.manage_port is not None or settings.manage_grpc_port is not None


def doors(settings: Settings, refused: Callable[[str, str], None]) -> Doors:
    """Raises: StartError: settings that do not go together, or files that cannot be used."""
    files = None
    if settings.tls_cert is not None and settings.tls_key is not None:
        files = TlsFiles(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
    elif (settings.tls_cert or settings.tls_key) is not None:
        raise StartError("--tls-cert and --tls-key go together: the certificate, and its private key")
    elif settings.tls_client_ca is not None:
        raise StartError("--tls-client-ca is for a server with --tls-cert and --tls-key")
    if settings.manage_host is not None and not separate(settings):
        raise StartError("--manage-host says where --manage-port or --manage-grpc-port is; give one of them")
    key = settings.api_key.get_secret_value() if settings.api_key is not None else None
    asked = Protection(files, settings.api_keys, key, settings.cors_origins, separate(settings))
    try:
        return Doors(asked, refused)
    except UnusableError as error:
        raise StartError(str(error)) from None


def http_limits(settings: Settings) -> HttpLimits:
    return HttpLimits(
        max_body_bytes=settings.http_max_input_size,
        max_bodies_bytes=settings.http_max_bodies_size,
        max_header_bytes=settings.http_max_header_size,
        max_headers=settings.http_max_header_lines,
        max_connections=settings.http_max_connections,
        header_timeout_s=settings.http_header_timeout_s,
        body_timeout_s=settings.http_body_timeout_s,
        min_body_bytes_per_s=settings.http_min_body_rate,
        idle_timeout_s=settings.http_idle_timeout_s,
    )


def grpc_limits(settings: Settings) -> GrpcLimits:
    return GrpcLimits(
        max_message_bytes=settings.grpc_max_message_size,
        max_decompressed_bytes=settings.grpc_max_decompressed_size,
        max_connections=settings.grpc_max_connections,
        max_concurrent_streams=settings.grpc_max_streams,
        max_open_calls=settings.grpc_max_open_calls,
        max_metadata_bytes=settings.grpc_max_metadata_size,
        idle_timeout_s=settings.grpc_idle_timeout_s,
        max_age_s=settings.grpc_max_connection_age_s,
        keepalive_s=settings.grpc_keepalive_s,
    )
