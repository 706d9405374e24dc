"""What can be chosen besides locust's own options. Knows the parser, not locust."""

import argparse
from collections.abc import Mapping
from typing import Any

from loadtests.locust.shapes import SHAPES

PROTOCOLS = ("oip-json", "oip-binary", "oip-grpc", "oip-stream", "tfs-rest", "tfs-grpc")
CHECKS = {
    "same": "as the model answered the same input when the test began",
    "golden": "as the payload file says",
    "argmax": "the same largest element in each row as when the test began, or as the payload file says",
    "shape": "names, datatypes and shapes only",
}
# What a report tells of.
NAMES = (
    *("model", "model_version", "label", "grpc_host", "mix", "rows", "payload", "check", "per_user", "shape", "steps"),
    *("num_users", "spawn_rate", "run_time", "processes", "expect_workers"),
)


def add(parser: Any) -> None:
    """To locust's parser: each is an option, and an environment variable SERVING_LOAD_<NAME>.

    Values are texts and numbers: locust sends them to its workers.
    """

    def option(name: str, **more: Any) -> None:
        parser.add_argument(name, env_var="SERVING_LOAD_" + name.strip("-").replace("-", "_").upper(), **more)

    option("--model", default="digits", help="model to send to")
    option("--model-version", type=int, default=None, metavar="N", help="version to ask for [default: none]")
    option("--label", default="", help="label to ask for; TensorFlow Serving's protocols only")
    option("--grpc-host", default="127.0.0.1:8001", help="address of the gRPC port")
    option("--mix", type=mix, default="", metavar="NAME=WEIGHT,...", help=f"of {', '.join(PROTOCOLS)} [default: all]")
    option("--rows", type=int, default=1, help="rows in each request that is made from metadata")
    option("--payload", default=None, metavar="FILE", help="requests: .npz or .json [default: random ones]")
    option("--check", choices=list(CHECKS), default="same", help="; ".join(f"{k}: {v}" for k, v in CHECKS.items()))
    option("--atol", type=float, default=1e-4, help="absolute difference that still counts as the same")
    option("--rtol", type=float, default=1e-3, help="the same, relative to what is expected")
    option("--per-user", type=float, default=0, metavar="N", help="requests a second of each user [default: no pause]")
    option("--shape", choices=list(SHAPES), default=None, help="how the number of users changes [default: it does not]")
    option("--steps", type=int, default=10, help="of the shape 'step'")
    option("--api-key", default="", is_secret=True, help="sent as bearer token; better set SERVING_LOAD_API_KEY")
    option("--tls-ca", default=None, metavar="FILE", help="certificates that the server's is checked against")
    option("--client-cert", default=None, metavar="FILE", help="our own certificate, for mutual TLS")
    option("--client-key", default=None, metavar="FILE", help="its key")
    option("--report", default=None, metavar="DIR", help="write report.html and what belongs to it there")


def mix(text: str) -> str:
    """Checks a mix; `weights` reads it."""
    weights(text)
    return text


def weights(text: str) -> Mapping[str, int]:
    """Protocols by name with their weights; nothing given: all alike. argparse.ArgumentTypeError."""
    if not text:
        return dict.fromkeys(PROTOCOLS, 1)
    found = {}
    for part in text.split(","):
        name, _, weight = part.strip().partition("=")
        if name not in PROTOCOLS:
            raise argparse.ArgumentTypeError(f"no protocol {name!r}: there are {', '.join(PROTOCOLS)}")
        if not (weight or "1").isdecimal() or int(weight or 1) < 1:
            raise argparse.ArgumentTypeError(f"{name}: expected a whole number > 0, got {weight!r}")
        found[name] = int(weight or 1)
    return found
