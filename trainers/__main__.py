"""`python -m trainers NAME`: trains a model and publishes it.

To add a trainer, write its module and a line in TRAINERS. TensorFlow is imported only when one is to run.
"""

import argparse
import importlib
import os
import sys
import time
from pathlib import Path

from trainers.contract import Options
from trainers.quiet import quiet_import

# name: what it learns. The module trainers.<name> has `train(options: Options) -> Trained`.
TRAINERS = {
    "digits": "handwritten digits, 8x8 pixels (scikit-learn's load_digits)",
}


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m trainers", description="Train a model and publish it.")
    parser.add_argument("name", nargs="?", choices=TRAINERS, help="the trainer, and the name of its model")
    parser.add_argument("--list", action="store_true", help="show the trainers and exit")
    parser.add_argument("--quick", action="store_true", help="a short training run: less accurate")
    parser.add_argument("--epochs", type=positive, metavar="N", help="passes over the data (default: the trainer's)")
    parser.add_argument("--repo", type=Path, default=Path("model_repo"), help="publish here (default: %(default)s)")
    parser.add_argument("--log-dir", type=Path, default=Path("runs"), help="TensorBoard logs (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same model (default: %(default)s)")
    return parser


def main() -> int:
    arguments = parser()
    args = arguments.parse_args()
    if args.list:
        for name, learns in TRAINERS.items():
            print(f"{name:10} {learns}")
        return 0
    if args.name is None:
        arguments.error("which trainer? --list shows them")
    try:
        run(args)
    except ModuleNotFoundError as error:
        print(f"error: {error.name} is not installed: pip install '.[cpu,train]'", file=sys.stderr)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    else:
        return 0
    return 1


def prepare(option: str, directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise SystemExit(f"error: {option} {directory}: a file is in the way of this directory") from None
    if not os.access(directory, os.W_OK):
        raise SystemExit(f"error: {option} {directory}: not writable")


def run(args: argparse.Namespace) -> None:
    for option, directory in (("--repo", args.repo), ("--log-dir", args.log_dir)):
        prepare(option, directory)  # a problem shows before the training, not after it
    os.environ["KERAS_BACKEND"] = "tensorflow"  # what export.py can export, whatever ~/.keras/keras.json says
    with quiet_import():
        export = importlib.import_module("trainers.export").export
        train = importlib.import_module(f"trainers.{args.name}").train

    log_dir = args.log_dir / args.name / time.strftime("%Y%m%d-%H%M%S")
    trained = train(Options(seed=args.seed, log_dir=log_dir, quick=args.quick, epochs=args.epochs))
    for metric, value in trained.metric.items():
        print(f"{metric} {value}")
    for version in export(args.name, trained, repo=args.repo, seed=args.seed):
        print(f"published {version}")
    print(f"curves: tensorboard --logdir {args.log_dir}")


if __name__ == "__main__":
    sys.exit(main())
