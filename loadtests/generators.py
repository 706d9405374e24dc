"""Load generators: each sends one case over and over and says how many answers came and how fast, or what failed.

Each is a child process, so that its own work is never taken for the server's. wrk drives HTTP and h2load gRPC where
they are installed; `loadtests.pyload` stands in otherwise. Parsers are pure.
"""

import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loadtests.cases import Case
from loadtests.processes import pinned

# One gRPC message on the wire: a flag (not compressed), its length, itself.
FRAME_BYTES = 5
STREAMS = 8


class LoadError(Exception):
    """A request failed or the generator did: the measurement counts for nothing."""


@dataclass(frozen=True)
class Load:
    """What a generator saw: all requests succeeded; latencies are per request, from its side."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Job:
    """Send `case` to `port`, `in_flight` at a time, for about `seconds`.

    `rate` is the expected requests per second, None when unknown; `answer_bytes` the length of every right answer's
    body. `files` is a directory for what the generator reads and writes. `core` is where it runs, None for anywhere.
    """

    case: Case
    port: int
    in_flight: int
    seconds: float
    rate: float | None
    answer_bytes: int
    files: Path
    core: int | None


def generator_name(case: Case) -> str:
    """wrk, h2load or python: what `run` uses for this case on this machine."""
    tool = "wrk" if case.transport == "http" else "h2load"
    return tool if shutil.which(tool) else "python"


def run(job: Job) -> Load:
    """Run one job to its end. LoadError when any request failed."""
    return {"wrk": _wrk, "h2load": _h2load, "python": _python}[generator_name(job.case)](job)


def connections(in_flight: int) -> int:
    """HTTP/2 connections that carry `in_flight` calls, at most 8 streams on each."""
    return math.ceil(in_flight / STREAMS)


def _wrk(job: Job) -> Load:
    body = job.files / "body"
    body.write_bytes(job.case.body)
    headers = [part for header in job.case.headers.items() for part in header]
    script = Path(__file__).with_name("wrk.lua")
    url = f"http://127.0.0.1:{job.port}{job.case.path}"
    # wrk takes whole seconds only.
    seconds = max(1, round(job.seconds))
    argv = [
        "wrk",
        "-t1",
        f"-c{job.in_flight}",
        f"-d{seconds}s",
        "-s",
        str(script),
        url,
        "--",
        str(body),
        *headers,
    ]
    return parse_wrk(_output(argv, job))


def parse_wrk(output: str) -> Load:
    """Read what wrk.lua printed. wrk counts statuses from 400 on as errors."""
    lines = [line for line in output.splitlines() if line.startswith("{")]
    if not lines:
        raise LoadError(f"wrk printed no result: {output.strip()[-200:]}")
    result = json.loads(lines[-1])
    errors = {kind: result[kind] for kind in ("status", "connect", "read", "write", "timeout") if result[kind]}
    if errors:
        raise LoadError("wrk errors: " + ", ".join(f"{count} {kind}" for kind, count in errors.items()))
    return _load(result["requests"], result["seconds"], result["p50_ms"], result["p99_ms"])


def _h2load(job: Job) -> Load:
    body, log = job.files / "body", job.files / "h2load.log"
    body.write_bytes(b"\0" + len(job.case.body).to_bytes(4, "big") + job.case.body)
    log.unlink(missing_ok=True)  # h2load appends
    clients = connections(job.in_flight)
    argv = ["h2load", "-t1", f"-c{clients}", f"-m{job.in_flight // clients}", f"--log-file={log}"]
    argv += ["-d", str(body), "-H", "content-type: application/grpc", "-H", "te: trailers"]
    # The answers' bytes can be checked to the last one after a fixed number of requests, not after a fixed time.
    if job.rate is None:
        amount, answer_bytes = f"-D{round(job.seconds * 1000)}ms", None
    else:
        amount, answer_bytes = f"-n{max(job.in_flight, round(job.rate * job.seconds))}", job.answer_bytes
    output = _output([*argv, amount, f"http://127.0.0.1:{job.port}{job.case.path}"], job)
    return parse_h2load(output, log.read_text(), answer_bytes)


def parse_h2load(output: str, log: str, answer_bytes: int | None) -> Load:
    """Read h2load's summary and its log (start, status and microseconds of each request, tab-separated).

    A failed gRPC call has HTTP status 200 too, but no message: the data that came must be `answer_bytes` (of the
    message; None to leave it unchecked) times the requests.
    """
    counts = re.search(r"^requests: (\d+) total, .* (\d+) succeeded, ", output, re.M)
    data = re.search(r"^traffic: .*\((\d+)\) data$", output, re.M)
    seconds = re.search(r"^finished in ([\d.]+)(us|ms|s),", output, re.M)
    if not (counts and data and seconds):
        raise LoadError(f"h2load printed no result: {output.strip()[-200:]}")
    total, succeeded = int(counts[1]), int(counts[2])
    if succeeded != total:
        raise LoadError(f"h2load: {total - succeeded} of {total} requests did not succeed")
    if answer_bytes is not None and int(data[1]) != succeeded * (FRAME_BYTES + answer_bytes):
        wanted = f"{succeeded} answers of {FRAME_BYTES + answer_bytes}"
        raise LoadError(f"h2load: {data[1]} bytes for {wanted}: some calls failed")
    latencies_us = [int(line.split("\t")[2]) for line in log.splitlines()]
    if not latencies_us:
        raise LoadError("h2load: no request ended")
    p50, p99 = np.percentile(latencies_us, [50, 99]) / 1e3
    unit = {"us": 1e-6, "ms": 1e-3, "s": 1}[seconds[2]]
    return _load(succeeded, float(seconds[1]) * unit, float(p50), float(p99))


def _python(job: Job) -> Load:
    body = job.files / "body"
    body.write_bytes(job.case.body)
    task = {
        "transport": job.case.transport,
        "port": job.port,
        "path": job.case.path,
        "headers": dict(job.case.headers),
        "body": str(body),
        "in_flight": job.in_flight,
        "connections": connections(job.in_flight),
        "seconds": job.seconds,
    }
    result = json.loads(_output([sys.executable, "-m", "loadtests.pyload", json.dumps(task)], job))
    if "failure" in result:
        raise LoadError(result["failure"])
    return _load(result["requests"], result["seconds"], result["p50_ms"], result["p99_ms"])


def _load(requests: int, seconds: float, p50_ms: float, p99_ms: float) -> Load:
    if requests == 0:
        raise LoadError("no request ended")
    return Load(requests, seconds, p50_ms, p99_ms)


def _output(argv: Sequence[str], job: Job) -> str:
    try:
        with pinned(job.core):
            done = subprocess.run(argv, capture_output=True, text=True, timeout=30 + 5 * job.seconds, check=False)
    except subprocess.TimeoutExpired as error:
        raise LoadError(f"{argv[0]} did not end") from error
    if done.returncode != 0:
        raise LoadError(f"{argv[0]} failed: {(done.stderr or done.stdout).strip()[-300:]}")
    return done.stdout
