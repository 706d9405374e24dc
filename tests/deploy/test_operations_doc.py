"""docs/operations.md: a runbook for each alert, links that lead somewhere, a sum that is right, and a backup that works
while the server runs."""

import math
import re
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from loadtests.monitor import rules
from serving.client import Operator
from tests import models
from tests.e2e.conftest import Serve
from tests.e2e.conftest import serve as serve

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "operations.md"
TEXT = DOCUMENT.read_text()


def headings(text: str, level: int) -> list[str]:
    plain = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(rf"^{'#' * level} (.+)$", plain, re.MULTILINE)


def anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def part(title: str) -> str:
    """A section of the second level."""
    return re.split(r"^## ", TEXT.split(f"\n## {title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def test_each_alert_has_a_runbook_and_each_runbook_an_alert() -> None:
    assert sorted(headings(part("Runbooks"), 3)) == sorted(alert["alert"] for alert in rules.alerts(rules.read()))


def test_each_runbook_says_what_to_look_at_and_to_do() -> None:
    for runbook in part("Runbooks").split("\n### ")[1:]:
        name, meaning, *_ = runbook.split("\n\n")
        assert re.fullmatch(r"\*.+\*", meaning, re.DOTALL), f"{name} does not begin with what it means"
        assert "\n- Look: " in runbook and "\n- Do: " in runbook, name


def test_links_of_alerts_lead_to_their_runbooks() -> None:
    anchors = {anchor(heading) for heading in headings(part("Runbooks"), 3)}
    for alert in rules.alerts(rules.read()):
        file, _, at = alert["annotations"]["runbook_url"].partition("#")
        assert (ROOT / file, at) == (DOCUMENT, alert["alert"].lower())
        assert at in anchors


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        file, _, at = target.partition("#")
        path = DOCUMENT.parent / file if file else DOCUMENT
        assert path.is_file(), target
        if at:
            assert at in {anchor(h) for level in (1, 2, 3, 4) for h in headings(path.read_text(), level)}, target


def test_thresholds_and_times_are_those_of_the_rules() -> None:
    """Where a runbook tells the time that something lasts, the rule has it."""
    told = {"a minute": "1m", "two minutes": "2m", "five minutes": "5m", "ten minutes": "10m", "15 minutes": "15m"}
    by_name = {alert["alert"]: alert for alert in rules.alerts(rules.read())}
    for runbook in part("Runbooks").split("\n### ")[1:]:
        name, meaning = runbook.split("\n\n")[:2]
        for words, time in told.items():
            if words in meaning.replace("\n", " "):
                assert time == by_name[name].get("for") or f"[{time}]" in by_name[name]["expr"], (name, words)


def test_example_of_capacity() -> None:
    """The numbers in the table follow from those above them."""
    row_us = 13.6e3 / 64
    assert "13.6 ms / 64 = 212 µs" in TEXT and int(row_us) == 212
    for cost_us, rate, servers in ((48, "3,846", 3), (85, "3,367", 3), (246, "2,183", 4)):
        most = 1e6 / (cost_us + 212)
        assert rate in TEXT and f"{most:,.0f}" == rate
        assert math.ceil(3000 / (0.7 * 0.75 * most)) + 1 == servers
    assert "0.7 × 0.75 × 3,846 = 2,019" in TEXT and round(0.7 * 0.75 * 3846) == 2019
    assert "0.73 to 0.78" in TEXT and (round(2816 / 3846, 2), round(3000 / 3846, 2)) == (0.73, 0.78)


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="needs sqlite3, as the document does")
def test_backup_and_restore(serve: Serve, tmp_path: Path) -> None:
    """The document's own commands, while an operator does one thing after the other; then on the place of a state that
    has gone on, after kill -9."""
    backup, restore = re.findall(r"```bash\n(.*?)```", part("State: backup and restore"), re.DOTALL)
    repo, state = tmp_path / "repo", tmp_path / "state"
    for version in (1, 2):
        models.save(models.scale(version), repo / f"m/{version}/model.onnx")
    (repo / "m/model.yaml").write_text("versions: all\n")
    server = serve(repo, "--state-dir", state)
    operator = Operator(server.url)
    operator.change("m", "labels", {"label": "kept", "version": 1})

    over = threading.Event()

    def be_busy() -> None:
        while not over.is_set():
            for version in (1, 2):
                operator.change("m", "labels", {"label": "moved", "version": version})

    busy = threading.Thread(target=be_busy)
    busy.start()
    try:
        done = [run(backup, tmp_path) for _ in range(5)]
    finally:
        over.set()
        busy.join()
    assert all(text.split()[-1] == "ok" for text in done)
    assert not list((tmp_path / "backup").glob("*-wal"))

    operator.change("m", "promote", {"version": "2"})
    operator.change("m", "labels", {"label": "kept", "version": None})
    server.process.kill()
    server.wait()
    run(restore, tmp_path)
    again = serve(repo, "--state-dir", state)
    labels = Operator(again.url).model("m")["labels"]
    assert labels["kept"] == 1 and labels["moved"] in (1, 2) and "stable" not in labels


def run(commands: str, directory: Path) -> str:
    done = subprocess.run(
        ["bash", "-euc", commands], cwd=directory, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_database_is_held_alone_while_the_server_runs(serve: Serve, tmp_path: Path) -> None:
    """Why the document does not say `.backup`."""
    if shutil.which("sqlite3") is None:
        pytest.skip("needs sqlite3")
    models.save(models.scale(1), tmp_path / "repo/m/1/model.onnx")
    serve(tmp_path / "repo", "--state-dir", tmp_path / "state")
    command = ["sqlite3", "state/state.db", ".backup copy.db"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0 and "database is locked" in done.stderr
