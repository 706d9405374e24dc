"""On which devices a model is trained, and how many of them share a batch. What a training step looks like is not known
here.

    none        one device: the first GPU, or the CPU
    mirrored    all devices of this machine (tf.distribute.MirroredStrategy)
    workers     several processes, on one or on more machines (MultiWorkerMirroredStrategy). Each is started with the
                same command and with TF_CONFIG in its environment, which names all of them and says which one it is:
                {"cluster": {"worker": ["host1:port", "host2:port"]}, "task": {"type": "worker", "index": 0}}

In each case every device holds the whole model, computes the gradients of its share of a batch, and adds them up with
those of the others.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from trainers.contract import TrainingError
from trainers.workers import task

Distribution = Literal["none", "mirrored", "workers"]


@cache  # two strategies of one process would take each other's gradients for their own
def devices(distribution: Distribution) -> Any:
    """The tf.distribute strategy. To be asked for before anything else is computed.

    Raises:
        TrainingError: TF_CONFIG is missing, or not what it should be.
    """
    if distribution == "mirrored":
        return tf.distribute.MirroredStrategy(_local())
    if distribution == "workers":
        if task().workers < 2:
            raise TrainingError("distribution 'workers' needs TF_CONFIG with two workers or more in the environment")
        return tf.distribute.MultiWorkerMirroredStrategy()
    return tf.distribute.get_strategy()


def shared(strategy: Any, *arrays: np.ndarray) -> Any:
    """The rows of a batch dealt out to the devices, each of which gets every n-th."""
    count = strategy.num_replicas_in_sync

    def part(context: Any) -> Any:
        return tuple(tf.constant(array[context.replica_id_in_sync_group :: count]) for array in arrays)

    return strategy.experimental_distribute_values_from_function(part)


@contextmanager
def together() -> Iterator[None]:
    """Turns what TensorFlow says when another worker is gone into one line. Raises TrainingError."""
    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError):
        raise TrainingError("another worker is gone: start all of them again, with --resume") from None


def _local() -> list[str]:
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    return [device.name for device in tf.config.list_logical_devices(kind)]
