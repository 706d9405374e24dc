"""Large inputs: the model, the command line, figures, and a session with a server that is no match for it."""

import json
import subprocess
import sys
from io import StringIO
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from rich.console import Console

from loadtests import image, large_measure, mlp
from loadtests.cases import CASES, Question, rest_binary
from loadtests.large import arguments
from loadtests.large_measure import Large, Settings
from loadtests.large_report import Form, Latency, document, table
from loadtests.measure import answer_of, serving
from loadtests.report import Round, Spread

ROOT = Path(__file__).parents[2]


def form(name: str, *cpu_ms: float, small_ms: list[list[float]] | None = None) -> Form:
    rounds = [Round(100, 2.0, 1e3 * one, p50_ms=one, p99_ms=2 * one) for one in cpu_ms]
    return Form(name, 602_112, rounds, small_ms or [[1.0]] * len(cpu_ms))


def cells(forms: list[Form], word: str) -> list[str]:
    console = Console(file=StringIO(), width=132)
    console.print(table([[0.25, 0.5], [0.75, 4.0]], forms))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    (line,) = (line for line in lines if line.startswith(f"│ {word}"))
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_the_model_gives_the_mean_of_an_image(tmp_path: Path) -> None:
    picture = image.picture()
    assert picture.shape == (1, 224, 224, 3) and picture.dtype == np.float32 and picture.size == 150_528
    answer = answer_of(image.write_repository(tmp_path), {"x": np.concatenate([picture, picture / 2])})
    mean = picture.astype(np.float64).mean()
    np.testing.assert_allclose(answer["y"], [[mean], [mean / 2]], atol=1e-5)


def test_the_defaults_measure_every_form() -> None:
    options = arguments().parse_args([])
    assert (options.rounds, options.duration, options.per_s) == (3, 3, 200)
    assert options.only == list(CASES)


def test_an_unknown_form_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments().parse_args(["--only", "rest-xml"])
    assert "no form 'rest-xml'" in capsys.readouterr().err


def test_latencies_are_those_of_all_rounds_together() -> None:
    assert Latency.of([[1.0] * 60, [2.0] * 39 + [50.0]]) == Latency(1.0, pytest.approx(2.48), 50.0)


def test_cpu_is_the_median_of_the_rounds() -> None:
    assert form("grpc", 1.0, 5.0, 2.0).cpu_ms == Spread(2.0, 1.0, 5.0)


def test_the_first_line_has_small_requests_alone() -> None:
    assert cells([], "none") == ["none", *[""] * 5, "0.62", "3.90", "4.0"]


def test_a_form_shows_its_cost_and_the_delay_it_gives() -> None:
    line = cells([form("grpc", 1.0, 5.0, 2.0, small_ms=[[1.0], [3.0], [2.0]])], "grpc")
    assert line == ["grpc", "602112", "50", "2.00 (1.00-5.00)", "2.00", "4.00", "2.00", "2.98", "3.0"]


def test_a_void_form_shows_no_figures() -> None:
    void = form("grpc", 1.0)
    void.failure = "refused"
    assert cells([void], "grpc") == ["grpc", "602112", "", "void", *[""] * 5]


def test_the_document_holds_every_round() -> None:
    void = form("rest-json")
    void.failure = "refused"
    read = json.loads(json.dumps(document([[0.5]], [form("grpc", 1.0, 3.0), void], {"python": "3"})))
    assert read["environment"] == {"python": "3"}
    assert read["quiet"] == {"small_ms": [[0.5]], "small": {"p50_ms": 0.5, "p99_ms": 0.5, "max_ms": 0.5}}
    good, bad = read["forms"]
    assert good["alone"][1]["cpu_us"] == 3000 and good["small_ms"] == [[1.0], [1.0]]
    assert good["summary"]["cpu_ms"]["median"] == 2.0
    assert bad["summary"] is None and bad["failure"] == "refused"


def question(root: Path, module: ModuleType, inputs: np.ndarray) -> Question:
    return Question(module.NAME, {"x": inputs}, answer_of(module.write_repository(root), {"x": inputs}))


def test_what_answers_wrongly_is_void_and_the_rest_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"WARM_UP_S": 0.2, "LEAD_S": 0.2, "TAIL_S": 3.0}.items():
        monkeypatch.setattr(large_measure, name, seconds)
    small = question(tmp_path / "models", mlp, mlp.row())
    large = question(tmp_path / "models", image, image.picture())
    wrong = Question(large.model, large.inputs, {"y": large.expected["y"] + 1})
    settings = Settings(rounds=1, duration_s=1, per_s=50, pin=False)
    with serving("the server", tmp_path / "models", tmp_path / "log", False) as running:
        session = Large(settings, tmp_path, lambda _: None, running)
        cases = [CASES["rest-binary"](large), CASES["tfs-grpc"](wrong)]
        quiet, (good, bad) = session.run(rest_binary(small), cases)
    assert [len(each) for each in quiet] == [50]
    assert good.failure is None and good.body_bytes > 600_000
    assert [len(each) for each in good.small_ms] == [50]
    assert len(good.alone) == 1 and good.alone[0].requests > 0 and good.alone[0].cpu_us > 0
    assert bad.failure is not None and "'y' differs" in bad.failure
    assert bad.alone == bad.small_ms == []


@pytest.mark.slow
def test_the_whole_command_runs(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    argv = [sys.executable, "-m", "loadtests.large", "--quick", "--json", str(result)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    forms = json.loads(result.read_text())["forms"]
    assert [one["name"] for one in forms] == list(CASES)
    for one in forms:
        assert one["failure"] is None and one["summary"]["cpu_ms"]["median"] > 0
        assert one["name"] in done.stdout
