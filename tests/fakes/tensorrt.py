"""A fake TensorRT for hosts without a GPU: the names of a real version, and ONNX Runtime instead of its kernels.

The names come from tensorrt_names.json, which `tests.fakes.capture` read from NVIDIA's own wheels. An attribute that
the version lacks raises AttributeError here too, so that a build that passes uses only names of that version. A plan
contains the graph and everything that it was built with. Every name that was used is written to the file in the
environment variable VOXWRIGHT_CALLS.
"""

import atexit
import ctypes
import enum
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

NAMES: dict[str, Any] = json.loads(Path(__file__).with_name("tensorrt_names.json").read_text())
# The legacy platform has 8.6.1, which has no wheel; 8.6.0 was released two months earlier.
STAND_INS = {"8.6.1": "8.6.0"}
_MAGIC = b"FAKEPLAN"
# The CUDA version that the driver must support, by major version of TensorRT, as the driver counts it.
_CUDA = {"8": 11000, "10": 12000, "11": 13000}
_USED: set[str] = set()


def install(module: ModuleType, version: str) -> None:
    """Turn a module into TensorRT of a version."""
    names = NAMES[STAND_INS.get(version, version)]
    classes = {name: _enum(name, names) for name in names["enums"]}
    library = _Library(version, classes)
    plain = {name: _class(name, names, library) for name in names["classes"] if name not in classes}
    classes.update(plain)
    vars(module).update(classes, __version__=version, init_libnvinfer_plugins=lambda *_: True)
    aliases = {
        "float32": "FLOAT",
        "float16": "HALF",
        "int32": "INT32",
        "int8": "INT8",
        "int64": "INT64",
        "bool": "BOOL",
    }
    for alias, kind in aliases.items():
        if alias in names["module"]:
            setattr(module, alias, classes["DataType"][kind])
    if "VOXWRIGHT_CALLS" in os.environ:
        atexit.register(lambda: Path(os.environ["VOXWRIGHT_CALLS"]).write_text("\n".join(sorted(_USED))))


def _enum(name: str, names: Any) -> Any:
    return enum.IntEnum(name, names["classes"][name], start=0)


def _class(name: str, names: Any, library: "_Library") -> type:
    """Return a class with the behaviour below, without the names that the version lacks."""
    known = set(names["classes"][name])
    behaviour = {
        key: value
        for key, value in vars(_BEHAVIOURS.get(name, _Nothing)).items()
        if key in known or (key.startswith("_") and key not in _PYTHONS_OWN)
    }

    def get(self: Any, key: str) -> Any:
        value = object.__getattribute__(self, key)
        # A subclass, such as Polygraphy's logger, has its own attributes.
        if not key.startswith("_") and (key in known or type(self).__name__ == name):
            _USED.add(f"{name}.{key}")
        return value

    def put(self: Any, key: str, value: Any) -> None:
        if not key.startswith("_") and key not in known and type(self).__name__ == name:
            raise AttributeError(f"{name} has no attribute {key}")
        if key in known:
            _USED.add(f"{name}.{key}")
        object.__setattr__(self, key, value)

    levels = {level: number for number, level in enumerate(_LEVELS) if level in known}
    base = bytes if name == "IHostMemory" else object
    own = {"__getattribute__": get, "__setattr__": put, "_library": library} if base is object else {}
    made = type(name, (base,), {**levels, **behaviour, **own})
    library.classes[name] = made
    return made


_PYTHONS_OWN = ("__dict__", "__weakref__", "__module__", "__doc__", "__annotations__", "__firstlineno__")
_LEVELS = ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")


class _Library:
    """State that the classes of one version share."""

    def __init__(self, version: str, classes: dict[str, Any]) -> None:
        self.version, self.classes = version, classes

    def make(self, name: str, /, **state: Any) -> Any:
        made = self.classes[name].__new__(self.classes[name])
        for key, value in state.items():
            object.__setattr__(made, key, value)
        return made

    def member(self, kind: str, name: str) -> Any:
        return self.classes[kind][name]

    @property
    def mark(self) -> bytes:
        """Return the first line of a timing cache; the real library checks the version and the device's properties."""
        name = ctypes.create_string_buffer(128)
        ctypes.CDLL("libcuda.so.1").cuDeviceGetName(name, 128, 0)
        return f"timings of {self.version} on {name.value.decode()}".encode()


class _Nothing:
    """The behaviour of a class that has none here."""


def _supported_cuda() -> int | None:
    """Return the CUDA version that the driver supports; None without a driver, as in the tests of names alone."""
    supported = ctypes.c_int()
    try:
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(supported))
    except OSError:
        return None
    return supported.value


class _Builder:
    _library: _Library

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        supported = _supported_cuda()
        if supported is not None and supported < _CUDA[self._library.version.partition(".")[0]]:
            logger.log(self._library.classes["Logger"].ERROR, "CUDA initialization failure with error: 35")
            # What pybind11 makes of the null pointer that createInferBuilder returns.
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def create_network(self, flags: int = 0) -> Any:
        return self._library.make("INetworkDefinition", _flags=flags, _model=b"", _inputs=[], _outputs=[], _layers=[])

    def create_builder_config(self) -> Any:
        state: dict[str, Any] = {
            "_on": {"TF32"},
            "_limits": {},
            "_profiles": [],
            "_cache": None,
            "_tactics": 0,
            "DLA_core": -1,
            "int8_calibrator": None,
        }
        known = NAMES[STAND_INS.get(self._library.version, self._library.version)]["classes"]["IBuilderConfig"]
        state = {key: value for key, value in state.items() if key.startswith("_") or key in known}
        return self._library.make("IBuilderConfig", default_device_type=None, **state)

    def create_optimization_profile(self) -> Any:
        return self._library.make("IOptimizationProfile", _shapes={})

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        head = {
            "version": self._library.version,
            "flags": sorted(config._on),
            "network_flags": network._flags,
            "limits": {pool.name: size for pool, size in config._limits.items()},
            "profiles": [profile._shapes for profile in config._profiles],
            "settings": {
                key: getattr(value, "name", value)
                for key, value in vars(config).items()
                if not key.startswith("_") and key not in ("DLA_core", "int8_calibrator", "default_device_type")
            },
            "tactics": config._tactics,
            "formats": {
                tensor.name: vars(tensor).get("allowed_formats") for tensor in (*network._inputs, *network._outputs)
            },
            "pinned": [layer.name for layer in network._layers if "precision" in vars(layer)],
            "timings": config._cache._content.decode() if config._cache else "",
        }
        config._cache = config._cache or config.create_timing_cache(b"")
        config._cache._content += f"\n{hashlib.sha256(network._model).hexdigest()}".encode()
        plan = _MAGIC + json.dumps(head).encode() + b"\n" + network._model
        return self._library.classes["IHostMemory"](plan)


class _Network:
    _library: _Library
    _flags: int
    _inputs: list[Any]
    _outputs: list[Any]
    _layers: list[Any]

    num_inputs = property(lambda self: len(self._inputs))
    num_outputs = property(lambda self: len(self._outputs))
    num_layers = property(lambda self: len(self._layers))

    def get_input(self, index: int) -> Any:
        return self._inputs[index]

    def get_output(self, index: int) -> Any:
        return self._outputs[index]

    def get_layer(self, index: int) -> Any:
        return self._layers[index]

    def get_flag(self, flag: int) -> bool:
        return bool(self._flags >> int(flag) & 1)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._layers)


class _Layer:
    _library: _Library
    _inputs: list[Any]
    _outputs: list[Any]
    _pinned: dict[int, Any]

    num_inputs = property(lambda self: len(self._inputs))

    num_outputs = property(lambda self: len(self._outputs))
    precision_is_set = property(lambda self: "precision" in vars(self))

    def get_output(self, index: int) -> Any:
        return self._outputs[index]

    def get_input(self, index: int) -> Any:
        return self._inputs[index]

    def set_output_type(self, index: int, kind: Any) -> None:
        self._pinned[index] = kind


class _Parser:
    _library: _Library
    _errors: list[str]

    def __init__(self, network: Any, logger: Any) -> None:
        self._network, self._errors = network, []

    num_errors = property(lambda self: len(self._errors))

    def get_error(self, index: int) -> str:
        return self._errors[index]

    def parse_from_file(self, path: str) -> bool:
        import onnx

        try:
            model = onnx.load(path)
        except Exception as error:  # protobuf's exceptions have no public type
            self._errors.append(f"In node -1 (importModel): {error}")
            return False
        network = self._network
        network._model = Path(path).read_bytes()
        known = onnx.shape_inference.infer_shapes(model).graph
        kinds = {value.name: self._tensor(value) for value in (*known.input, *known.output, *known.value_info)}
        network._inputs.extend(kinds[value.name] for value in known.input)
        network._outputs.extend(kinds[value.name] for value in known.output)
        for node in known.node:
            given = [kinds.get(name) for name in node.input]
            results = [kinds[name] for name in node.output if name in kinds]
            types = self._library.classes["LayerType"].__members__
            kind = types.get(node.op_type.upper(), types["ELEMENTWISE"])
            name = node.name or node.output[0]
            network._layers.append(
                self._library.make("ILayer", name=name, type=kind, _inputs=given, _outputs=results, _pinned={})
            )
        return True

    def _tensor(self, value: Any) -> Any:
        import onnx

        kind = onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type)
        member = {"FLOAT": "FLOAT", "FLOAT16": "HALF", "INT32": "INT32", "BOOL": "BOOL"}.get(kind, "INT32")
        shape = tuple(dim.dim_value or -1 for dim in value.type.tensor_type.shape.dim)
        return self._library.make(
            "ITensor",
            name=value.name,
            dtype=self._library.member("DataType", member),
            shape=shape,
            is_shape_tensor=False,
        )


class _Config:
    _library: _Library
    _on: set[str]
    _limits: dict[Any, int]
    _profiles: list[Any]
    _cache: Any
    _tactics: int

    num_optimization_profiles = property(lambda self: len(self._profiles))

    def set_flag(self, flag: Any) -> None:
        _USED.add(f"BuilderFlag.{flag.name}")
        self._on.add(flag.name)

    def clear_flag(self, flag: Any) -> None:
        self._on.discard(flag.name)

    def get_flag(self, flag: Any) -> bool:
        return flag.name in self._on

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self._limits[pool] = size

    def get_memory_pool_limit(self, pool: Any) -> int:
        return self._limits.get(pool, 0)

    def get_tactic_sources(self) -> int:
        return self._tactics

    def set_tactic_sources(self, sources: int) -> bool:
        self._tactics = sources
        return True

    def get_preview_feature(self, feature: Any) -> bool:
        return False

    def get_quantization_flag(self, flag: Any) -> bool:
        return False

    def add_optimization_profile(self, profile: Any) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> Any:
        if serialized_timing_cache and not serialized_timing_cache.startswith(b"timings of "):
            # The binding returns a null pointer for content that TensorRT cannot read.
            return None
        return self._library.make("ITimingCache", _content=bytes(serialized_timing_cache) or self._library.mark)

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        if cache is None:
            raise TypeError("set_timing_cache(): incompatible function arguments")
        self._cache = cache
        return ignore_mismatch or cache._content.partition(b"\n")[0] == self._library.mark

    def get_timing_cache(self) -> Any:
        return self._cache


class _TimingCache:
    _library: _Library
    _content: bytes

    def combine(self, input_cache: Any, ignore_mismatch: bool) -> bool:
        lines = self._content.split(b"\n")
        added = [line for line in input_cache._content.split(b"\n") if line not in lines]
        self._content = b"\n".join([*lines, *added])
        return True

    def serialize(self) -> Any:
        return self._library.classes["IHostMemory"](self._content)


class _HostMemory:
    nbytes = property(len)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: there is no memory to free."""


class _Profile:
    _shapes: dict[str, list[tuple[int, ...]]]

    def set_shape(self, name: str, *shapes: tuple[int, ...]) -> None:
        self._shapes[name] = list(shapes)

    def __bool__(self) -> bool:
        return all(
            least <= optimum <= most
            for shapes in self._shapes.values()
            for least, optimum, most in zip(*shapes, strict=True)
        )


class _Runtime:
    _library: _Library

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
        if not serialized_engine.startswith(_MAGIC):
            self._logger.log(self._library.classes["Logger"].ERROR, "Magic tag does not match")
            return None
        line, _, model = serialized_engine[len(_MAGIC) :].partition(b"\n")
        head = json.loads(line)
        network = self._library.make("INetworkDefinition", _model=b"", _inputs=[], _outputs=[], _layers=[])
        parser = self._library.classes["OnnxParser"](network, self._logger)
        with tempfile.NamedTemporaryFile() as file:
            Path(file.name).write_bytes(model)
            parser.parse_from_file(file.name)
        tensors = [*network._inputs, *network._outputs]
        return self._library.make(
            "ICudaEngine", _head=head, _model=model, _tensors=tensors, _inputs=len(network._inputs)
        )


class _Engine:
    _library: _Library
    _head: dict[str, Any]
    _model: bytes
    _tensors: list[Any]
    _inputs: int

    num_io_tensors = property(lambda self: len(self._tensors))
    num_optimization_profiles = property(lambda self: len(self._head["profiles"]))
    device_memory_size = property(lambda self: 1 << 20)
    device_memory_size_v2 = property(lambda self: 1 << 20)
    streamable_weights_size = property(lambda self: 0)

    def get_tensor_name(self, index: int) -> str:
        return str(self._tensors[index].name)

    def get_tensor_mode(self, name: str) -> Any:
        inputs = [tensor.name for tensor in self._tensors[: self._inputs]]
        return self._library.member("TensorIOMode", "INPUT" if name in inputs else "OUTPUT")

    def get_tensor_dtype(self, name: str) -> Any:
        return self._tensor(name).dtype

    def get_tensor_shape(self, name: str) -> Any:
        return self._tensor(name).shape

    def get_tensor_format(self, name: str, profile_index: int = 0) -> Any:
        return self._library.member("TensorFormat", "LINEAR")

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> Any:
        return self._head["profiles"][profile_index][name]

    def is_shape_inference_io(self, name: str) -> bool:
        return False

    def get_aliased_input_tensor(self, name: str) -> None:
        return None

    def create_engine_inspector(self) -> Any:
        return self._library.make("EngineInspector", _head=self._head)

    def create_execution_context(self) -> Any:
        return self._library.make(
            "IExecutionContext",
            _engine=self,
            _shapes={},
            _addresses={},
            _allocators={},
            _session=None,
            active_optimization_profile=0,
        )

    def _tensor(self, name: str) -> Any:
        return next(tensor for tensor in self._tensors if tensor.name == name)


class _Inspector:
    _head: dict[str, Any]

    def get_engine_information(self, format: Any) -> str:  # noqa: A002 - TensorRT's name
        return json.dumps({"Layers": [], **self._head})


class _Context:
    _library: _Library
    _engine: Any
    _shapes: dict[str, tuple[int, ...]]
    _addresses: dict[str, int]
    _allocators: dict[str, Any]
    _session: Any
    active_optimization_profile: int

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self.active_optimization_profile = profile_index
        return True

    def get_tensor_shape(self, name: str) -> Any:
        if name in self._shapes or len(self._shapes) < self._engine._inputs:
            return self._shapes.get(name, self._engine.get_tensor_shape(name))
        # The real library computes the shapes of outputs from those of the inputs; here a run on zeros does.
        names = [each.name for each in self._engine._tensors[: self._engine._inputs]]
        zeros = {each: np.zeros(self._shapes[each], self._kind(each)) for each in names}
        (found,) = self._opened().run([name], zeros)
        return found.shape

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self._engine._head["profiles"][self.active_optimization_profile][name]
        self._shapes[name] = tuple(shape)
        return all(low <= size <= high for low, size, high in zip(least, shape, most, strict=True))

    def get_tensor_address(self, name: str) -> int:
        return self._addresses.get(name, 0)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return True

    def set_output_allocator(self, name: str, output_allocator: Any) -> bool:
        self._allocators[name] = output_allocator
        return True

    def set_all_tensors_debug_state(self, flag: bool) -> bool:
        return True

    def set_debug_listener(self, listener: Any) -> bool:
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        session = self._opened()
        feeds = {each.name: self._array(each.name) for each in self._engine._tensors[: self._engine._inputs]}
        names = [output.name for output in session.get_outputs()]
        for name, array in zip(names, session.run(names, feeds), strict=True):
            whole = np.ascontiguousarray(array)
            address = self._addresses.get(name, 0)
            if name in self._allocators:
                self._allocators[name].notify_shape(name, array.shape)
                address = self._allocators[name].reallocate_output(name, 0, whole.nbytes, 1)
            ctypes.memmove(address, whole.ctypes.data, whole.nbytes)
        return True

    def _opened(self) -> Any:
        import onnxruntime

        if self._session is None:
            self._session = onnxruntime.InferenceSession(self._engine._model, providers=["CPUExecutionProvider"])
        return self._session

    def _kind(self, name: str) -> str:
        return {"HALF": "float16", "FLOAT": "float32", "INT32": "int32"}[self._engine.get_tensor_dtype(name).name]

    def _array(self, name: str) -> Any:
        kind, shape = self._kind(name), self._shapes[name]
        size = int(np.prod(shape)) * np.dtype(kind).itemsize
        return np.frombuffer(ctypes.string_at(self._addresses[name], size), dtype=kind).reshape(shape)


_BEHAVIOURS: dict[str, Callable[..., Any]] = {
    "Builder": _Builder,
    "EngineInspector": _Inspector,
    "IBuilderConfig": _Config,
    "ICudaEngine": _Engine,
    "IExecutionContext": _Context,
    "IHostMemory": _HostMemory,
    "ILayer": _Layer,
    "INetworkDefinition": _Network,
    "IOptimizationProfile": _Profile,
    "ITimingCache": _TimingCache,
    "OnnxParser": _Parser,
    "Runtime": _Runtime,
}
