"""The artifact contract: what a published version holds besides the model, and how it comes to be there.

Trainers write it, the repository reads it. All of this is file work that may block, so it never runs on the
event loop; functions may be called from any thread or process. Knows no runtime: here a model is files.

    <repo>/<name>/<integer>/
        model.onnx, or saved_model.pb + variables/
        golden.npz        a sample of inputs and the outputs that belong to them
        MANIFEST.json     the hash of every other file, written last
"""

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StringConstraints, ValidationError

from serving.core import strings
from serving.core.dtypes import BF16, BY_NUMPY, BYTES
from serving.core.types import Tensors

MANIFEST = "MANIFEST.json"
GOLDEN = "golden.npz"
_MOST_GOLDEN_BYTES = 1_000_000_000  # unpacked: a small file can hold any number of zeros

Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]


class Tolerance(BaseModel):
    """An output may differ from the golden one by `atol + rtol * |golden|`, element by element."""

    model_config = ConfigDict(extra="allow", frozen=True)

    atol: FiniteFloat = Field(ge=0)
    rtol: FiniteFloat = Field(ge=0)


class Manifest(BaseModel):
    """What MANIFEST.json says. Keys that this version of the contract does not know are kept, not refused."""

    model_config = ConfigDict(extra="allow", frozen=True)

    schema_version: Literal[1] = Field(alias="schema")
    files: dict[str, Sha256] = Field(min_length=1, description="relative POSIX path: SHA-256")
    signature: dict[str, Any] = Field({}, description="inputs and outputs: name, datatype, shape of each")
    golden: Tolerance | None = Field(None, description="how closely golden.npz has to be reproduced")
    metric: dict[str, FiniteFloat] | None = Field(None, description="what training measured on held-out data")
    seed: int | None = None
    libraries: dict[str, str] = Field({}, description="versions of what made the artifact")
    training: dict[str, Any] | None = Field(None, description="how it was trained: on which data, with what settings")


@dataclass(frozen=True, eq=False)
class Golden:
    """Inputs and the outputs that the model gave for them where it was made; rows are on axis 0."""

    inputs: Tensors
    outputs: Tensors


def read_manifest(version_dir: Path) -> Manifest | None:
    """The manifest of a version, None where there is none.

    Raises:
        ValueError: one line that names the file and what is wrong with it.
    """
    path = version_dir / MANIFEST
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{path}: {where + ': ' if where else ''}{first['msg']}") from None


def verify(version_dir: Path, manifest: Manifest) -> list[str]:
    """Where the files of a version are not what its manifest says, one line each; none: it may be taken.

    Reads every file that the manifest names. Files that it does not name are no problem.
    """
    problems = (_problem(version_dir, name, want) for name, want in manifest.files.items())
    return [problem for problem in problems if problem]


def _problem(version_dir: Path, name: str, want: str) -> str | None:
    path = version_dir / name
    # Resolving also catches a link that leads out: what it points at may change behind the manifest's back.
    try:
        outside = not path.resolve().is_relative_to(version_dir.resolve())
    except (OSError, RuntimeError, ValueError):  # a link that loops, a NUL in the name
        outside = True
    if outside:
        return f"{name}: not a path inside the version's directory"
    try:
        if not path.is_file():
            return f"{name}: missing"
        got = _sha256(path)
    except OSError as error:
        return f"{name}: cannot be read: {error.strerror}"
    return None if got == want else f"{name}: SHA-256 is {got}, the manifest says {want}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Keys in golden.npz, where <side> is in or out:
#   <side>:<tensor>        the array, of any dtype that an .npy file holds without pickle
#   <side>-bf16:<tensor>   BF16: the bits as uint16
#   <side>-bytes:<tensor>  BYTES: elements packed by serving.core.strings; numpy's strings lose last NULs
#   <side>-shape:<tensor>  and their shape


def read_golden(version_dir: Path) -> Golden | None:
    """The golden sample of a version, None where there is none. Never unpickles.

    Raises:
        ValueError: one line that names the file and what is wrong with it.
    """
    path = version_dir / GOLDEN
    try:
        with path.open("rb") as file:  # numpy would leave it open if it is no archive
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("one array, not an archive of named arrays")
            size = sum(info.file_size for info in archive.zip.infolist()) if archive.zip else 0
            if size > _MOST_GOLDEN_BYTES:
                raise ValueError(f"{size} bytes when unpacked, at most {_MOST_GOLDEN_BYTES} are read")
            stored = {key: archive[key] for key in archive.files}
        return _unpack(stored)
    except FileNotFoundError:
        return None
    except Exception as error:  # damage shows in zip, zlib or numpy, each with its own kinds of errors
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path}: not a golden sample: {reason}") from error


def write_golden(version_dir: Path, golden: Golden) -> None:
    """Writes golden.npz; the same sample gives the same bytes.

    Raises:
        ValueError: a side without tensors, a dtype that the protocol does not have, an object array with an
            element that is not `bytes`.
    """
    stored = _pack(golden)
    with (version_dir / GOLDEN).open("wb") as file:
        np.savez_compressed(file, **stored)  # type: ignore[arg-type]  # the stub takes keys for its own keywords


def _pack(golden: Golden) -> Tensors:
    stored: Tensors = {}
    for side, tensors in {"in": golden.inputs, "out": golden.outputs}.items():
        if not tensors:
            raise ValueError(f"a golden sample needs inputs and outputs, '{side}' has none")
        for name, array in tensors.items():
            if array.dtype not in BY_NUMPY:
                raise ValueError(f"golden tensor '{name}' has dtype {array.dtype}, which no client can send")
            if array.dtype == BYTES.numpy:
                stored[f"{side}-bytes:{name}"] = _pack_bytes(name, array)
                stored[f"{side}-shape:{name}"] = np.array(array.shape, np.int64)
            elif array.dtype == BF16.numpy:
                stored[f"{side}-bf16:{name}"] = array.view(np.uint16)
            else:
                stored[f"{side}:{name}"] = array
    return stored


def _unpack(stored: Tensors) -> Golden:
    golden = Golden({}, {})
    sides = {"in": golden.inputs, "out": golden.outputs}
    for key, array in stored.items():
        kind, _, name = key.partition(":")
        side, _, form = kind.partition("-")
        if side not in sides or form not in ("", "bf16", "bytes", "shape"):
            raise ValueError(f"unexpected key '{key}', expected in:<tensor> or out:<tensor>")
        if form == "" and array.dtype not in BY_NUMPY:
            raise ValueError(f"'{key}' has dtype {array.dtype}, which no client can send")
        if form == "":
            sides[side][name] = array
        elif form == "bf16":
            sides[side][name] = array.view(BF16.numpy)
        elif form == "bytes":
            sides[side][name] = strings.unpack(array.tobytes()).reshape(stored[f"{side}-shape:{name}"])
    for side, tensors in sides.items():
        if not tensors:
            raise ValueError(f"no array named {side}:<tensor>")
    return golden


def _pack_bytes(name: str, array: np.ndarray) -> np.ndarray:
    for element in array.flat:
        if not isinstance(element, bytes):
            raise ValueError(f"golden tensor '{name}' holds {type(element).__name__}, expected bytes")
    return np.frombuffer(strings.pack(array), np.uint8)


def publish(
    repo: Path,
    name: str,
    write: Callable[[Path], object],
    *,
    golden: Golden | None,
    signature: dict[str, Any],
    metric: dict[str, float] | None,
    seed: int | None,
    libraries: dict[str, str],
    atol: float,
    rtol: float,
    training: Mapping[str, Any] | None = None,
) -> Path:
    """Adds a version to a model, all of it or nothing, and returns `<repo>/<name>/<highest version + 1>`.

    `write` is called with an empty directory and puts the model's files there. That directory stays hidden
    until it is on disk and one rename makes it the version, so nobody who watches ever sees half of one; a
    killed process leaves at most a hidden `.tmp-*` behind. Any number may publish the same model at once.

    Raises:
        ValueError: a name that is no directory name, nothing written, a link among the files, a NaN metric.
        OSError: the repository cannot be written.
        Whatever `write` raises.
    """
    if not name or name.startswith(".") or PurePosixPath(name).name != name:
        raise ValueError(f"'{name}' cannot be a model's name: expected a directory name that is not hidden")
    model = repo / name
    hidden = _make_hidden(model)
    try:
        write(hidden)
        if golden is not None:
            write_golden(hidden, golden)
        manifest = Manifest(
            schema=1,
            files=_hashes(hidden),
            signature=signature,
            golden=None if golden is None else Tolerance(atol=atol, rtol=rtol),
            metric=metric,
            seed=seed,
            libraries=libraries,
            training=None if training is None else dict(training),
        )
        text = manifest.model_dump_json(by_alias=True, indent=2)
        (hidden / MANIFEST).write_text(text + "\n", encoding="utf-8")
        for path in hidden.rglob("*"):
            _fsync(path)
        _fsync(hidden)
        version = _claim(hidden, model)
    except BaseException:  # Ctrl-C included
        shutil.rmtree(hidden, ignore_errors=True)
        with suppress(OSError):
            model.rmdir()  # empty only where this was to be the first version
        raise
    _fsync(model)
    return version


def _make_hidden(model: Path) -> Path:
    # Not tempfile.mkdtemp: its mode 0700 would keep a server that runs as another user out.
    hidden = model / f".tmp-{secrets.token_hex(8)}"
    try:
        hidden.mkdir(parents=True)
    except FileNotFoundError:  # another publisher failed just now and took the empty model directory away
        hidden.mkdir(parents=True)
    return hidden


def _hashes(directory: Path) -> dict[str, str]:
    files = {}
    for path in sorted(directory.rglob("*")):
        relative = path.relative_to(directory).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ValueError(f"'{relative}' is neither a file nor a directory, so it cannot be published")
        if path.is_file() and relative != MANIFEST:
            files[relative] = _sha256(path)
    if not files.keys() - {GOLDEN}:
        raise ValueError("nothing was written that could be published")
    return files


def _claim(finished: Path, model: Path) -> Path:
    numbers = [int(path.name) for path in model.iterdir() if path.name.isascii() and path.name.isdigit()]
    number = max(numbers, default=0) + 1
    while True:
        version = model / str(number)
        try:
            finished.rename(version)
        except OSError as error:
            # Taken meanwhile. A rename replaces an empty directory only, and a published one never is.
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise
            number += 1
        else:
            return version


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
