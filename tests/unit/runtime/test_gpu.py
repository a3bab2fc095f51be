"""Test detection with the real cuda-bindings and nvidia-ml-py, on driver libraries that these tests compile."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.driver import (
    A10,
    A100,
    A100_SLICE,
    A100_SMALL_SLICE,
    B200,
    BINDINGS,
    H100,
    L4,
    ROOT,
    T4,
    V100,
    fake_driver,
    needs_bindings,
    python,
)

DETECT = """
import dataclasses, json, os
from contract.errors import guard
from runtime import gpu
guard(lambda: print(json.dumps(dataclasses.asdict(gpu.detect(os.environ)))))
"""
NO_GPU: dict[str, Any] = {"gpus": [], "driver": None, "inaccessible": [], "remedy": ""}
NAME_ONE = "Use a number or UUID that `nvidia-smi -L` lists; a MIG instance needs its UUID"
CARDS = {"T4": T4, "A100": A100, "slice": A100_SLICE, "A10": A10, "L4": L4, "H100": H100, "V100": V100, "B200": B200}


def detect(library: Path | None, **variables: str) -> Any:
    result = python(library, "-c", DETECT, cwd=ROOT, **variables)
    assert (result.returncode, result.stderr) == (0, "")
    return json.loads(result.stdout)


@needs_bindings
@pytest.mark.parametrize("card", CARDS.values(), ids=CARDS)
def test_describes_the_gpu(tmp_path: Path, card: dict[str, str]) -> None:
    assert detect(fake_driver(tmp_path, **card)) == {
        "gpus": [
            {
                "name": json.loads(card["NAME"]),
                "capability": [int(card["MAJOR"]), int(card["MINOR"])],
                "memory_bytes": int(card["MEBIBYTES"]) << 20,
                "mig": {"-1": "not offered", "0": "off", "1": "on"}[card["MIG"]],
            }
        ],
        "driver": {"cuda": [13, 0], "version": "580.65.06", "reason": ""},
        "reason": "",
        "inaccessible": [],
        "remedy": "",
    }


@needs_bindings
@pytest.mark.parametrize("version", ["470.256.02", "525.147.05", "535.104.05", "545.23.06", "580.65.06"])
def test_driver_versions(tmp_path: Path, version: str) -> None:
    found = detect(fake_driver(tmp_path, driver=version, CUDA="12020"))
    assert found["driver"] == {"cuda": [12, 2], "version": version, "reason": ""}


@needs_bindings
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"NVML": "absent"}, "there is no libnvidia-ml.so.1"),
        ({"NVML": "9"}, "NVML does not start (Driver Not Loaded)"),
        ({"driver": ""}, "NVML does not report it (Not Supported)"),
    ],
    ids=["absent", "broken", "silent"],
)
@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="this machine has a GPU")
def test_without_nvml_only_the_driver_version_is_unknown(
    tmp_path: Path, arguments: dict[str, str], reason: str
) -> None:
    found = detect(fake_driver(tmp_path, **{**A100, **arguments}))
    assert found["driver"] == {"cuda": [13, 0], "version": None, "reason": reason}
    assert [gpu["name"] for gpu in found["gpus"]] == ["NVIDIA A100-SXM4-80GB"]
    assert found["gpus"][0]["mig"] == ("off" if reason.startswith("NVML does not report") else "unknown")


@needs_bindings
def test_without_nvidia_ml_py(tmp_path: Path) -> None:
    script = f"import sys\nsys.modules['pynvml'] = None\n{DETECT}"
    found = json.loads(python(fake_driver(tmp_path), "-c", script).stdout)
    assert found["driver"] == {"cuda": [13, 0], "version": None, "reason": "nvidia-ml-py is not installed"}
    assert len(found["gpus"]) == 1


@needs_bindings
@pytest.mark.parametrize(
    ("visible", "mig", "count"),
    [
        (None, "0", 3),
        ("0", "0", 1),
        ("2", "0", 1),
        ("0,2", "0", 2),
        ("GPU-1", "0", 1),
        ("GPU-1-fake,GPU-0-fake", "0", 2),
        ("MIG-1-fake", "1", 1),
        # Everything from the first unusable entry on is hidden.
        ("1,7,0", "0", 1),
    ],
)
def test_visible_devices(tmp_path: Path, visible: str | None, mig: str, count: int) -> None:
    library = fake_driver(tmp_path, **{**A100, "GPUS": "3", "MIG": mig})
    found = detect(library, **({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}))
    assert len(found["gpus"]) == count


@needs_bindings
@pytest.mark.parametrize("hiding", ["", "-1", "none", "NoDevFiles"])
def test_gpus_hidden_on_purpose(tmp_path: Path, hiding: str) -> None:
    found = detect(fake_driver(tmp_path), CUDA_VISIBLE_DEVICES=hiding)
    assert found == {**NO_GPU, "reason": f"CUDA_VISIBLE_DEVICES={hiding} hides every GPU"}


@needs_bindings
@pytest.mark.parametrize(("visible", "card"), [("7", A100), ("GPU-9", A100), ("0", A100_SMALL_SLICE)])
def test_visible_devices_without_a_match(tmp_path: Path, visible: str, card: dict[str, str]) -> None:
    found = detect(fake_driver(tmp_path, **{**card, "GPUS": "2"}), CUDA_VISIBLE_DEVICES=visible)
    name = json.loads(card["NAME"]).partition(" MIG ")[0]
    assert found == {
        **NO_GPU,
        "reason": f"CUDA_VISIBLE_DEVICES={visible} names no GPU of this machine",
        "inaccessible": [name, name],
        "remedy": NAME_ONE,
    }


@needs_bindings
@pytest.mark.parametrize("macros", [{"GPUS": "0"}, {"INIT": "100", "GPUS": "0"}, {"INIT": "34", "GPUS": "0"}])
def test_no_gpu(tmp_path: Path, macros: dict[str, str]) -> None:
    assert detect(fake_driver(tmp_path, **macros)) == {**NO_GPU, "reason": "CUDA lists no GPU"}


@needs_bindings
def test_mig_mode_without_an_instance(tmp_path: Path) -> None:
    assert detect(fake_driver(tmp_path, **{**A100, "MIG": "1", "INIT": "100"})) == {
        **NO_GPU,
        "reason": "MIG mode is on, but no MIG instance exists",
        "inaccessible": ["NVIDIA A100-SXM4-80GB"],
        "remedy": "Create one with `nvidia-smi mig -cgi PROFILE -C`, and select it with CUDA_VISIBLE_DEVICES=MIG-...",
    }


@needs_bindings
def test_gpu_that_cuda_does_not_list(tmp_path: Path) -> None:
    assert detect(fake_driver(tmp_path, **{**A10, "INIT": "100"})) == {
        **NO_GPU,
        "reason": "CUDA lists no GPU",
        "inaccessible": ["NVIDIA A10"],
        "remedy": "Check the output of `nvidia-smi`; in a container add `--gpus device=0`",
    }


@needs_bindings
def test_broken_driver_is_an_error(tmp_path: Path) -> None:
    result = python(fake_driver(tmp_path, INIT="999"), "-c", DETECT)
    assert result.returncode == 40
    assert result.stderr == (
        "error: NVIDIA driver: it does not start: CUDA_ERROR_UNKNOWN. "
        "Check the output of `nvidia-smi`, and reinstall the driver.\n"
    )


@needs_bindings
@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="this machine has a GPU")
def test_no_driver() -> None:
    assert detect(None) == {**NO_GPU, "reason": "there is no libcuda.so.1"}


@needs_bindings
@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="this machine has a GPU")
def test_nvml_alone(tmp_path: Path) -> None:
    """A container with the management library but without the driver's compute part."""
    library = fake_driver(tmp_path, **A10)
    (library / "libcuda.so.1").unlink()
    assert detect(library) == {
        **NO_GPU,
        "reason": "there is no libcuda.so.1",
        "inaccessible": ["NVIDIA A10"],
        "remedy": "Install the NVIDIA driver, or in a container set NVIDIA_DRIVER_CAPABILITIES=compute,utility",
    }


@needs_bindings
@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="this machine has a GPU")
def test_missing_library_is_the_reason_also_where_a_gpu_is_selected(tmp_path: Path) -> None:
    library = fake_driver(tmp_path, **A10)
    (library / "libcuda.so.1").unlink()
    assert detect(library, CUDA_VISIBLE_DEVICES="0")["reason"] == "there is no libcuda.so.1"


TOO_OLD: dict[str, Any] = {
    "gpus": [],
    "reason": f"libcuda.so.1 supports CUDA 11.4, which is too old for {BINDINGS} (Failed to get cuGetProcAddress_v2)",
    "remedy": "Install a driver that supports CUDA 12.0 or later",
}


@needs_bindings
@pytest.mark.parametrize("visible", [{}, {"CUDA_VISIBLE_DEVICES": "0"}], ids=["all", "first"])
def test_driver_too_old_for_the_bindings(tmp_path: Path, visible: dict[str, str]) -> None:
    """R470 has no cuGetProcAddress_v2. That is no missing library."""
    assert detect(fake_driver(tmp_path, driver="470.256.02", CUDA="11040"), **visible) == {
        **TOO_OLD,
        "driver": {"cuda": [11, 4], "version": "470.256.02", "reason": ""},
        "inaccessible": ["Tesla T4"],
    }


@needs_bindings
@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="this machine has a GPU")
def test_driver_too_old_without_nvml(tmp_path: Path) -> None:
    """Without NVML no GPU has a name, but the server must not fall back to the CPU silently."""
    assert detect(fake_driver(tmp_path, CUDA="11040", NVML="absent")) == {
        **TOO_OLD,
        "driver": {"cuda": [11, 4], "version": None, "reason": "there is no libnvidia-ml.so.1"},
        "inaccessible": ["a GPU that NVML cannot name"],
    }


@needs_bindings
def test_compatibility_library(tmp_path: Path) -> None:
    """CUDA's library is the newer one of the container, while NVML reports the driver in the kernel."""
    found = detect(fake_driver(tmp_path, driver="470.256.02", CUDA="12030"))
    assert found["driver"] == {"cuda": [12, 3], "version": "470.256.02", "reason": ""}
    assert len(found["gpus"]) == 1


@needs_bindings
def test_library_that_cannot_be_loaded(tmp_path: Path) -> None:
    library = fake_driver(tmp_path, **A10)
    (library / "libcuda.so.1").write_text("no library")
    found = detect(library)
    assert found["reason"].startswith("libcuda.so.1 cannot be loaded (")
    assert "file too short" in found["reason"]
    assert found["remedy"] == "Check the output of `nvidia-smi`, and reinstall the driver"
    assert found["inaccessible"] == ["NVIDIA A10"]


@needs_bindings
def test_compatibility_library_on_another_gpu(tmp_path: Path) -> None:
    result = python(fake_driver(tmp_path, INIT="804"), "-c", DETECT)
    assert result.returncode == 40
    assert result.stderr == (
        "error: NVIDIA driver: it does not start: CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE. "
        "CUDA's compatibility library runs on data-centre GPUs only: install a newer driver on the host.\n"
    )


@needs_bindings
@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        ("802", "CUDA_ERROR_SYSTEM_NOT_READY. A GPU with NVSwitch needs NVIDIA's Fabric Manager: start "),
        ("803", "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH. The driver's library and its part in the kernel have different "),
    ],
)
def test_driver_that_does_not_start(tmp_path: Path, status: str, sentence: str) -> None:
    result = python(fake_driver(tmp_path, INIT=status), "-c", DETECT)
    assert result.returncode == 40
    assert result.stderr.startswith(f"error: NVIDIA driver: it does not start: {sentence}")


@needs_bindings
def test_no_cuda_bindings(tmp_path: Path) -> None:
    script = f"import sys\nsys.modules['cuda'] = None\n{DETECT}"
    assert json.loads(python(fake_driver(tmp_path, **A10), "-c", script).stdout) == {
        **NO_GPU,
        "reason": "cuda-bindings is not installed",
        "inaccessible": ["NVIDIA A10"],
        "remedy": "Install it with `pip install 'voxwright[serve]'`",
    }


def test_no_bindings() -> None:
    result = python(None, "-c", f"import sys\nsys.modules['cuda'] = sys.modules['pynvml'] = None\n{DETECT}")
    assert json.loads(result.stdout) == {**NO_GPU, "reason": "cuda-bindings is not installed"}
