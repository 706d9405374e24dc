"""What `serving start` prints when it is ready."""

from types import MappingProxyType

import pytest

from serving.cli.start import announce
from serving.core import dtypes
from serving.protocols import examples
from serving.repository.catalog import Catalog, CatalogModel, IndexEntry
from serving.repository.version import State, Version
from serving.server import Running
from tests.cli.build import ROWS, version_of


def printed(
    capsys: pytest.CaptureFixture[str],
    *versions: Version,
    index: tuple[IndexEntry, ...] = (),
    host: str = "127.0.0.1",
) -> str:
    models = {v.model: CatalogModel(v.model, {v.number: v}, v) for v in versions}
    announce(Running(host, 8000, 8001, Catalog(MappingProxyType(models), index, ready=True)))
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_where_it_listens(capsys: pytest.CaptureFixture[str]) -> None:
    first = printed(capsys, version_of("m", ROWS)).splitlines()[0]
    assert first.split("   ") == [
        "ready  REST http://127.0.0.1:8000",
        "gRPC 127.0.0.1:8001",
        "documentation http://127.0.0.1:8000/docs",
        "metrics http://127.0.0.1:8000/metrics",
    ]


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:8000"),  # everywhere is no address to connect to
        ("::", "http://127.0.0.1:8000"),
        ("::1", "http://[::1]:8000"),
        ("example", "http://example:8000"),
    ],
)
def test_addresses_can_be_connected_to(capsys: pytest.CaptureFixture[str], host: str, url: str) -> None:
    out = printed(capsys, version_of("m", ROWS), host=host)
    assert f"REST {url} " in out and f"curl -s {url}/v2/models/m/infer" in out
    grpc = url.removeprefix("http://").replace("8000", "8001")
    assert f"gRPC {grpc} " in out


def test_each_model_with_a_request_that_works(capsys: pytest.CaptureFixture[str]) -> None:
    one = version_of("one", ROWS, max_batch_size=8)
    two = version_of("two", ("t", dtypes.BYTES, (-1,)), max_batch_size=0, because="max_batch_size is 0")
    lines = printed(capsys, one, two).splitlines()
    at = lines.index("one version 3, batches of up to 8 rows")
    assert lines[at + 1 : at + 3] == ["  inputs   x FP32 [-1, 2]", "  outputs  y FP32 [-1, 1]"]
    at = lines.index("two version 3, one request at a time (max_batch_size is 0)")
    assert lines[at + 1] == "  inputs   t BYTES [-1]"
    for version in (one, two):
        assert f"  {examples.curl(version, 'http://127.0.0.1:8000')}" in lines


def test_no_line_is_broken_where_the_terminal_ends(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    wide = version_of("m" * 50, ("x", dtypes.FP32, (-1, 500)))
    lines = printed(capsys, wide).splitlines()
    assert f"  {examples.curl(wide, 'http://127.0.0.1:8000')}" in lines
    assert any(line.startswith("m" * 50 + " version 3, batches") for line in lines)


@pytest.mark.parametrize("name", ["[bold]m[/]", "[/]", "a[1]", "[link=x]y", "\\[m]"])
def test_names_are_no_markup(capsys: pytest.CaptureFixture[str], name: str) -> None:
    failed = IndexEntry(name, 1, State.FAILED, f"it has [red]{name}[/]")
    out = printed(capsys, version_of(name, (name, dtypes.FP32, (-1,))), index=(failed,))
    assert f"\n{name} version 3, " in out and f"inputs   {name} FP32 [-1]" in out
    assert f"failed {name} version 1: it has [red]{name}[/]" in out


def test_what_failed_and_what_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    good = version_of("good", ROWS)
    index = (
        IndexEntry("good", 3, State.READY, ""),
        IndexEntry("bad", 2, State.FAILED, "it is broken"),
        IndexEntry("gone", 1, State.END, "unloaded"),
        IndexEntry("empty", None, None, ""),
    )
    models = {"good": CatalogModel("good", {3: good}, good), "bad": CatalogModel("bad", {}, None)}
    announce(Running("127.0.0.1", 8000, 8001, Catalog(MappingProxyType(models), index)))
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("failed")] == ["failed bad version 2: it is broken"]
    assert not any(line.startswith(("bad version", "gone", "empty")) for line in lines)
