"""Serve any ONNX model through ONNX Runtime, as a Python-based Triton backend that Triton's stub process loads.

The backend uses the name, the model file and the parameters of Triton's own onnxruntime backend, so that the
same config.pbtxt works with both.
"""

import json
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils

Arrays = dict[str, np.ndarray[Any, Any]]

_ONNX_TYPES = {
    "TYPE_BOOL": "tensor(bool)",
    "TYPE_UINT8": "tensor(uint8)",
    "TYPE_UINT16": "tensor(uint16)",
    "TYPE_UINT32": "tensor(uint32)",
    "TYPE_UINT64": "tensor(uint64)",
    "TYPE_INT8": "tensor(int8)",
    "TYPE_INT16": "tensor(int16)",
    "TYPE_INT32": "tensor(int32)",
    "TYPE_INT64": "tensor(int64)",
    "TYPE_FP16": "tensor(float16)",
    "TYPE_FP32": "tensor(float)",
    "TYPE_FP64": "tensor(double)",
}
# The numbers of Triton's `optimization.graph.level`.
_LEVELS = {
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    0: ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
_ERRORS_ONLY = 3
_UNKNOWN_STREAM = "this sequence was not started, or was dropped after its timeout: start it again with the start flag"


class TritonPythonModel:
    """One instance of a model, as Triton's stub process calls it."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model; raise TritonModelException, which names the model, when it cannot be served as configured."""
        self._config = json.loads(args["model_config"])
        self._name = args["model_name"]
        path = _model_file(args, self._config)
        self._session = self._open(path)
        self._inputs = [tensor["name"] for tensor in self._config["input"]]
        self._outputs = [tensor["name"] for tensor in self._config["output"]]
        self._is_batched = self._config.get("max_batch_size", 0) > 0
        self._streams = _streams(self._config)
        problem = mismatch(self._config, self._session.get_inputs(), self._session.get_outputs())
        if problem:
            raise pb_utils.TritonModelException(f"model {self._name}: {path.name} and config.pbtxt disagree: {problem}")

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer every request with as few runs of the network as the shapes allow."""
        responses: list[Any] = [None] * len(requests)
        groups: dict[Any, list[int]] = defaultdict(list)
        arrays = [self._arrays(request) for request in requests]
        wanted = [self._wanted(request) for request in requests]
        for index, feeds in enumerate(arrays):
            if self._streams is not None:
                past = self._streams.states(requests[index])
                if past is None:
                    responses[index] = _response(f"model {self._name}: {_UNKNOWN_STREAM}")
                    continue
                feeds.update(past)
            groups[(_shapes(feeds) if self._is_batched else index, wanted[index])].append(index)
        for (_, outputs), members in groups.items():
            for index, answer in zip(members, self._answer([arrays[index] for index in members], outputs), strict=True):
                if self._streams is not None and isinstance(answer, dict):
                    self._streams.keep(requests[index], answer)
                responses[index] = _response(answer)
        return responses

    def finalize(self) -> None:
        """Release the network."""
        del self._session

    def _open(self, path: Path) -> Any:
        ort.set_default_logger_severity(_ERRORS_ONLY)
        try:
            return ort.InferenceSession(path, session_options(self._config), providers=["CPUExecutionProvider"])
        # ONNX Runtime raises classes of its own that share no base but Exception.
        except Exception as error:
            message = f"model {self._name}: {path.name} is damaged or not an ONNX model: {_first_line(error)}"
            raise pb_utils.TritonModelException(message) from error

    def _arrays(self, request: Any) -> Arrays:
        found = {name: pb_utils.get_input_tensor_by_name(request, name) for name in self._inputs}
        return {name: tensor.as_numpy() for name, tensor in found.items() if tensor is not None}

    def _wanted(self, request: Any) -> tuple[str, ...]:
        names = set(request.requested_output_names())
        hidden = self._streams.outputs if self._streams is not None else ()
        return (*(name for name in self._outputs if name in names), *hidden)

    def _answer(self, feeds: list[Arrays], outputs: tuple[str, ...]) -> list[Arrays | str]:
        try:
            return list(self._run(feeds, outputs))
        except Exception as error:
            # The error is returned to the client of this request.
            if len(feeds) == 1:
                return [f"model {self._name}: {_first_line(error)}"]
            # One of the requests is bad: run each on its own, so that only that one fails.
            return [answer for feed in feeds for answer in self._answer([feed], outputs)]

    def _run(self, feeds: list[Arrays], outputs: tuple[str, ...]) -> list[Arrays]:
        if len(feeds) == 1:
            return [dict(zip(outputs, self._session.run(list(outputs), feeds[0]), strict=True))]
        sizes = [len(next(iter(feed.values()))) for feed in feeds]
        together = {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}
        results = self._session.run(list(outputs), together)
        for name, result in zip(outputs, results, strict=True):
            if len(result) != sum(sizes):
                raise ValueError(f"output {name} has {len(result)} rows for a batch of {sum(sizes)}")
        ends = np.cumsum(sizes)
        return [
            {name: result[end - size : end] for name, result in zip(outputs, results, strict=True)}
            for size, end in zip(sizes, ends, strict=True)
        ]


class _Streams:
    """The states of the sequences in flight, which Triton keeps for its own backends but not for Python backends.

    Triton assigns a sequence a slot of one instance until the sequence ends or times out, and does not notify the
    backend of a timeout. It never has more than `most` slots, and a sequence that timed out has been idle for longer
    than any other. So keeping the `most` sequences with the latest requests is enough.
    """

    def __init__(self, states: Sequence[dict[str, Any]], most: int) -> None:
        self.outputs = tuple(state["output_name"] for state in states)
        self._inputs = {state["output_name"]: state["input_name"] for state in states}
        self._before = {state["input_name"]: _zeros(state) for state in states}
        self._most = most
        self._known: OrderedDict[Any, Arrays] = OrderedDict()

    def states(self, request: Any) -> Arrays | None:
        """Return the states before a request; None where the request continues an unknown sequence."""
        if request.flags() & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START:
            return self._before
        return self._known.get(request.correlation_id())

    def keep(self, request: Any, answer: Arrays) -> None:
        """Remove the next states from an answer, and store them unless the sequence has ended."""
        states = {self._inputs[name]: answer.pop(name) for name in self.outputs}
        self._known.pop(request.correlation_id(), None)
        if not request.flags() & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END:
            self._known[request.correlation_id()] = states
            while len(self._known) > self._most:
                self._known.popitem(last=False)


def _zeros(state: dict[str, Any]) -> Any:
    return np.zeros((1, *map(int, state["dims"])), pb_utils.triton_string_to_numpy(state["data_type"]))


def session_options(config: dict[str, Any]) -> Any:
    """Return the session options of a configuration, read by the parameter names of Triton's own backend."""
    texts = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
    options = ort.SessionOptions()
    options.intra_op_num_threads = int(texts.get("intra_op_thread_count", "0"))
    options.inter_op_num_threads = int(texts.get("inter_op_thread_count", "0"))
    if texts.get("execution_mode", "0") == "1":
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    options.enable_cpu_mem_arena = texts.get("enable_mem_arena", "1") == "1"
    options.enable_mem_pattern = texts.get("enable_mem_pattern", "1") == "1"
    level = config.get("optimization", {}).get("graph", {}).get("level", 0)
    options.graph_optimization_level = _LEVELS[int(level)]
    for key, text in texts.items():
        if key.startswith("session."):
            options.add_session_config_entry(key, text)
    return options


def mismatch(config: dict[str, Any], inputs: Sequence[Any], outputs: Sequence[Any]) -> str | None:
    """Return how the tensors of a configuration and a network differ; None where they agree."""
    is_batched = config.get("max_batch_size", 0) > 0
    states = config.get("sequence_batching", {}).get("state", [])
    hidden = {side: [{**state, "name": state[f"{side}_name"]} for state in states] for side in ("input", "output")}
    configured = [*config["input"], *hidden["input"]]
    for side, wanted, found in (
        ("input", configured, inputs),
        ("output", config["output"] + hidden["output"], outputs),
    ):
        real = {tensor.name: tensor for tensor in found}
        for tensor in wanted:
            if tensor["name"] not in real:
                return f"the model has no {side} {tensor['name']}"
            problem = _tensor_mismatch(tensor, real[tensor["name"]], is_batched=is_batched)
            if problem:
                return f"{side} {tensor['name']} {problem}"
    extra = sorted({tensor.name for tensor in inputs} - {tensor["name"] for tensor in configured})
    return f"input {extra[0]} of the model is not configured" if extra else None


def _tensor_mismatch(wanted: dict[str, Any], real: Any, *, is_batched: bool) -> str | None:
    expected = _ONNX_TYPES.get(wanted["data_type"])
    if expected is None:
        return f"is {wanted['data_type']}, which this backend does not serve"
    if real.type != expected:
        return f"is {real.type} in the model and {expected} in the configuration"
    dims = wanted["reshape"]["shape"] if "reshape" in wanted else wanted["dims"]
    shape = [-1, *map(int, dims)] if is_batched else [int(dim) for dim in dims]
    # The model's axes are numbers, names or None; a model without a known rank has no shape to compare.
    fixed = [axis if isinstance(axis, int) else -1 for axis in real.shape or []]
    agrees = len(fixed) == len(shape) and all(
        -1 in pair or pair[0] == pair[1] for pair in zip(fixed, shape, strict=True)
    )
    return (
        None
        if agrees or not real.shape
        else f"has shape {list(real.shape)} in the model and {shape} in the configuration"
    )


def _streams(config: dict[str, Any]) -> _Streams | None:
    batching = config.get("sequence_batching", {})
    if not batching.get("state"):
        return None
    slots = int(batching.get("oldest", {}).get("max_candidate_sequences", 0)) or int(config.get("max_batch_size", 1))
    return _Streams(batching["state"], slots)


def _model_file(args: dict[str, str], config: dict[str, Any]) -> Path:
    name = config.get("default_model_filename") or "model.onnx"
    return Path(args["model_repository"]) / args["model_version"] / name


def _shapes(feeds: Arrays) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((name, array.shape[1:]) for name, array in feeds.items())


def _response(answer: Arrays | str) -> Any:
    if isinstance(answer, str):
        return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(answer))
    return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor(name, array) for name, array in answer.items()])


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
