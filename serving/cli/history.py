"""`serving events`: what has happened to the models of a running server."""

import json
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.text import Text

from serving.cli.describe import event, fail
from serving.client import ClientError, Operator, Where

_WAIT_S = 30.0


def run(url: Where, model: str, follow: bool, limit: int, as_json: bool) -> int:
    """Prints the latest events; `follow`: and those that come, until Ctrl-C."""
    out = Console(soft_wrap=True, highlight=False, markup=False)

    def show(one: Mapping[str, Any]) -> None:
        if as_json:
            print(json.dumps(one, ensure_ascii=False))
        else:
            out.print(Text(f"{datetime.fromtimestamp(one['at']):%Y-%m-%d %H:%M:%S}  ", "dim") + event(one))

    try:
        server = Operator(url)
        events, after = server.events(model=model, limit=limit)
        if not events and not as_json and not follow:
            out.print(f"nothing has happened{f' to {model!r}' if model else ''}")
        while True:
            for one in events:
                show(one)
            sys.stdout.flush()
            if not follow:
                return 0
            events, after = server.events(after, model, limit=1000, wait_s=_WAIT_S)
    except ClientError as error:
        return fail(str(error))
    except KeyboardInterrupt:
        return 0
