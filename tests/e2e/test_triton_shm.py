"""What the published example clients do with shared memory: tensors that never touch the socket."""

import itertools
import os
from base64 import b64encode
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import serialize_byte_tensor

from tests.e2e.clients import Asker, RefusedError, grpc_code
from tests.e2e.server import Server

FIRST = np.arange(16, dtype=np.int32).reshape(1, 16)
ONES = np.ones((1, 16), np.int32)
SIZE = FIRST.nbytes

_numbers = itertools.count()


class Region:
    """Memory of the client under a name that nobody else has; the server knows it under `name` once registered."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.name = f"region_{next(_numbers)}"
        self.key = f"/serving_test_{os.getpid()}_{self.name}"
        self.handle = shm.create_shared_memory_region(self.name, self.key, size, create_only=True)

    def write(self, *arrays: np.ndarray, offset: int = 0) -> None:
        shm.set_shared_memory_region(self.handle, list(arrays), offset)

    def read(self, dtype: Any, shape: list[int], offset: int = 0) -> np.ndarray:
        """A copy: the client's own function gives a view of memory that goes away with the region."""
        return np.array(shm.get_contents_as_numpy(self.handle, dtype, shape, offset))

    def destroy(self) -> None:
        shm.destroy_shared_memory_region(self.handle)


@pytest.fixture(params=("binary", "grpc"))
def asker(request: pytest.FixtureRequest, examples: Server) -> Iterator[Asker]:
    """A client of a server that knows no region before the test, and none after it."""
    made = Asker(examples, request.param)
    yield made
    made.client.unregister_system_shared_memory()
    assert regions(made) == {}
    made.close()


@pytest.fixture
def region(asker: Asker) -> Iterator[Callable[..., Region]]:
    """Makes regions, registered unless told otherwise."""
    made: list[Region] = []

    def make(size: int, register: bool = True, **more: Any) -> Region:
        one = Region(size)
        made.append(one)
        if register:
            asker.client.register_system_shared_memory(one.name, one.key, size, **more)
        return one

    yield make
    for one in made:
        one.destroy()


def regions(asker: Asker, name: str = "") -> dict[str, dict[str, Any]]:
    """What the server says of the regions that it knows, by name."""
    status = asker.ask("get_system_shared_memory_status", name)
    found = list(status["regions"].values()) if asker.form == "grpc" else status
    return {one["name"]: one for one in found}


def given(asker: Asker, name: str, where: Region, size: int, offset: int = 0, datatype: str = "INT32") -> Any:
    """An input of `[1, 16]` whose data is in a region."""
    one = asker.library.InferInput(name, [1, 16], datatype)
    one.set_shared_memory(where.name, size, offset)
    return one


def wanted(asker: Asker, name: str, where: Region, size: int, offset: int = 0) -> Any:
    one = asker.library.InferRequestedOutput(name)
    one.set_shared_memory(where.name, size, offset)
    return one


def test_inputs_and_outputs_in_regions(asker: Asker, region: Callable[..., Region]) -> None:
    inputs, outputs = region(2 * SIZE), region(2 * SIZE)
    inputs.write(FIRST, ONES)
    assert regions(asker) == {
        one.name: {"name": one.name, "key": one.key, "offset": 0, "byte_size": 2 * SIZE} for one in (inputs, outputs)
    }
    assert list(regions(asker, inputs.name)) == [inputs.name]
    answer = asker.client.infer(
        "simple",
        [given(asker, "INPUT0", inputs, SIZE), given(asker, "INPUT1", inputs, SIZE, SIZE)],
        outputs=[wanted(asker, "OUTPUT0", outputs, SIZE), wanted(asker, "OUTPUT1", outputs, SIZE, SIZE)],
    )
    for name in ("OUTPUT0", "OUTPUT1"):
        described = answer.get_output(name)
        if asker.form == "grpc":
            assert (described.datatype, list(described.shape)) == ("INT32", [1, 16])
        else:
            assert (described["datatype"], described["shape"]) == ("INT32", [1, 16])
            assert "data" not in described and "binary_data_size" not in described.get("parameters", {})
    if asker.form == "grpc":
        assert [len(raw) for raw in answer.get_response().raw_output_contents] == [0, 0]
    np.testing.assert_array_equal(outputs.read(np.int32, [1, 16]), FIRST + ONES)
    np.testing.assert_array_equal(outputs.read(np.int32, [1, 16], SIZE), FIRST - ONES)


def test_what_is_in_the_region_counts_when_the_request_comes(asker: Asker, region: Callable[..., Region]) -> None:
    """Registering reads nothing, and a region can be used again and again."""
    inputs, outputs = region(2 * SIZE), region(SIZE)
    for factor in (1, 2, 3):
        inputs.write(FIRST * factor, ONES)
        asker.client.infer(
            "simple",
            [given(asker, "INPUT0", inputs, SIZE), given(asker, "INPUT1", inputs, SIZE, SIZE)],
            outputs=[wanted(asker, "OUTPUT0", outputs, SIZE)],
        )
        np.testing.assert_array_equal(outputs.read(np.int32, [1, 16]), FIRST * factor + ONES)


def test_objects_of_a_request_can_be_used_again(asker: Asker, region: Callable[..., Region]) -> None:
    """With regions, without, and with them again."""
    asker.client.unregister_system_shared_memory()
    asker.client.unregister_cuda_shared_memory()
    inputs, outputs = region(2 * SIZE), region(2 * SIZE)
    inputs.write(FIRST, ONES)
    names = {"INPUT0": FIRST, "INPUT1": ONES}
    sent = [asker.library.InferInput(name, [1, 16], "INT32") for name in names]
    asked = [asker.library.InferRequestedOutput(name) for name in ("OUTPUT0", "OUTPUT1")]
    for in_regions in (True, False, True):
        for i, (one, output) in enumerate(zip(sent, asked, strict=True)):
            if in_regions:
                one.set_shared_memory(inputs.name, SIZE, i * SIZE)
                output.set_shared_memory(outputs.name, SIZE, i * SIZE)
            else:
                one.set_data_from_numpy(names[one.name()] * 2)
                output.unset_shared_memory()
        answer = asker.client.infer("simple", sent, outputs=asked)
        if in_regions:
            found = [outputs.read(np.int32, [1, 16], i * SIZE) for i in range(2)]
        else:
            found = [answer.as_numpy(name) for name in ("OUTPUT0", "OUTPUT1")]
        factor = 1 if in_regions else 2
        np.testing.assert_array_equal(found, [(FIRST + ONES) * factor, (FIRST - ONES) * factor])
        outputs.write(np.zeros((1, 32), np.int32))


def test_some_tensors_in_regions_and_others_on_the_wire(asker: Asker, region: Callable[..., Region]) -> None:
    inputs, outputs = region(SIZE), region(SIZE)
    inputs.write(FIRST)
    (on_the_wire,) = asker.inputs({"INPUT1": ONES})
    answer = asker.client.infer(
        "simple",
        [given(asker, "INPUT0", inputs, SIZE), on_the_wire],
        outputs=[wanted(asker, "OUTPUT0", outputs, SIZE), asker.library.InferRequestedOutput("OUTPUT1")],
    )
    np.testing.assert_array_equal(outputs.read(np.int32, [1, 16]), FIRST + ONES)
    np.testing.assert_array_equal(answer.as_numpy("OUTPUT1"), FIRST - ONES)


def test_region_that_is_a_part_of_the_memory(asker: Asker, region: Callable[..., Region]) -> None:
    memory = region(4 * SIZE, register=False)
    memory.write(FIRST, offset=2 * SIZE)
    asker.client.register_system_shared_memory(memory.name, memory.key, 2 * SIZE, offset=2 * SIZE)
    assert regions(asker)[memory.name] == {
        "name": memory.name, "key": memory.key, "offset": 2 * SIZE, "byte_size": 2 * SIZE
    }  # fmt: skip
    (on_the_wire,) = asker.inputs({"INPUT1": ONES})
    asker.client.infer(
        "simple",
        [given(asker, "INPUT0", memory, SIZE), on_the_wire],
        outputs=[wanted(asker, "OUTPUT0", memory, SIZE, SIZE)],
    )
    np.testing.assert_array_equal(memory.read(np.int32, [1, 16], 3 * SIZE), FIRST + ONES)


def test_strings_in_regions(asker: Asker, region: Callable[..., Region]) -> None:
    texts = {
        name: serialize_byte_tensor(np.array([[str(n).encode() for n in array.flat]], dtype=object))
        for name, array in {"INPUT0": FIRST, "INPUT1": ONES}.items()
    }
    sizes = {name: len(text.item()) for name, text in texts.items()}
    inputs, outputs = region(sum(sizes.values())), region(2 * 512)
    inputs.write(*texts.values())
    asker.client.infer(
        "simple_string",
        [
            given(asker, "INPUT0", inputs, sizes["INPUT0"], datatype="BYTES"),
            given(asker, "INPUT1", inputs, sizes["INPUT1"], sizes["INPUT0"], datatype="BYTES"),
        ],
        outputs=[wanted(asker, "OUTPUT0", outputs, 512), wanted(asker, "OUTPUT1", outputs, 512, 512)],
    )
    for offset, expected in ((0, FIRST + ONES), (512, FIRST - ONES)):
        found = outputs.read(np.object_, [1, 16], offset)
        assert [int(text) for text in found.flat] == expected.ravel().tolist()


def test_region_belongs_to_the_client(asker: Asker, region: Callable[..., Region]) -> None:
    """Unregistering takes nothing away from it; it can be registered again."""
    memory = region(SIZE)
    memory.write(FIRST)
    asker.client.unregister_system_shared_memory(memory.name)
    asker.client.unregister_system_shared_memory(memory.name)  # no error if it is not known
    assert regions(asker) == {}
    np.testing.assert_array_equal(memory.read(np.int32, [1, 16]), FIRST)
    again = shm.create_shared_memory_region("again", memory.key, SIZE)  # it is still there under its key
    np.testing.assert_array_equal(np.array(shm.get_contents_as_numpy(again, np.int32, [1, 16])), FIRST)
    shm.destroy_shared_memory_region(again)
    asker.client.register_system_shared_memory(memory.name, memory.key, SIZE)
    assert list(regions(asker)) == [memory.name]


Refuse = Callable[[Asker, Region], Any]


def _infer(inputs: Callable[[Asker, Region], Any], outputs: Callable[[Asker, Region], Any] | None = None) -> Refuse:
    def ask(asker: Asker, known: Region) -> None:
        (on_the_wire,) = asker.inputs({"INPUT1": ONES})
        first = inputs(asker, known)
        asker.ask("infer", "simple", [first, on_the_wire], outputs=outputs and [outputs(asker, known)])

    return ask


def _elsewhere(asker: Asker, known: Region) -> Any:
    one = asker.library.InferInput("INPUT0", [1, 16], "INT32")
    one.set_shared_memory("nosuch", SIZE)
    return one


REFUSALS: dict[str, tuple[Refuse, tuple[int, ...], str]] = {
    "name that is taken": (
        lambda a, known: a.ask("register_system_shared_memory", known.name, known.key, SIZE),
        (400,),
        "already in manager",
    ),
    "memory that is not there": (
        lambda a, known: a.ask("register_system_shared_memory", "other", "/serving_test_nosuch", SIZE),
        (400, 404, 500),
        "Unable to open shared memory region: '/serving_test_nosuch'",
    ),
    "more than the memory has": (
        lambda a, known: a.ask("register_system_shared_memory", "other", known.key, 2**30),
        (400,),
        "failed to register shared memory region 'other': invalid args",
    ),
    "key that the runtime uses itself": (
        lambda a, known: a.ask("register_system_shared_memory", "other", "/triton_python_backend_shm_region_1", SIZE),
        (400,),
        "contains the reserved prefix",
    ),
    "key that leads to another file": (
        lambda a, known: a.ask("register_system_shared_memory", "other", "/../../etc/hostname", 4),
        (400, 404, 500),
        "shared memory region",
    ),
    "status of a region that is not known": (
        lambda a, known: a.ask("get_system_shared_memory_status", "nosuch"),
        (404,),
        "Unable to find system shared memory region: 'nosuch'",
    ),
    "input in a region that is not known": (
        _infer(_elsewhere),
        (404,),
        "Unable to find shared memory region: 'nosuch'",
    ),
    "input that begins behind the region": (
        _infer(lambda a, known: given(a, "INPUT0", known, SIZE, 4 * SIZE)),
        (400,),
        "Invalid offset",
    ),
    "input that ends behind the region": (
        _infer(lambda a, known: given(a, "INPUT0", known, SIZE, SIZE // 2)),
        (400,),
        "Invalid offset + byte size for shared memory region",
    ),
    "input of another size than its shape": (
        _infer(lambda a, known: given(a, "INPUT0", known, SIZE - 4)),
        (400,),
        "input byte size mismatch for input 'INPUT0' for model 'simple'. Expected 64, got 60",
    ),
    "output that does not fit": (
        _infer(lambda a, known: given(a, "INPUT0", known, SIZE), lambda a, known: wanted(a, "OUTPUT0", known, 32)),
        (400, 500),
        "shared memory size specified with the request for output 'OUTPUT0' (32 bytes) should be at least 64 bytes "
        "to hold the results",
    ),
    "cuda": (
        lambda a, known: a.ask("register_cuda_shared_memory", "other", b64encode(b"handle"), 0, SIZE),
        (501,),
        "",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusal(asker: Asker, region: Callable[..., Region], case: str) -> None:
    ask, statuses, text = REFUSALS[case]
    known = region(SIZE)
    known.write(FIRST)
    with pytest.raises(RefusedError) as caught:
        ask(asker, known)
    assert text in caught.value.text
    if asker.form != "grpc":
        assert caught.value.status in statuses
    elif case == "name that is taken":
        assert caught.value.status == "ALREADY_EXISTS"
    else:
        assert caught.value.status in [grpc_code(status) for status in statuses]
    assert list(regions(asker)) == [known.name]


def test_status_of_cuda_regions(asker: Asker) -> None:
    assert asker.ask("get_cuda_shared_memory_status") == ({"regions": {}} if asker.form == "grpc" else [])


@pytest.mark.parametrize("form", ["binary", "grpc"])
def test_not_without_leave(closed: Server, form: str) -> None:
    asker = Asker(closed, form)
    memory = Region(SIZE)
    text = r"Client shared memory is disabled\. Start the server with '--allow-client-shm"
    for method, args in (
        ("register_system_shared_memory", (memory.name, memory.key, SIZE)),
        ("unregister_system_shared_memory", (memory.name,)),
    ):
        with pytest.raises(RefusedError, match=text) as caught:
            asker.ask(method, *args)
        assert caught.value.status == ("UNIMPLEMENTED" if form == "grpc" else 501)
    assert regions(asker) == {}
    with pytest.raises(RefusedError):
        _infer(lambda a, known: given(a, "INPUT0", known, SIZE))(asker, memory)
    assert "system_shared_memory" not in asker.ask("get_server_metadata")["extensions"]
    memory.destroy()
    asker.close()
