"""What the graphs of a SavedModel would do besides computing, as its saved_model.pb says. Read without TensorFlow.

Looked at are all of its graphs, whatever their tags, and every function in their libraries, whether or not anything
calls it: an operator of `operators.REFUSED` is a problem wherever it is.

Some operators on files are in SavedModels that are good. They are judged by who can reach them, following the inputs of
nodes and the functions that nodes name, from each of these beginnings:

    signatures           may reach none of them
    the start operation  may fill lookup tables from a file, if its name is that of an asset, which the loader feeds
    the restore          may read variables from a file, if its name is the one which the loader feeds
    the functions that   may fill lookup tables from a file, if its name is bound to an asset
    belong to objects

A name counts as one that is fed if it is that tensor, directly, through Identity, handed to a function by a plain call,
or kept in a variable that nothing else is ever put into. So an operator that writes variables is a problem as soon as
anything reaches it, and it is none where it lies unused, as in every SavedModel.

What this costs grows with the number of nodes, some 10 us each; weights in the graph are skipped.
"""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from serving.backends import protobuf
from serving.backends.protobuf import Bytes, Span, fields, parts, text
from serving.backends.safety.operators import REFUSED, REFUSED_WITH, RESTORES, SAVES, TABLES

# Numbers of fields in TensorFlow's .proto files.
_META_GRAPHS = 2
_META_INFO, _META_GRAPH, _META_SAVER, _META_COLLECTIONS, _META_SIGNATURES, _META_ASSETS, _META_OBJECTS = range(1, 8)
_INFO_TAGS = 4
_GRAPH_NODES, _GRAPH_LIBRARY = 1, 2
_LIBRARY_FUNCTIONS, _LIBRARY_GRADIENTS = 1, 2
_FUNCTION_SIGNATURE, _FUNCTION_NODES = 1, 3
_OP_NAME, _OP_INPUTS = 1, 2
_NODE_NAME, _NODE_OP, _NODE_INPUT, _NODE_ATTRIBUTES = 1, 2, 3, 5
_ATTRIBUTE_LIST, _ATTRIBUTE_TEXT, _ATTRIBUTE_FUNCTION, _LIST_FUNCTIONS = 1, 2, 10, 9
_SAVER_FILENAME, _SAVER_RESTORE = 1, 3
_COLLECTION_NODES, _COLLECTION_ANY, _ANY_VALUE = 1, 5, 2
_SIGNATURE_OUTPUTS = 2
_TENSOR_NAME, _TENSOR_SPARSE, _TENSOR_COMPOSITE, _COMPOSITE_PARTS = 1, 4, 5, 2
_ASSET_TENSOR, _ASSET_FILE = 1, 2
_OBJECTS, _OBJECT_FUNCTIONS = 1, 2
_OBJECT_ASSET, _FUNCTION_BOUND = 5, 2
_KEY, _VALUE = 1, 2  # of an entry in a map

_START_SIGNATURE = "__saved_model_init_op"
_START_COLLECTIONS = frozenset(("saved_model_main_op", "legacy_init_op"))
_ASSETS_COLLECTION = "saved_model_assets"
_CALLS = frozenset(("PartitionedCall", "StatefulPartitionedCall"))  # hand their inputs over one by one
_MAX_DEPTH = 50  # of functions that are arguments of functions
_MAX_VISITS = 200_000  # of functions, each for every choice of names that are known to be fed


def problems(artifact: Path) -> list[str]:
    """What keeps a SavedModel's directory from being mere data, a sentence each; none: nothing is known.

    Raises:
        ValueError: saved_model.pb is not as TensorFlow writes it.
        OSError: it cannot be read.
    """
    with protobuf.opened(artifact / "saved_model.pb") as data:
        found: dict[str, None] = {}
        for span in parts(data, (0, len(data)), _META_GRAPHS):
            found |= dict.fromkeys(_MetaGraph(data, span, artifact).problems())
        return list(found)


@dataclass(slots=True)
class _Node:
    """What is asked of few nodes is read again when it is asked.

    Attributes:
        names: of functions that its attributes name.
    """

    data: Bytes = field(repr=False)
    span: Span
    name: str
    op: str
    names: tuple[str, ...]

    @property
    def inputs(self) -> list[str]:
        return [text(self.data, *each) for each in parts(self.data, self.span, _NODE_INPUT)]

    @property
    def attributes(self) -> list[Span]:
        return list(parts(self.data, self.span, _NODE_ATTRIBUTES))


@dataclass(slots=True)
class _Body:
    """A graph: the main one, or that of a function, which has arguments."""

    title: str
    nodes: list[_Node] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)
    _by_name: dict[str, _Node] = field(default_factory=dict)

    @property
    def by_name(self) -> dict[str, _Node]:
        if len(self._by_name) != len(self.nodes):
            self._by_name = {node.name: node for node in self.nodes}
            if len(self._by_name) != len(self.nodes):
                raise ValueError(f"{self.title} has two nodes of one name")
        return self._by_name


@dataclass(frozen=True)
class _Beginning:
    """From where operators on files are reached, and which of them may be."""

    who: str
    may: frozenset[str] = frozenset()


_ANSWERS = _Beginning("a signature")
_START = _Beginning("the start operation", frozenset(TABLES))
_RESTORE = _Beginning("the restore of variables", frozenset(RESTORES))
_OBJECTS_FUNCTION = _Beginning("a function of an object", frozenset(TABLES))


class _MetaGraph:
    """One graph with its functions, and what the loader makes of it."""

    def __init__(self, data: Bytes, span: Span, artifact: Path) -> None:
        self._data = data
        self._artifact = artifact
        tags = sorted(text(data, *tag) for tag in parts(data, span, _META_INFO, _INFO_TAGS))
        self._main = _Body(f"the graph [{', '.join(tags)}]")
        self._functions: dict[str, _Body] = {}
        self._gradients: dict[str, set[str]] = {}
        self._saver = self._restore = ""
        self._assets: dict[str, str] = {}  # file by tensor
        self._starts: set[str] = set()
        self._answers: set[str] = set()
        self._bound: dict[str, frozenset[int]] = {}  # by function of an object: which of its last arguments are assets
        self._bound_count: dict[str, int] = {}
        self._visited: set[tuple[str, str, frozenset[str]]] = set()
        readers = {
            _META_GRAPH: self._read_graph,
            _META_SAVER: self._read_saver,
            _META_COLLECTIONS: self._read_collection,
            _META_SIGNATURES: self._read_signature,
            _META_ASSETS: self._read_asset,
            _META_OBJECTS: self._read_objects,
        }
        for number, start, end in fields(data, *span):
            if number in readers:
                readers[number]((start, end))

    def problems(self) -> Iterator[str]:
        for body in (self._main, *self._functions.values()):
            for node in body.nodes:
                if what := REFUSED.get(node.op) or self._by_attribute(node):
                    yield f"{_at(node, body)} {what}"
        yield from self._escaping_assets()
        assets = frozenset(map(_tensor, self._assets))
        yield from self._reached(_ANSWERS, self._answers, frozenset())
        yield from self._reached(_START, self._starts, assets)
        yield from self._reached(_RESTORE, {self._restore}, frozenset((_tensor(self._saver),)))
        for name, bound in self._bound.items():
            function = self._functions.get(name)
            if function is not None:
                first = len(function.arguments) - self._bound_count[name]
                known = frozenset(function.arguments[first + i] for i in bound if first + i >= 0)
                yield from self._called(_OBJECTS_FUNCTION, function, known)

    # Reading

    def _read_graph(self, span: Span) -> None:
        data = self._data
        for number, start, end in fields(data, *span):
            if number == _GRAPH_NODES:
                self._main.nodes.append(_node(data, start, end))
            elif number == _GRAPH_LIBRARY:
                for kind, *part in fields(data, start, end):
                    if kind == _LIBRARY_FUNCTIONS:
                        self._read_function((part[0], part[1]))
                    elif kind == _LIBRARY_GRADIENTS:
                        of = protobuf.last_text(data, (part[0], part[1]), 1)
                        self._gradients.setdefault(of, set()).add(protobuf.last_text(data, (part[0], part[1]), 2))

    def _read_function(self, span: Span) -> None:
        data, body, name = self._data, _Body(""), ""
        for number, start, end in fields(data, *span):
            if number == _FUNCTION_NODES:
                body.nodes.append(_node(data, start, end))
            elif number == _FUNCTION_SIGNATURE:
                name = protobuf.last_text(data, (start, end), _OP_NAME) or name
                body.arguments += (
                    protobuf.last_text(data, each, _OP_NAME) for each in parts(data, (start, end), _OP_INPUTS)
                )
        body.title = f"function '{name}'"
        if name in self._functions:
            raise ValueError(f"{body.title} is there twice")
        self._functions[name] = body

    def _read_saver(self, span: Span) -> None:
        self._saver = protobuf.last_text(self._data, span, _SAVER_FILENAME) or self._saver
        self._restore = protobuf.last_text(self._data, span, _SAVER_RESTORE) or self._restore

    def _read_collection(self, span: Span) -> None:
        data = self._data
        name = protobuf.last_text(data, span, _KEY)
        if name in _START_COLLECTIONS:
            self._starts.update(text(data, *each) for each in parts(data, span, _VALUE, _COLLECTION_NODES, 1))
        elif name == _ASSETS_COLLECTION:
            for asset in parts(data, span, _VALUE, _COLLECTION_ANY, 1, _ANY_VALUE):
                self._read_asset(asset)

    def _read_signature(self, span: Span) -> None:
        names = self._starts if protobuf.last_text(self._data, span, _KEY) == _START_SIGNATURE else self._answers
        for info in parts(self._data, span, _VALUE, _SIGNATURE_OUTPUTS, _VALUE):
            names.update(_tensor_names(self._data, info))

    def _read_asset(self, span: Span) -> None:
        tensors = [text(self._data, *each) for each in parts(self._data, span, _ASSET_TENSOR, _TENSOR_NAME)]
        self._assets[tensors[-1] if tensors else ""] = protobuf.last_text(self._data, span, _ASSET_FILE)

    def _read_objects(self, span: Span) -> None:
        data = self._data
        assets = [
            any(number == _OBJECT_ASSET for number, *_ in fields(data, *each)) for each in parts(data, span, _OBJECTS)
        ]
        for entry in parts(data, span, _OBJECT_FUNCTIONS):
            bound = [
                index
                for function in parts(data, entry, _VALUE)
                for index in protobuf.numbers(data, function, _FUNCTION_BOUND)
            ]
            name = protobuf.last_text(data, entry, _KEY)
            are_assets = (i for i, index in enumerate(bound) if index < len(assets) and assets[index])
            self._bound[name], self._bound_count[name] = frozenset(are_assets), len(bound)

    # Judging

    def _by_attribute(self, node: _Node) -> str:
        if node.op not in REFUSED_WITH:
            return ""
        wanted, beginning, what = REFUSED_WITH[node.op]
        for attribute in node.attributes:
            if protobuf.last_text(self._data, attribute, _KEY) == wanted:
                for value in parts(self._data, attribute, _VALUE, _ATTRIBUTE_TEXT):
                    said = text(self._data, *value)
                    if said and said.startswith(beginning):
                        return what
        return ""

    def _escaping_assets(self) -> Iterator[str]:
        for file in self._assets.values():
            path = self._artifact / "assets" / file
            inside = (
                not PurePosixPath(file).is_absolute() and ".." not in PurePosixPath(file).parts and "\0" not in file
            )
            if not inside or not path.resolve().is_relative_to(self._artifact.resolve()):
                yield f"its asset '{file}' is outside of its directory"

    def _reached(self, beginning: _Beginning, names: Iterable[str], known: frozenset[str]) -> Iterator[str]:
        """Problems with what lies behind tensors or nodes of the main graph; tensors `known` are fed."""
        waiting = [name for name in names if name]
        seen: set[str] = set()
        while waiting:
            value = waiting.pop()
            name = _node_of(value)
            if name in seen or (not value.startswith("^") and _tensor(value) in known):
                continue
            seen.add(name)
            node = self._main.by_name.get(name)
            if node is not None:
                yield from self._judged(beginning, self._main, node, known)
                waiting += node.inputs

    def _called(self, beginning: _Beginning, function: _Body, known: frozenset[str]) -> Iterator[str]:
        """Problems with what a function does, and those that it calls; arguments `known` are fed."""
        waiting = [(function, known)]
        while waiting:
            body, known = waiting.pop()
            visit = (beginning.who, body.title, known)
            if visit in self._visited:
                continue
            self._visited.add(visit)
            if len(self._visited) > _MAX_VISITS:
                raise ValueError("its functions call each other in too many ways")
            for node in body.nodes:
                yield from self._unfit(beginning, body, node, known)
                waiting += self._calls(body, node, known)

    def _judged(self, beginning: _Beginning, body: _Body, node: _Node, known: frozenset[str]) -> Iterator[str]:
        yield from self._unfit(beginning, body, node, known)
        for function, arguments in self._calls(body, node, known):
            yield from self._called(beginning, function, arguments)

    def _unfit(self, beginning: _Beginning, body: _Body, node: _Node, known: frozenset[str]) -> Iterator[str]:
        if node.op in SAVES:
            yield f"{_at(node, body)} writes files, and {beginning.who} reaches it"
            return
        number = RESTORES.get(node.op, TABLES.get(node.op))
        if number is None:
            return
        if node.op not in beginning.may:
            yield f"{_at(node, body)} reads files, and {beginning.who} reaches it"
        elif number >= len(node.inputs) or not self._fed(body, node.inputs[number], known):
            own = "of the model's variables" if node.op in RESTORES else "among the model's assets"
            yield f"{_at(node, body)} reads a file that is not known to be {own}"

    def _calls(self, body: _Body, node: _Node, known: frozenset[str]) -> Iterator[tuple[_Body, frozenset[str]]]:
        """The functions that a node may call, and those of their arguments that are fed."""
        names = set(node.names)
        if node.op in self._functions:
            names.add(node.op)
        if not names:
            return
        for name in node.names:
            names |= self._gradients.get(name, set())
        values = [value for value in node.inputs if not value.startswith("^")]
        for name in names:
            function = self._functions.get(name)
            if function is not None:
                plain = node.op in _CALLS or node.op == name
                pairs = zip(function.arguments, values, strict=False) if plain and known else ()
                yield function, frozenset(argument for argument, value in pairs if self._fed(body, value, known))

    def _fed(self, body: _Body, value: str, known: frozenset[str]) -> bool:
        """Whether a node's input is one of the tensors or arguments `known`."""
        for _ in range(len(body.nodes) + 1):
            if _tensor(value) in known:
                return True
            node = body.by_name.get(_node_of(value))
            if node is None or not node.inputs:
                return False
            if node.op == "ReadVariableOp" and body is self._main:
                given = self._put_into(node.inputs[0])
                return bool(given) and all(_tensor(each) in known for each in given)
            if node.op != "Identity":
                return False
            value = node.inputs[0]
        return False

    def _put_into(self, variable: str) -> list[str]:
        """All that is ever put into a variable of the main graph; empty: nobody knows."""
        handle = self._main.by_name.get(_node_of(variable))
        if handle is None or handle.op != "VarHandleOp":
            return []
        everyone = [node for body in (self._main, *self._functions.values()) for node in body.nodes]
        same = [
            node for node in everyone if node.op == "VarHandleOp" and self._resource(node) == self._resource(handle)
        ]
        if len(same) > 1 or any(node.op == "_VarHandlesOp" for node in everyone):
            return []
        given: list[str] = []
        for node in self._main.nodes:
            if handle.name in map(_node_of, node.inputs):
                if node.op == "AssignVariableOp" and len(node.inputs) > 1 and _node_of(node.inputs[0]) == handle.name:
                    given.append(node.inputs[1])
                elif node.op not in ("ReadVariableOp", "VarIsInitializedOp"):
                    return []
        return given

    def _resource(self, node: _Node) -> str:
        """What a variable's memory goes by."""
        for attribute in node.attributes:
            if protobuf.last_text(self._data, attribute, _KEY) == "shared_name":
                for value in parts(self._data, attribute, _VALUE, _ATTRIBUTE_TEXT):
                    if said := text(self._data, *value):
                        return said
        return node.name


def _node(data: Bytes, start: int, end: int) -> _Node:
    name, op = "", ""
    names: list[str] = []
    for number, begin, stop in fields(data, start, end):
        if number == _NODE_ATTRIBUTES:
            for part, *value in fields(data, begin, stop):
                if part == _VALUE:
                    names += _function_names(data, (value[0], value[1]))
        elif number == _NODE_NAME:
            if name:
                raise ValueError(f"node '{name}' has two names")
            name = text(data, begin, stop)
        elif number == _NODE_OP:
            if op:
                raise ValueError(f"node '{name}' has two operators")
            op = sys.intern(text(data, begin, stop))
    return _Node(data, (start, end), name, op, tuple(names))


def _function_names(data: Bytes, value: Span, depth: int = 0) -> Iterator[str]:
    """The functions that an attribute's value names, those within the arguments of others too."""
    if depth > _MAX_DEPTH:
        raise ValueError("functions are nested too deeply")
    for number, start, end in fields(data, *value):
        if number == _ATTRIBUTE_FUNCTION:
            functions = [(start, end)]
        elif number == _ATTRIBUTE_LIST:
            functions = list(parts(data, (start, end), _LIST_FUNCTIONS))
        else:
            continue
        for function in functions:
            yield protobuf.last_text(data, function, 1)
            for argument in parts(data, function, 2, _VALUE):
                yield from _function_names(data, argument, depth + 1)


def _tensor_names(data: Bytes, info: Span) -> Iterator[str]:
    for number, start, end in fields(data, *info):
        if number == _TENSOR_NAME:
            yield text(data, start, end)
        elif number == _TENSOR_SPARSE:
            yield from (text(data, *part[1:]) for part in fields(data, start, end))
        elif number == _TENSOR_COMPOSITE:
            for part in parts(data, (start, end), _COMPOSITE_PARTS):
                yield from (text(data, *name) for name in parts(data, part, _TENSOR_NAME))


def _tensor(value: str) -> str:
    """The first output of a node goes by the node's name too."""
    return value.removesuffix(":0")


def _node_of(value: str) -> str:
    return value.removeprefix("^").partition(":")[0]


def _at(node: _Node, body: _Body) -> str:
    return f"{node.op} (node '{node.name}' of {body.title})"
