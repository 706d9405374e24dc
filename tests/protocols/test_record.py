"""Which requests are noted, what of them, and their place in a trace."""

import asyncio
from collections.abc import Iterable

import pytest

from serving.core.errors import ErrorKind
from serving.core.types import InferRequest, InferResponse, Signature, Timing
from serving.engine import Times
from serving.protocols.record import (
    KEPT,
    MAX_ID,
    MAX_STATE,
    Record,
    Watch,
    acceptable,
    answered,
    begun,
    continued,
    current,
    failed,
    under_way,
)

TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"


@pytest.fixture(autouse=True)
def _nothing_before() -> Iterable[None]:
    token = current.set(None)
    yield
    current.reset(token)


def http(watch: Watch, **headers: str) -> Record | None:
    lines = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    return watch.http("POST", b"/v2", [(b"accept", b"*/*"), *lines], ("127.0.0.1", 5), 7)


# Which


def test_nobody_pays_for_what_nobody_wants() -> None:
    watch = Watch()
    assert not watch.on
    assert http(watch) is None
    assert http(watch, traceparent=PARENT) is None
    assert http(watch, x_request_id="no id\t") is None
    assert watch.grpc("/s/m", [("user-agent", "x"), ("x-request-id", b"binary")], lambda: "p") is None
    assert current.get() is None


def test_a_request_that_names_itself_is_noted() -> None:
    record = http(Watch(), x_request_id="a-1")
    assert record is not None and record is current.get() is under_way()
    assert (record.request_id, record.named, record.path, record.peer) == ("a-1", True, "/v2", "127.0.0.1:5")
    assert record.headers == [(b"x-request-id", b"a-1")] and record.received_bytes == 7
    call = Watch().grpc("/s/m", (("x-request-id", "b-2"),), lambda: "ipv4:1.2.3.4:5", 9)
    assert call is not None and (call.method, call.path, call.peer) == ("", "/s/m", "ipv4:1.2.3.4:5")
    assert call.metadata == (("x-request-id", "b-2"),)


def test_every_request_is_noted_if_they_are_logged() -> None:
    record = http(Watch(every=True))
    assert record is not None and (record.request_id, record.named, record.trace, record.headers) == (
        "",
        False,
        None,
        [],
    )


def test_keys_are_asked_for_by_name() -> None:
    for every in (True, False):
        watch = Watch(every=every)
        watch.key_of = lambda transport, said: f"{transport}-{len(list(said))}"
        record, call = http(watch, x_request_id="a"), watch.grpc("/s/m", (("x-request-id", "a"),), lambda: "p")
        assert record is not None and call is not None
        assert [record.key, call.key] == (["http-2", "grpc-1"] if every else ["", ""])


@pytest.mark.parametrize("sampled", [True, False])
def test_dice_decide_where_no_client_does(sampled: bool) -> None:
    watch = Watch(sample=lambda: sampled)
    assert watch.on
    own = http(watch)
    assert (own is not None) is sampled
    if own is not None:
        assert own.trace is not None and own.trace.sampled and not own.trace.parent_id
        assert own.headers == [(b"traceresponse", own.trace.header.encode())]
    for flags in ("01", "00"):
        theirs = http(watch, traceparent=f"{PARENT[:-2]}{flags}", tracestate="a=1")
        assert theirs is not None and theirs.trace is not None
        assert (theirs.trace.trace_id, theirs.trace.parent_id, theirs.trace.state) == (TRACE_ID, SPAN_ID, "a=1")
        assert theirs.trace.sampled is (flags == "01")
        assert theirs.metadata == (("traceresponse", theirs.trace.header),)


def test_states_of_several_lines_are_one() -> None:
    lines = [(b"tracestate", b"a=1"), (b"traceparent", PARENT.encode()), (b"tracestate", b"b=2")]
    record = Watch(sample=lambda: False).http("GET", b"/", lines, None, 0)
    assert record is not None and record.trace is not None and record.trace.state == "a=1,b=2"


# Traces


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "nonsense",
        PARENT.upper(),
        PARENT + "-more",  # not in version 00
        PARENT.replace("00-", "ff-", 1),
        f"00-{'0' * 32}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"00-{TRACE_ID}-{SPAN_ID}-1",
    ],
)
def test_a_malformed_parent_is_none(parent: str) -> None:
    assert continued(parent, "") is None


def test_versions_to_come_may_say_more() -> None:
    trace = continued(PARENT.replace("00-", "cc-", 1) + "-more", "")
    assert trace is not None and trace.header.startswith(f"00-{TRACE_ID}-") and trace.header.endswith("-01")


def test_a_state_is_bounded() -> None:
    for state, kept in (("k" * MAX_STATE, True), ("k" * (MAX_STATE + 1), False), ("Zürich", False)):
        trace = continued(PARENT, state)
        assert trace is not None and (trace.state == state) is kept


def test_ids_are_whole_and_differ() -> None:
    one, other = begun(), begun()
    assert len(one.trace_id) == 32 and len(one.span_id) == 16
    assert one.trace_id != other.trace_id and one.span_id != other.span_id
    assert continued(one.header, "") is not None


# What


@pytest.mark.parametrize(
    ("text", "fine"), [("a" * MAX_ID, True), ("a" * (MAX_ID + 1), False), ("", False), ("a b", False)]
)
def test_ids_that_count(text: str, fine: bool) -> None:
    assert (acceptable(text) == text) is (fine or not text)
    assert bool(acceptable(text)) is fine


def answer(request_id: str = "") -> None:
    request = InferRequest("m", {}, id=request_id)
    answered(
        "oip_rest", request, InferResponse("m", 3, {}, Signature({}, {}), timing=Timing(rows=2)), Times(1, 2, 3, 4)
    )


def test_inferences_are_added_to_the_request_under_way() -> None:
    answer()
    failed("oip_rest", "m", "1", ErrorKind.INVALID, "", 0.0)  # neither of these is noted, and neither fails
    record = http(Watch(every=True))
    assert record is not None
    answer("own-id")
    failed("oip_rest", "m", "", ErrorKind.NOT_FOUND, "another", 0.5)
    ok, bad = record.inferences
    assert (ok.model, ok.version, ok.outcome, ok.began, ok.ended) == ("m", "3", "ok", 1, 4)
    assert ok.timing is not None and ok.timing.rows == 2
    assert (bad.version, bad.outcome, bad.timing) == ("", "not_found", None) and bad.ended > bad.began
    assert record.request_id == "own-id" and not record.named  # the answer says it in its own way


def test_a_stream_is_bounded() -> None:
    record = http(Watch(every=True))
    assert record is not None
    for _ in range(KEPT + 5):
        answer()
    assert (len(record.inferences), record.more) == (KEPT, 5)


def test_each_task_has_its_own() -> None:
    async def request(watch: Watch, name: str) -> str:
        record = http(watch, x_request_id=name)
        await asyncio.sleep(0)
        assert record is not None and under_way() is record
        return record.request_id

    async def main() -> list[str]:
        return await asyncio.gather(*(asyncio.create_task(request(Watch(), str(n))) for n in range(5)))

    assert asyncio.run(main()) == list("01234")


def test_what_goes_on_after_the_answer_is_not_of_the_request() -> None:
    given: list[Record] = []
    watch = Watch(every=True, sinks=[given.append, given.append])
    record = http(watch)
    assert record is not None
    watch.end(record)
    assert given == [record, record] and record.ended > record.began
    assert under_way() is None
