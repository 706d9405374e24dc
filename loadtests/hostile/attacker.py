"""The process that runs one attack, and prints a line of JSON: how often it saw each outcome.

python -m loadtests.hostile.attacker '{"attack": "slowloris", "port": 8000, "seconds": 5, ...}'
"""

import asyncio
import json
import resource
import sys
from typing import Any

import uvloop

from loadtests.hostile.catalog import ATTACKS
from loadtests.hostile.wire import Target


async def run(task: dict[str, Any]) -> dict[str, int]:
    until = asyncio.get_running_loop().time() + task["seconds"]
    target = Target(
        "127.0.0.1", task["port"], until, task["scale"], task["path"], task["method"], task.get("options", {})
    )
    await ATTACKS[task["attack"]].run(target)
    return dict(target.seen)


def main(task: dict[str, Any]) -> dict[str, int]:
    """Each connection is an open file: as many as the system allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run(task))


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
