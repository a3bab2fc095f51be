"""The decision as a whole, and the start that acts on it: what is said, and which refusal comes first."""

import dataclasses
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from contract.arch import Arch
from contract.catalogue import catalogue
from contract.errors import BundleError, GpuError, ManifestError, NoEngineError, SignatureError, VoxwrightError
from contract.platform import platform
from contract.signature import Verdict
from runtime.bundles import Bundle
from runtime.decision import Decision, decide, observe
from runtime.gpu import Driver, Gpu, Sighting
from runtime.host import Host
from runtime.options import command, parse, read
from runtime.settings import Settings
from tests.fakes.driver import A10, B200, RTX3070, V100, fake_driver, needs_bindings, python
from tests.unit.runtime import synthetic

HOST = Host(memory_bytes=62 << 30, cores=8)
DRIVER = Driver(cuda=(13, 0), version="580.65.06")
CARD = Gpu(name="NVIDIA A10", capability=(8, 6), memory_bytes=22 << 30, mig="not offered")
SEEN, NONE = Sighting(gpus=(CARD,), driver=DRIVER), Sighting(absence="there is no libcuda.so.1")


def settings(*arguments: str) -> Settings:
    return read(parse(command("test", ""), arguments))


def bundle(arch: Arch = Arch.SM86, name: str = "26.08", **changes: Any) -> Bundle:
    made = synthetic.full_manifest(arch, name)
    engines = tuple(dataclasses.replace(engine, **changes) for engine in made.engines)
    return Bundle(folder=Path(f"engines/{name}/{arch.value}"), manifest=dataclasses.replace(made, engines=engines))


def decided(sighting: Sighting, *found: Bundle, arguments: tuple[str, ...] = ()) -> Decision:
    return decide(settings(*arguments), sighting, HOST, found, catalogue())


def test_on_a_gpu() -> None:
    decision = decided(SEEN, bundle(), bundle(Arch.CPU, "embedded"))
    assert (decision.platform.name, decision.refusals, decision.findings, decision.warnings) == ("26.08", (), (), ())
    assert decision.target is not None
    assert decision.target.arch is Arch.SM86
    assert {choice.bundle.manifest.arch for choice in decision.agreed().chosen} == {Arch.SM86}


def test_without_a_gpu() -> None:
    decision = decided(NONE, bundle(), bundle(Arch.CPU, "embedded"))
    assert decision.platform.name == "embedded"
    assert {choice.bundle.manifest.arch for choice in decision.agreed().chosen} == {Arch.CPU}


def test_the_cpu_of_a_machine_with_a_gpu_is_served_only_when_asked_for() -> None:
    decision = decided(SEEN, bundle(Arch.CPU, "embedded"))
    with pytest.raises(NoEngineError, match=r"batch engines for arch sm86 on platform 26\.08"):
        decision.agreed()
    asked = decided(NONE, bundle(Arch.CPU, "embedded"), arguments=("--platform", "embedded"))
    assert asked.agreed().operating_points == ("standard", "enhanced")


def test_a_gpu_out_of_reach_is_no_reason_to_serve_on_the_cpu() -> None:
    lost = Sighting(absence="CUDA shows none", out_of_reach=("NVIDIA A10",), remedy="See what `nvidia-smi` says")
    decision = decided(lost, bundle(Arch.CPU, "embedded"))
    assert decision.target is None
    with pytest.raises(GpuError, match="this machine has NVIDIA A10, and none can be used: CUDA shows none"):
        decision.agreed()


@pytest.mark.parametrize("sighting", [NONE, Sighting(gpus=(CARD, CARD), driver=DRIVER)], ids=["none", "two"])
def test_a_platform_of_a_gpu_wants_exactly_one(sighting: Sighting) -> None:
    decision = decided(sighting, bundle(), arguments=("--platform", "26.08"))
    assert (decision.target, decision.selection) == (None, None)
    with pytest.raises(GpuError):
        decision.agreed()


def test_the_machine_comes_before_the_engines() -> None:
    decision = decided(Sighting(gpus=(CARD,), driver=dataclasses.replace(DRIVER, version="535.54.03")))
    assert [type(refusal) for refusal in decision.refusals] == [GpuError, NoEngineError]
    with pytest.raises(GpuError):
        decision.agreed()


def test_engines_that_are_too_large_are_a_finding_beside_the_others() -> None:
    small = dataclasses.replace(CARD, memory_bytes=8 << 30)
    decision = decided(Sighting(gpus=(small,), driver=DRIVER), bundle(size_bytes=2 << 30))
    assert [finding.found for finding in decision.findings] == [
        "its memory is 8.0 GiB",
        "the chosen engines take 18.0 GiB of its memory",
    ]


@pytest.mark.parametrize("verdict", [Verdict.UNSIGNED, Verdict.UNKNOWN_KEY, Verdict.INVALID])
def test_where_only_a_signature_is_missing_that_is_said(verdict: Verdict) -> None:
    """To build the engines again would be the wrong advice."""
    decision = decided(SEEN, bundle(Arch.SM75), dataclasses.replace(bundle(), verdict=verdict))
    with pytest.raises(SignatureError) as refusal:
        decision.agreed()
    assert str(refusal.value) == (
        f"engines/26.08/sm86: {verdict.value}. "
        "Sign it with `python -m build.sign`, trust the key that signed it, or take it from where it is genuine."
    )
    assert [type(error) for error in decision.refusals] == [SignatureError]


def test_a_signature_that_would_not_help() -> None:
    unsigned = dataclasses.replace(bundle(Arch.SM75), verdict=Verdict.UNSIGNED)
    with pytest.raises(NoEngineError, match="it is not signed"):
        decided(SEEN, unsigned).agreed()


def test_a_trusted_bundle_is_served_beside_one_that_is_not() -> None:
    other = dataclasses.replace(bundle(), folder=Path("other"), verdict=Verdict.UNSIGNED)
    selection = decided(SEEN, other, bundle()).agreed()
    assert {choice.bundle.folder for choice in selection.chosen} == {bundle().folder}
    assert {rejection.reason for rejection in selection.rejected} == {"it is not signed"}


def written(folder: Path, made: Bundle) -> Path:
    return synthetic.write(folder / made.manifest.platform / made.manifest.arch.value, made.manifest)


def test_observe_reads_the_bundles(tmp_path: Path) -> None:
    written(tmp_path, bundle(Arch.CPU, "embedded"))
    decision = observe(settings("--engines", str(tmp_path), "--platform", "embedded"), {})
    assert decision.refusals == ()
    assert decision.sighting == Sighting(absence="not looked for, since a platform of the CPU was asked for")


def test_bundles_that_cannot_be_read_are_a_refusal_of_the_decision(tmp_path: Path) -> None:
    folder = written(tmp_path, bundle(Arch.CPU, "embedded"))
    (folder / "manifest.json").write_text('{"schema_version": 99}')
    decision = observe(settings("--engines", str(tmp_path), "--platform", "embedded"), {})
    assert decision.selection is None
    with pytest.raises(ManifestError) as refusal:
        decision.agreed()
    assert str(refusal.value) == (
        f"{folder}/manifest.json: schema_version: it is 99, and this release reads 2. "
        "Build the bundle again with `python -m build.engines`, or use the release that wrote it."
    )


def start(library: Path | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    return python(library, "-m", "runtime", *arguments)


@needs_bindings
@pytest.mark.parametrize(("card", "capability"), [(V100, "7.0"), (B200, "10.0")], ids=["V100", "B200"])
def test_start_refuses_an_unsupported_gpu(tmp_path: Path, card: dict[str, str], capability: str) -> None:
    result = start(fake_driver(tmp_path, **card), "--engines", str(tmp_path))
    assert result.returncode == 40
    assert result.stderr.splitlines()[-1] == (
        f"error: GPU {card['NAME'][1:-1]}: its compute capability is {capability}, "
        "and 7.5, 8.0, 8.6, 8.9 or 9.0 is wanted. Use such a GPU, or serve on the CPU with `--platform embedded`."
    )


@needs_bindings
def test_start_names_all_that_is_wrong(tmp_path: Path) -> None:
    macros = {**RTX3070, "GPUS": "2", "CUDA": "12020"}
    result = start(fake_driver(tmp_path, "535.104.05", **macros), "--engines", str(tmp_path))
    assert result.returncode == 40
    lines = result.stderr.splitlines()
    assert lines[-4] == "error: platform 26.08: this machine cannot serve it, for 3 reasons. Mend each:"
    assert [line.split(":")[0] for line in lines[-3:]] == ["  GPUs", "  GPU NVIDIA GeForce RTX 3070", "  NVIDIA driver"]


@needs_bindings
def test_start_wants_engines_of_the_gpu(tmp_path: Path) -> None:
    result = start(fake_driver(tmp_path, **A10), "--engines", str(tmp_path))
    assert result.returncode == 41
    assert "voxwright: GPU NVIDIA A10: serving arch sm86\n" in result.stderr
    assert "`python -m build.engines --arch sm86 --platform 26.08`" in result.stderr


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
    assert engine.samefile(folder / "body_standard" / "batch" / "model.plan")


def changed_signature(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"build_seconds": 0.5', '"build_seconds": 0.25', 1))


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """Public keys: the one that `signed` uses, and a stranger's."""
    pytest.importorskip("cryptography")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    paths = (tmp_path / "own.pem", tmp_path / "stranger.pem")
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


def test_a_signed_bundle(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    folder = written(tmp_path / "engines", signed(bundle(Arch.CPU, "embedded")))
    arguments = ("--engines", str(tmp_path / "engines"), "--platform", "embedded", "--trusted-key")
    assert observe(settings(*arguments, str(keys[0])), {}).refusals == ()
    for wanted, key in ((Verdict.UNKNOWN_KEY, keys[1]), (Verdict.INVALID, keys[0])):
        if wanted is Verdict.INVALID:
            changed_signature(folder)
        (refusal,) = observe(settings(*arguments, str(key)), {}).refusals
        assert (type(refusal), refusal.cause) == (SignatureError, wanted.value)


def test_a_key_that_is_none(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    (refusal, *_) = observe(settings("--platform", "embedded", "--trusted-key", str(tmp_path / "absent")), {}).refusals
    assert (refusal.exit_code, refusal.cause) == (14, "it cannot be read (No such file or directory)")


def test_without_the_library_for_signatures(tmp_path: Path) -> None:
    script = (
        "import importlib.util\nfind = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name: None if name == 'cryptography' else find(name)\n"
        "from contract.errors import guard\nfrom runtime.__main__ import parse, run\n"
        "guard(lambda: run(parse(['--platform', 'embedded', '--trusted-key', 'key.pem'])))"
    )
    result = python(None, "-c", script)
    assert result.returncode == 10
    assert result.stderr.splitlines()[-1] == (
        "error: --trusted-key: cryptography, which judges signatures, is not installed. "
        "Install it with `pip install 'voxwright[serve]'`."
    )


def test_a_refused_start_touches_nothing(tmp_path: Path) -> None:
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
    path.write_text(path.read_text().replace('"schema_version": 2', '"schema_version": 3'))


def flipped_byte(folder: Path) -> None:
    (folder / "body_standard" / "batch" / "model.onnx").write_bytes(b"enginE")


@pytest.mark.parametrize(
    ("damage", "error"), [(wrong_arch, NoEngineError), (newer_schema, ManifestError), (flipped_byte, BundleError)]
)
def test_a_start_from_a_damaged_bundle(tmp_path: Path, damage: Any, error: type[VoxwrightError]) -> None:
    damage(written(tmp_path / "engines", bundle(Arch.CPU, "embedded")))
    where = ("--engines", str(tmp_path / "engines"), "--repository", str(tmp_path / "new" / "repository"))
    result = start(None, "--platform", "embedded", "--assemble-only", *where)
    assert result.returncode == error.exit_code
    assert not (tmp_path / "new" / "repository").exists()
    assert not list(tmp_path.glob("new/.*"))


def test_platforms_by_name() -> None:
    assert decided(SEEN, arguments=("--platform", "23.12")).platform is platform("23.12")
