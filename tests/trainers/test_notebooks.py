"""Both notebooks run from the first cell to the last, as a reader would run them."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.trainers.child import ROOT, trains

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
_MISSING = [name for name in ("ipykernel", "nbclient", "nbformat") if not find_spec(name)]

# In a process of its own: a kernel is started with what this process inherits.
EXECUTE = """
import sys
import nbformat
from nbclient import NotebookClient

source, result = sys.argv[1:]
notebook = nbformat.read(source, as_version=4)
where = {"metadata": {"path": source.rpartition("/")[0]}}
NotebookClient(notebook, kernel_name="python3", timeout=300, resources=where).execute()
nbformat.write(notebook, result)
"""


@pytest.mark.slow
@trains
@pytest.mark.skipif(bool(_MISSING), reason=f"not installed: {', '.join(_MISSING)}")
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_draws(notebook: Path, tmp_path: Path) -> None:
    # Its kernel is this Python, whatever others are registered; what it leaves behind is in `tmp_path`.
    directories = {"JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "run", "IPYTHONDIR": "ipython", "TMPDIR": "tmp"}
    environment = os.environ | {name: str(tmp_path / folder) for name, folder in directories.items()}
    (tmp_path / "tmp").mkdir()
    done = tmp_path / "done.ipynb"
    result = subprocess.run(
        [sys.executable, "-c", EXECUTE, str(notebook), str(done)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    cells = [cell for cell in json.loads(done.read_text())["cells"] if cell["cell_type"] == "code"]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2
    (status,) = (output for output in cells[-1]["outputs"] if output["output_type"] == "execute_result")
    assert status["data"]["text/plain"] == ["0"]  # the server ended well


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_what_it_printed(notebook: Path) -> None:
    kept = json.loads(notebook.read_text())
    for cell in kept["cells"]:
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
    assert kept["metadata"].keys() == {"kernelspec", "language_info"}


def test_both_are_there() -> None:
    assert [notebook.stem for notebook in NOTEBOOKS] == ["query_and_plot", "train_and_publish"]
