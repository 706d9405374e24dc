"""Trace and log settings: what may be changed, what that does, and the traces that are written."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from serving.core.errors import ErrorKind, ServingError
from serving.protocols.messages import oip as m
from serving.protocols.oip.settings import Logs, LogSettings, of_message, trace_change
from tests import models
from tests.batching.control import on_loop
from tests.protocols.build import refused
from tests.protocols.oip.management import Served, serving, value

DEFAULTS = {
    "trace_level": ["OFF"],
    "trace_rate": "1000",
    "trace_count": "-1",
    "log_frequency": "0",
    "trace_file": "",
    "trace_mode": "triton",
}


def body(**values: object) -> bytes:
    return json.dumps(values).encode()


def change(served: Served, model: str | None = None, **values: object) -> dict[str, Any]:
    """Changes trace settings over REST; the settings after that."""
    told: dict[str, Any] = value(served.rest.change_trace_settings(model, body(**values)))
    assert told == value(served.rest.trace_settings(model))
    return told


# Trace settings


@pytest.mark.parametrize(
    ("values", "meant"),
    [
        ({}, {}),
        ({"nosuch": 1}, {}),
        ({"trace_level": ["OFF"]}, {"level": "OFF"}),
        ({"trace_level": []}, {"level": "OFF"}),
        ({"trace_level": ["TIMESTAMPS"]}, {"level": "TIMESTAMPS"}),
        ({"trace_level": None}, {"level": None}),
        ({"trace_rate": "1", "trace_count": "-1"}, {"rate": 1, "count": -1}),
        ({"trace_rate": "0", "trace_count": "0", "log_frequency": "0"}, {"rate": 0, "count": 0, "log_frequency": 0}),
        ({"log_frequency": "9223372036854775807"}, {"log_frequency": 2**63 - 1}),
        ({"trace_rate": None, "log_frequency": None}, {"rate": None, "log_frequency": None}),
    ],
    ids=str,
)
def test_changes_that_are_taken(values: dict[str, Any], meant: dict[str, Any]) -> None:
    assert trace_change(values, has_file=True) == meant


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"trace_level": "OFF"}, "Unable to parse 'trace_level': expected an array of strings, got the string 'OFF'"),
        ({"trace_level": [1]}, "Unable to parse 'trace_level'"),
        ({"trace_level": ["TIMESTAMP"]}, "expected OFF, TIMESTAMPS, TENSORS, got the string 'TIMESTAMP'"),
        ({"trace_level": ["OFF", "TIMESTAMPS"]}, "Expect only one trace level 'OFF' is specified"),
        (
            {"trace_rate": 5},
            "attempt to access JSON non-string as string: expected a number as text, got the integer 5",
        ),
        ({"trace_rate": "x"}, "Unable to parse 'trace_rate', got: x"),
        ({"trace_rate": ""}, "Unable to parse 'trace_rate', got: "),
        ({"trace_rate": "-1"}, "Unable to parse 'trace_rate'. Expecting value >= 0, got:-1"),
        ({"trace_rate": "1.5"}, "Unable to parse 'trace_rate', got: 1.5"),
        ({"trace_rate": "१"}, "Unable to parse 'trace_rate'"),
        ({"trace_rate": "9223372036854775808"}, "Unable to parse 'trace_rate'"),
        ({"trace_rate": "1" * 5000}, "Unable to parse 'trace_rate'"),
        ({"trace_count": "-2"}, "Unable to parse 'trace_count'. Expecting value >= -1, got:-2"),
        ({"log_frequency": "-1"}, "Unable to parse 'log_frequency'. Expecting value >= 0, got:-1"),
    ],
    ids=lambda v: str(v)[:40],
)
def test_changes_that_are_refused(values: dict[str, Any], told: str) -> None:
    assert told in refused(lambda: trace_change(values, has_file=True))


def test_what_is_not_offered() -> None:
    assert "TENSORS is not supported" in refused(
        lambda: trace_change({"trace_level": ["TENSORS"]}, has_file=True), ErrorKind.UNSUPPORTED
    )
    for value_ in ("/etc/x", None):
        told = refused(partial(trace_change, {"trace_file": value_}, has_file=True), ErrorKind.UNSUPPORTED)
        assert told == "trace file location can not be updated through network protocol"


def test_without_a_file_nothing_can_be_traced() -> None:
    assert "started without --trace-file" in refused(lambda: trace_change({"trace_level": ["TIMESTAMPS"]}, False))
    assert trace_change({"trace_level": ["OFF"], "trace_rate": "5"}, False) == {"level": "OFF", "rate": 5}


@on_loop
async def test_settings_of_all_models_and_of_one(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        assert value(served.rest.trace_settings(None)) == value(served.rest.trace_settings("simple")) == DEFAULTS
        assert change(served, trace_rate="5") == DEFAULTS | {"trace_rate": "5"}
        assert change(served, "simple", trace_count="7") == DEFAULTS | {"trace_rate": "5", "trace_count": "7"}
        assert change(served, trace_rate="6", trace_count="8") == DEFAULTS | {"trace_rate": "6", "trace_count": "8"}
        assert value(served.rest.trace_settings("simple")) == DEFAULTS | {"trace_rate": "6", "trace_count": "7"}
        assert change(served, "simple", trace_count=None) == DEFAULTS | {"trace_rate": "6", "trace_count": "8"}
        assert change(served, trace_rate=None, trace_count=None) == DEFAULTS
        assert value(served.rest.trace_settings("simple")) == DEFAULTS


@on_loop
async def test_a_refused_change_changes_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        with pytest.raises(ServingError):
            served.rest.change_trace_settings(None, body(trace_rate="5", trace_count="x"))
        assert value(served.rest.trace_settings(None)) == DEFAULTS


@pytest.mark.parametrize("data", [b"", b"[]", b"1", b"{"])
@on_loop
async def test_a_change_is_an_object(tmp_path: Path, data: bytes) -> None:
    async with serving(tmp_path) as served:
        for call in (partial(served.rest.change_trace_settings, None), served.rest.change_log_settings):
            with pytest.raises(ServingError) as error:
                call(data)
            assert error.value.kind is ErrorKind.INVALID


@on_loop
async def test_settings_of_an_unknown_model(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        for call in (
            partial(served.rest.trace_settings, "nosuch"),
            partial(served.rest.change_trace_settings, "nosuch", b"{}"),
        ):
            with pytest.raises(ServingError, match=r"^Request for unknown model : nosuch$") as error:
                call()
            assert error.value.kind is ErrorKind.INVALID


@on_loop
async def test_trace_settings_over_grpc(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:

        async def ask(model: str = "", **settings: list[str]) -> dict[str, list[str]]:
            request = m.TraceSettingRequest(model_name=model)
            for name, values in settings.items():
                request.settings[name].value.extend(values)
                request.settings[name].SetInParent()
            answer = await served.call("TraceSetting", request)
            return {name: list(setting.value) for name, setting in answer.settings.items()}

        defaults = {name: [v] if isinstance(v, str) else v for name, v in DEFAULTS.items()}
        assert await ask() == defaults
        assert await ask("simple", trace_rate=["9"], trace_level=["OFF"]) == defaults | {"trace_rate": ["9"]}
        assert await ask() == defaults  # of all others
        assert await ask("simple", trace_rate=[]) == defaults
        with pytest.raises(ServingError, match="expect only 1 value for 'trace_rate', got 2"):
            await ask(trace_rate=["1", "2"])


def test_a_value_that_is_not_there_takes_a_setting_back() -> None:
    request = m.TraceSettingRequest()
    request.settings["trace_level"].SetInParent()
    request.settings["trace_rate"].value.append("3")
    assert of_message(request.settings) == {"trace_level": None, "trace_rate": "3"}


# Traces


def traces(path: Path) -> list[dict[str, Any]]:
    """The objects in a trace file, two for each request: what it was, and when."""
    found: list[dict[str, Any]] = json.loads(path.read_bytes())
    return found


@on_loop
async def test_when_nothing_is_traced_nobody_is_told(tmp_path: Path) -> None:
    async with serving(tmp_path, trace=tmp_path / "traces") as served:
        assert served.engine.observers == ()
        change(served, trace_level=["TIMESTAMPS"])
        assert len(served.engine.observers) == 1
        change(served, trace_rate="0")
        assert served.engine.observers == ()
        change(served, trace_rate="1", trace_count="0")
        assert served.engine.observers == ()
        change(served, "simple", trace_count="5")
        assert len(served.engine.observers) == 1
        change(served, "simple", trace_level=["OFF"])
        assert served.engine.observers == ()
    assert not (tmp_path / "traces").exists()


@on_loop
async def test_a_trace_tells_when_the_parts_of_a_request_began(tmp_path: Path) -> None:
    file = tmp_path / "traces.json"
    file.write_text("from before")
    async with serving(tmp_path / "repo", trace=file) as served:
        told = change(served, trace_level=["TIMESTAMPS"], trace_rate="1")
        assert told["trace_file"] == str(file)
        await served.infer(request_id="abc")
        request = m.ModelInferRequest(model_name="simple")
        for name in ("INPUT0", "INPUT1"):
            request.inputs.add(name=name, datatype="INT32", shape=[1, 16])
            request.raw_input_contents.append(bytes(64))
        await served.call("ModelInfer", request)
    rest, rest_times, grpc, grpc_times = traces(file)
    assert rest == {"id": 1, "model_name": "simple", "model_version": 1, "request_id": "abc"}
    assert grpc == {"id": 2, "model_name": "simple", "model_version": 1}
    for number, times, first, last in (
        (1, rest_times, "HTTP_RECV_END", "HTTP_SEND_START"),
        (2, grpc_times, "GRPC_WAITREAD_END", "GRPC_SEND_START"),
    ):
        assert times["id"] == number
        assert [t["name"] for t in times["timestamps"]] == [
            first,
            "REQUEST_START",
            "QUEUE_START",
            "COMPUTE_START",
            "COMPUTE_INPUT_END",
            "COMPUTE_OUTPUT_START",
            "COMPUTE_END",
            "REQUEST_END",
            last,
        ]
        moments = [t["ns"] for t in times["timestamps"]]
        assert moments == sorted(moments) and moments[-1] > moments[0] > 0


@on_loop
async def test_one_request_in_so_many_and_so_many_in_all(tmp_path: Path) -> None:
    file = tmp_path / "traces.json"
    async with serving(tmp_path / "repo", trace=file) as served:
        change(served, trace_level=["TIMESTAMPS"], trace_rate="3", trace_count="2")
        for n in range(1, 8):
            await served.infer(request_id=str(n))
        assert value(served.rest.trace_settings(None))["trace_count"] == "0"
        assert served.engine.observers == ()  # there is nothing left to trace
    assert [t["request_id"] for t in traces(file) if "request_id" in t] == ["3", "6"]


@on_loop
async def test_requests_that_are_refused_are_not_traced(tmp_path: Path) -> None:
    file = tmp_path / "traces.json"
    async with serving(tmp_path / "repo", trace=file) as served:
        change(served, trace_level=["TIMESTAMPS"], trace_rate="1")
        with pytest.raises(ServingError):
            await served.infer(rows=65)
        await served.infer(request_id="well")
    assert [t.get("request_id") for t in traces(file)] == ["well", None]


@on_loop
async def test_a_model_may_be_traced_alone(tmp_path: Path) -> None:
    file = tmp_path / "traces.json"
    models.save(models.add_sub(), tmp_path / "repo/simple/1/model.onnx")
    models.save(models.identity(), tmp_path / "repo/copy/1/model.onnx")
    async with serving(tmp_path / "repo", trace=file) as served:
        change(served, "copy", trace_level=["TIMESTAMPS"], trace_rate="1")
        await served.infer()
        x = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
        await served.rest.infer("copy", None, body(inputs=[x]))
        await served.infer()
    assert [t["model_name"] for t in traces(file) if "model_name" in t] == ["copy"]


@on_loop
async def test_files_of_so_many_traces(tmp_path: Path) -> None:
    file = tmp_path / "traces.json"
    async with serving(tmp_path / "repo", trace=file) as served:
        change(served, trace_level=["TIMESTAMPS"], trace_rate="1", log_frequency="2")
        for n in range(5):
            await served.infer(request_id=str(n))
    for number, expected in enumerate((["0", "1"], ["2", "3"], ["4"])):
        found = traces(tmp_path / f"traces.json.{number}")
        assert [t["request_id"] for t in found if "request_id" in t] == expected
    assert not file.exists()


@on_loop
async def test_the_file_is_whole_after_every_trace(tmp_path: Path) -> None:
    file = tmp_path / "traces.json"
    async with serving(tmp_path / "repo", trace=file) as served:
        change(served, trace_level=["TIMESTAMPS"], trace_rate="1")
        for n in range(1, 4):
            await served.infer()
            assert served.tracer._writer is not None
            served.tracer._writer.submit(int).result()  # after what was written before
            assert len(traces(file)) == 2 * n


@on_loop
async def test_a_file_that_cannot_be_written_harms_no_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(tmp_path / "repo", trace=tmp_path / "nosuch/traces.json") as served:
        change(served, trace_level=["TIMESTAMPS"], trace_rate="1")
        assert (await served.infer()).status == 200
    assert "a trace cannot be written: " in caplog.text


# Log settings

LOG_DEFAULTS = {
    "log_file": "",
    "log_info": True,
    "log_warning": True,
    "log_error": True,
    "log_verbose_level": 0,
    "log_format": "default",
}


@on_loop
async def test_log_settings_are_applied(tmp_path: Path) -> None:
    applied: list[LogSettings] = []
    async with serving(tmp_path, logs=Logs(LogSettings(), applied.append)) as served:
        assert value(served.rest.log_settings()) == LOG_DEFAULTS
        changed = {"log_info": False, "log_verbose_level": 2, "log_format": "ISO8601"}
        assert value(served.rest.change_log_settings(body(**changed, log_error=None, nosuch=[1]))) == {
            **LOG_DEFAULTS,
            **changed,
        }
        assert applied == [LogSettings(log_info=False, log_verbose_level=2, log_format="ISO8601")]
        assert value(served.rest.change_log_settings(b"{}")) == value(served.rest.log_settings())
        assert len(applied) == 1


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"log_info": 1}, "expect bool for 'log_info', got the integer 1"),
        ({"log_error": "true"}, "expect bool for 'log_error'"),
        ({"log_verbose_level": "1"}, "expect int32 for 'log_verbose_level', got the string '1'"),
        ({"log_verbose_level": True}, "expect int32 for 'log_verbose_level'"),
        ({"log_verbose_level": -1}, "expect int32 for 'log_verbose_level', 0 or more, got -1"),
        ({"log_verbose_level": 2**31}, "expect int32 for 'log_verbose_level'"),
        ({"log_format": 1}, "expect string for 'log_format'"),
        ({"log_format": "zzz"}, "invalid argument for --log_format, got: zzz"),
    ],
    ids=str,
)
def test_log_settings_that_are_refused(values: dict[str, Any], told: str) -> None:
    applied: list[LogSettings] = []
    logs = Logs(apply=applied.append)
    assert told in refused(lambda: logs.change({"log_warning": False} | values))
    assert logs.values() == LOG_DEFAULTS and applied == []


def test_the_log_file_is_not_for_clients() -> None:
    told = refused(lambda: Logs().change({"log_file": "/etc/x"}), ErrorKind.UNSUPPORTED)
    assert told == "log file location can not be updated through network protocol"


@on_loop
async def test_log_settings_over_grpc(tmp_path: Path) -> None:
    async with serving(tmp_path, logs=Logs()) as served:
        request = m.LogSettingsRequest()
        request.settings["log_info"].bool_param = False
        request.settings["log_verbose_level"].uint32_param = 1
        request.settings["log_format"].string_param = "ISO8601"
        answer = await served.call("LogSettings", request)
        told = {name: getattr(s, s.WhichOneof("parameter_choice")) for name, s in answer.settings.items()}
        changed = {"log_info": False, "log_verbose_level": 1, "log_format": "ISO8601"}
        assert told == LOG_DEFAULTS | changed == value(served.rest.log_settings())
        request.settings["log_verbose_level"].string_param = "x"
        with pytest.raises(ServingError, match="expect int32 for 'log_verbose_level'"):
            await served.call("LogSettings", request)
