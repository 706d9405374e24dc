"""The table of TensorFlow's operators, against the registry of the TensorFlow that is installed."""

import re
from typing import Any

from tensorflow.core.framework import op_def_pb2
from tensorflow.python.client import pywrap_tf_session as registry

from serving.backends.safety import operators

# What an input or attribute is called that names something beyond the graph.
_NAMES = re.compile(
    r"file|path|prefix|dir$|directory|address|url|uri|pattern|region_name|logdir|graph_def|mlir|^module$|token$"
    r"|target_name|output_stream|data_source|debug_ops",
    re.IGNORECASE,
)
_KNOWN_BY_NAME = re.compile(r"Py(Func|thon)|^Rpc|Reader(V2)?$|^(Read|Write)File|^Abort$|Summary(File|Db)Writer")

# Looked at, and found to stay within the graph.
_HARMLESS = {
    **dict.fromkeys(("RegexFullMatch", "RegexReplace", "StaticRegexFullMatch", "StaticRegexReplace"), "of text"),
    **dict.fromkeys(("ShardedFilename", "ShardedFilespec"), "make a name, and touch no file"),
    **dict.fromkeys(("CTCBeamSearchDecoder", "CTCGreedyDecoder"), "paths through a lattice"),
    **dict.fromkeys(("SetStatsAggregatorDataset", "ExperimentalSetStatsAggregatorDataset"), "of a counter's name"),
    "TensorSliceDataset": "is_files is a hint for how it is divided",
    "CollectivePermute": "pairs of devices",
    "_XlaHostComputeMlir": "has no kernel without a TPU",
}


def _all() -> list[Any]:
    buffer = registry.TF_GetAllOpList()
    return list(op_def_pb2.OpList.FromString(registry.TF_GetBuffer(buffer)).op)


def _reaches_out(op: Any) -> bool:
    names = [each.name for each in (*op.input_arg, *op.attr)]
    return bool(_KNOWN_BY_NAME.search(op.name)) or any(map(_NAMES.search, names))


def test_every_operator_that_names_something_outside_was_looked_at() -> None:
    known = {
        *operators.REFUSED,
        *operators.REFUSED_WITH,
        *operators.RESTORES,
        *operators.SAVES,
        *operators.TABLES,
        *_HARMLESS,
    }
    unknown = sorted(op.name for op in _all() if _reaches_out(op) and op.name not in known and not _of_a_tpu(op.name))
    assert unknown == []


def _of_a_tpu(name: str) -> bool:
    """Their tokens and programs are numbers and keys of that device."""
    return bool(re.search(r"XlaSparse|SparseCore|Minibatch|BoostedTrees|^Collective.*V[23]$", name))


def test_the_table_has_no_operator_that_does_not_exist() -> None:
    """But for those of other builds: TensorRT's, and TPUs'."""
    there = {op.name for op in _all()}
    listed = {*operators.REFUSED, *operators.REFUSED_WITH, *operators.RESTORES, *operators.SAVES, *operators.TABLES}
    assert listed - there <= {"InitializeTRTResource", "TRTEngineOp"}


def test_the_inputs_that_are_said_to_name_a_file_do() -> None:
    inputs = {op.name: [each.name for each in op.input_arg] for op in _all()}
    for op, number in {**operators.RESTORES, **operators.TABLES}.items():
        assert inputs[op][number] in ("prefix", "file_pattern", "filename")


def test_groups_do_not_overlap() -> None:
    groups = (operators.REFUSED, operators.REFUSED_WITH, operators.RESTORES, operators.SAVES, operators.TABLES)
    assert sum(map(len, groups)) == len(set().union(*groups))
