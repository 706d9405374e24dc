"""How many users there are when."""

import argparse

import pytest

from loadtests.locust import options
from loadtests.locust.shapes import SHAPES


def test_shapes() -> None:
    found = {name: [shape(i / 100, 50, 5) for i in range(100)] for name, shape in SHAPES.items()}
    assert set(found) == {"steady", "step", "spike", "soak"}
    assert set(found["steady"]) == {50}
    assert [found["step"].count(users) for users in (10, 20, 30, 40, 50)] == [20] * 5
    assert found["step"] == sorted(found["step"])
    assert found["spike"].count(50) == 20 and found["spike"].count(5) == 80 and found["spike"][50] == 50
    assert found["soak"][:3] == [1, 10, 20] and found["soak"][5:] == [50] * 95


def test_mix() -> None:
    assert options.weights("") == dict.fromkeys(options.PROTOCOLS, 1)
    assert options.weights("oip-json=3, tfs-grpc") == {"oip-json": 3, "tfs-grpc": 1}
    for wrong in ("nosuch", "oip-json=0", "oip-json=x"):
        with pytest.raises(argparse.ArgumentTypeError, match=wrong.partition("=")[0]):
            options.weights(wrong)
