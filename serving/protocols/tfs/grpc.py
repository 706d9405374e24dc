"""TensorFlow Serving's gRPC services: message bytes in, message bytes out. Free of any transport."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any, TypeVar

from serving.core.errors import ServingError, invalid
from serving.core.types import InferRequest, InferResponse, SignatureMethod
from serving.engine import Control, Engine
from serving.protocols import messages as m
from serving.protocols.answer import answer
from serving.protocols.grpc import Call, Method, StreamMethod, read, route_key, write
from serving.protocols.layouts import Layout
from serving.protocols.status import Family
from serving.protocols.tfs import grpc_codec, multi, reload, servables, signatures
from serving.protocols.tfs.predicts import Known, Reader, Writer
from serving.protocols.tfs.servables import Target
from serving.repository.version import Version

PROTOCOL = "tfs_grpc"
MAX_MESSAGE = 1024  # characters of a status message

Found = Version | ServingError  # the version that is meant, or why there is none
Wants = TypeVar("Wants")
Reply = TypeVar("Reply")


class PredictionService:
    """The methods of `tensorflow.serving.PredictionService` by name. A `ServingError` that one raises becomes a
    status."""

    service = m.tfs.PredictionService.full_name
    family = Family.TFS

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._reader = Reader()
        self._writer = Writer()
        self.streams: dict[str, StreamMethod] = {}
        self.methods: dict[str, Method] = {
            "Predict": _bounded(self.predict),
            "Classify": _bounded(self.classify),
            "Regress": _bounded(self.regress),
            "MultiInference": _bounded(self.multi_inference),
            "GetModelMetadata": _bounded(self.get_model_metadata),
        }

    async def predict(self, data: bytes, call: Call) -> bytes:
        started = time.perf_counter()
        known = self._reader.find(data)
        if known is None:
            message, sent = self._counted("", grpc_codec.read_predict, data)
            model, target = _asked(message)
            decode = partial(self._decode, data, message, sent, target, call)
        else:
            target = known.value.target
            model, decode = target.model, partial(self._decode_known, data, known, call)
        return await self._answer(model, target, call, decode, self._writer.encode, started)

    def _decode(
        self, data: bytes, message: Any, sent: Any, target: Target | ServingError, call: Call, found: Found
    ) -> tuple[InferRequest, int]:
        request, axes = grpc_codec.decode_predict(message, sent, call, found)
        if isinstance(found, Version) and isinstance(target, Target):  # or there had been an error
            self._reader.learn(data, target, found.contracts[request.signature], request, axes)
        return request, axes

    def _decode_known(self, data: bytes, layout: Layout[Known], call: Call, found: Found) -> tuple[InferRequest, int]:
        known = layout.value
        if isinstance(found, Version) and found.contracts.get(known.signature) is known.contract:
            return known.request(data, layout.begin, found.number, call), known.axes
        message, sent = grpc_codec.read_predict(data)  # another version may understand it in another way
        return self._decode(data, message, sent, known.target, call, found)

    async def classify(self, data: bytes, call: Call) -> bytes:
        started = time.perf_counter()
        message = self._counted("", read, m.tfs.ClassificationRequest, data)
        decode = partial(grpc_codec.decode_examples, message, SignatureMethod.CLASSIFY, call)
        return await self._answer(*_asked(message), call, decode, grpc_codec.encode_classify, started)

    async def regress(self, data: bytes, call: Call) -> bytes:
        started = time.perf_counter()
        message = self._counted("", read, m.tfs.RegressionRequest, data)
        decode = partial(grpc_codec.decode_examples, message, SignatureMethod.REGRESS, call)
        return await self._answer(*_asked(message), call, decode, grpc_codec.encode_regress, started)

    async def multi_inference(self, data: bytes, call: Call) -> bytes:
        """Each task runs, and counts, as a request of its own."""
        started = time.perf_counter()
        message = self._counted("", read, m.tfs.MultiInferenceRequest, data)
        model = message.tasks[0].model_spec.name if message.tasks else ""
        try:
            await self._engine.awake(model, call.deadline)
        except ServingError as error:
            self._count(model, error)
            raise
        version, tasks = self._counted(model, multi.decode, message, self._engine.catalog, call)
        return multi.encode(
            await all_of(
                answer(
                    self._engine,
                    PROTOCOL,
                    model,
                    partial(_given, task),
                    multi.result,
                    started,
                    version=version,
                    timed=call.timed,
                    name_request=False,
                )
                for task in tasks
            )
        )

    async def get_model_metadata(self, data: bytes, call: Call) -> bytes:
        request = read(m.tfs.GetModelMetadataRequest, data)
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != "signature_def":
                raise invalid(f"Metadata field {field} is not supported")
        await self._engine.awake(request.model_spec.name, call.deadline)
        version = servables.resolve(self._engine.catalog, grpc_codec.target(request))
        response = m.tfs.GetModelMetadataResponse()
        response.model_spec.name = version.model
        response.model_spec.version.value = version.number
        response.metadata["signature_def"].Pack(signatures.describe(signatures.of(version)))
        return write(response)

    async def _answer(
        self,
        model: str,
        target: Target | ServingError,
        call: Call,
        decode: Callable[[Found], tuple[InferRequest, Wants]],
        encode: Callable[[InferResponse, Wants], bytes],
        started: float,
    ) -> bytes:
        """Answers a request that has one ModelSpec.

        Args:
            model: as it says.
            target: what it means, or why it means nothing.
            decode: is given the version that is meant, or why there is none.
        """
        found: Found
        try:
            if isinstance(target, ServingError):
                raise target
            key = route_key(self._engine.catalog, target.model, call)
            if self._engine.catalog.asleep:
                await self._engine.awake(target.model, call.deadline)
            found = servables.route(self._engine.catalog, target, key)
        except ServingError as error:
            found = error
        return await answer(
            self._engine,
            PROTOCOL,
            model,
            partial(decode, found),
            encode,
            started,
            version=found if isinstance(found, Version) else None,
            timed=call.timed,
            name_request=False,
        )

    def _counted(self, model: str, check: Callable[..., Reply], *args: Any) -> Reply:
        """`check(*args)`; what it refuses never comes to `answer`, and so is counted here."""
        try:
            return check(*args)
        except ServingError as error:
            self._count(model, error)
            raise

    def _count(self, model: str, error: ServingError) -> None:
        self._engine.metrics.requests(*self._engine.known(model, None), PROTOCOL).failed(error.kind.value)


class ModelService:
    """The methods of `tensorflow.serving.ModelService` by name. A `ServingError` that one raises becomes a status."""

    service = m.tfs.ModelService.full_name
    family = Family.TFS

    def __init__(self, engine: Engine, control: Control) -> None:
        self._engine = engine
        self._control = control
        self.streams: dict[str, StreamMethod] = {}
        self.methods: dict[str, Method] = {
            "GetModelStatus": _bounded(self.get_model_status),
            "HandleReloadConfigRequest": _bounded(self.handle_reload_config_request),
        }

    async def get_model_status(self, data: bytes, call: Call) -> bytes:
        request = read(m.tfs.GetModelStatusRequest, data)
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        spec = request.model_spec
        number = spec.version.value if spec.HasField("version") else None
        return write(servables.status(self._engine.catalog, spec.name, number))

    async def handle_reload_config_request(self, data: bytes, call: Call) -> bytes:
        """Serves the models of the list and no others; returns when they are served. Counts no `metric_names`."""
        request = read(m.tfs.ReloadConfigRequest, data)
        await self._control.apply(reload.wanted(request.config))
        return write(m.tfs.ReloadConfigResponse(status=m.tfs.StatusProto()))


def _asked(message: Any) -> tuple[str, Target | ServingError]:
    """The model that a message names, and what it means, or why it means nothing."""
    name = message.model_spec.name
    try:
        return name, grpc_codec.target(message)
    except ServingError as error:
        return name, error


def _bounded(method: Method) -> Method:
    """The same method, with messages of a bounded length."""

    async def call(data: bytes, about: Call) -> bytes:
        try:
            return await method(data, about)
        except ServingError as error:
            if len(error.message) <= MAX_MESSAGE:
                raise
            text = f"{error.message[:MAX_MESSAGE]}...TRUNCATED"
            raise ServingError(error.kind, text, error.retry_after_s) from None

    return call


def _given(task: tuple[InferRequest, int]) -> tuple[InferRequest, int]:
    return task


async def all_of(answers: Iterable[Coroutine[Any, Any, Reply]]) -> list[Reply]:
    """The results in order. The first failure cancels what is not done."""
    tasks = [asyncio.ensure_future(answer) for answer in answers]
    try:
        return await asyncio.gather(*tasks)
    finally:
        while tasks:  # or an error would hold its task by this frame, and the task the error
            tasks.pop().cancel()
