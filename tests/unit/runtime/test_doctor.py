"""Test the doctor: its page, its exit code, which equals that of a start, and its JSON."""

import dataclasses
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from contract.arch import Arch
from runtime import doctor
from runtime.doctor import size
from tests.fakes import driver
from tests.fakes.driver import needs_bindings, python
from tests.unit.runtime import doctor_page, synthetic
from tests.unit.runtime.doctor_page import PAGE, SCENES, Scene, plans

needs_no_gpu = pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="this machine has a GPU")
A10 = next(scene for scene in SCENES if scene.title == "An A10 with its bundle")


@needs_bindings
@needs_no_gpu
def test_page_is_current() -> None:
    """Compare the wording once. All other tests check facts."""
    pytest.importorskip("pytriton", reason="the page has a scene with the embedded server")
    text = PAGE.read_text(encoding="utf-8")
    assert doctor_page.page() == text, "write it again: .venv/bin/python -m tests.unit.runtime.doctor_page"


def start(scene: Scene, folder: Path, *arguments: str) -> int:
    library = doctor_page.prepare(scene, folder)
    result = python(
        library,
        *("-m", "runtime", *scene.arguments, *arguments),
        cwd=folder,
        **doctor_page.environment(scene, folder),
    )
    return result.returncode


def examined(scene: Scene, folder: Path, *arguments: str) -> tuple[int, Any]:
    code, output = doctor_page.run(
        dataclasses.replace(scene, arguments=(*scene.arguments, *arguments)), folder, as_json=True
    )
    return code, json.loads(output)


@needs_bindings
@needs_no_gpu
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.title)
def test_exit_code_equals_that_of_a_start(scene: Scene, tmp_path: Path) -> None:
    """The server of the GPU scenes is a script that ends at once with 0."""
    if scene.is_embedded:
        pytest.importorskip("pytriton", reason="the scene needs the embedded server")
    code, table = examined(scene, tmp_path)
    assert code == table["exit_code"] == scene.exit_code
    # A start of the embedded server would not end.
    assert scene.is_embedded or start(scene, tmp_path) == code
    assert table["starts"] == (code == 0) == (not table["refusals"])


def broken_manifest(folder: Path) -> None:
    (folder / "dist/engines/26.08/sm86/manifest.json").write_text("{")


def newer_schema(folder: Path) -> None:
    path = folder / "dist/engines/26.08/sm86/manifest.json"
    path.write_text(path.read_text().replace('"schema_version": 4', '"schema_version": 5'))


def flipped_byte(folder: Path) -> None:
    path = folder / "dist/engines/26.08/sm86/diar_standard/batch/model.plan"
    path.write_bytes(b"\1" + path.read_bytes()[1:])


def extra_file(folder: Path) -> None:
    (folder / "dist/engines/26.08/sm86/notes.txt").touch()


def other_folder(folder: Path) -> None:
    (folder / "dist/repository/photos").mkdir(parents=True, exist_ok=True)


def other_tensor(folder: Path) -> None:
    path = folder / "dist/engines/26.08/sm86/manifest.json"
    path.write_text(path.read_text().replace('"name": "audio"', '"name": "features"'))


def other_tensorrt(folder: Path) -> None:
    path = folder / "dist/engines/26.08/sm86/manifest.json"
    path.write_text(path.read_text().replace('"tensorrt": "11.2.1.2"', '"tensorrt": "11.2.1.1"'))


@needs_bindings
@needs_no_gpu
@pytest.mark.parametrize(
    ("damage", "code"),
    [
        *((broken_manifest, 12), (newer_schema, 12), (flipped_byte, 42), (extra_file, 42), (other_folder, 10)),
        *((other_tensor, 42), (other_tensorrt, 41)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_damaged_bundle_has_one_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Any, code: int
) -> None:
    prepare = doctor_page.prepare

    def prepare_and_damage(scene: Scene, folder: Path) -> Path | None:
        library = prepare(scene, folder)
        damage(folder)
        return library

    monkeypatch.setattr(doctor_page, "prepare", prepare_and_damage)
    found, table = examined(A10, tmp_path)
    assert (found, table["starts"]) == (code, False)
    assert len(table["refusals"]) == 1
    assert sorted(path.name for path in (tmp_path / "dist").iterdir()) in (["engines"], ["engines", "repository"])
    assert start(A10, tmp_path) == code
    assert not list(tmp_path.glob("dist/.*"))


@needs_bindings
@needs_no_gpu
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--operating-point", "best"], 10),
        (["--no-such-option"], 2),
        (["--batch-mode", "false"], 41),
        (["--trusted-key", "absent.pem"], 14),
        (["--assemble-only"], 0),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_settings_equal_those_of_a_start(tmp_path: Path, arguments: list[str], code: int) -> None:
    scene = dataclasses.replace(A10, arguments=tuple(arguments))
    assert doctor_page.run(scene, tmp_path)[0] == start(scene, tmp_path) == code


@needs_bindings
def test_reports_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = str(other.getsockname()[1])
        code, table = examined(A10, tmp_path, "--grpc-port", port)
        assert start(A10, tmp_path, "--grpc-port", port) == code == 44
    assert table["checks"] == {
        "ports": f"port {port}: another process listens on it. "
        "Stop that process, or choose another port with --grpc-port.",
        "server": None,
        "repository": None,
        "files": None,
    }


@needs_bindings
def test_reports_driver_that_does_not_start(tmp_path: Path) -> None:
    scene = dataclasses.replace(A10, macros={"INIT": "803"})
    sentence = (
        "NVIDIA driver: it does not start: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH. The driver's library and its part in the "
        "kernel have different versions, as after an update: restart the container, and the host if that does not help."
    )
    assert examined(scene, tmp_path) == (40, {"starts": False, "exit_code": 40, "refusals": [sentence]})
    assert doctor_page.run(scene, tmp_path) == (
        40,
        f"`python -m runtime` would not start: exit code 40.\n  {sentence}\n",
    )
    assert start(scene, tmp_path) == 40


@needs_bindings
def test_json(tmp_path: Path) -> None:
    scene = dataclasses.replace(
        A10, bundles=lambda: (plans(Arch.SM86, "26.08", "standard", context=1 << 20), plans(Arch.SM75, "26.08"))
    )
    code, table = examined(scene, tmp_path)
    assert (code, table["starts"], table["exit_code"], table["refusals"]) == (0, True, 0, [])
    assert table["gpus"] == [
        {"name": "NVIDIA A10", "capability": [8, 6], "memory_bytes": 22591 << 20, "mig": "not offered"}
    ]
    assert table["driver"] == {"cuda": [13, 0], "version": "580.65.06", "reason": ""}
    assert table["wanted"] == {
        "platform": "26.08",
        "arch": "sm86",
        "mode": "batch",
        "operating_point": None,
        "catalogue": str(synthetic.CATALOGUE.folder),
        "addresses": {"http": "0.0.0.0", "grpc": "0.0.0.0", "metrics": "0.0.0.0"},  # noqa: S104
        "grpc_tls": False,
        "trusted_keys": [],
    }
    assert len(table["bundles"]) == 2
    assert [it["served"] for it in table["candidates"]] == [False] * 9 + [True] * 4
    assert table["candidates"][0] == {
        "model": "am_en_enhanced",
        "operating_point": "enhanced",
        "mode": "batch",
        "precision": "fp32",
        "bundle": "dist/engines/26.08/sm75",
        "served": False,
        "reason": "it is built for sm75, not for sm86",
    }
    assert table["served"]["operating_points"] == ["standard"]
    assert table["served"]["precisions"] == {
        "fp32": ["am_en_standard", "body_standard", "decoder_standard", "diar_standard"]
    }
    assert table["memory"] == {
        "engine_bytes": 4 * 48 << 10,
        "context_bytes": 4 << 20,
        "state_bytes": 0,
        "ensemble_bytes": (8192 + 512 + 2 * 8192) * 32,
        "needed_cuda_pool_bytes": 64 << 20,
        "needed_pinned_pool_bytes": 256 << 20,
        "cuda_pool_bytes": 64 << 20,
        "pinned_pool_bytes": 256 << 20,
        "unknown": [],
    }
    assert table["remarks"] == []
    assert table["checks"] == {"ports": None, "server": None, "repository": None, "files": None}


def test_unusable_catalogue_is_reported_like_other_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The catalogue is read while the options are parsed."""
    sentence = f"{tmp_path}: it holds no catalogue.toml, so it is not a catalogue."
    for arguments in (["--json", "--catalogue", str(tmp_path)], ["--catalogue", str(tmp_path), "--json"]):
        assert doctor.run(arguments, {}) == 11
        found = json.loads(capsys.readouterr().out)
        assert (found["starts"], found["exit_code"]) == (False, 11)
        assert found["refusals"][0].startswith(sentence)
    assert doctor.run(["--catalogue", str(tmp_path), "--", "--json"], {}) == 11
    assert capsys.readouterr().out.startswith("`python -m runtime` would not start: exit code 11.\n  " + sentence)


@needs_bindings
def test_json_lists_languages_and_absent_models(tmp_path: Path) -> None:
    scene = next(scene for scene in SCENES if "without language model" in scene.title)
    code, table = examined(scene, tmp_path, "--operating-point", "enhanced")
    assert code == 0
    assert table["served"]["languages"] == {"enhanced": ["en"]}
    assert table["served"]["absent"] == [
        {
            "operating_point": "enhanced",
            "models": ["diar_enhanced"],
            "consequence": "speakers are not distinguished",
        },
        {"operating_point": "enhanced", "models": ["lm_enhanced"], "consequence": "no language model for en"},
    ]


@needs_bindings
def test_mig_has_no_gpu_metrics(tmp_path: Path) -> None:
    scene = next(scene for scene in SCENES if scene.card is driver.A100_SLICE)
    _, table = examined(scene, tmp_path)
    assert table["remarks"] == [
        "MIG: Triton reports no GPU metrics (nv_gpu_...) for a MIG instance (triton-inference-server/server#5324). "
        "Measure the GPU with NVIDIA's dcgm-exporter on the host."
    ]


@needs_bindings
def test_start_sets_the_pools(tmp_path: Path) -> None:
    library = doctor_page.prepare(A10, tmp_path)
    (tmp_path / "bin" / "tritonserver").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    result = python(library, "-m", "runtime", cwd=tmp_path, **doctor_page.environment(A10, tmp_path))
    sizes = [line for line in result.stdout.splitlines() if "pool-byte-size" in line]
    assert sizes == ["--cuda-memory-pool-byte-size=0:67108864", "--pinned-memory-pool-byte-size=268435456"]


@needs_bindings
def test_pool_of_the_operator(tmp_path: Path) -> None:
    _, table = examined(A10, tmp_path, "--", "--cuda-memory-pool-byte-size=0:1048576")
    assert table["memory"]["cuda_pool_bytes"] == 1 << 20
    assert [it["subject"] for it in table["warnings"]] == ["tritonserver flag --cuda-memory-pool-byte-size"]


@needs_bindings
def test_doctor_writes_nothing(tmp_path: Path) -> None:
    doctor_page.prepare(A10, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    doctor_page.run(A10, tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_two_gpus_leave_the_engines_unchecked(tmp_path: Path) -> None:
    scene = next(scene for scene in SCENES if scene.card is driver.RTX3070)
    _, table = examined(scene, tmp_path)
    assert {it["reason"] for it in table["candidates"]} == {"not checked: the target architecture is unknown"}
    assert table["checks"] == {}


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (3 << 19, "1.5 MiB"),
        (5 << 30, "5.0 GiB"),
        (1 << 41, "2048.0 GiB"),
    ],
)
def test_size(number: int, text: str) -> None:
    assert size(number) == text
