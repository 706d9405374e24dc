"""Who is let in, over both protocols alike: the real application and services behind real listeners, in one process."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
import yaml

from serving.core.metrics import Metrics
from serving.core.scrape import exporter
from serving.protocols.health import Health
from serving.protocols.manage import Manage
from serving.protocols.messages import health as h
from serving.protocols.messages import oip as m
from serving.protocols.messages import tfs as t
from serving.protocols.oip.grpc import OipGrpc
from serving.protocols.oip.metadata import ServerIdentity
from serving.protocols.oip.rest import OipRest
from serving.protocols.tfs.grpc import ModelService, PredictionService
from serving.protocols.tfs.rest import TfsRest
from serving.transport.access import keys
from serving.transport.access.doors import Doors, Protection, is_loopback
from serving.transport.app import HttpApp
from serving.transport.grpc import GrpcListener
from serving.transport.http import HttpListener
from serving.transport.limits import GrpcLimits, HttpLimits
from serving.transport.tls import TlsFiles
from tests import models
from tests.certificates import YESTERDAY, Authority
from tests.protocols.build import body, serving_engine, tensor
from tests.transport.raw import Answer, Listening, on_loop, request, until

Code = grpc.StatusCode
KEY = {name: f"srv_{name}_0123456789abcdef" for name in ("web", "ops", "eyes", "all", "slow", "late", "one", "nobody")}
INFER, MANAGE, OBSERVE = ["infer"], ["manage"], ["observe"]
ROWS = body(tensor(shape=[1, 4], data=[1, 2, 3, 4]))


def entry(name: str, scopes: list[str], **more: Any) -> dict[str, Any]:
    return {"name": name, "sha256": keys.digest_of(KEY[name]), "scopes": scopes, **more}


ENTRIES = [
    entry("web", INFER),
    entry("ops", MANAGE),
    entry("eyes", OBSERVE),
    entry("all", [*INFER, *MANAGE, *OBSERVE]),
    entry("slow", INFER, requests_per_s=0.5, burst=2),
    entry("late", INFER, expires="2020-01-01"),
    entry("one", [*INFER, *MANAGE, *OBSERVE], models=["copy"]),
]


def write(path: Path, entries: list[dict[str, Any]]) -> Path:
    part = path.with_suffix(".part")
    part.write_text(yaml.safe_dump({"keys": entries}))
    part.replace(path)
    return path


class Site:
    def __init__(self, http: Listening, grpc_port: int, refused: "Counter[tuple[str, str]]") -> None:
        self.http = http
        self.refused = refused
        self.channel = grpc.aio.insecure_channel(
            f"127.0.0.1:{grpc_port}", options=[("grpc.use_local_subchannel_pool", 1)]
        )

    async def ask(
        self, method: str, path: str, key: str | None = None, body: bytes | None = None, *more: str
    ) -> Answer:
        lines = [f"authorization: Bearer {KEY.get(key, key)}"] if key else []
        return await self.http.ask(request(method, path, *lines, *more, body=body), bodyless=method == "HEAD")

    async def call(self, service: Any, name: str, message: Any, key: str | None = None) -> Code:
        metadata = [("authorization", f"Bearer {KEY[key]}")] if key else []
        try:
            call = self.channel.unary_unary(f"/{service.full_name}/{name}", None, None)
            await call(message.SerializeToString(), metadata=metadata)
        except grpc.aio.AioRpcError as error:
            self.error = error
            return error.code()
        return Code.OK


@asynccontextmanager
async def site(directory: Path, management: bool = False, **asked: Any) -> AsyncIterator[Site]:
    """`copy` and `other` are served. `management`: at the address that management has to itself."""
    repository = directory / "repo"
    for name in ("copy", "other"):
        models.save(models.identity(), repository / name / "1" / "model.onnx")
    doors = None
    counted: Counter[tuple[str, str]] = Counter()
    async with serving_engine(repository) as (engine, control):
        identity = ServerIdentity("serving", "0.0")
        rest = OipRest(engine, control, identity)
        app = HttpApp(
            rest,
            TfsRest(engine),
            Manage(control),
            exporter(Metrics()),
            dict,
            cors_origins=asked.get("cors_origins", ()),
        )
        services = [OipGrpc(engine, control, identity), PredictionService(engine), ModelService(engine, control)]
        doors = Doors(Protection(**asked), lambda protocol, reason: counted.update([(protocol, reason)]))
        http = HttpListener(limits=HttpLimits(), **doors.http(app, management=management))
        listener = GrpcListener([*services, Health(engine, [])], GrpcLimits(), **doors.grpc(management=management))
        following = asyncio.create_task(doors.follow())
        made = Site(
            Listening(http, await http.listen("127.0.0.1", 0), []), await listener.listen("127.0.0.1", 0), counted
        )
        try:
            yield made
        finally:
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following
            await made.channel.close(None)
            for peer in made.http.peers:
                peer.abort()
            await http.stop(0.0)
            await listener.stop(0.0)


@asynccontextmanager
async def keyed(directory: Path, entries: list[dict[str, Any]] = ENTRIES, **more: Any) -> AsyncIterator[Site]:
    async with site(directory, key_file=write(directory / "keys.yaml", entries), **more) as server:
        yield server


def infer(model: str = "copy") -> Any:
    message = m.ModelInferRequest(model_name=model)
    message.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    message.raw_input_contents.append(np.ones((1, 4), np.float32).tobytes())
    return message


OIP, PREDICTION, MODEL = m.GRPCInferenceService, t.PredictionService, t.ModelService


@on_loop
async def test_each_scope_lets_in_to_its_own_and_to_nothing_else(tmp_path: Path) -> None:
    asking = {
        "web": ("POST", "/v2/models/copy/infer", ROWS, OIP, "ModelInfer", infer()),
        "eyes": ("POST", "/v2/repository/index", b"", OIP, "RepositoryIndex", m.RepositoryIndexRequest()),
        "ops": ("POST", "/v2/repository/models/copy/load", b"", OIP, "RepositoryModelLoad",
                m.RepositoryModelLoadRequest(model_name="copy")),
    }  # fmt: skip
    async with keyed(tmp_path) as server:
        for owner, (method, path, body, service, name, message) in asking.items():
            for key in ("web", "eyes", "ops", "all"):
                mine = key in (owner, "all")
                answer = await server.ask(method, path, key, body)
                assert answer.status == (200 if mine else 403), (key, path, answer.body)
                code = await server.call(service, name, message, key)
                assert code is (Code.OK if mine else Code.PERMISSION_DENIED), (key, name)
                if not mine:
                    assert answer.error == server.error.details()
                    assert f"the key '{key}' has not the scope" in answer.error
        assert server.refused == {("http", "forbidden"): 6, ("grpc", "forbidden"): 6}


@on_loop
async def test_who_has_no_key_or_a_wrong_one_hears_how_to_send_it(tmp_path: Path) -> None:
    async with keyed(tmp_path) as server:
        for key, says in [
            (None, "a key is needed"),
            ("nobody", "the key is not known"),
            ("late", "'late' has expired"),
        ]:
            for method, path in [("GET", "/v2/models/copy"), ("GET", "/v1/models/copy"), ("GET", "/serving/models")]:
                answer = await server.ask(method, path, key)
                assert answer.status == 401 and says in answer.error
                challenge = answer.headers["www-authenticate"]
                assert challenge.startswith('bearer realm="serving"')
                assert ("invalid_token" in challenge) is (key is not None)
            assert await server.call(OIP, "ModelInfer", infer(), key) is Code.UNAUTHENTICATED
            assert says in str(server.error.details())
        assert server.refused == {("http", "unauthenticated"): 9, ("grpc", "unauthenticated"): 3}


@on_loop
async def test_health_needs_no_key(tmp_path: Path) -> None:
    async with keyed(tmp_path) as server:
        for path in ("/v2/health/live", "/v2/health/ready", "/docs"):
            assert (await server.ask("GET", path)).status == 200
            assert (await server.ask("GET", path, "nobody")).status == 200
        assert await server.call(OIP, "ServerLive", m.ServerLiveRequest()) is Code.OK
        assert await server.call(OIP, "ServerReady", m.ServerReadyRequest()) is Code.OK
        assert await server.call(h.Health, "Check", h.HealthCheckRequest()) is Code.OK
        assert (await server.ask("GET", "/v2/models/copy/ready")).status == 401
        assert server.refused == {("http", "unauthenticated"): 1}


@on_loop
async def test_the_ways_to_send_a_key(tmp_path: Path) -> None:
    async with keyed(tmp_path) as server:
        web = KEY["web"]
        for line in (f"Authorization: Bearer {web}", f"authorization: bearer {web}", f"X-Api-Key: {web}"):
            answer = await server.http.ask(request("GET", "/v2/models/copy", line))
            assert answer.status == 200, line
        for line in (f"Authorization: Basic {web}", f"Authorization: {web}", f"X-Api-Key: {web}x", "X-Api-Key:"):
            answer = await server.http.ask(request("GET", "/v2/models/copy", line))
            assert answer.status == 401, line
        call = server.channel.unary_unary(f"/{OIP.full_name}/ModelInfer", None, None)
        for metadata in ([("authorization", f"bearer {web}")], [("x-api-key", web)]):
            assert await call(infer().SerializeToString(), metadata=metadata)


@on_loop
async def test_a_body_is_not_waited_for(tmp_path: Path) -> None:
    async with keyed(tmp_path) as server:
        peer = await server.http.connect()
        await peer.send(b"POST /v2/models/copy/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n")
        answer = await peer.answer()
        assert answer.status == 401 and answer.headers["connection"] == "close"
        assert await peer.rest() == b""
    async with keyed(tmp_path) as server:
        peer = await server.http.connect()
        await peer.send(b"POST /v2/models/copy/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n")
        await peer.send(b"expect: 100-continue\r\n\r\n")
        assert (await peer.answer()).status == 401  # and no invitation to send it


@on_loop
async def test_a_small_body_is_dropped_and_the_connection_stays(tmp_path: Path) -> None:
    refused = request("POST", "/v2/models/copy/infer", body=ROWS)
    good = request("POST", "/v2/models/copy/infer", f"x-api-key: {KEY['web']}", body=ROWS)
    async with keyed(tmp_path) as server:
        peer = await server.http.connect()
        await peer.send(good + refused + good + refused)  # answered in the order in which they came
        assert [(await peer.answer()).status for _ in range(4)] == [200, 401, 200, 401]


@on_loop
async def test_a_message_is_not_waited_for(tmp_path: Path) -> None:
    async with keyed(tmp_path) as server:
        call = server.channel.stream_unary(f"/{OIP.full_name}/ModelInfer", None, None)()
        assert await call.code() is Code.UNAUTHENTICATED  # though nothing has been sent


@on_loop
async def test_a_rate_holds_over_both_protocols_together(tmp_path: Path) -> None:
    async with keyed(tmp_path) as server:
        assert (await server.ask("GET", "/v2/models/copy", "slow")).status == 200
        assert await server.call(OIP, "ModelInfer", infer(), "slow") is Code.OK
        answer = await server.ask("GET", "/v2/models/copy", "slow")
        assert answer.status == 429 and "0.5 times a second" in answer.error
        assert 1 <= int(answer.headers["retry-after"]) <= 2 and 0 < int(answer.headers["retry-after-ms"]) <= 2000
        assert await server.call(OIP, "ModelInfer", infer(), "slow") is Code.RESOURCE_EXHAUSTED
        pushback = dict(server.error.trailing_metadata())["grpc-retry-pushback-ms"]
        assert 0 < int(pushback) <= 2000
        assert (await server.ask("GET", "/v2/models/copy", "web")).status == 200  # others are not affected
        assert server.refused == {("http", "rate"): 1, ("grpc", "rate"): 1}


@on_loop
async def test_each_request_of_a_stream_counts(tmp_path: Path) -> None:
    async with keyed(tmp_path) as server:
        call = server.channel.stream_stream(f"/{OIP.full_name}/ModelStreamInfer", None, None)(
            metadata=[("x-api-key", KEY["slow"])]
        )
        for _ in range(2):
            await call.write(infer().SerializeToString())
            assert await call.read()
        await call.write(infer().SerializeToString())
        assert await call.code() is Code.RESOURCE_EXHAUSTED


@on_loop
async def test_a_key_for_some_models_is_for_no_others(tmp_path: Path) -> None:
    def spec(message: Any, model: str) -> Any:
        message.model_spec.name = model
        return message

    def allowed(answer: Answer) -> bool:
        assert answer.status != 403 or "the key 'one' is for 'copy', and not for" in answer.error
        return answer.status != 403

    async with keyed(tmp_path) as server:
        for model, mine in (("copy", True), ("other", False), ("none", False)):
            for method, path, body in [
                ("POST", f"/v2/models/{model}/infer", ROWS),
                ("GET", f"/v2/models/{model}", None),
                ("GET", f"/v2/models/{model}/stats", None),
                ("GET", f"/serving/models/{model}", None),
                ("POST", f"/v1/models/{model}:predict", b'{"instances":[[1,2,3,4]]}'),
                ("GET", f"/v1/models/{model}", None),
            ]:
                assert allowed(await server.ask(method, path, "one", body)) is mine, path
            for service, name, message in [
                (OIP, "ModelInfer", infer(model)),
                (OIP, "ModelMetadata", m.ModelMetadataRequest(name=model)),
                (OIP, "ModelStatistics", m.ModelStatisticsRequest(name=model)),
                (PREDICTION, "GetModelMetadata", spec(t.GetModelMetadataRequest(), model)),
                (MODEL, "GetModelStatus", spec(t.GetModelStatusRequest(), model)),
            ]:
                code = await server.call(service, name, message, "one")
                assert (code is not Code.PERMISSION_DENIED) is mine, name
        for path in ("/metrics", "/v2/models/stats", "/serving/models", "/serving/events", "/openapi.json"):
            answer = await server.ask("GET", path, "one")
            assert answer.status == 403 and "about all models" in answer.error
        assert await server.call(OIP, "RepositoryIndex", m.RepositoryIndexRequest(), "one") is Code.PERMISSION_DENIED
        assert await server.call(MODEL, "HandleReloadConfigRequest", t.ReloadConfigRequest(), "one") is (
            Code.PERMISSION_DENIED
        )
        assert (await server.ask("GET", "/v2", "one")).status == 200


@on_loop
async def test_a_compressed_message_is_looked_into(tmp_path: Path) -> None:
    async with keyed(tmp_path) as server:
        call = server.channel.unary_unary(f"/{OIP.full_name}/ModelInfer", None, None)
        for model, mine in (("copy", True), ("other", False)):
            asked = call(
                infer(model).SerializeToString(),
                metadata=[("x-api-key", KEY["one"])],
                compression=grpc.Compression.Gzip,
            )
            assert await asked.code() is (Code.OK if mine else Code.PERMISSION_DENIED)


@on_loop
async def test_a_stream_ends_at_a_model_that_the_key_is_not_for(tmp_path: Path) -> None:
    async with keyed(tmp_path) as server:
        call = server.channel.stream_stream(f"/{OIP.full_name}/ModelStreamInfer", None, None)(
            metadata=[("x-api-key", KEY["one"])]
        )
        await call.write(infer("copy").SerializeToString())
        assert not m.ModelStreamInferResponse.FromString(await call.read()).error_message
        await call.write(infer("other").SerializeToString())
        assert await call.code() is Code.PERMISSION_DENIED


@on_loop
async def test_settings_may_be_looked_at_with_one_key_and_changed_with_another(tmp_path: Path) -> None:
    async with keyed(tmp_path) as server:
        for name in ("TraceSetting", "LogSettings"):
            look, change = getattr(m, f"{name}Request")(), getattr(m, f"{name}Request")()
            _ = change.settings["log_info"]
            for key, looks, changes in (("eyes", True, False), ("ops", False, True), ("web", False, False)):
                for message, mine in ((look, looks), (change, changes)):
                    code = await server.call(OIP, name, message, key)
                    assert (code is not Code.PERMISSION_DENIED) is mine, (key, name)


@on_loop
async def test_changes_are_noted_with_the_name_of_the_key(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "serving.transport.access")
    async with keyed(tmp_path) as server:
        await server.ask("POST", "/v2/repository/models/copy/load", "ops", b"")
        await server.call(OIP, "RepositoryModelLoad", m.RepositoryModelLoadRequest(model_name="copy"), "ops")
        await server.ask("POST", "/v2/models/copy/infer", "web", ROWS)
    assert [line.message for line in caplog.records if line.name.startswith("serving.transport.access")] == [
        "key 'ops': POST /v2/repository/models/copy/load",
        f"key 'ops': /{OIP.full_name}/RepositoryModelLoad",
    ]
    assert not any(key in caplog.text for key in KEY.values())


@on_loop
async def test_keys_are_read_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = write(tmp_path / "keys.yaml", [entry("web", INFER)])
    async with site(tmp_path, key_file=file) as server:

        async def status(key: str) -> int:
            return (await server.ask("GET", "/v2/models/copy", key)).status

        assert (await status("web"), await status("all")) == (200, 401)
        write(file, [entry("all", INFER)])
        while await status("all") != 200:  # noqa: ASYNC110  (what is waited for sets no event)
            await asyncio.sleep(0.05)
        assert await status("web") == 401  # it is not there any more
        file.write_text("keys: [")
        await until(lambda: "what was there before stays" in caplog.text)
        assert "not valid YAML" in caplog.text
        assert await status("all") == 200


# An address for management


@on_loop
async def test_management_of_its_own_leaves_inference_alone(tmp_path: Path) -> None:
    async with site(tmp_path, separate=True) as main:
        assert (await main.ask("POST", "/v2/models/copy/infer", None, ROWS)).status == 200
        assert (await main.ask("GET", "/v2/health/ready")).status == 200
        assert await main.call(OIP, "ModelInfer", infer()) is Code.OK
        for method, path in [
            ("GET", "/metrics"),
            ("GET", "/serving/models"),
            ("POST", "/serving/models/copy/unload"),
            ("POST", "/v2/repository/index"),
            ("POST", "/v2/repository/models/copy/unload"),
            ("GET", "/v2/models/copy/stats"),
            ("GET", "/v1/models/copy"),
            ("GET", "/nothing"),
        ]:
            answer = await main.ask(method, path)
            assert answer.status == 403 and "(--manage-port)" in answer.error, path
        for service, name, message in [
            (OIP, "RepositoryModelUnload", m.RepositoryModelUnloadRequest(model_name="copy")),
            (OIP, "RepositoryIndex", m.RepositoryIndexRequest()),
            (MODEL, "HandleReloadConfigRequest", t.ReloadConfigRequest()),
        ]:
            assert await main.call(service, name, message) is Code.PERMISSION_DENIED
            assert "(--manage-port)" in str(main.error.details())
        assert main.refused == {("http", "forbidden"): 8, ("grpc", "forbidden"): 3}


@on_loop
async def test_its_address_answers_all_and_asks_for_keys_too(tmp_path: Path) -> None:
    async with site(tmp_path, management=True, separate=True) as management:
        assert (await management.ask("GET", "/metrics")).status == 200
        assert (await management.ask("POST", "/v2/repository/index", None, b"")).status == 200
        assert await management.call(OIP, "RepositoryIndex", m.RepositoryIndexRequest()) is Code.OK
    async with keyed(tmp_path, management=True, separate=True) as management:
        assert (await management.ask("GET", "/metrics")).status == 401
        assert (await management.ask("GET", "/metrics", "eyes")).status == 200


# Pages of other origins


PAGE = "origin: https://page.example"


@on_loop
async def test_pages_may_read_what_they_are_allowed_to(tmp_path: Path) -> None:
    async with keyed(tmp_path, cors_origins=["https://page.example"]) as server:
        wants = ("access-control-request-method: POST", "access-control-request-headers: x-api-key,content-type")
        for path in ("/v2/models/copy/infer", "/v1/models/copy:predict"):
            asked = await server.ask("OPTIONS", path, None, None, PAGE, *wants)
            assert (asked.status, asked.body) == (204, b"")
            assert asked.headers["access-control-allow-origin"] == "https://page.example"
            assert asked.headers["access-control-allow-headers"] == "x-api-key,content-type"
            assert "post" in asked.headers["access-control-allow-methods"]
        for key, status in (("web", 200), (None, 401)):
            answer = await server.ask("POST", "/v2/models/copy/infer", key, ROWS, PAGE)
            assert answer.status == status
            assert answer.headers["access-control-allow-origin"] == "https://page.example"
            assert "retry-after" in answer.headers["access-control-expose-headers"]
            assert answer.headers["vary"] == "origin"


@on_loop
async def test_other_pages_may_not(tmp_path: Path) -> None:
    stranger = "origin: https://stranger.example"
    async with keyed(tmp_path, cors_origins=["https://page.example"]) as server:
        asked = await server.ask(
            "OPTIONS", "/v2/models/copy/infer", None, None, stranger, "access-control-request-method: POST"
        )
        assert asked.status == 401 and "access-control-allow-origin" not in asked.headers
        answer = await server.ask("POST", "/v2/models/copy/infer", "web", ROWS, stranger)
        assert answer.status == 200 and "access-control-allow-origin" not in answer.headers
        assert answer.headers["vary"] == "origin"
    async with site(tmp_path) as server:  # nobody may
        answer = await server.ask("POST", "/v2/models/copy/infer", None, ROWS, PAGE)
        assert not any(name.startswith("access-control") for name in answer.headers)
        asked = await server.ask("OPTIONS", "/v1/models/copy:predict", None, None, PAGE)
        assert (asked.status, asked.body) == (200, b"")  # as TensorFlow Serving has it


@on_loop
async def test_any_page(tmp_path: Path) -> None:
    async with site(tmp_path, cors_origins=["*"]) as server:
        answer = await server.ask("GET", "/v2/models/copy", None, None, "origin: null")
        assert answer.headers["access-control-allow-origin"] == "*" and "vary" not in answer.headers


# What an operator hears at the start


def test_nothing_to_guard_costs_nothing() -> None:
    async def app(*_: Any) -> None: ...

    doors = Doors(Protection())
    assert doors.http(app, management=False) | {"refused": None} == {
        "app": app, "admit": None, "tls": None, "refused": None,
    }  # fmt: skip
    assert doors.grpc(management=False) == {"door": None, "tls": None}


@pytest.mark.parametrize(
    ("host", "alone"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("0.0.0.0", False),
     ("::", False), ("10.0.0.1", False), ("example.org", False), ("", False)],
)  # fmt: skip
def test_which_addresses_others_can_reach(host: str, alone: bool) -> None:
    assert is_loopback(host) is alone
    said = Doors(Protection()).exposed(host)
    assert said is None if alone else said is not None and "no keys" in said and "\n" not in said


@on_loop
async def test_a_certificate_that_has_expired_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    issued = Authority(tmp_path).issue(ends=YESTERDAY)
    doors = Doors(Protection(tls=TlsFiles(issued.certificate, issued.key)))
    assert doors.certificate_expiry == YESTERDAY.timestamp()
    following = asyncio.create_task(doors.follow())
    await until(lambda: "has expired at" in caplog.text)
    following.cancel()


def test_keys_without_tls_can_be_read() -> None:
    doors = Doors(Protection(key="srv_0123456789abcdef"))
    assert "no TLS" in str(doors.exposed("0.0.0.0"))
    assert "no keys" not in str(doors.exposed("0.0.0.0"))


# Pages that ask for changes


@on_loop
async def test_a_page_of_another_origin_changes_nothing_unless_it_may(tmp_path: Path) -> None:
    change = ("POST", "/serving/models/copy/load", None, b"{}")
    async with site(tmp_path) as server:
        for origin in ("https://evil.example", "http://test.evil.example", "null", "http://test:81"):
            answer = await server.ask(*change, f"origin: {origin}")
            assert answer.status == 403 and "--cors-origins" in answer.error
        assert (await server.ask(*change, "origin: http://test")).status == 200  # our own, as `request` names the host
        assert (await server.ask(*change)).status == 200  # no page at all
        assert (await server.ask("POST", "/v2/models/copy/infer", None, ROWS, PAGE)).status == 200
    for origins, status in ((["https://page.example"], 200), (["*"], 200), (["https://other.example"], 403)):
        async with site(tmp_path, cors_origins=origins) as server:
            assert (await server.ask(*change, PAGE)).status == status
