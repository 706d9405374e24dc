"""Keys of a `model.yaml` are changed, and nothing else in it."""

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.spec import SpecError, read_yaml
from serving.tuning.edit import changed, diff, write

VALUES: dict[str, int | float] = {"max_batch_size": 32, "max_queue_delay_ms": 0.5, "instances": 2, "threads": 1}


def lines(text: str) -> list[str]:
    return changed(text, VALUES, "model.yaml").splitlines()


def test_a_file_that_is_not_there_yet() -> None:
    assert lines("") == ["max_batch_size: 32", "max_queue_delay_ms: 0.5", "instances: 2", "threads: 1"]


def test_comments_order_and_other_keys_stay() -> None:
    text = "# ours\nmax_queue_rows: 7 # as agreed\n\nmax_batch_size:  8   # was 4\nversions: {latest: 2}\nthreads: 4\n"
    assert lines(text) == [
        "# ours",
        "max_queue_rows: 7 # as agreed",
        "",
        "max_batch_size: 32   # was 4",
        "versions: {latest: 2}",
        "threads: 1",
        "max_queue_delay_ms: 0.5",
        "instances: 2",
    ]


def test_keys_of_other_things_are_left_alone() -> None:
    text = "samples:\n  - name: one\n    inputs: {x: {datatype: FP32, shape: [1]}}\n# threads: 9\n'instances': 4\n"
    edited = lines(text)
    assert edited[:4] == text.splitlines()[:4] and edited[4] == "instances: 2"


@pytest.mark.parametrize(
    "text",
    ["{max_batch_size: 8, versions: all}\n", "max_batch_size:\n  8\nversions: all\n", "---\nversions: all\n...\n"],
)
def test_text_in_other_forms_is_written_anew(text: str) -> None:
    edited = changed(text, VALUES, "model.yaml")
    assert read_yaml(edited) == {**read_yaml(text), **VALUES} and read_yaml(edited)["versions"] == "all"


def test_no_line_end_at_the_end() -> None:
    assert lines("versions: all")[:2] == ["versions: all", "max_batch_size: 32"]


def test_what_would_not_be_valid_is_refused() -> None:
    with pytest.raises(SpecError, match=r"model\.yaml: unknown key 'max_batchsize'"):
        changed("max_batchsize: 8\n", VALUES, "model.yaml")


@given(
    st.lists(
        st.sampled_from(
            [
                "# c",
                "",
                "threads: 3",
                "threads : 3",
                "max_batch_size: 7 #x",
                "versions: all",
                "instances: 0x2",
                "warmup: no",
            ]
        ),
        unique_by=lambda line: line.split(":")[0].strip() or line,
    )
)
def test_what_is_read_is_what_was_there_and_what_was_wanted(parts: list[str]) -> None:
    text = "".join(f"{line}\n" for line in parts)
    edited = changed(text, VALUES, "model.yaml")
    assert read_yaml(edited) == {**read_yaml(text), **VALUES}
    assert changed(edited, VALUES, "model.yaml") == edited
    assert [line for line in parts if line.startswith("#")] == [
        line for line in edited.splitlines() if line.startswith("#")
    ]


def test_diff() -> None:
    assert diff("a: 1\nb: 2\n", "a: 1\nb: 3\n", "f") == ["--- f", "+++ f", "@@ -1,2 +1,2 @@", " a: 1", "-b: 2", "+b: 3"]
    assert diff("a: 1\n", "a: 1\n", "f") == []


def test_write_keeps_the_mode_and_leaves_nothing_behind(tmp_path: Path) -> None:
    file = tmp_path / "model.yaml"
    write(file, "a")
    file.chmod(0o640)
    write(file, "größer")
    assert file.read_text(encoding="utf-8") == "größer" and stat.S_IMODE(file.stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "nowhere/model.yaml", "a")
