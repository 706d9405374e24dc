"""`serving start`."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console
from rich.markup import escape

from serving import config, logs
from serving.cli.describe import batching, fail, tensors
from serving.config import Settings
from serving.engine import Wanted
from serving.protocols import examples
from serving.server import Running, Server
from serving.startup import StartError


def run(flags: Mapping[str, Any], env: Mapping[str, str], file: Path | None) -> int:
    try:
        settings = config.load(flags, env, file)
    except config.ConfigError as error:
        return fail(str(error))
    logs.configure(settings.log_format, settings.log_level)
    return serve(settings)


def serve(
    settings: Settings, models: Sequence[Wanted] = (), changes: AsyncIterator[Sequence[Wanted]] | None = None
) -> int:
    """Runs a server to its end; see `Server`. The exit code."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(settings, models, changes))


async def _serve(settings: Settings, models: Sequence[Wanted], changes: AsyncIterator[Sequence[Wanted]] | None) -> int:
    server = None
    try:
        server = Server(settings, models, changes)
        code = await server.run(announce)
    except StartError as error:
        code = fail(str(error))
    if server is not None and server.abandoned:  # what hangs holds threads that Python would wait for at its end
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _reachable(host: str) -> str:
    """As a URL has it; an address that stands for all has one that can be connected to."""
    host = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    return f"[{host}]" if ":" in host else host


def announce(running: Running) -> None:
    """Prints what is served, each model with a request that works."""
    console = Console(soft_wrap=True, highlight=False)
    host, management = _reachable(running.host), running.management
    base = f"{running.scheme}://{host}:{running.http_port}"
    where = [f"gRPC {host}:{running.grpc_port}"] if running.grpc_port else []
    if running.http_port:
        where = [f"REST {base}", *where, f"documentation {base}/docs"]
        where += [] if management else [f"metrics {base}/metrics"]
    if management and management.http_port:
        base_of_it = f"{running.scheme}://{_reachable(management.host)}:{management.http_port}"
        where += [f"management {base_of_it}", f"metrics {base_of_it}/metrics"]
    if management and management.grpc_port:
        where.append(f"gRPC management {_reachable(management.host)}:{management.grpc_port}")
    console.print(f"[bold green]ready[/]  {'   '.join(where)}")
    for model in running.catalog.models.values():
        version = model.latest
        if version is None:
            continue
        contract = version.contract
        console.print(f"\n[bold]{escape(model.name)}[/] version {version.number}, {batching(contract)}")
        console.print(f"  inputs   {escape(tensors(contract.signature.inputs.values()))}")
        console.print(f"  outputs  {escape(tensors(contract.signature.outputs.values()))}")
        if not running.http_port:
            continue
        console.print("  try", style="dim")
        # Not through rich, which would break the line where the terminal ends.
        sys.stdout.write(f"  {examples.curl(version, base)}\n")
    failed = [
        entry for entry in running.catalog.index if entry.reason and entry.state and entry.state.value == "FAILED"
    ]
    for entry in failed:
        console.print(f"\n[bold red]failed[/] {escape(entry.model)} version {entry.number}: {escape(entry.reason)}")
    sys.stdout.flush()
