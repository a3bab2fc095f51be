"""The ONNX Runtime backend by itself: a fake replaces Triton's Python module, ONNX Runtime is real."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx.parser
import pytest

BACKEND = Path(__file__).parents[2] / "runtime" / "backends" / "onnxruntime" / "model.py"
# y = x + x for every item; z is the table's entry for `place`, which is out of bounds from 3 on.
SOURCE = """
    <ir_version: 8, opset_import: ["" : 17]>
    toy (float16[b, n] x, int32[b] place) => (float16[b, n] y, float[b] z)
    { table = Constant <value = float[3] {10.0, 20.0, 30.0}> ()
      y = Add (x, x)
      z = Gather (table, place) }"""


class Tensor:
    def __init__(self, name: str, array: Any) -> None:
        self.name, self.array = name, array

    def as_numpy(self) -> Any:
        return self.array


class Request:
    def __init__(self, x: Any, place: Any, outputs: tuple[str, ...] = ("y", "z")) -> None:
        self.inputs = {"x": Tensor("x", np.array(x, np.float16)), "place": Tensor("place", np.array(place, np.int32))}
        self.outputs = outputs

    def requested_output_names(self) -> list[str]:
        return list(self.outputs)


class TritonModelException(Exception):  # noqa: N818 - Triton's name
    pass


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Any:
    stub = SimpleNamespace(
        Tensor=Tensor,
        TritonModelException=TritonModelException,
        TritonError=str,
        InferenceResponse=lambda output_tensors, error=None: error or {t.name: t.array for t in output_tensors},
        get_input_tensor_by_name=lambda request, name: request.inputs.get(name),
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", stub)
    spec = importlib.util.spec_from_file_location("backend_under_test", BACKEND)
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def config(**changes: Any) -> dict[str, Any]:
    return {
        "name": "toy",
        "max_batch_size": 8,
        "input": [
            {"name": "x", "data_type": "TYPE_FP16", "dims": ["-1"]},
            {"name": "place", "data_type": "TYPE_INT32", "dims": ["1"], "reshape": {"shape": []}},
        ],
        "output": [
            {"name": "y", "data_type": "TYPE_FP16", "dims": ["-1"]},
            {"name": "z", "data_type": "TYPE_FP32", "dims": ["1"], "reshape": {"shape": []}},
        ],
        **changes,
    }


def opened(backend: Any, folder: Path, made: dict[str, Any], file: str = "model.onnx") -> Any:
    (folder / "1").mkdir(exist_ok=True)
    onnx.save(onnx.parser.parse_model(SOURCE), folder / "1" / file)
    return initialized(backend, folder, made)


def initialized(backend: Any, folder: Path, made: dict[str, Any]) -> Any:
    model = backend.TritonPythonModel()
    args = {
        "model_name": "toy",
        "model_repository": str(folder),
        "model_version": "1",
        "model_config": json.dumps(made),
    }
    model.initialize(args)
    return model


def counting(model: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that receives the batch size of every run of the network."""
    sizes: list[int] = []
    session = model._session

    def run(outputs: list[str], feeds: dict[str, Any]) -> Any:
        sizes.append(len(feeds["x"]))
        return session.run(outputs, feeds)

    monkeypatch.setattr(model, "_session", SimpleNamespace(run=run))
    return sizes


def test_batches_requests_of_equal_shape(backend: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = opened(backend, tmp_path, config())
    sizes = counting(model, monkeypatch)
    first, second, third = model.execute(
        [Request([[1, 2]], [0]), Request([[3], [4]], [1, 2]), Request([[5, 6], [7, 8]], [1, 2])]
    )
    assert sizes == [3, 2]
    np.testing.assert_array_equal(first["y"], [[2, 4]])
    np.testing.assert_array_equal(second["y"], [[6], [8]])
    np.testing.assert_array_equal(third["y"], [[10, 12], [14, 16]])
    np.testing.assert_array_equal(third["z"], [20, 30])
    assert first["y"].dtype == np.float16


def test_bad_request_fails_alone(backend: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = opened(backend, tmp_path, config())
    sizes = counting(model, monkeypatch)
    good, bad, other = model.execute([Request([[1]], [0]), Request([[1]], [9]), Request([[2]], [2])])
    np.testing.assert_array_equal(good["z"], [10])
    np.testing.assert_array_equal(other["z"], [30])
    assert bad.startswith("model toy: ")
    assert "idx=9" in bad
    assert sizes == [3, 1, 1, 1]


def test_returns_only_requested_outputs(backend: Any, tmp_path: Path) -> None:
    model = opened(backend, tmp_path, config())
    only_y, both = model.execute([Request([[1]], [0], ("y",)), Request([[1]], [0])])
    assert list(only_y) == ["y"]
    assert list(both) == ["y", "z"]


def test_runs_unbatched_model_request_by_request(backend: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unbatched = config(
        max_batch_size=0,
        input=[
            {"name": "x", "data_type": "TYPE_FP16", "dims": ["-1", "-1"]},
            {"name": "place", "data_type": "TYPE_INT32", "dims": ["-1"]},
        ],
        output=[{"name": "y", "data_type": "TYPE_FP16", "dims": ["-1", "-1"]}],
    )
    model = opened(backend, tmp_path, unbatched)
    sizes = counting(model, monkeypatch)
    model.execute([Request([[1]], [0], ("y",)), Request([[1]], [0], ("y",))])
    assert sizes == [1, 1]


def test_loads_the_configured_model_file(backend: Any, tmp_path: Path) -> None:
    model = opened(backend, tmp_path, config(default_model_filename="other.onnx"), "other.onnx")
    model.finalize()
    with pytest.raises(TritonModelException, match=r"^model toy: model\.onnx is damaged or not an ONNX model: "):
        initialized(backend, tmp_path, config())


DISAGREEMENTS: dict[str, dict[str, Any]] = {
    "input x is tensor(float16) in the model and tensor(float) in the configuration": {"data_type": "TYPE_FP32"},
    "input x is TYPE_STRING, which this backend does not serve": {"data_type": "TYPE_STRING"},
    "the model has no input audio": {"name": "audio"},
    "input x has shape ['b', 'n'] in the model and [-1, -1, 80] in the configuration": {"dims": ["-1", "80"]},
}


@pytest.mark.parametrize("problem", DISAGREEMENTS)
def test_rejects_configuration_that_disagrees_with_the_model(backend: Any, tmp_path: Path, problem: str) -> None:
    first, second = config()["input"]
    with pytest.raises(TritonModelException) as refusal:
        opened(backend, tmp_path, config(input=[{**first, **DISAGREEMENTS[problem]}, second]))
    assert str(refusal.value) == f"model toy: model.onnx and config.pbtxt disagree: {problem}"


def test_rejects_unknown_output(backend: Any, tmp_path: Path) -> None:
    text = {"name": "text", "data_type": "TYPE_FP32", "dims": ["1"]}
    with pytest.raises(TritonModelException, match="the model has no output text"):
        opened(backend, tmp_path, config(output=[text]))


def test_rejects_unconfigured_input(backend: Any, tmp_path: Path) -> None:
    with pytest.raises(TritonModelException, match="input place of the model is not configured"):
        opened(backend, tmp_path, config(input=config()["input"][:1]))


def test_session_options(backend: Any) -> None:
    texts = {
        "intra_op_thread_count": "3",
        "inter_op_thread_count": "2",
        "execution_mode": "1",
        "enable_mem_arena": "0",
        "session.intra_op.allow_spinning": "0",
        "tokens": "[]",
    }
    parameters = {key: {"string_value": text} for key, text in texts.items()}
    options = backend.session_options({"parameters": parameters, "optimization": {"graph": {"level": -1}}})
    assert options.intra_op_num_threads == 3
    assert options.inter_op_num_threads == 2
    assert options.execution_mode == backend.ort.ExecutionMode.ORT_PARALLEL
    assert options.enable_cpu_mem_arena is False
    assert options.enable_mem_pattern is True
    assert options.graph_optimization_level == backend.ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
