"""The server's own REST endpoints, on a manager with real files and real models."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from serving.core.errors import ErrorKind, ServingError
from serving.protocols.http import HttpReply
from serving.protocols.manage import Manage
from tests.protocols.build import serving_engine
from tests.repository.build import add_version, corrupt_version
from tests.transport.raw import on_loop


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A repository with the model m, versions 1 and 2."""
    add_version(tmp_path / "repo", 1)
    add_version(tmp_path / "repo", 2)
    return tmp_path / "repo"


@asynccontextmanager
async def managing(repo: Path) -> AsyncIterator[Manage]:
    async with serving_engine(repo) as (_, manager):
        yield Manage(manager)


def body(**values: Any) -> bytes:
    return json.dumps(values).encode()


async def value(reply: HttpReply | Awaitable[HttpReply]) -> Any:
    """The JSON of an answer that says that all is well."""
    found = reply if isinstance(reply, HttpReply) else await reply
    assert found.status == 200
    return json.loads(found.body)


async def refused(call: Awaitable[HttpReply]) -> tuple[ErrorKind, str]:
    with pytest.raises(ServingError) as error:
        await call
    return error.value.kind, error.value.message


class TestModels:
    @on_loop
    async def test_one_and_all(self, repo: Path) -> None:
        async with managing(repo) as own:
            model = await value(own.model("m"))
            assert (await value(own.models())) == {"models": [model]}
            assert (model["name"], model["default"], model["shares"]) == ("m", 2, {"2": 100.0})
            assert [(v["number"], v["state"]) for v in model["versions"]] == [(1, "ON_DISK"), (2, "READY")]
            assert model["traffic"] is None

    @on_loop
    async def test_one_that_is_not_there(self, repo: Path) -> None:
        async with managing(repo) as own:
            with pytest.raises(ServingError, match="there is no model 'no'") as error:
                own.model("no")
            assert error.value.kind is ErrorKind.NOT_FOUND


class TestEvents:
    @on_loop
    async def test_are_given_behind_a_number(self, repo: Path) -> None:
        async with managing(repo) as own:
            await own.label("m", body(label="best", version=2))
            answer = await value(own.events([]))
            assert {e["model"] for e in answer["events"]} == {"m"} and answer["events"][-1]["kind"] == "labelled"
            assert answer["events"][-1].keys() == {"number", "at", "kind", "model", "version", "text"}
            assert answer["after"] == answer["events"][-1]["number"]
            again = await value(own.events([("after", str(answer["after"]))]))
            assert again == {"events": [], "after": answer["after"]}

    @on_loop
    async def test_of_one_model_and_only_so_many(self, repo: Path) -> None:
        add_version(repo, 1, "n")
        async with managing(repo) as own:
            every = (await value(own.events([("model", "n"), ("after", "")])))["events"]
            assert {e["model"] for e in every} == {"n"} and len(every) > 1
            assert (await value(own.events([("model", "n"), ("limit", "1")])))["events"] == every[-1:]

    @on_loop
    async def test_one_that_comes_ends_the_wait(self, repo: Path) -> None:
        async with managing(repo) as own:
            after = (await value(own.events([("limit", "1")])))["after"]
            waiting = asyncio.ensure_future(own.events([("after", str(after)), ("wait_s", "30")]))
            await asyncio.sleep(0)
            assert not waiting.done()
            await own.label("m", body(label="best", version=2))
            assert [e["kind"] for e in (await value(waiting))["events"]] == ["labelled"]

    @on_loop
    async def test_a_server_that_stops_ends_the_wait(self, repo: Path) -> None:
        async with serving_engine(repo) as (_, manager):
            own = Manage(manager)
            after = (await value(own.events([("limit", "1")])))["after"]
            waiting = asyncio.ensure_future(own.events([("after", str(after)), ("wait_s", "30")]))
            await asyncio.sleep(0)
            manager.hurry()
            assert await value(waiting) == {"events": [], "after": after}

    @pytest.mark.parametrize(
        ("query", "says"),
        [
            ([("aftr", "1")], "unknown parameter 'aftr'; did you mean 'after'?"),
            ([("x", "1")], "unknown parameter 'x'; valid parameters are after, model, limit, wait_s"),
            ([("after", "-1")], "'after': expected a whole number from 0 to 9223372036854775807, got '-1'"),
            ([("after", "9223372036854775808")], "'after': expected a whole number"),
            ([("after", "1" * 10_000)], "'after': expected a whole number"),
            ([("after", "²")], "'after': expected a whole number"),
            ([("limit", "0")], "'limit': expected a whole number from 1 to 1000, got '0'"),
            ([("limit", "1001")], "'limit': expected"),
            ([("wait_s", "31")], "'wait_s': expected seconds from 0 to 30, got '31'"),
            ([("wait_s", "nan")], "'wait_s': expected seconds from 0 to 30, got 'nan'"),
            ([("wait_s", "soon")], "'wait_s': expected seconds from 0 to 30, got 'soon'"),
            ([("after", "1"), ("after", "2")], "'after' is given twice"),
        ],
    )
    @on_loop
    async def test_parameters_that_cannot_be(self, repo: Path, query: list[tuple[str, str]], says: str) -> None:
        async with managing(repo) as own:
            kind, told = await refused(own.events(query))
            assert kind is ErrorKind.INVALID and told.startswith(says)


class TestChanges:
    @on_loop
    async def test_unload_and_load(self, repo: Path) -> None:
        async with managing(repo) as own:
            model = await value(own.unload("m", b""))
            assert model["kept_out"] and model["default"] is None
            model = await value(own.load("m", b"{}"))
            assert model["default"] == 2 and not model["kept_out"]

    @on_loop
    async def test_a_load_that_fails_says_why(self, repo: Path) -> None:
        corrupt_version(repo, 3)
        async with managing(repo) as own:
            kind, told = await refused(own.load("m", body(force=True)))
            assert kind is ErrorKind.INVALID and "ONNX Runtime cannot load model.onnx" in told

    @on_loop
    async def test_a_load_goes_on_without_its_client(self, repo: Path) -> None:
        async with managing(repo) as own:
            add_version(repo, 3)
            loading = asyncio.ensure_future(own.load("m", b""))
            await asyncio.sleep(0.005)
            loading.cancel()
            while (await value(own.model("m")))["default"] != 3:  # noqa: ASYNC110  (what is waited for sets no event)
                await asyncio.sleep(0.01)

    @on_loop
    async def test_promote_and_rollback(self, repo: Path) -> None:
        async with managing(repo) as own:
            assert (await value(own.promote("m", body(version=1))))["shares"] == {"1": 100.0}
            model = await value(own.promote("m", body(version="2")))
            assert (model["labels"], model["before"]) == ({"stable": 2}, [1])
            assert (await value(own.rollback("m", b"")))["shares"] == {"1": 100.0}
            assert (await value(own.rollback("m", body(version=2))))["shares"] == {"2": 100.0}

    @on_loop
    async def test_nothing_to_go_back_to(self, tmp_path: Path) -> None:
        add_version(tmp_path, 1)
        async with managing(tmp_path) as own:
            kind, told = await refused(own.rollback("m", body(version=None)))
            assert kind is ErrorKind.PRECONDITION and "there is no version before 1" in told

    @on_loop
    async def test_labels(self, repo: Path) -> None:
        async with managing(repo) as own:
            assert (await value(own.label("m", body(label="best", version=1))))["labels"] == {"best": 1}
            assert (await value(own.promote("m", body(version="best"))))["default"] == 1
            assert (await value(own.label("m", body(label="best", version=None))))["labels"] == {"stable": 1}

    @on_loop
    async def test_traffic(self, repo: Path) -> None:
        async with managing(repo) as own:
            wanted = {
                "weights": {"1": 95.0, "2": 5.0},
                "sticky": "x-user",
                "limits": {"requests": 100, "error_rate": 0.1},
            }
            model = await value(own.traffic("m", json.dumps(wanted).encode()))
            assert model["traffic"] == wanted and model["shares"] == {"1": 95.0, "2": 5.0}
            model = await value(own.traffic("m", b"null"))
            assert model["traffic"] is None and model["shares"] == {"2": 100.0}

    @pytest.mark.parametrize("call", ["load", "unload", "promote", "rollback", "label", "traffic"])
    @on_loop
    async def test_of_a_model_that_is_not_there(self, repo: Path, call: str) -> None:
        bodies = {"label": body(label="x", version=1), "traffic": body(weights={"1": 1})}
        async with managing(repo) as own:
            kind, told = await refused(getattr(own, call)("no", bodies.get(call, b"")))
            assert "no" in told
            assert kind is (ErrorKind.INVALID if call == "load" else ErrorKind.NOT_FOUND)

    @pytest.mark.parametrize("call", ["load", "unload", "promote", "rollback", "label"])
    @pytest.mark.parametrize(
        ("data", "says"),
        [
            (b"{", "failed to parse the request JSON buffer"),
            (b"[]", "expected an object"),
            (b"null", "expected an object"),
            (b'{"nosuch":1}', "unknown key 'nosuch'"),
        ],
    )
    @on_loop
    async def test_bodies_that_are_no_object(self, repo: Path, call: str, data: bytes, says: str) -> None:
        async with managing(repo) as own:
            kind, told = await refused(getattr(own, call)("m", data))
            assert kind is ErrorKind.INVALID and told.startswith(says)

    @pytest.mark.parametrize(
        ("call", "data", "says"),
        [
            ("load", {"force": 1}, "'force': expected a boolean, got the integer 1"),
            ("load", {"forc": True}, "unknown key 'forc'; did you mean 'force'?"),
            ("unload", {"version": 1}, "unknown key 'version'; valid keys are (none)"),
            ("promote", {"version": 0}, "'version': expected a version number > 0 or a label, got the integer 0"),
            ("promote", {"version": True}, "'version': expected a version number > 0 or a label, got a boolean (true)"),
            ("promote", {"version": ""}, "'version': expected a version number > 0 or a label, got the string ''"),
            ("rollback", {"version": 1.0}, "'version': expected a version number > 0 or a label, got the number 1.0"),
            ("rollback", {"version": 2**63}, "'version': expected a version number > 0 or a label, got the integer"),
            ("label", {"version": 1}, "'label' is missing"),
            ("label", {"label": "x"}, "'version' is missing"),
            ("label", {"label": 1, "version": 1}, "'label': expected a text, got the integer 1"),
            (
                "label",
                {"label": "x", "version": "1"},
                "'version': expected a version number > 0 or null, got the string",
            ),
            ("traffic", [], "expected an object such as"),
            ("traffic", {"weigths": {}}, "unknown key 'weigths'; did you mean 'weights'?"),
            ("traffic", {"weights": {"1": "95"}}, "'weights' (1): input should be a valid number, got '95'"),
            ("traffic", {"weights": {"1": 0}}, "weights are all 0, so no version would take requests"),
            ("traffic", {"weights": {"1": -1}}, "'weights' (1): input should be greater than or equal to 0, got -1"),
            ("traffic", {"weights": {"1": float("inf")}}, "'weights' (1): input should be a finite number, got inf"),
            ("traffic", {"sticky": "X User"}, "sticky: expected the name of a header in lower case, got 'X User'"),
            (
                "traffic",
                {"shadow": {"to": "1", "percnt": 5}},
                "unknown key 'percnt' in 'shadow'; did you mean 'percent'?",
            ),
            ("traffic", {"limits": {"error_rate": 5}}, "'limits' (error_rate): input should be less than 1, got 5"),
        ],
    )
    @on_loop
    async def test_values_that_cannot_be(self, repo: Path, call: str, data: Any, says: str) -> None:
        async with managing(repo) as own:
            before = await value(own.model("m"))
            kind, told = await refused(getattr(own, call)("m", json.dumps(data).encode()))
            assert kind is ErrorKind.INVALID and told.startswith(says), told
            assert await value(own.model("m")) == before
