"""What the steps of a pipeline do that no other command does: `python -m trainers.search.steps evaluate|publish ...`.

`evaluate` holds a published version against its manifest, its golden sample and a bound; `publish` sends it to a
server.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import onnxruntime

from serving.core.artifact import read_golden, read_manifest, verify
from serving.core.compare import difference
from trainers.command import guarded
from trainers.contract import TrainingError


def main(arguments: Sequence[str]) -> None:
    """Raises TrainingError, OSError."""
    parser = argparse.ArgumentParser("python -m trainers.search.steps", description=__doc__)
    parser.add_argument("step", choices=("evaluate", "publish"))
    parser.add_argument("--repo", type=Path, required=True, help="the repository that the training published to")
    parser.add_argument("--model", required=True)
    parser.add_argument("--metric", help="of the manifest")
    parser.add_argument("--goal", choices=("maximize", "minimize"), default="maximize")
    parser.add_argument("--bound", type=float, help="the worst value that is good enough")
    parser.add_argument("--result", type=Path, help="the metric is written here")
    parser.add_argument("--url", help="the server to publish to")
    args = parser.parse_args(arguments)
    version = newest(args.repo, args.model)
    if args.step == "publish":
        from trainers.publishing.push import push

        print(f"pushed {push(args.url, version)}")
        return
    value = evaluate(version, args.metric)
    print(f"{args.metric} {value}")
    if args.result is not None:
        args.result.parent.mkdir(parents=True, exist_ok=True)
        args.result.write_text(str(value), encoding="utf-8")
    if args.bound is not None and (value < args.bound if args.goal == "maximize" else value > args.bound):
        raise TrainingError(f"{args.metric} is {value}, worse than the bound {args.bound}: not published")


def newest(repo: Path, model: str) -> Path:
    """Raises TrainingError if there is no version."""
    versions = [path for path in (repo / model).glob("*") if path.name.isdecimal()]
    if not versions:
        raise TrainingError(f"{repo / model}: no version was published")
    return max(versions, key=lambda path: int(path.name))


def evaluate(version: Path, metric: str) -> float:
    """What was measured of a version, once its files are whole and it answers as it should. Raises TrainingError."""
    try:
        manifest, golden = read_manifest(version), read_golden(version)
    except ValueError as error:
        raise TrainingError(str(error)) from None
    if manifest is None or golden is None or manifest.golden is None:
        raise TrainingError(f"{version}: no manifest or no golden sample")
    if problems := verify(version, manifest):
        raise TrainingError(f"{version}: {problems[0]}")
    session = onnxruntime.InferenceSession(version / "model.onnx", providers=["CPUExecutionProvider"])
    names = list(golden.outputs)
    got = dict(zip(names, session.run(names, golden.inputs), strict=True))
    if problem := difference(got, golden.outputs, atol=manifest.golden.atol, rtol=manifest.golden.rtol):
        raise TrainingError(f"{version}: does not answer as it did where it was trained: {problem}")
    if manifest.metric is None or metric not in manifest.metric:
        raise TrainingError(f"{version}: nothing was measured as '{metric}': was it trained on generated data?")
    return manifest.metric[metric]


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
