"""One training run: its steps with what is shown, written down and kept of them.

A trainer writes its own step and asks the run for the rest:

    run.keep(model=model, optimizer=optimizer)        # what a checkpoint holds
    for step in run.steps(total):                     # a resumed run starts later
        loss = train_step(*batches[step])
        run.log(loss=loss)                            # TensorBoard, history.jsonl, bar; a NaN ends the run
        if run.every(500):
            run.log(test_accuracy=accuracy(model, test))

If whatever is random depends on the seed and the step alone (`Batches` does, and layers keep the state of their dropout
in variables), a run that was killed and resumed ends with the same weights as one that never was.
"""

import json
import math
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainers.contract import DivergenceError, Goal, Options, TrainingError
from trainers.progress import Bar
from trainers.quiet import reason

CHECKPOINT_S = 20.0
LOGGED = 500  # points of a curve that is logged at every step, about


class Run:
    """One run in `options.directory`: TensorBoard's files, `history.jsonl`, `checkpoints/`, what the trainer draws."""

    def __init__(self, options: Options, goal: Goal | None = None, bar: bool = True) -> None:
        """Seeds everything: the same seed, machine and libraries give the same model."""
        self.options = options
        self.directory = options.directory
        self.seed = options.seed
        self.quick = options.quick
        self.history: dict[str, list[tuple[int, float]]] = {}  # by name: steps done, and the value
        self._goal = goal
        self._kept: dict[str, Any] = {}
        self._done = 0
        self._total = 0
        self._bar = Bar(bar)
        self._writer: Any = None
        self._file: Any = None
        keras.utils.set_random_seed(options.seed)
        tf.config.experimental.enable_op_determinism()

    def part(self, name: str, bar: bool = True) -> "Run":
        """A run within this one, as if alone: a variant that is compared with others, or a stage of a model."""
        return Run(replace(self.options, directory=self.directory / name), self._goal, bar)

    def length(self, *, full: int, quick: int, per_epoch: int = 1) -> int:
        """Steps to train: `--steps`, `--epochs`, or these epochs of the trainer's own choice."""
        epochs = self.options.epochs or (quick if self.quick else full)
        return self.options.steps or epochs * per_epoch

    def keep(self, **parts: Any) -> None:
        """What a checkpoint holds: models, optimizers, variables, lists of variables. Before `steps`, and built."""
        self._kept = {name: _variables(part) for name, part in parts.items()}

    def steps(self, total: int) -> Iterator[int]:
        """Numbers of the steps to do, from 0 or from the last checkpoint on.

        Raises:
            TrainingError: the checkpoint does not fit the model, or one cannot be written.
        """
        self._total = total
        counter = tf.Variable(0, dtype=tf.int64, trainable=False)
        checkpoint = tf.train.Checkpoint(step=counter, **self._kept)
        manager = tf.train.CheckpointManager(checkpoint, str(self.directory / "checkpoints"), max_to_keep=2)
        if self.options.resume and manager.latest_checkpoint:
            self._restore(checkpoint, manager.latest_checkpoint)
        elif self.options.resume and list(self.directory.glob("checkpoints/*.index")):
            raise TrainingError(f"{manager.directory}/checkpoint: does not say which checkpoint is the last")
        self._done = int(counter.numpy())
        self._open()
        saved_at, saved = time.monotonic(), self._done
        try:
            with self._bar.open(total, self._done):
                for step in range(self._done, total):
                    yield step
                    self._done = step + 1
                    self._bar.advance()
                    if time.monotonic() - saved_at >= CHECKPOINT_S:
                        self._save(manager, counter)
                        saved_at, saved = time.monotonic(), self._done
            if saved < self._done:
                self._save(manager, counter)
        finally:
            self._close()

    def every(self, steps: int) -> bool:
        """Whether the step under way is the last of so many, or of all."""
        done = self._done + 1
        return done % steps == 0 or done == self._total

    def log(self, **values: Any) -> None:
        """Notes values of the step under way. Tensors are read now and then only, since that waits for the computation;
        plain numbers are noted each time.

        Raises:
            DivergenceError: one of them is not finite.
        """
        if not self.every(max(1, self._total // LOGGED)) and self._done:
            values = {name: value for name, value in values.items() if isinstance(value, (int, float, np.number))}
        numbers = {name: float(value) for name, value in values.items()}
        for name, number in numbers.items():
            if not math.isfinite(number):
                raise DivergenceError(f"{name} is {number} at step {self._done + 1}: a smaller learning rate may help")
        if not numbers:
            return
        step = self._done + 1
        with self._writing(), self._writer.as_default():
            for name, number in numbers.items():
                tf.summary.scalar(name, number, step)
                self.history.setdefault(name, []).append((step, number))
        self._file.write(json.dumps({"step": step, **numbers}) + "\n")
        self._bar.show(numbers)
        if self._goal is not None and self._goal.metric in numbers:
            self.options.report(step, numbers[self._goal.metric])

    def curve(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of what was logged under a name, those before a resume included."""
        points = self.history.get(name, [])
        return [step for step, _ in points], [value for _, value in points]

    def graph(self, function: Any, *example: Any) -> None:
        """Shows a tf.function's graph in TensorBoard, as it is for such arguments."""
        graph = function.get_concrete_function(*example).graph
        with self._writing(), self._board().as_default():
            tf.summary.graph(graph)

    def image(self, name: str, pixels: np.ndarray) -> None:
        """Shows pictures in TensorBoard: [pictures, height, width, 1 or 3], 0 to 1."""
        with self._writing(), self._board().as_default():
            tf.summary.image(name, pixels, step=self._done, max_outputs=len(pixels))

    def path(self, name: str) -> Path:
        """Where a picture or table of this run goes."""
        self.directory.mkdir(parents=True, exist_ok=True)
        return self.directory / name

    def _board(self) -> Any:
        if self._writer is None:
            self._writer = tf.summary.create_file_writer(str(self.path("")))
        return self._writer

    def _restore(self, checkpoint: Any, path: str) -> None:
        try:
            checkpoint.restore(path).assert_consumed()
        except Exception as error:  # a file that is damaged shows as IndexError, RuntimeError, ...
            said = " ".join(str(error).split())[:200]
            raise TrainingError(f"{path}: cannot be resumed from: {said}") from None

    def _save(self, manager: Any, counter: Any) -> None:
        counter.assign(self._done)
        with self._writing():
            self._file.flush()
            self._writer.flush()
            try:
                manager.save(checkpoint_number=self._done)
            except tf.errors.OpError:
                for part in Path(manager.directory).glob("*_temp"):  # what there is of it fills the disk
                    shutil.rmtree(part, ignore_errors=True)
                raise

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Whatever writes into the run's directory does it in here: a full disk is to be one line."""
        try:
            yield
        except tf.errors.OpError as error:
            raise TrainingError(f"{self.directory}: cannot be written: {reason(error)}") from None
        except OSError as error:
            raise TrainingError(f"{self.directory}: cannot be written: {error.strerror}") from None

    def _open(self) -> None:
        """Goes on with the history that the checkpoint knows of; what came after it is done again."""
        path = self.path("history.jsonl")
        lines = _lines(path) if self.options.resume else []
        kept = [line for line in lines if line["step"] <= self._done]
        new = path.with_suffix(".new")
        new.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        new.replace(path)  # at no moment is less of it on the disk than the checkpoint knows of
        self._file = path.open("a", encoding="utf-8")
        for line in kept:
            for name, value in line.items():
                if name != "step":
                    self.history.setdefault(name, []).append((line["step"], value))
        self._board()

    def _close(self) -> None:
        with suppress(OSError, tf.errors.OpError):  # what a checkpoint was written for is there already
            self._file.close()
            self._writer.flush()


def _variables(part: Any) -> Any:
    """All that a model or an optimizer is made of; a checkpoint of the object itself leaves the state of its random
    numbers out."""
    held = getattr(part, "variables", None)
    if held is None:
        return part
    return [variable.value if isinstance(variable, keras.Variable) else variable for variable in held]


def _lines(path: Path) -> list[Mapping[str, Any]]:
    """What was written down before; the last line of a run that was killed may be half a line."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found
