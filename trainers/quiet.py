"""TensorFlow without the noise of its start and in its errors.

TensorFlow reads TF_CPP_MIN_LOG_LEVEL once, when it is imported. Whoever sets it gets what they ask for.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def quiet_import() -> Iterator[None]:
    """Import TensorFlow in here: only what ends the process will be logged, then and later.

    The first messages come before TensorFlow reads the level, so for that long standard error leads nowhere.
    """
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        yield
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # what the part in Python has to say
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def reason(error: Any) -> str:
    """What a TensorFlow error says is wrong, without the operation, and the file, that it names before it."""
    line: str = error.message.splitlines()[0]
    return line.rpartition("; ")[2].partition(" [Op:")[0]
