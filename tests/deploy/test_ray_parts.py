"""The parts of the Ray application that need no Ray: what is around the server in a replica and in Ray's proxies."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from deploy.ray.calls import Calls, StreamError, one
from deploy.ray.front import Front
from deploy.ray.metrics import PIECE_BYTES, Pieces, merged, scraped
from deploy.ray.proxy import LOST, METHOD, REMAINING_S, Answered, add_services
from deploy.ray.shared import OneOfMany, Slot
from serving.config import Settings
from serving.core.errors import ErrorKind, ServingError
from serving.protocols import messages as m
from serving.protocols.grpc import Call
from serving.protocols.status import Family
from serving.server import Parts, Server

MODELS = ("echo", "other")


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("repo")
    for name in MODELS:
        (root / name / "1").mkdir(parents=True)
        tensor = {"input": "x", "output": "y", "datatype": "FP32", "shape": [-1, 2]}
        (root / name / "1/identity.yaml").write_text(json.dumps({"tensors": [tensor]}))
    return root


def replica(repo: Path, use: Callable[[Parts], Coroutine[Any, Any, Any]]) -> Any:
    """What `use` returns of a server in this process, put together as a replica has it."""

    async def run() -> Any:
        server = Server(Settings(paths=(str(repo),), trial_load=False))
        async with server.embedded(OneOfMany(server.control)) as parts:
            assert parts.engine.ready
            result = await use(parts)
        assert not parts.engine.ready and not parts.engine.catalog.models["echo"].latest
        return result

    return asyncio.run(run())


# HTTP


class Sent:
    """The messages that an application sent."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    async def __call__(self, message: Any) -> None:
        self.messages.append(message)

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.messages[1:])

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.messages[0]["headers"])


def request(method: str, path: str) -> dict[str, Any]:
    return {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "headers": [],
        "query_string": b"",
    }


def receiving(*messages: Any) -> Callable[[], Coroutine[Any, Any, Any]]:
    left = list(messages)

    async def receive() -> Any:
        return left.pop(0) if left else {"type": "http.disconnect"}

    return receive


def parts_of(body: bytes, size: int) -> list[Any]:
    cut = [body[start : start + size] for start in range(0, len(body), size)]
    return [{"type": "http.request", "body": part, "more_body": part is not cut[-1]} for part in cut]


async def no_metrics() -> bytes:
    return b"of all"


def front(app: Any, max_body_bytes: int = 1000) -> Front:
    return Front(app, max_body_bytes, no_metrics, frozenset(("/metrics",)))


def test_a_body_in_parts_is_read_whole_and_answered_by_the_server(repo: Path) -> None:
    body = json.dumps({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}).encode()

    async def use(parts: Parts) -> Sent:
        sent = Sent()
        await front(parts.app)(request("POST", "/v2/models/echo/infer"), receiving(*parts_of(body, 7)), sent)
        return sent

    sent = replica(repo, use)
    assert sent.status == 200
    assert json.loads(sent.body)["outputs"][0]["data"] == [1, 2]


def test_a_body_over_the_limit_is_refused_before_it_is_there() -> None:
    reached = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope)

    sent, receive = Sent(), receiving(*parts_of(bytes(5000), 300))
    asyncio.run(front(app)(request("POST", "/v2/models/echo/infer"), receive, sent))
    assert (sent.status, reached) == (400, [])
    assert "1000 bytes" in json.loads(sent.body)["error"]
    assert asyncio.run(receive())["type"] == "http.request"  # the rest was never asked for


def test_a_body_of_just_the_limit_is_taken() -> None:
    async def app(_scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        assert not message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"%d" % len(message["body"])})

    sent = Sent()
    asyncio.run(front(app)(request("POST", "/"), receiving(*parts_of(bytes(1000), 250)), sent))
    assert sent.body == b"1000"


def test_a_client_that_leaves_before_its_body_is_there_gets_nothing() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("reached")

    sent = Sent()
    asyncio.run(front(app)(request("POST", "/"), receiving(parts_of(bytes(10), 5)[0]), sent))
    assert sent.messages == []


def test_an_unforeseen_error_is_answered_with_500(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("secret")

    sent = Sent()
    asyncio.run(front(app)(request("POST", "/v2/x"), receiving(*parts_of(b"1", 1)), sent))
    assert sent.status == 500 and b"secret" not in sent.body
    assert "POST /v2/x failed" in caplog.text


def test_metrics_are_those_of_all_replicas() -> None:
    sent = Sent()
    asyncio.run(front(None)(request("GET", "/metrics"), receiving(), sent))
    assert (sent.status, sent.body) == (200, b"of all")


def with_key(
    repo: Path, method: str, path: str, *headers: tuple[bytes, bytes], key: str = "a-key-of-a-test-alone"
) -> Sent:
    """What a replica with this one key answers."""

    async def run() -> Sent:
        server = Server(Settings(paths=(str(repo),), trial_load=False, api_key=SecretStr(key)))
        async with server.embedded(OneOfMany(server.control)) as parts:
            door = parts.doors.http(parts.app, management=False)
            made = Front(door["app"], 1000, no_metrics, frozenset(("/metrics",)), door["admit"])
            sent = Sent()
            empty = {"type": "http.request", "body": b"", "more_body": False}
            await made({**request(method, path), "headers": list(headers)}, receiving(empty), sent)
            return sent

    return asyncio.run(run())


@pytest.mark.parametrize("path", ["/v2/models/echo", "/v1/models/echo", "/metrics", "/serving/models"])
def test_keys_are_asked_for_over_http(repo: Path, path: str) -> None:
    assert with_key(repo, "GET", path).status == 401
    assert with_key(repo, "GET", path, (b"authorization", b"Bearer wrong")).status == 401
    assert with_key(repo, "GET", path, (b"authorization", b"Bearer a-key-of-a-test-alone")).status == 200
    assert with_key(repo, "GET", "/v2/health/ready").status == 200


CHANGES = {
    "/v2/repository/models/echo/load": b"",
    "/v2/repository/models/echo/unload": b"",
    "/serving/models/echo/load": b"{}",
    "/serving/models/echo/unload": b"{}",
    "/serving/models/echo/promote": b"{}",
    "/serving/models/echo/rollback": b"{}",
    "/serving/models/echo/labels": b'{"label":"a","version":1}',
    "/serving/models/echo/traffic": b'{"weights":{"1":1}}',
    "/v2/logging": b'{"log_info":false}',
}


@pytest.mark.parametrize(("path", "body"), CHANGES.items(), ids=list(CHANGES))
def test_no_client_changes_one_of_many_replicas(repo: Path, path: str, body: bytes) -> None:
    async def use(parts: Parts) -> Sent:
        sent = Sent()
        receive = receiving({"type": "http.request", "body": body, "more_body": False})
        await front(parts.app)(request("POST", path), receive, sent)
        assert parts.engine.ready
        return sent

    sent = replica(repo, use)
    assert sent.status == 403, sent.body
    assert "replicas" in str(sent.body) or path == "/v2/logging"


def test_a_refused_log_setting_is_not_shown_as_set(repo: Path) -> None:
    async def use(parts: Parts) -> bytes:
        change = {"type": "http.request", "body": b'{"log_info":false}', "more_body": False}
        await front(parts.app)(request("POST", "/v2/logging"), receiving(change), Sent())
        sent = Sent()
        empty = {"type": "http.request", "body": b"", "more_body": False}
        await front(parts.app)(request("GET", "/v2/logging"), receiving(empty), sent)
        return sent.body

    assert json.loads(replica(repo, use))["log_info"] is True


# gRPC


class Context:
    """What Ray hands to a replica of a call."""

    def __init__(self, path: str, *more: tuple[str, str]) -> None:
        self._sent = [("user-agent", "test"), *more, (METHOD, path)]
        self.code: Any = None
        self.details = ""
        self.trailing: list[tuple[str, str]] = []

    def invocation_metadata(self) -> list[tuple[str, str]]:
        return self._sent

    def set_code(self, code: grpc.StatusCode) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details

    def set_trailing_metadata(self, metadata: list[tuple[str, str]]) -> None:
        self.trailing = metadata


INFER = "/inference.GRPCInferenceService/ModelInfer"


def infer_request(model: str = "echo") -> bytes:
    made = m.oip.ModelInferRequest(model_name=model)
    made.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    made.raw_input_contents.append(bytes(8))
    data: bytes = made.SerializeToString()
    return data


def test_a_call_is_answered_by_the_method_that_its_metadata_name(repo: Path) -> None:
    async def use(parts: Parts) -> tuple[bytes, Context]:
        context = Context(INFER, ("x-serving-timing", "1"))
        return (await Calls(parts.services).unary(infer_request(), context)).SerializeToString(), context

    data, context = replica(repo, use)
    assert m.oip.ModelInferResponse.FromString(data).raw_output_contents[0] == bytes(8)
    assert context.code is None
    assert [key for key, _ in context.trailing] == ["server-timing"]


def test_a_refusal_leaves_its_status_in_the_context(repo: Path) -> None:
    async def use(parts: Parts) -> Context:
        context = Context(INFER)
        assert (await Calls(parts.services).unary(infer_request("none"), context)).data == b""
        return context

    context = replica(repo, use)
    assert context.code is grpc.StatusCode.NOT_FOUND and "none" in context.details


def test_a_method_that_nobody_has_is_unimplemented() -> None:
    context = Context("/a.B/C")
    asyncio.run(Calls([]).unary(b"", context))
    assert context.code is grpc.StatusCode.UNIMPLEMENTED


def test_keys_are_asked_for_over_grpc(repo: Path) -> None:
    async def run(*metadata: tuple[str, str]) -> tuple[Any, Any]:
        server = Server(Settings(paths=(str(repo),), trial_load=False, api_key=SecretStr("a-key-of-a-test-alone")))
        async with server.embedded(OneOfMany(server.control)) as parts:
            calls = Calls(parts.services, parts.doors.grpc(management=False)["door"])
            unary, stream = (
                Context(INFER, *metadata),
                Context("/inference.GRPCInferenceService/ModelStreamInfer", *metadata),
            )
            await calls.unary(infer_request(), unary)
            try:
                async for _ in calls.stream(one(infer_request()), stream):
                    pass
            except StreamError:
                assert stream.code is not None
            return unary.code, stream.code

    assert asyncio.run(run()) == (grpc.StatusCode.UNAUTHENTICATED,) * 2
    assert asyncio.run(run(("authorization", "Bearer a-key-of-a-test-alone"))) == (None, None)


class Asked:
    """A service that keeps what it knew of its calls, and fails."""

    service = "a.B"
    family = Family.OIP

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.calls: list[Call] = []
        self.methods: dict[str, Any] = {"Ask": self.ask}
        self.streams: dict[str, Any] = {"Follow": self.follow}

    async def ask(self, data: bytes, call: Call) -> bytes:
        self.calls.append(call)
        raise self.error

    async def follow(self, requests: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        async for data in requests:
            yield data
        raise self.error


def test_the_time_that_is_left_becomes_a_deadline() -> None:
    service = Asked(ServingError(ErrorKind.QUEUE_FULL, "full", retry_after_s=0.25))
    context = Context("/a.B/Ask", (REMAINING_S, "1000000"), ("sticky", "me"))
    asyncio.run(Calls([service]).unary(b"", context))
    (call,) = service.calls
    assert call.deadline is not None and call.deadline > 1e6 - 60 and call.metadata["sticky"] == "me"
    assert (context.code, context.details) == (grpc.StatusCode.UNAVAILABLE, "full")
    assert context.trailing == [("grpc-retry-pushback-ms", "250")]


def test_an_unforeseen_error_of_a_call_is_internal_and_keeps_its_text(caplog: pytest.LogCaptureFixture) -> None:
    context = Context("/a.B/Ask")
    asyncio.run(Calls([Asked(ValueError("secret"))]).unary(b"", context))
    assert context.code is grpc.StatusCode.INTERNAL and "secret" not in context.details
    assert "secret" in caplog.text


def test_a_stream_gives_its_answers_and_then_its_error() -> None:
    context = Context("/a.B/Follow")
    answers = []

    async def use() -> None:
        service = Asked(ServingError(ErrorKind.UNAVAILABLE, "stopping"))
        async for message in Calls([service]).stream(one(b"given"), context):
            answers.append(message.SerializeToString())

    with pytest.raises(StreamError):
        asyncio.run(use())
    assert answers == [b"given"]
    assert (context.code, context.details) == (grpc.StatusCode.UNAVAILABLE, "stopping")


def test_reload_of_the_list_of_models_is_refused(repo: Path) -> None:
    request = m.tfs.ReloadConfigRequest()
    request.config.model_config_list.config.add(name="echo", base_path=str(repo / "echo"), model_platform="tensorflow")

    async def use(parts: Parts) -> Context:
        context = Context("/tensorflow.serving.ModelService/HandleReloadConfigRequest")
        await Calls(parts.services).unary(request.SerializeToString(), context)
        return context

    assert replica(repo, use).code is grpc.StatusCode.PERMISSION_DENIED


# In Ray's proxies


class Proxy:
    """What Ray does to the handlers of a service: it replaces each by one that calls the replica's method that the
    path ends with, `answer(way, context)` here."""

    def __init__(self, answer: Callable[[str, Any], Coroutine[Any, Any, bytes]]) -> None:
        self.answer = answer
        self.handler: Any = None

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        (self.handler,) = handlers
        self.handler._method_handlers = {
            path: self._replaced(handler, path.rpartition("/")[2])
            for path, handler in self.handler._method_handlers.items()
        }

    def _replaced(self, handler: Any, way: str) -> Any:
        async def unary(_request: Any, context: Any) -> bytes:
            return await self.answer(way, context)

        async def stream(_requests: Any, context: Any) -> AsyncIterator[bytes]:
            yield await self.answer(way, context)

        return handler._replace(
            response_serializer=None, unary_unary=unary, unary_stream=stream, stream_unary=unary, stream_stream=stream
        )


async def through(proxy: Proxy, use: Callable[[grpc.aio.Channel], Coroutine[Any, Any, Any]]) -> Any:
    """`use` of a channel to a gRPC server with our services in this proxy."""
    add_services(None, proxy)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((proxy.handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            return await use(channel)
    finally:
        await server.stop(None)


def test_a_proxy_tells_the_replica_which_method_is_called_and_how_long_it_may_take() -> None:
    seen: dict[str, dict[str, Any]] = {}

    async def answer(way: str, context: Any) -> bytes:
        seen[way] = dict(context.invocation_metadata())
        assert context.peer()  # the rest of the call is as it was
        return b"answer"

    async def use(channel: grpc.aio.Channel) -> None:
        forged = ((METHOD, "/forged"), ("key", "value"))
        assert await channel.unary_unary(INFER, None, None)(b"", timeout=50, metadata=forged) == b"answer"
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch", None, None)(b"")
        assert [data async for data in watch] == [b"answer"]
        reflect = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", None, None)
        assert [data async for data in reflect(iter([b""]))] == [b"answer"]

    asyncio.run(through(Proxy(answer), use))
    assert seen["unary"][METHOD] == INFER and seen["unary"]["key"] == "value"
    assert 0 < float(seen["unary"][REMAINING_S]) <= 50.2  # gRPC sends it in tenths of a second, rounded up
    assert seen["follow"][METHOD] == "/grpc.health.v1.Health/Watch" and REMAINING_S not in seen["follow"]
    assert seen["stream"][METHOD] == "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"


@pytest.mark.parametrize("answered", [True, False], ids=["by the replica", "by Ray"])
def test_internal_becomes_unavailable_where_no_replica_has_answered(answered: bool) -> None:
    async def answer(_way: str, context: Any) -> bytes:
        if answered:
            context.set_trailing_metadata([("request_id", "1")])
        context.set_code(grpc.StatusCode.INTERNAL)
        context.set_details("the actor died")
        return b""

    async def use(channel: grpc.aio.Channel) -> tuple[Any, Any]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(INFER, None, None)(b"")
        return caught.value.code(), caught.value.details()

    expected = (grpc.StatusCode.INTERNAL, "the actor died") if answered else (grpc.StatusCode.UNAVAILABLE, LOST)
    assert asyncio.run(through(Proxy(answer), use)) == expected


def test_a_proxy_knows_every_method_that_a_replica_has(repo: Path) -> None:
    async def use(parts: Parts) -> set[str]:
        return {f"/{s.service}/{name}" for s in parts.services for name in (*s.methods, *s.streams)}

    async def nobody(_way: str, _context: Any) -> bytes:
        return b""

    offered = replica(repo, use)
    proxy = Proxy(nobody)
    add_services(None, proxy)
    details = [type("Details", (), {"method": path})() for path in offered]
    assert len(offered) > 20
    assert not [one.method for one in details if proxy.handler.service(one) is None]
    assert proxy.handler.service(type("Details", (), {"method": "/a.B/C"})()) is None


@pytest.mark.parametrize("status", [None, 200, 500], ids=["none", "200", "500"])
def test_a_request_without_any_answer_may_be_sent_again(status: int | None) -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        if status is not None:
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    sent = Sent()
    asyncio.run(Answered(app)(request("POST", "/"), receiving(), sent))
    assert sent.status == (status or 503)
    if status is None:
        assert json.loads(sent.body) == {"error": LOST}
        assert sent.headers[b"retry-after"] == b"1"


# What replicas share


def test_metrics_of_replicas_are_one_scrape(repo: Path) -> None:
    async def use(parts: Parts) -> str:
        return parts.metrics_text().decode()

    one, two = replica(repo, use), replica(repo, use)
    families = list(text_string_to_metric_families(merged({"b": two, "a": one})))
    alone = list(text_string_to_metric_families(one))
    assert [family.name for family in families] == [family.name for family in alone]  # each once, and all
    samples = [sample for family in families for sample in family.samples]
    assert len(samples) == sum(
        len(list(family.samples)) for text in (one, two) for family in text_string_to_metric_families(text)
    )
    assert {sample.labels["replica"] for sample in samples} == {"a", "b"}
    ready = {s.labels["replica"]: s.value for s in samples if s.name == "serving_ready"}
    assert ready == {"a": 1, "b": 1}


def test_a_large_scrape_comes_in_pieces_and_stays_one_moment() -> None:
    """Random values do not compress; a second scrape begins between the pieces of the first."""
    count = 30_000
    texts = iter(range(1000))

    def text() -> bytes:
        random = np.random.default_rng(next(texts))
        lines = (f'x{{i="{i}"}} {value}' for i, value in enumerate(random.random(count)))
        return "\n".join(("# HELP x A.", "# TYPE x gauge", *lines, "")).encode()

    replicas = {"a": Pieces(text), "b": Pieces(text)}
    sizes: list[int] = []

    async def ask(scrape: str, number: int) -> list[tuple[str, bytes, int]]:
        if number == 1:
            replicas["a"].piece("another scrape", 0)
            replicas["c"] = Pieces(text)  # joins too late
        answers = [(name, *pieces.piece(scrape, number)) for name, pieces in replicas.items()]
        sizes.extend(len(piece) for _, piece, _ in answers)
        return answers

    samples = asyncio.run(scraped("one scrape", ask)).splitlines()[2:]
    assert len(sizes) > 4 and max(sizes) <= PIECE_BYTES
    assert len(samples) == 2 * count
    expected = next(iter(np.random.default_rng(0).random(1)))
    assert samples[0] == f'x{{replica="a",i="0"}} {expected}'


def test_a_replica_that_goes_away_during_a_scrape_is_left_out() -> None:
    stays = Pieces(lambda: b"# HELP x A.\n# TYPE x gauge\nx 1\n")
    goes = Pieces(lambda: bytes(np.random.default_rng(1).integers(0, 255, 3 * PIECE_BYTES, np.uint8)))

    async def ask(scrape: str, number: int) -> list[tuple[str, bytes, int]]:
        there = {"stays": stays, "goes": goes} if number == 0 else {"stays": stays}
        return [(name, *pieces.piece(scrape, number)) for name, pieces in there.items()]

    assert asyncio.run(scraped("s", ask)).splitlines()[2:] == ['x{replica="stays"} 1']


def test_scrapes_that_are_never_ended_are_forgotten() -> None:
    pieces = Pieces(lambda: bytes(np.random.default_rng(1).integers(0, 255, 3 * PIECE_BYTES, np.uint8)))
    for number in range(20):
        assert pieces.piece(str(number), 0)[1] == 4
    assert pieces.piece("0", 1) == (b"", 0)
    assert pieces.piece("19", 1)[1] == 4


def test_labels_are_added_to_samples_with_and_without_others() -> None:
    text = '# HELP x A number.\n# TYPE x gauge\nx 1\nx{a="}",b="c"} 2 1700000000\n'
    assert merged({"r": text}).splitlines()[2:] == ['x{replica="r"} 1', 'x{replica="r",a="}",b="c"} 2 1700000000']


def test_each_replica_of_a_node_has_a_cache_of_its_own_and_the_next_one_takes_it_over(tmp_path: Path) -> None:
    first, second = Slot(tmp_path), Slot(tmp_path)
    assert (first.directory.name, second.directory.name) == ("replica-0", "replica-1")
    first.close()
    third = Slot(tmp_path)
    assert third.directory == first.directory
    second.close()
    third.close()
