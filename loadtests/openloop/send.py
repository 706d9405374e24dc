"""One run of the generator against a server that runs already, on this machine: any model, random rows.

python -m loadtests.openloop send --model digits --rate 500 --mix 1:99,64:1 --timeout 200
"""

import argparse
import json
import urllib.request
from dataclasses import asdict
from typing import Any

from rich.table import Table

from loadtests import oip
from loadtests.cases import Case
from loadtests.command import Screen
from loadtests.measure import generator_core
from loadtests.openloop import load, results
from loadtests.openloop.load import Kind, Target, with_timeout
from loadtests.openloop.outcomes import Summary
from loadtests.openloop.targets import Place
from loadtests.payloads import Payloads

NAME, HELP = "send", "one run against a server that runs already"


def mix(text: str) -> dict[int, float]:
    """`1:99,64:1`: rows of a request, and its weight."""
    pairs = (part.partition(":") for part in text.split(","))
    return {int(rows): float(weight or 1) for rows, _, weight in pairs}


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=int, default=8000, help="of REST, which tells of the model too (default 8000)")
    parser.add_argument("--grpc-port", type=int, default=8001, help="default 8001")
    parser.add_argument("--model", required=True)
    parser.add_argument("--transport", choices=["rest", "grpc"], default="rest")
    parser.add_argument("--rate", type=results.positive_float, default=100, help="requests a second (default 100)")
    parser.add_argument("--seconds", type=results.positive_float, default=10, help="default 10")
    parser.add_argument("--mix", type=mix, default={1: 1.0}, metavar="ROWS:WEIGHT,...", help="default 1:1")
    parser.add_argument(
        "--timeout", type=results.positive_float, metavar="MS", help="the requests' own; none by default"
    )
    parser.add_argument("--seed", type=int, default=0)


def run(options: argparse.Namespace, place: Place, screen: Screen) -> tuple[dict[str, Any], bool]:
    seconds = min(options.seconds, 2) if options.quick else options.seconds
    target = Target("server", {"http": options.port, "grpc": options.grpc_port}, generator_core(options.pin), 0)
    with urllib.request.urlopen(f"http://127.0.0.1:{options.port}/v2/models/{options.model}", timeout=10) as answer:
        metadata = json.load(answer)
    kinds = [kind(metadata, options.transport, rows, weight, options.timeout) for rows, weight in options.mix.items()]
    place.say(f"{options.rate:g} requests a second for {seconds:g} s")
    found = load.summary(target, kinds, options.rate, seconds, options.seed)
    screen.table(table(found))
    results.tell_trouble(screen, options.model, found)
    return {"run": asdict(found)}, found.failed + found.unanswered == 0


def kind(metadata: dict[str, Any], transport: str, rows: int, weight: float, timeout_ms: float | None) -> Kind:
    """A request of random tensors that fits a model's metadata. What the right answer is, nobody knows."""
    payloads = Payloads.of(metadata, rows, count=1)
    if transport == "grpc":
        case = Case("grpc", "grpc", oip.GRPC_INFER, {}, payloads.grpc[0], lambda answer: {}, {})
    else:
        body, json_bytes = payloads.binary[0]
        headers = {"content-type": "application/octet-stream", oip.JSON_LENGTH: str(json_bytes)}
        case = Case("rest-binary", "http", oip.infer_path(payloads.model), headers, body, lambda answer: {}, {})
    if timeout_ms is not None:
        case = with_timeout(case, round(1e3 * timeout_ms))
    return Kind("1 row" if rows == 1 else f"{rows} rows", case, weight)


def table(run: Summary) -> Table:
    result = results.new_table("Latency from the due time, Poisson arrivals", ("requests", *results.COLUMNS))
    result.add_row("all", *results.cells(run), end_section=True)
    for name, one in run.by_kind.items():
        result.add_row(name, "", "", *(results.number(ms) for ms in (one.p50_ms, one.p99_ms, one.p999_ms)))
    return result
