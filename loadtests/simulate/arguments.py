"""What the command is told on its command line, as the things that a simulation takes. Pure but for files it reads."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from loadtests.command import positive
from loadtests.simulate.files import Recording, TraceError, read
from loadtests.simulate.sources import Recorded, Source, generated
from serving.batching import policies
from serving.batching.settings import BatchSettings
from serving.batching.simulation.latency import Latency, Linear, Measured, Noisy
from serving.batching.simulation.replay import Request

TRACE_COST = "trace"
DEFAULT_COST = "1.3,0.2"  # about the times of a 784-2048-2048-2048-10 perceptron on one thread
LOADS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0, 1.1)


@dataclass(frozen=True)
class Plan:
    """What to simulate: one source under several settings, by name."""

    source: Source
    recording: Recording | None  # where the source is a file
    settings: dict[str, BatchSettings]
    latency: Measured | Linear
    noise: float
    seed: int

    def fresh_latency(self) -> Latency:
        """The latency for one replay: the same random factors in each."""
        return Noisy(self.latency, self.noise, self.seed) if self.noise else self.latency


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="TRACE|KIND:RATE[,NAME=VALUE...]",
        help="a file (CSV, JSON lines, or what the server's --trace-file wrote), or requests to make: poisson, "
        "periodic, bursts, mixed (poisson with 1%% of 64 rows), such as poisson:500,seconds=20,timeout_ms=50",
    )
    parser.add_argument(
        "--policy",
        default="continuous,fixed_delay:5,adaptive",
        metavar="NAME[:DELAY_MS],...",
        help="policies to compare, each with its own delay if it has one (default %(default)s)",
    )
    parser.add_argument(
        "--model-cost",
        default="",
        metavar="MS,MS_PER_ROW|JSON|trace",
        help="milliseconds of a run: for it and for each row; or measured, by rows, as JSON or a file of it; "
        f"or as in the server's trace, which is the default for one (otherwise {DEFAULT_COST})",
    )
    parser.add_argument("--noise", type=float, default=0.0, help="standard deviation of that, as a share (default 0)")
    parser.add_argument("--instances", type=positive, default=1, help="(default 1)")
    parser.add_argument("--max-batch", type=positive, default=64, metavar="ROWS", help="(default 64)")
    parser.add_argument("--max-queue", type=positive, default=4096, metavar="ROWS", help="(default 4096)")
    parser.add_argument("--delay-ms", type=float, default=0.0, help="of policies that have no own (default 0)")
    parser.add_argument("--slo-ms", type=float, help="what the policy holds latency below")
    parser.add_argument("--sizes", type=_sizes, default=(), metavar="N,N,...", help="allowed batch sizes")
    parser.add_argument("--timeout-ms", type=float, help="the deadline of requests that have none")
    parser.add_argument("--model", default="", help="whose requests of a server's trace")
    parser.add_argument("--rows", type=positive, default=1, help="of each request of a server's trace (default 1)")
    parser.add_argument("--seed", type=int, default=1, help="of the noise (default 1)")


def plan(args: argparse.Namespace) -> Plan:
    """Raises: ValueError, TraceError, OSError: one line that says what is wrong."""
    recording = None
    source: Source
    if ":" in args.source and not Path(args.source).exists():
        source = generated(args.source)
    else:
        recording = read(Path(args.source), args.rows, args.model)
        source = Recorded(Path(args.source).name, recording.trace)
    if args.timeout_ms is not None:
        source = _Hurried(source, args.timeout_ms / 1000)
    return Plan(
        source=source,
        recording=recording,
        settings={name: _settings(name, args) for name in args.policy.split(",")},
        latency=_latency(args.model_cost, recording),
        noise=args.noise,
        seed=args.seed,
    )


@dataclass(frozen=True)
class _Hurried:
    """A source whose requests all have a timeout."""

    source: Source
    timeout_s: float

    @property
    def name(self) -> str:
        return f"{self.source.name}, timeout {1000 * self.timeout_s:g} ms"

    def requests(self, speed: float = 1.0) -> list[Request]:
        found = self.source.requests(speed)
        return [r if r.timeout_s is not None else replace(r, timeout_s=self.timeout_s) for r in found]


def _settings(policy: str, args: argparse.Namespace) -> BatchSettings:
    name, _, delay_ms = policy.partition(":")
    policies.find(name)
    return BatchSettings(
        max_batch_size=args.max_batch,
        max_queue_rows=args.max_queue,
        max_queue_delay_s=float(delay_ms or args.delay_ms) / 1000,
        instances=args.instances,
        max_request_rows=args.max_queue,
        allowed_sizes=args.sizes,
        slo_s=None if args.slo_ms is None else args.slo_ms / 1000,
        policy=name,
        priority_levels=2,
        default_level=2,
    )


def _latency(text: str, recording: Recording | None) -> Measured | Linear:
    if text == TRACE_COST or (not text and recording is not None and recording.latency is not None):
        if recording is None or recording.latency is None:
            raise TraceError("only the server's own trace says what runs cost")
        return recording.latency
    text = text or DEFAULT_COST
    try:
        fixed_ms, row_ms = map(float, text.split(","))
    except ValueError:
        return Measured(_table(text))
    return Linear(fixed_ms / 1000, row_ms / 1000)


def _table(text: str) -> dict[int, float]:
    try:
        values = json.loads(text if text.lstrip().startswith("{") else Path(text).read_text(encoding="utf-8"))
        return {int(rows): float(ms) / 1000 for rows, ms in values.items()}
    except (AttributeError, TypeError, ValueError, OSError) as error:
        raise ValueError(f"no cost of a model: '{text}' ({error})") from None


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(sorted({positive(size) for size in text.split(",")}))


def loads(text: str) -> Sequence[float]:
    """Shares of the most that runs can make, ascending; none for an empty text."""
    found = sorted({float(load) for load in text.split(",")}) if text else []
    if found and found[0] <= 0:
        raise argparse.ArgumentTypeError("a load is more than 0")
    return found
