"""The command for rollouts: whether shares, stickiness and rollback are as promised, and what a shadow costs.

    python -m loadtests.rollout [--requests 10000] [--rounds 5] [--duration 3] [--quick] [--json FILE]

On a server of its own, on free loopback ports:

- shares: a canary of 5 %, and which version answers each of 10,000 requests. It is void unless so many or so few come
  by chance in one of a million runs.
- users: 1,000 users, each asked again at the same weight, at a larger one, and after a restart of the server. It is
  void if one moved that should not have.
- rollback: a canary of 5 % that fails on every request, and how many fail before it is taken out, of an allowed 10 % of
  100. It is void if that is more than one request beyond the limit and those that were under way.
- shadow: the latency of small requests (mlp.py, binary tensors over REST) without a shadow and with one that is to get
  a copy of each, in turns. The figure to look at is the ratio of the two medians of latencies, taken within each round;
  at most 1.05 is wanted. Its spread says what the machine adds.

Exit code 1 when one is void.
"""

import argparse
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from loadtests.command import Screen, add_amounts, environment, positive, write_json
from loadtests.generators import LoadError
from loadtests.oip import AnswerError
from loadtests.processes import ProcessError, log_tail
from loadtests.report import Spread
from loadtests.rollout_measure import CANARY, LIMITS, Beside, Found, Settings, run
from serving.client import ClientError

ALLOWED = int(LIMITS["requests"] * LIMITS["error_rate"]) + 2  # the one too many, and one under way
CHANCE = 1e-6


def arguments() -> argparse.ArgumentParser:
    description = "Shares, stickiness and rollback as promised, and what a shadow costs."
    parser = argparse.ArgumentParser(prog="loadtests.rollout", description=description)
    add_amounts(parser, rounds=5, duration_s=3, what="the latency without a shadow and with one")
    parser.add_argument("--requests", type=positive, default=10_000, help="that are shared out (default 10000)")
    parser.add_argument("--users", type=positive, default=1000, help="that must stay (default 1000)")
    parser.add_argument("--rollbacks", type=positive, default=5, help="canaries that fail (default 5)")
    parser.add_argument(
        "--in-flight", type=positive, action="append", help="requests of the shadow's load (default 1 and 16)"
    )
    parser.add_argument("--quick", action="store_true", help="little of everything: a look, not a result")
    return parser


def main() -> int:
    options = arguments().parse_args()
    in_flight = tuple(options.in_flight or (1, 16))
    settings = Settings(
        options.requests, options.users, options.rollbacks, options.rounds, options.duration, in_flight, options.pin
    )
    if options.quick:
        settings = Settings(1000, 100, 1, 1, 1, in_flight, options.pin)
    screen = Screen()
    with tempfile.TemporaryDirectory(prefix="serving-rollout-") as directory, screen.status as status:
        try:
            found = run(settings, Path(directory), status.update)
        except (ProcessError, LoadError, AnswerError, ClientError, OSError) as error:
            log = Path(directory) / "serving.log"
            screen.error(f"{error}\nThe server's log ends:\n{log_tail(log) if log.exists() else ''}")
            return 1
    screen.table(promises(found))
    screen.table(costs(found.beside))
    write_json(options.json, document(found, environment(asdict(settings))))
    return 0 if all(kept for _, _, kept in kept_promises(found)) else 1


def kept_promises(found: Found) -> list[tuple[str, str, bool]]:
    """What was promised, what was seen, and whether that is what was promised."""
    total, canary = found.shares.total(), found.shares[2]
    users = found.users
    return [
        (
            f"a canary of {CANARY} % of {total} requests",
            f"{canary} ({canary / total:.2%})",
            found.shares.keys() <= {1, 2} and chance(canary, total, CANARY / 100) > CHANCE,
        ),
        (
            f"{users.total} users stay, also over a restart",
            f"{users.canary}, then {users.grown} with the canary; {users.flipped} moved, {users.lost} lost it",
            not users.flipped and not users.lost,
        ),
        (
            f"a canary that fails goes at {LIMITS['error_rate']:.0%} of {LIMITS['requests']} requests",
            f"after {', '.join(map(str, found.failed))} failed requests",
            max(found.failed) <= ALLOWED,
        ),
    ]


def chance(count: int, total: int, share: float) -> float:
    """Of so few or so many out of `total`, whichever is less likely: an exact tail of the binomial distribution."""
    probability, low = (1 - share) ** total, 0.0
    for k in range(count + 1):
        low += probability
        if k < count:
            probability *= (total - k) / (k + 1) * share / (1 - share)
    return min(low, 1 - low + probability)


def promises(found: Found) -> Table:
    result = Table(title="Rollouts")
    for column in ("what", "seen", ""):
        result.add_column(column)
    for what, seen, kept in kept_promises(found):
        result.add_row(what, seen, Text("as promised" if kept else "void", style="" if kept else "red"))
    return result


COLUMNS = ("in flight", "p50 ms", "with a shadow", "ratio", "p99 ms", "with a shadow", "copies compared", "dropped")


def costs(found: list[Beside]) -> Table:
    result = Table(title="Latency without a shadow and with one: median (lowest-highest) of interleaved rounds")
    for column in COLUMNS:
        result.add_column(column, justify="right", no_wrap=True)
    for one in found:
        alone, shadowed = one.without, one.with_shadow
        ratio = p50_ratio(one)
        compared = one.copies["same"] + one.copies["different"]
        result.add_row(
            str(one.in_flight),
            f"{Spread.of([r.p50_ms for r in alone]).median:.3f}",
            f"{Spread.of([r.p50_ms for r in shadowed]).median:.3f}",
            f"{ratio.median:.3f} ({ratio.low:.3f}-{ratio.high:.3f})",
            f"{Spread.of([r.p99_ms for r in alone]).median:.3f}",
            f"{Spread.of([r.p99_ms for r in shadowed]).median:.3f}",
            f"{compared} of {sum(r.requests for r in shadowed)}",
            str(one.copies["dropped"]),
        )
    return result


def p50_ratio(one: Beside) -> Spread:
    pairs = zip(one.with_shadow, one.without, strict=True)
    return Spread.of([shadowed.p50_ms / alone.p50_ms for shadowed, alone in pairs])


def document(found: Found, environment: dict[str, Any]) -> dict[str, Any]:
    """Everything as plain data."""
    beside = [{**vars(one), "copies": dict(one.copies)} for one in found.beside]
    promised = [{"what": what, "seen": seen, "kept": kept} for what, seen, kept in kept_promises(found)]
    for one, as_data in zip(found.beside, beside, strict=True):
        as_data["p50_ratio"] = asdict(p50_ratio(one))
        for side in ("without", "with_shadow"):
            as_data[side] = [asdict(each) for each in as_data[side]]
    return {
        "environment": environment,
        "promises": promised,
        "shares": dict(found.shares),
        "users": asdict(found.users),
        "failed": found.failed,
        "shadow": beside,
    }


if __name__ == "__main__":
    sys.exit(main())
