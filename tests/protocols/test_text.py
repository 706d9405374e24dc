"""Protobuf's text form: what was said, where, and what nobody knows."""

from contextlib import suppress
from typing import Any

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from serving.protocols.messages import oip, tfs
from serving.protocols.text import Parsed, TextError, parse


def read(text: str) -> Parsed:
    return parse(text, oip.ModelConfig())


def test_every_way_to_write() -> None:
    parsed = read(
        """# a comment with name: "wrong" and { brackets
name: "a" 'b' ; platform: 'it\\'s { not } # one'
max_batch_size : 8,
input [ { name: "x" dims: [ 1, -1 ] }, <name: "y" dims: 3 dims: 4> ]
instance_group: { kind: KIND_CPU gpus: [0, 1] }
parameters { key: "k" value { string_value: "v" } }
version_policy { specific { versions: [] } }
"""
    )
    message = parsed.message
    assert (message.name, message.platform, message.max_batch_size) == ("ab", "it's { not } # one", 8)
    assert [list(tensor.dims) for tensor in message.input] == [[1, -1], [3, 4]]
    assert parsed.unknown == ()
    assert parsed.lines == {
        "name": 2,
        "platform": 2,
        "max_batch_size": 3,
        "input": 4,
        "input.name": 4,
        "input.dims": 4,
        "instance_group": 5,
        "instance_group.kind": 5,
        "instance_group.gpus": 5,
        "parameters": 6,
        "parameters.key": 6,
        "parameters.value": 6,
        "parameters.value.string_value": 6,
        "version_policy": 7,
        "version_policy.specific": 7,
        "version_policy.specific.versions": 7,
    }
    assert parsed.line("input.data_type") == 4  # of what it is in
    assert parsed.line("output") is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("zzz: 1", ["line 1: unknown field 'zzz'"]),
        ("\nmax_batch_siez: 1", ["line 2: unknown field 'max_batch_siez'; did you mean 'max_batch_size'?"]),
        ("zzz { name: 3 max_batch_size: {} }", ["line 1: unknown field 'zzz'"]),
        ("zzz: [ {a: 1}, {b: KIND_X} ]\nname: 'm'", ["line 1: unknown field 'zzz'"]),
        ("zzz [ { a: 1 }, <b { c: [1, 2] }> ], name: 'm'", ["line 1: unknown field 'zzz'"]),
        ("name: 'm', zzz: 1, yyy: 2; max_batch_size: 3",
         ["line 1: unknown field 'zzz'", "line 1: unknown field 'yyy'"]),
        ("zzz { [a.b/c] { d: 1 } } name: 'm'", ["line 1: unknown field 'zzz'"]),
        ("zzz: -inf more: nan name: 'm'", ["line 1: unknown field 'zzz'", "line 1: unknown field 'more'"]),
        ("zzz: 'a'\n'b' name: 'm'", ["line 1: unknown field 'zzz'"]),
        ("zzz: KIND_X name: 'm'", ["line 1: unknown field 'zzz'"]),
        ("input {\n  name: 'x'\n  dimes: [1]\n}", ["line 3: unknown field 'input.dimes'; did you mean 'dims'?"]),
        ("input [{dims: 1},\n{reshap { shape: [1] }}]",
         ["line 2: unknown field 'input.reshap'; did you mean 'reshape'?"]),
        ("dynamic_batching: <zzz: true> zzz < >",
         ["line 1: unknown field 'dynamic_batching.zzz'", "line 1: unknown field 'zzz'"]),
    ],
)  # fmt: skip
def test_unknown_fields_are_named(text: str, told: list[str]) -> None:
    parsed = read(text)
    assert list(parsed.unknown) == told
    assert ("name: 'm'" in text) == (parsed.message.name == "m")  # the rest of the text counts


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("max_batch_size: x", "1:17: 'max_batch_size: x': Couldn't parse integer: x"),
        ("\n  input { data_type: TYPE_FP99 }", "2:22: "),
        ("name: 'a'\nname: 'b'", "2:7: "),
        ("input {", "1:7: "),
        ("dynamic_batching { } sequence_batching { }", "1:22: "),
        ("name: 'a", "1:7: "),
        ("zzz", "1:1: "),
        ("name: 'm' zzz {", "1:11: "),
        ("zzz: [1, 2", "1:1: "),
        ("zzz 3", "1:1: "),
        ("zzz: ]", "1:1: "),
        ("}", "1:1: "),
        ("\x00", "1:"),
        ("a {" * 10_000, "1:1: nested too deeply"),
        ("x" * 10_000, "1:"),
        ("name: '\\xff'", "1:"),
    ],
    ids=range(16),
)
def test_what_is_no_text_form(text: str, told: str) -> None:
    with pytest.raises(TextError) as error:
        read(text)
    assert str(error.value).startswith(told)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_the_names_of_types_inside_any() -> None:
    text = "custom_model_config { [type.googleapis.com/tensorflow.serving.ModelConfig] { name: 'x' } }"
    parsed = parse(text, tfs.ModelServerConfig())
    assert parsed.message.WhichOneof("config") == "custom_model_config" and parsed.unknown == ()


SCALARS: dict[int, st.SearchStrategy[Any]] = {
    1: st.floats(), 2: st.floats(width=32), 3: st.integers(-(2**63), 2**63 - 1), 4: st.integers(0, 2**64 - 1),
    5: st.integers(-(2**31), 2**31 - 1), 8: st.booleans(), 9: st.text(max_size=8), 13: st.integers(0, 2**32 - 1),
}  # fmt: skip


@st.composite
def configs(draw: st.DrawFn, descriptor: Any = oip.ModelConfig.DESCRIPTOR, depth: int = 0) -> dict[str, Any]:
    """Fields of a message of any content, for its constructor."""
    fields = {}
    names = sorted(descriptor.fields_by_name)
    chosen = draw(st.lists(st.sampled_from(names), max_size=4, unique=True)) if names else []
    for name in chosen:
        field = descriptor.fields_by_name[name]
        if field.containing_oneof and any(other.name in fields for other in field.containing_oneof.fields):
            continue
        if field.message_type and field.message_type.GetOptions().map_entry:
            value = field.message_type.fields_by_name["value"]
            if value.message_type is None and field.message_type.fields_by_name["key"].type == 9:
                fields[name] = draw(st.dictionaries(SCALARS[9], SCALARS[value.type], max_size=2))
        elif field.message_type:
            if depth < 3:
                inner = configs(field.message_type, depth + 1)
                fields[name] = draw(st.lists(inner, max_size=2) if field.is_repeated else inner)
        else:
            scalar = st.sampled_from([v.number for v in field.enum_type.values]) if field.enum_type else (
                SCALARS[field.type])  # fmt: skip
            fields[name] = draw(st.lists(scalar, max_size=2) if field.is_repeated else scalar)
    return fields


def paths(message: Any, prefix: str = "") -> set[str]:
    found = set()
    for field, value in message.ListFields():
        path = prefix + field.name
        found.add(path)
        is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
        if field.message_type is not None and not is_map:
            for each in value if field.is_repeated else (value,):
                found |= paths(each, f"{path}.")
    return found


@given(configs(), st.booleans(), st.booleans())
def test_whatever_is_written_is_read_and_found(fields: dict[str, Any], one_line: bool, pointed: bool) -> None:
    message = oip.ModelConfig(**fields)
    text = text_format.MessageToString(message, as_one_line=one_line, pointy_brackets=pointed)
    parsed = read(text)
    assert text_format.MessageToString(parsed.message) == text_format.MessageToString(message)
    assert parsed.unknown == ()
    assert {path for path in parsed.lines if not path.endswith((".key", ".value"))} == paths(message)


WORDS = st.sampled_from([
    "name", "input", "dims", "max_batch_size", "version_policy", "specific", "kind", "KIND_CPU", "x", "true", "inf",
    ":", "{", "}", "<", ">", "[", "]", ",", ";", "-", "1", "1.5", "'a'", '"', "'", "#", "\n", "\\", "/", "\x00", "é",
])  # fmt: skip


@given(st.text(max_size=60) | st.lists(WORDS, max_size=30).map(" ".join))
def test_whatever_comes_is_read_or_refused(text: str) -> None:
    with suppress(TextError):
        parsed = read(text)
        assert all(1 <= line <= text.count("\n") + 1 for line in parsed.lines.values())
