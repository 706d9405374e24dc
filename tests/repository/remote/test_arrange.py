"""From what a store lists to models and versions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.repository.disk.layout import Kind, LayoutError
from serving.repository.remote.arrange import LOOSE_LIMIT_BYTES, arrange, kind_of
from serving.repository.remote.store import Object


def listed(*paths: str, size: int = 1) -> list[Object]:
    return [Object(path, size, "token", f"bucket/models/{path}".rstrip("/")) for path in paths]


def shape(objects: list[Object], kind: Kind = Kind.REPOSITORY) -> dict[str, tuple[list[str], dict[int, list[str]]]]:
    """By model: its loose files, and the files of its versions."""
    return {
        name: (sorted(model.loose), {number: sorted(files) for number, files in model.versions.items()})
        for name, model in arrange(objects, kind, "given").items()
    }


@pytest.mark.parametrize(
    ("paths", "kind"),
    [
        (["m/1/model.onnx", "m/model.yaml"], Kind.REPOSITORY),
        (["m/1/saved_model.pb", "1"], Kind.REPOSITORY),  # a file is no version
        (["1/model.onnx"], Kind.MODEL),
        (["007/variables/variables.index", "config.pbtxt"], Kind.MODEL),
        (["saved_model.pb", "variables/variables.index"], Kind.VERSION),
        (["model.savedmodel/saved_model.pb", "model.savedmodel/variables/variables.index"], Kind.VERSION),
        (["model.onnx", "model.onnx.data"], Kind.VERSION),
        (["net.onnx"], Kind.VERSION),
        (["a.onnx", "b.onnx"], Kind.REPOSITORY),  # which of them?
        (["../../1/model.onnx", "m/1/model.onnx"], Kind.REPOSITORY),
        (["m", "m/1/model.onnx"], Kind.REPOSITORY),  # a name for a file and a directory
    ],
)
def test_kind_is_found_as_for_local_paths(paths: list[str], kind: Kind) -> None:
    assert kind_of(listed(*paths), "s3://bucket/models") is kind


def test_kind_of_a_file() -> None:
    assert kind_of(listed(""), "s3://bucket/models/m.onnx") is Kind.FILE
    with pytest.raises(LayoutError, match=r"'s3://bucket/m.txt' is not a model file: its name does not end in .onnx"):
        kind_of(listed(""), "s3://bucket/m.txt")


def test_repository() -> None:
    objects = listed(
        "a/1/model.onnx",
        "a/2/saved_model.pb",
        "a/2/variables/variables.index",
        "a/model.yaml",
        "a/configs/more.pbtxt",
        "a/.tmp-0123/model.onnx",  # a version that is being written
        "b/003/model.onnx",
        "data/train/0.csv",  # no model
        "readme.md",
        ".hidden/1/model.onnx",
        "_private/1/model.onnx",
        "a/3",  # a file is no version
        "a/0/model.onnx",
    )
    assert shape(objects) == {
        "a": (
            ["0/model.onnx", "configs/more.pbtxt", "model.yaml"],
            {1: ["model.onnx"], 2: ["saved_model.pb", "variables/variables.index"]},
        ),
        "b": ([], {3: ["model.onnx"]}),
    }


def test_one_model() -> None:
    objects = listed("1/model.onnx", "2/model.onnx", "model.yaml", "labels.txt")
    found = {"given": (["labels.txt", "model.yaml"], {1: ["model.onnx"], 2: ["model.onnx"]})}
    assert shape(objects, Kind.MODEL) == found


def test_one_version() -> None:
    objects = listed("saved_model.pb", "variables/variables.index", "model.yaml")
    assert shape(objects, Kind.VERSION) == {
        "given": (["model.yaml"], {1: ["model.yaml", "saved_model.pb", "variables/variables.index"]})
    }


def test_one_file() -> None:
    (item,) = listed("")
    item = Object("", item.size, item.token, "bucket/models/net.onnx")
    assert shape([item], Kind.FILE) == {"given": ([], {1: ["net.onnx"]})}


def test_two_spellings_of_one_version() -> None:
    """The plain one counts, as on disk."""
    for paths in (["m/01/model.onnx", "m/1/other.onnx"], ["m/1/other.onnx", "m/01/model.onnx"]):
        assert shape(listed(*paths)) == {"m": ([], {1: ["other.onnx"]})}


def test_large_files_are_no_settings() -> None:
    objects = [*listed("m/1/model.onnx"), *listed("m/train.csv", size=LOOSE_LIMIT_BYTES + 1)]
    assert shape(objects) == {"m": ([], {1: ["model.onnx"]})}


@pytest.mark.parametrize(
    "path", ["m/1/../../../etc/passwd", "m/1//model.onnx", "/m/1/model.onnx", "m/1/./x", "m/1/\0", "m/1/" + "x" * 256]
)
def test_keys_that_are_no_paths_are_left_out(path: str) -> None:
    assert shape(listed(path, "m/1/model.onnx")) == {"m": ([], {1: ["model.onnx"]})}


def test_file_that_would_be_a_directory_too() -> None:
    assert shape(listed("m/1/a", "m/1/a/b", "m/1/model.onnx")) == {"m": ([], {1: ["a/b", "model.onnx"]})}


@given(st.lists(st.text("am1/._\0\\", max_size=12), max_size=6))
def test_whatever_is_listed_stays_inside(paths: list[str]) -> None:
    for kind in (Kind.REPOSITORY, Kind.MODEL, Kind.VERSION):
        for name, model in arrange(listed(*(path or "x" for path in paths)), kind, "given").items():
            assert name and "/" not in name
            files = [*model.loose, *(path for version in model.versions.values() for path in version)]
            assert all(part not in ("", ".", "..") for path in files for part in path.split("/"))
