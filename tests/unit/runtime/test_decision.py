"""Test the decision and the start that acts on it: the log, the errors and their order."""

import dataclasses
import importlib.util
import json
import socket
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from contract.arch import Arch
from contract.errors import (
    BundleError,
    GpuError,
    LicenceError,
    ManifestError,
    NoEngineError,
    SignatureError,
    VoxwrightError,
)
from contract.platform import platform
from contract.signature import Verdict
from runtime import doctor, log
from runtime.__main__ import log_selection, run
from runtime.__main__ import parse as parse_start
from runtime.bundles import Bundle
from runtime.decision import Decision, decide, observe
from runtime.gpu import Driver, Gpu, GpuDetection
from runtime.host import Host
from runtime.licence import Licensing
from runtime.licence_file import Licence
from runtime.options import command, parse, read
from runtime.preflight import Finding
from runtime.settings import Settings
from tests.fakes.driver import A10, B200, RTX3070, V100, fake_driver, needs_bindings, python
from tests.unit.runtime import synthetic

HOST = Host(memory_bytes=62 << 30, cores=8)
DRIVER = Driver(cuda=(13, 0), version="580.65.06")
CARD = Gpu(name="NVIDIA A10", capability=(8, 6), memory_bytes=22 << 30, mig="not offered")
SEEN, NONE = GpuDetection(gpus=(CARD,), driver=DRIVER), GpuDetection(reason="there is no libcuda.so.1")


def settings(*arguments: str) -> Settings:
    return read(parse(command("test", ""), arguments))


def bundle(arch: Arch = Arch.SM86, name: str = "26.08", **changes: Any) -> Bundle:
    made = synthetic.full_manifest(arch, name)
    engines = tuple(dataclasses.replace(engine, **changes) for engine in made.engines)
    return Bundle(folder=Path(f"engines/{name}/{arch.value}"), manifest=dataclasses.replace(made, engines=engines))


def decided(detection: GpuDetection, *found: Bundle, arguments: tuple[str, ...] = ()) -> Decision:
    return decide(settings(*arguments), detection, HOST, found)


def test_on_a_gpu() -> None:
    decision = decided(SEEN, bundle(), bundle(Arch.CPU, "embedded"))
    assert (decision.platform.name, decision.refusals, decision.findings, decision.warnings) == ("26.08", (), (), ())
    assert decision.target is not None
    assert decision.target.arch is Arch.SM86
    assert {choice.bundle.manifest.arch for choice in decision.selection_or_raise().chosen} == {Arch.SM86}


def test_without_a_gpu() -> None:
    decision = decided(NONE, bundle(), bundle(Arch.CPU, "embedded"))
    assert decision.platform.name == "embedded"
    assert {choice.bundle.manifest.arch for choice in decision.selection_or_raise().chosen} == {Arch.CPU}


def test_serves_on_the_cpu_of_a_gpu_machine_only_if_requested() -> None:
    decision = decided(SEEN, bundle(Arch.CPU, "embedded"))
    with pytest.raises(NoEngineError, match=r"batch engines for arch sm86 on platform 26\.08"):
        decision.selection_or_raise()
    requested = decided(NONE, bundle(Arch.CPU, "embedded"), arguments=("--platform", "embedded"))
    assert requested.selection_or_raise().operating_points == ("standard", "enhanced")


def test_inaccessible_gpu_does_not_fall_back_to_the_cpu() -> None:
    lost = GpuDetection(reason="CUDA lists no GPU", inaccessible=("NVIDIA A10",), remedy="Check `nvidia-smi`")
    decision = decided(lost, bundle(Arch.CPU, "embedded"))
    assert decision.target is None
    with pytest.raises(GpuError, match="CUDA cannot use NVIDIA A10 of this machine: CUDA lists no GPU"):
        decision.selection_or_raise()


@pytest.mark.parametrize("detection", [NONE, GpuDetection(gpus=(CARD, CARD), driver=DRIVER)], ids=["none", "two"])
def test_gpu_platform_requires_exactly_one_gpu(detection: GpuDetection) -> None:
    decision = decided(detection, bundle(), arguments=("--platform", "26.08"))
    assert (decision.target, decision.selection) == (None, None)
    with pytest.raises(GpuError):
        decision.selection_or_raise()


def test_reports_the_machine_before_the_engines() -> None:
    decision = decided(GpuDetection(gpus=(CARD,), driver=dataclasses.replace(DRIVER, version="535.54.03")))
    assert [type(refusal) for refusal in decision.refusals] == [GpuError, NoEngineError]
    with pytest.raises(GpuError):
        decision.selection_or_raise()


def test_reports_too_large_engines_with_the_other_findings() -> None:
    small = dataclasses.replace(CARD, memory_bytes=8 << 30)
    decision = decided(GpuDetection(gpus=(small,), driver=DRIVER), bundle(size_bytes=2 << 30))
    assert [finding.found for finding in decision.findings] == [
        "its memory is 8.0 GiB",
        "the selected engines and Triton's memory pool need 18.1 GiB of its memory",
    ]


@pytest.mark.parametrize("verdict", [Verdict.UNSIGNED, Verdict.UNKNOWN_KEY, Verdict.INVALID])
def test_reports_the_signature_where_nothing_else_is_wrong(verdict: Verdict) -> None:
    """Building the engines again would be the wrong remedy."""
    decision = decided(SEEN, bundle(Arch.SM75), dataclasses.replace(bundle(), verdict=verdict))
    with pytest.raises(SignatureError) as refusal:
        decision.selection_or_raise()
    assert str(refusal.value) == (
        f"engines/26.08/sm86: {verdict.value}. "
        "Sign it with `python -m build.sign`, trust the key that signed it, or copy it from a trusted source."
    )
    assert [type(error) for error in decision.refusals] == [SignatureError]


def test_reports_no_engine_where_a_signature_would_not_help() -> None:
    unsigned = dataclasses.replace(bundle(Arch.SM75), verdict=Verdict.UNSIGNED)
    with pytest.raises(NoEngineError, match="it is not signed"):
        decided(SEEN, unsigned).selection_or_raise()


def test_serves_the_trusted_one_of_two_bundles() -> None:
    other = dataclasses.replace(bundle(), folder=Path("other"), verdict=Verdict.UNSIGNED)
    selection = decided(SEEN, other, bundle()).selection_or_raise()
    assert {choice.bundle.folder for choice in selection.chosen} == {bundle().folder}
    assert {rejection.reason for rejection in selection.rejected} == {"it is not signed"}


def written(folder: Path, made: Bundle) -> Path:
    return synthetic.write(folder / made.manifest.platform / made.manifest.arch.value, made.manifest)


def test_observe_reads_the_bundles(tmp_path: Path) -> None:
    written(tmp_path, bundle(Arch.CPU, "embedded"))
    decision = observe(settings("--engines", str(tmp_path), "--platform", "embedded"), {})
    assert decision.refusals == ()
    assert decision.detection == GpuDetection(reason="not detected, because a CPU platform is selected")


def test_rejects_unreadable_bundle(tmp_path: Path) -> None:
    folder = written(tmp_path, bundle(Arch.CPU, "embedded"))
    (folder / "manifest.json").write_text('{"schema_version": 99}')
    decision = observe(settings("--engines", str(tmp_path), "--platform", "embedded"), {})
    assert decision.selection is None
    with pytest.raises(ManifestError) as refusal:
        decision.selection_or_raise()
    assert str(refusal.value) == (
        f"{folder}/manifest.json: schema_version: it is 99, and this release reads 4. "
        "Build the bundle again with `python -m build.engines`, or use the release that wrote it."
    )


def start(library: Path | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    return python(library, "-m", "runtime", *arguments)


@needs_bindings
@pytest.mark.parametrize(("card", "capability"), [(V100, "7.0"), (B200, "10.0")], ids=["V100", "B200"])
def test_start_rejects_unsupported_gpu(tmp_path: Path, card: dict[str, str], capability: str) -> None:
    result = start(fake_driver(tmp_path, **card), "--engines", str(tmp_path))
    assert result.returncode == 40
    assert result.stderr.splitlines()[-1] == (
        f"error: GPU {card['NAME'][1:-1]}: its compute capability is {capability}, "
        "but 7.5, 8.0, 8.6, 8.9 or 9.0 is required. "
        "Use a GPU with one of these, or serve on the CPU with `--platform embedded`, "
        "in containers with the image voxwright-runtime-cpu."
    )


@needs_bindings
def test_start_reports_all_findings(tmp_path: Path) -> None:
    macros = {**RTX3070, "GPUS": "2", "CUDA": "12020"}
    result = start(fake_driver(tmp_path, "535.104.05", **macros), "--engines", str(tmp_path))
    assert result.returncode == 40
    lines = result.stderr.splitlines()
    assert lines[-4] == "error: platform 26.08: this machine cannot serve it, for 3 reasons. Fix each of these:"
    assert [line.split(":")[0] for line in lines[-3:]] == ["  GPUs", "  GPU NVIDIA GeForce RTX 3070", "  NVIDIA driver"]


@needs_bindings
def test_start_requires_engines_for_the_gpu(tmp_path: Path) -> None:
    result = start(fake_driver(tmp_path, **A10), "--engines", str(tmp_path))
    assert result.returncode == 41
    assert "voxwright: GPU NVIDIA A10: serving arch sm86\n" in result.stderr
    assert "`python -m build.engines --arch sm86 --platform 26.08`" in result.stderr


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_start_logs_the_precision_of_the_served_engines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], log_format: str
) -> None:
    folders = ("--engines", str(int8_bundle(tmp_path)), "--repository", str(tmp_path / "repository"))
    run(parse_start(["--platform", "embedded", "--assemble-only", "--log-format", log_format, *folders]))
    lines = capsys.readouterr().err.splitlines()
    messages = [json.loads(line)["message"] if log_format == "json" else line.partition(": ")[2] for line in lines]
    assert messages[-2:] == [
        "precision FP32: decoder_standard, diar_standard",
        "precision INT8: am_en_standard, body_standard",
    ]


def test_doctor_reports_the_precision(tmp_path: Path) -> None:
    diagnosis = doctor.examine(settings("--platform", "embedded", "--engines", str(int8_bundle(tmp_path))), {})
    lines = [" ".join(line.split()) for line in doctor.as_text(diagnosis).splitlines()]
    folder = tmp_path / "engines" / "embedded" / "cpu"
    assert f"body_standard batch INT8 {folder} 6 bytes served" in lines
    assert f"diar_standard batch FP32 {folder} 6 bytes served" in lines
    assert "in INT8 am_en_standard, body_standard" in lines
    table = doctor.as_table(diagnosis)
    assert table["served"]["precisions"]["int8"] == ("am_en_standard", "body_standard")
    assert [it["precision"] for it in table["candidates"]] == ["int8", "int8", "fp32", "fp32"]


def int8_bundle(folder: Path) -> Path:
    """Write a bundle whose head and encoder are in INT8; return the folder of bundles."""
    made = synthetic.full_manifest(Arch.CPU, "embedded", "standard")
    int8 = ("am_en_standard", "body_standard")
    engines = tuple(dataclasses.replace(it, precision="int8") if it.model in int8 else it for it in made.engines)
    synthetic.write(folder / "engines" / "embedded" / "cpu", dataclasses.replace(made, engines=engines))
    return folder / "engines"


@needs_bindings
def test_start_assembles_for_the_gpu(tmp_path: Path) -> None:
    """Up to the server itself everything is real."""
    made = bundle()
    folder = written(tmp_path / "engines", made)
    library = fake_driver(tmp_path, **A10)
    where = ("--engines", str(tmp_path / "engines"), "--repository", str(tmp_path / "repository"))
    result = start(library, *where, "--assemble-only")
    assert (result.returncode, result.stdout) == (0, "")
    assert "voxwright: serving standard and enhanced: am_en_enhanced, " in result.stderr
    engine = tmp_path / "repository" / "body_standard" / "1" / "model.sm86.plan"
    assert engine.read_bytes() == (folder / "body_standard" / "batch" / "model.plan").read_bytes()


def changed_signature(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"build_seconds": 0.5', '"build_seconds": 0.25', 1))


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """Public keys: the one that `signed` uses, and another one."""
    pytest.importorskip("cryptography")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    paths = (tmp_path / "own.pem", tmp_path / "other.pem")
    for path, seed in zip(paths, (b"1" * 32, b"2" * 32), strict=True):
        public = Ed25519PrivateKey.from_private_bytes(seed).public_key()
        pem = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        path.write_bytes(public.public_bytes(*pem))
    return paths


def signed(made: Bundle) -> Bundle:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from contract.signature import sign

    manifest = sign(made.manifest, Ed25519PrivateKey.from_private_bytes(b"1" * 32))
    return dataclasses.replace(made, manifest=manifest)


def test_checks_signature_of_bundle(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    folder = written(tmp_path / "engines", signed(bundle(Arch.CPU, "embedded")))
    arguments = ("--engines", str(tmp_path / "engines"), "--platform", "embedded", "--trusted-key")
    assert observe(settings(*arguments, str(keys[0])), {}).refusals == ()
    for wanted, key in ((Verdict.UNKNOWN_KEY, keys[1]), (Verdict.INVALID, keys[0])):
        if wanted is Verdict.INVALID:
            changed_signature(folder)
        (refusal,) = observe(settings(*arguments, str(key)), {}).refusals
        assert (type(refusal), refusal.cause) == (SignatureError, wanted.value)


def test_rejects_missing_key(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    (refusal, *_) = observe(settings("--platform", "embedded", "--trusted-key", str(tmp_path / "absent")), {}).refusals
    assert (refusal.exit_code, refusal.cause) == (14, "it cannot be read (No such file or directory)")


def start_in_process(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[object, list[str]]:
    """Start with `--assemble-only`, which never becomes the server; return the exit code and the lines of stderr."""
    with pytest.raises(SystemExit) as left:
        log.guard(lambda: run(parse_start(["--assemble-only", *arguments])))
    return left.value.code, capsys.readouterr().err.splitlines()


def test_without_the_library_for_signatures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "cryptography" else find(name))
    code, lines = start_in_process(capsys, "--platform", "embedded", "--trusted-key", "key.pem")
    assert code == 10
    assert lines[-1] == (
        "error: --trusted-key: cryptography, which checks signatures, is not installed. "
        "Install it with `pip install 'voxwright[serve]'`."
    )


def test_failed_start_writes_nothing(tmp_path: Path) -> None:
    written(tmp_path / "engines", bundle(Arch.CPU, "embedded"))
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = str(other.getsockname()[1])
        where = ("--engines", str(tmp_path / "engines"), "--repository", str(tmp_path / "new" / "repository"))
        result = start(None, "--platform", "embedded", *where, "--http-port", port)
    assert result.returncode == 44
    assert result.stderr.splitlines()[-1].startswith(f"error: port {port}: another process listens on it. ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["engines"]


def wrong_arch(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"arch": "cpu"', '"arch": "sm86"'))


def newer_schema(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"schema_version": 4', '"schema_version": 5'))


def flipped_byte(folder: Path) -> None:
    (folder / "body_standard" / "batch" / "model.onnx").write_bytes(b"enginE")


@pytest.mark.parametrize(
    ("damage", "error"), [(wrong_arch, NoEngineError), (newer_schema, ManifestError), (flipped_byte, BundleError)]
)
def test_start_rejects_damaged_bundle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Any, error: type[VoxwrightError]
) -> None:
    damage(written(tmp_path / "engines", bundle(Arch.CPU, "embedded")))
    where = ("--engines", str(tmp_path / "engines"), "--repository", str(tmp_path / "new" / "repository"))
    code, lines = start_in_process(capsys, "--platform", "embedded", *where)
    assert code == error.exit_code
    assert lines[-1].startswith("error: ")
    assert not (tmp_path / "new" / "repository").exists()
    assert not list(tmp_path.glob("new/.*"))


def test_platform_by_name() -> None:
    assert decided(SEEN, arguments=("--platform", "23.12")).platform is platform("23.12")


LICENCE = Licence(
    product="voxwright",
    licensee="Example Ltd",
    not_before=datetime(2026, 11, 25, tzinfo=UTC),
    expires=datetime(2027, 11, 25, tzinfo=UTC),
    operating_points=("standard",),
    languages=("en",),
)


def test_serves_only_licensed_points() -> None:
    chosen, cpu = settings("--platform", "embedded"), bundle(Arch.CPU, "embedded")
    selection = decide(chosen, NONE, HOST, [cpu], None, Licensing(licence=LICENCE)).selection_or_raise()
    assert selection.operating_points == ("standard",)
    assert "ensemble_en_standard" in selection.models()
    # Nothing is missing: the other point is not even looked for.
    assert selection.left_out == {}
    assert {it.record.operating_point for it in selection.rejected} == {"enhanced"}
    assert {it.reason for it in selection.rejected} == {"operating point enhanced is not licensed"}


def test_serves_only_licensed_languages() -> None:
    catalogue = synthetic.two_languages()
    chosen = dataclasses.replace(settings("--platform", "embedded"), catalogue=catalogue)
    # The bundle has only the rescorer of the other language: with a licence for it no point would be complete.
    made = synthetic.full_manifest(Arch.CPU, "embedded", catalogue=catalogue)
    engines = tuple(engine for engine in made.engines if engine.family != "am_tlh")
    found = [Bundle(folder=Path("b"), manifest=dataclasses.replace(made, engines=engines))]
    with pytest.raises(NoEngineError, match="standard lacks am_tlh_standard; enhanced lacks am_tlh_enhanced"):
        decide(chosen, NONE, HOST, found).selection_or_raise()
    selection = decide(chosen, NONE, HOST, found, None, Licensing(licence=LICENCE)).selection_or_raise()
    assert (selection.operating_points, selection.languages) == (("standard",), {"standard": ("en",)})
    assert selection.absent == ()
    assert {it.record.model: it.reason for it in selection.rejected if it.record.operating_point == "standard"} == {
        "decoder_tlh_standard": "language tlh is not licensed"
    }


def test_a_catalogue_cannot_change_the_language_of_an_engine() -> None:
    """It is not signed, and the manifest is."""
    families = [dataclasses.replace(each, language=each.language and "en") for each in synthetic.FAMILIES.values()]
    german = tuple(
        dataclasses.replace(each, languages=("de",)) for each in bundle(Arch.CPU, "embedded").manifest.engines
    )
    made = bundle(Arch.CPU, "embedded")
    found = Bundle(folder=Path("b"), manifest=dataclasses.replace(made.manifest, engines=german))
    chosen = dataclasses.replace(settings("--platform", "embedded"), catalogue=synthetic.catalogue_of(*families))
    with pytest.raises(NoEngineError) as refusal:
        decide(chosen, NONE, HOST, [found], None, Licensing(licence=LICENCE)).selection_or_raise()
    assert "it is built for de, and the catalogue states en" in str(refusal.value)


def test_a_licence_needs_the_languages_of_engines() -> None:
    """Bundles of older releases do not state them."""
    chosen, old = settings("--platform", "embedded"), bundle(Arch.CPU, "embedded", languages=None)
    assert decide(chosen, NONE, HOST, [old]).selection_or_raise().operating_points == ("standard", "enhanced")
    with pytest.raises(NoEngineError, match="its manifest does not state its language, which the licence limits"):
        decide(chosen, NONE, HOST, [old], None, Licensing(licence=LICENCE)).selection_or_raise()


def test_reports_the_licence_first() -> None:
    refusal = LicenceError("/license.json", "it expired", "Renew it")
    decision = decide(settings(), SEEN, HOST, [], None, Licensing(refusal=refusal))
    assert decision.refusals[0] is refusal
    assert len(decision.refusals) == 2


def test_warns_before_the_licence_ends() -> None:
    finding = Finding(subject="/license.json", found="it ends", wanted="more", remedy="Renew it")
    decision = decide(settings(), NONE, HOST, [], None, Licensing(warnings=(finding,)))
    assert decision.warnings == (finding,)


def test_log_names_what_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    made = bundle()
    engines = tuple(it for it in made.manifest.engines if it.model not in ("lm_enhanced", "diar_standard"))
    found = dataclasses.replace(made, manifest=dataclasses.replace(made.manifest, engines=engines))
    log.configure("text")
    log_selection(decided(SEEN, found).selection_or_raise())
    lines = [line for line in capsys.readouterr().err.splitlines() if "without" in line]
    assert lines == [
        "voxwright: operating point standard is served without diar_standard: speakers are not distinguished",
        "voxwright: operating point enhanced is served without lm_enhanced: no language model for en",
    ]
