"""Holds objects against the types of Kubernetes and KServe, as their own Python clients have them: unknown fields,
missing ones, values of another type.

In a process of its own, as messages of `kserve` cannot be loaded beside those of `tritonclient`:

    python -m tests.deploy.schema < OBJECTS.yaml

prints one line for each problem.
"""

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import yaml
from pydantic import ValidationError

from tests.deploy.manifests import ROOT

_PLAIN: Mapping[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "bool": (bool,), "float": (float, int)}
_ELSEWHERE = {"monitoring.coreos.com", "keda.sh"}  # no Python client has them


def problems(objects: Iterable[Any]) -> list[str]:
    """One line for each."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.deploy.schema"],
        input=yaml.safe_dump_all(objects),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


# From here on: in that process.


def _of(thing: Mapping[str, Any]) -> Iterator[str]:
    group, _, version = str(thing["apiVersion"]).rpartition("/")
    if group not in _ELSEWHERE:
        kind = version.capitalize() + thing["kind"]
        yield from _wrong(thing, kind, f"{thing['kind']} {thing['metadata']['name']}")


def _model(kind: str) -> Any:
    import kubernetes.client

    if (model := getattr(kubernetes.client, kind, None)) is None:
        import kserve  # seconds

        model = getattr(kserve, kind, None)
    return model


def _wrong(value: Any, kind: str, where: str) -> Iterator[str]:
    if found := re.fullmatch(r"list\[(.+)\]", kind):
        if not isinstance(value, list):
            yield f"{where}: not a list"
            return
        for number, one in enumerate(value):
            yield from _wrong(one, found[1], f"{where}[{number}]")
    elif found := re.fullmatch(r"dict[(\[]str, (.+)[)\]]", kind):
        for key, one in value.items():
            yield from _wrong(one, found[1], f"{where}.{key}")
    elif kind in _PLAIN:
        if not isinstance(value, _PLAIN[kind]) or (kind != "bool" and isinstance(value, bool)):
            yield f"{where}: {value!r} is not {kind}"
    elif hasattr(model := _model(kind), "model_validate"):  # of Kubernetes: it looks at all that is below, too
        try:
            model.model_validate(value, by_alias=True, by_name=False)
        except ValidationError as error:
            for one in error.errors():
                yield f"{where}.{'.'.join(map(str, one['loc']))}: {one['msg']}"
    elif model is not None:  # of KServe: one level
        yield from _fields(value, model, where)
    else:
        yield f"{where}: there is no type {kind}"


def _fields(value: Any, model: Any, where: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{where}: {value!r} has no fields"
        return
    names = {name: attribute for attribute, name in model.attribute_map.items()}
    known = {name: one for name, one in value.items() if name in names}
    yield from (f"{where}: unknown field {name}" for name in value.keys() - known.keys())
    try:
        model(**{names[name]: one for name, one in known.items()})
    except ValueError as error:
        yield f"{where}: {error}"
    for name, one in known.items():
        if one is not None:
            yield from _wrong(one, model.openapi_types[names[name]], f"{where}.{name}")


if __name__ == "__main__":
    for document in yaml.safe_load_all(sys.stdin):
        for line in _of(document):
            print(line)
