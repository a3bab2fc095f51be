"""A server in this process with Triton's gRPC interface: tests set its models, its failures and its outages."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from contract.catalogue import Catalogue, Tensor, read_catalogue
from contract.client import ClientSpec
from tests.unit.transcriber.fakes import AUDIO, SEARCH, TOKENS, speaker_spec

ENCODER_SIZE, TOP, EMBEDDING = 8, 4, 16
_SIZES = {"encoder_size": ENCODER_SIZE, "top": TOP, "embedding_size": EMBEDDING}
_TYPES = {"FP16": np.float16, "FP32": np.float32, "INT32": np.int32}


@dataclass(kw_only=True)
class Script:
    """What the server serves and how it fails; tests change it while the server runs."""

    ready: set[str] = field(default_factory=lambda: set(read_catalogue().models("standard")))
    loading: bool = False
    parameters: dict[str, dict[str, str]] = field(
        default_factory=lambda: {
            f"{family}_{point}": {"client": spec.to_json()}
            for point in ("standard", "enhanced")
            for family, spec in (
                ("ensemble_en", ClientSpec(audio=AUDIO, tokens=TOKENS, search=SEARCH)),
                ("diar", ClientSpec(speaker=speaker_spec(0.55))),
            )
        }
    )
    catalogue: Catalogue = field(default_factory=read_catalogue)
    types: dict[str, str] = field(default_factory=dict)
    extra_inputs: tuple[str, ...] = ()
    fills: dict[str, Any] = field(default_factory=dict)
    """The value of all numbers of an output."""
    most_items: int = 16
    """The largest batch of every model."""
    realtime: bool = False
    failures: list[grpc.StatusCode] = field(default_factory=list)
    failure_text: str = ""
    delay_s: float = 0.0
    """How long each inference takes."""
    requests: list[Any] = field(default_factory=list)
    refusal: tuple[grpc.StatusCode, str] | None = None
    """The answer of a proxy that refuses every request."""


class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Answer by the catalogue: every output is zero, but lengths are right and embeddings have unit length."""

    def __init__(self, script: Script) -> None:
        self.script = script

    def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        if self.script.refusal is not None:
            _fail(context, *self.script.refusal)
        return service_pb2.ServerReadyResponse(ready=not self.script.loading)

    def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        if self.script.refusal is not None:
            _fail(context, *self.script.refusal)
        return service_pb2.ModelReadyResponse(ready=request.name in self.script.ready)

    def RepositoryIndex(self, request: Any, context: Any) -> Any:  # noqa: N802
        # The runtime closes the group of this call to clients, and Triton then answers with this status.
        context.abort(grpc.StatusCode.UNAVAILABLE, "This protocol is restricted, expecting header 'voxwright-admin'")

    def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        family = self.script.catalogue.models()[request.name].family
        answer = service_pb2.ModelMetadataResponse(name=request.name)
        for tensors, there in ((family.inputs, answer.inputs), (family.outputs, answer.outputs)):
            for tensor in tensors:
                kind = self.script.types.get(tensor.name, tensor.type)
                if kind != "absent":
                    there.add(name=tensor.name, datatype=kind, shape=_dims(tensor))
        for name in self.script.extra_inputs:
            answer.inputs.add(name=name, datatype="FP32", shape=[-1, 1])
        return answer

    def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        answer = service_pb2.ModelConfigResponse()
        answer.config.max_batch_size = self.script.most_items
        for name, value in self.script.parameters.get(request.name, {}).items():
            answer.config.parameters[name].string_value = value
        if self.script.realtime and request.name.startswith("body_"):
            answer.config.sequence_batching.oldest.max_candidate_sequences = 4
            answer.config.sequence_batching.max_sequence_idle_microseconds = 60_000_000
        return answer

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.script.requests.append(request)
        time.sleep(self.script.delay_s)
        if self.script.failures:
            _fail(context, self.script.failures.pop(0), self.script.failure_text)
        family = self.script.catalogue.models()[request.model_name].family
        sizes = _sizes(request)
        answer = service_pb2.ModelInferResponse(model_name=request.model_name, model_version="1")
        for tensor in family.outputs:
            values = _values(tensor, sizes, request)
            if tensor.name in self.script.fills:
                values[:] = self.script.fills[tensor.name]
            answer.outputs.add(name=tensor.name, datatype=tensor.type, shape=values.shape)
            answer.raw_output_contents.append(values.tobytes())
        return answer


@contextmanager
def serving(script: Script, port: int = 0) -> Iterator[int]:
    """Serve on a port, a free one by default."""
    server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 1)])
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Servicer(script), server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield bound
    finally:
        server.stop(None).wait()


def _fail(context: Any, code: grpc.StatusCode, text: str = "") -> NoReturn:
    context.abort(code, text or f"scripted {code.name}")
    raise AssertionError("abort raises")


def _dims(tensor: Tensor) -> list[int]:
    return [-1, *(_SIZES.get(str(axis), -1) for axis in tensor.shape or ("one",))] if tensor.shape else [-1, 1]


def _sizes(request: Any) -> dict[str, int]:
    shapes = {tensor.name: list(tensor.shape) for tensor in request.inputs}
    sizes = {**_SIZES, "batch": next(iter(shapes.values()))[0]}
    if "audio" in shapes:
        sizes["encoder_frames"] = AUDIO.frames(shapes["audio"][1])
        sizes["windows"] = -(-shapes["audio"][1] // 12_000)
    if "hypotheses" in shapes:
        sizes["hypothesis_count"] = shapes["hypotheses"][1]
    return sizes


def _values(tensor: Tensor, sizes: dict[str, int], request: Any) -> Any:
    shape = [sizes["batch"], *(sizes[str(axis)] for axis in tensor.shape)] if tensor.shape else [sizes["batch"], 1]
    values = np.zeros(shape, dtype=_TYPES[tensor.type])
    if tensor.name == "encoder_lengths":
        place = [there.name for there in request.inputs].index("audio_lengths")
        lengths = np.frombuffer(request.raw_input_contents[place], dtype=np.int32)
        values[:, 0] = [AUDIO.frames(int(length)) for length in lengths]
    if tensor.name == "embedding":
        values[..., 0] = 1.0
    if tensor.name == "scores":
        values[:] = np.arange(shape[1])
    return values
