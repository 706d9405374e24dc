"""Locust users for a running server, over every protocol that it speaks; every answer is checked.

    locust -f loadtests/locustfile.py --headless -u 16 -r 16 -t 15s --host http://127.0.0.1:8000 --model digits

`--help` lists the options; docs/load-testing.md tells how to use them. Exits with code 1 when a request failed or none
was made. The parts are in `loadtests/locust`; this tells locust of them.
"""

# mypy: disable-error-code="untyped-decorator"
# (locust's own types are not followed)

import logging
import time
from pathlib import Path
from typing import Any

from locust import events
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from loadtests.locust import options, pace, report
from loadtests.locust.target import TargetError, prepare
from loadtests.locust.users import (
    USERS,
    OipBinary,
    OipGrpc,
    OipJson,
    OipStream,
    Protocol,
    TfsGrpc,
    TfsRest,
)
from loadtests.locust.watch import Watch

__all__ = ["OipBinary", "OipGrpc", "OipJson", "OipStream", "TfsGrpc", "TfsRest"]

_watch: Watch


@events.init_command_line_parser.add_listener
def _add_options(parser: Any) -> None:
    options.add(parser)


@events.init.add_listener
def _set_up(environment: Environment, **_: Any) -> None:
    """The mix, the shape, and who watches."""
    global _watch
    chosen = environment.parsed_options
    weights = options.weights(chosen.mix)
    environment.user_classes = [user for user in environment.user_classes if user.protocol in weights]
    for user in USERS:
        user.weight = weights.get(user.protocol, 0)  # type: ignore[attr-defined]
    if chosen.shape and not isinstance(environment.runner, WorkerRunner):
        seconds, most = chosen.run_time or 60, chosen.num_users or 16
        environment.shape_class = pace.Shape(chosen.shape, seconds, most, chosen.steps)
        environment.shape_class.runner = environment.runner
    _watch = Watch(environment)
    _watch.listen()


@events.test_start.add_listener
def _begin(environment: Environment, **_: Any) -> None:
    if not isinstance(environment.runner, MasterRunner):
        try:
            Protocol.target = prepare(environment.host, environment.parsed_options)
        except TargetError as error:
            raise SystemExit(f"error: {error}") from error
    if not isinstance(environment.runner, WorkerRunner):
        _watch.start()


@events.test_stop.add_listener
def _end(**_: Any) -> None:
    _watch.stop()


@events.quitting.add_listener
def _finish(environment: Environment, **_: Any) -> None:
    if isinstance(environment.runner, WorkerRunner):
        return
    if environment.stats.total.num_requests == 0:
        environment.process_exit_code = 1
    chosen = environment.parsed_options
    if chosen.report is not None:
        told = {name: value for name, value in vars(chosen).items() if value and name in options.NAMES}
        told = {"host": environment.host, **told, "ended": time.strftime("%Y-%m-%d %H:%M:%S")}
        page = report.write_all(Path(chosen.report), environment, _watch.looks, told)
        logging.getLogger("loadtests").info("report: %s", page)
