"""What versions take, and what happens where there is not enough for one: with real servers that have a limit."""

import re
from pathlib import Path

import numpy as np
import pytest

from loadtests.memory_measure import resident
from tests import models
from tests.e2e.clients import Asker, RefusedError
from tests.e2e.conftest import Serve
from tests.e2e.server import Server

MB = 1_000_000
SIZES = (4096, 4096, 10)  # 67 MB, and 130 MB while it loads


def test_the_memory_of_a_version_is_told(closed: Server) -> None:
    (taken,) = closed.metrics().find("serving_model_memory_bytes", model="simple", version="1").values()
    assert taken > 0
    stats = closed.get("/v2/models/simple/stats").json()["model_stats"][0]["memory_usage"]
    assert stats == [{"type": "CPU", "id": 0, "byte_size": int(taken)}]
    asker = Asker(closed, "grpc")
    found = asker.client.get_inference_statistics("simple").model_stats[0].memory_usage[0]
    asker.close()
    assert (found.type, found.id, found.byte_size) == ("CPU", 0, int(taken))
    (version,) = closed.get("/serving/models/simple").json()["versions"]
    assert version["memory_bytes"] == int(taken)


@pytest.mark.slow
def test_a_limit(serve: Serve, tmp_path: Path) -> None:
    """A version that does not fit is refused, and what serves stays; if that was asked for, it is unloaded first."""
    models.save(models.scale(1), tmp_path / "repo/small/1/model.onnx")

    def served(*args: object) -> Server:
        return serve(tmp_path / "repo", "--mode", "explicit", "--load-model", "small", *args)

    plain = served()
    base_mb = resident(plain.process.pid) // MB
    plain.end()
    models.save(models.mlp(SIZES), tmp_path / "repo/large/1/model.onnx")

    narrow = served("--memory-limit-mb", base_mb + 40)
    with pytest.raises(RefusedError) as error:
        load(narrow)
    assert re.search(
        r"not enough memory: .* than the \d+ MB that are free under "
        r"--memory-limit-mb; raise the limit, or unload another model",
        error.value.text,
    )
    assert narrow.metrics().sum("serving_events_total", model="large", kind="refused") >= 1
    narrow.end()

    both = ("--memory-limit-mb", base_mb + 165)  # enough for one that serves, or for one that loads
    careful, quick = served(*both), served(*both, "--memory-pressure", "unload_first")
    for server in (careful, quick):
        load(server)
    models.save(models.mlp(SIZES, seed=1), tmp_path / "repo/large/2/model.onnx")
    with pytest.raises(RefusedError, match="start with --memory-pressure unload_first"):
        load(careful)
    load(quick)
    for server, version in ((careful, 1), (quick, 2)):
        assert server.state("large", version)[0] == "READY"
        asker = Asker(server, "binary")
        answer = asker.infer("large", {"x": np.zeros((1, SIZES[0]), np.float32)})
        asker.close()
        assert answer.version == str(version)


def load(server: Server) -> None:
    asker = Asker(server, "grpc")
    try:
        asker.ask("load_model", "large")
    finally:
        asker.close()
