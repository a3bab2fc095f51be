"""Releases: which bundles are joined, and every reason for a rejection, with its exact sentence."""

import dataclasses
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from build import release
from build.release import Index, ReleasePolicy, find
from contract import digest, files, signature
from contract.arch import Arch
from contract.errors import BundleError, ReleaseError, SettingError, SignatureError, VoxwrightError
from contract.manifest import NOT_RUN, BundleManifest, EngineRecord, Gate, load
from tests.unit.engines import commands, exported, made_up

GPUS = tuple(arch for arch in Arch if arch is not Arch.CPU)
UNSIGNED = ReleasePolicy(allow_unsigned=True)
REBUILD = "Build both bundles from the same export, with the same release of Voxwright."
Edit = Callable[[BundleManifest], BundleManifest]


@pytest.fixture
def farm(tmp_path: Path) -> Path:
    """A bundle for every GPU architecture of a platform, as the hosts of a farm build them."""
    for arch in GPUS:
        made_up.write(tmp_path / "farm" / "26.08" / arch.value, made_up.manifest(arch))
    return tmp_path / "farm"


def _edit(folder: Path, edit: Edit) -> None:
    (folder / "manifest.json").write_text(edit(load(folder)).to_json())


def _engine(edit: Callable[[EngineRecord], EngineRecord]) -> Edit:
    """Edit the record of body_standard."""
    return lambda made: dataclasses.replace(
        made, engines=tuple(edit(each) if each.model == "body_standard" else each for each in made.engines)
    )


def _key_part(name: str, value: Any) -> Edit:
    return _engine(lambda each: dataclasses.replace(each, key_parts={**each.key_parts, name: value}))


def _release(farm: Path, policy: ReleasePolicy = UNSIGNED, *more: Path) -> Index:
    return release.release(find((farm, *more)), policy, farm.parent / "release")


def _refusal(kind: type[VoxwrightError], farm: Path, policy: ReleasePolicy = UNSIGNED, *more: Path) -> str:
    with pytest.raises(kind) as refusal:
        _release(farm, policy, *more)
    assert not (farm.parent / "release").exists()
    assert sorted(path.name for path in farm.parent.glob(".*")) == []
    return str(refusal.value)


def test_joins_bundles_of_every_architecture(farm: Path) -> None:
    index = _release(farm)
    out = farm.parent / "release"
    assert json.loads((out / "index.json").read_text()) == json.loads(index.to_json())
    assert (index.platform, index.missing) == ("26.08", ())
    assert index.architectures == tuple(arch.value for arch in GPUS)
    sm80 = next(each for each in index.bundles if each.arch == "sm80")
    assert sm80.models == dict.fromkeys(made_up.engine_models(), ("batch",))
    assert sm80.manifest_sha256 == digest.of_file(farm / "26.08" / "sm80" / "manifest.json")
    assert sm80.size_bytes == sum(path.stat().st_size for path in (out / sm80.folder).rglob("*") if path.is_file())
    assert (sm80.signature_key, sm80.verified) == (None, False)
    for bundle in index.bundles:
        assert load(out / bundle.folder) == load(farm / bundle.folder)


def test_links_files(farm: Path) -> None:
    _release(farm)
    engine = "26.08/sm75/body_standard/batch/model.plan"
    assert (farm.parent / "release" / engine).samefile(farm / engine)


def test_replaces_earlier_release(farm: Path) -> None:
    _release(farm)
    second = ReleasePolicy(allow_unsigned=True, allow_missing=frozenset({Arch.SM90}))
    index = release.release(
        [each for each in find((farm,)) if each.manifest.arch is not Arch.SM90], second, farm.parent / "release"
    )
    assert index.missing == ("sm90",)
    assert not (farm.parent / "release" / "26.08" / "sm90").exists()


def test_page_shows_unsigned_bundles(farm: Path) -> None:
    _release(farm)
    page = (farm.parent / "release" / "index.html").read_text()
    assert "The release is complete: it has a bundle for every architecture of the platform." in page
    assert page.count("○ unsigned") == len(GPUS)
    assert "A10, A40, RTX 30" in page


def test_rejects_missing_architecture(farm: Path) -> None:
    bundles = [each for each in find((farm,)) if each.manifest.arch not in (Arch.SM75, Arch.SM90)]
    with pytest.raises(ReleaseError) as refusal:
        release.release(bundles, UNSIGNED, farm.parent / "release")
    assert str(refusal.value) == (
        "release for platform 26.08: there is no bundle for sm75 (T4, RTX 20), sm90 (H100, H200). "
        "Build it with `python -m build.engines --arch sm75 --platform 26.08`, "
        "or release without it: --allow-missing sm75 --allow-missing sm90."
    )


def test_rejects_two_bundles_of_one_architecture(farm: Path) -> None:
    other = made_up.write(farm.parent / "again", made_up.manifest(Arch.SM86))
    assert _refusal(ReleaseError, farm, UNSIGNED, other) == (
        f"{other}: it is for sm86, as is {farm / '26.08' / 'sm86'}. Name only one of the two."
    )


def test_rejects_two_platforms(farm: Path) -> None:
    other = made_up.write(farm.parent / "old", made_up.manifest(Arch.SM86, "23.12"))
    assert _refusal(ReleaseError, farm, UNSIGNED, other) == (
        "platforms 23.12 and 26.08: a release is for one platform. "
        f"Name the bundles of one: `python -m build.release {other}`."
    )


def test_includes_embedded_bundle_only_by_option(farm: Path) -> None:
    other = made_up.write(farm.parent / "cpu", made_up.manifest(Arch.CPU, "embedded"))
    assert _refusal(ReleaseError, farm, UNSIGNED, other) == (
        f"{other}: it is for platform embedded, and the release for 26.08. "
        "Add --with-embedded to include it, or name only the other bundles."
    )
    index = _release(farm, ReleasePolicy(allow_unsigned=True, with_embedded=True), other)
    assert index.platform == "26.08"
    assert index.architectures == tuple(arch.value for arch in GPUS)
    assert "embedded/cpu" in [each.folder for each in index.bundles]


def test_releases_embedded_platform_alone(tmp_path: Path) -> None:
    made_up.write(tmp_path / "farm", made_up.manifest(Arch.CPU, "embedded"))
    assert _release(tmp_path / "farm").architectures == ("cpu",)


def test_rejects_bundle_without_some_models(farm: Path) -> None:
    def edit(made: BundleManifest) -> BundleManifest:
        return dataclasses.replace(made, engines=made.engines[:-2])

    _edit(farm / "26.08" / "sm80", edit)
    assert _refusal(ReleaseError, farm) == (
        f"{farm / '26.08' / 'sm80'}: it lacks diar_standard/batch, lm_enhanced/batch, "
        f"which {farm / '26.08' / 'sm75'} has. {REBUILD}"
    )


@pytest.mark.parametrize(
    ("part", "value", "words"),
    [
        ("reference", "other weights", "graph in FP32"),
        ("graph", "another graph", "graph in FP16"),
        ("toolchain", {"tensorrt": "11.2.1.3"}, "toolchain"),
        ("profile", [], "profile"),
        ("a part that is new", 1, "a part that is new"),
    ],
)
def test_rejects_keys_that_differ(farm: Path, part: str, value: Any, words: str) -> None:
    _edit(farm / "26.08" / "sm89", _key_part(part, value))
    assert _refusal(ReleaseError, farm) == (
        f"{farm / '26.08' / 'sm89'} (body_standard/batch): its {words} differs from that of the same engine in "
        f"{farm / '26.08' / 'sm75'}. {REBUILD}"
    )


@pytest.mark.parametrize("part", ["reference", "graph", "toolchain"])
def test_rejects_key_without_a_required_part(farm: Path, part: str) -> None:
    def edit(each: EngineRecord) -> EngineRecord:
        return dataclasses.replace(
            each, key_parts={name: each.key_parts[name] for name in each.key_parts if name != part}
        )

    for arch in GPUS:
        _edit(farm / "26.08" / arch.value, _engine(edit))
    assert "(body_standard/batch): its " in _refusal(ReleaseError, farm)


@pytest.mark.parametrize("part", ["arch", "options"])
def test_accepts_keys_that_differ_by_architecture(farm: Path, part: str) -> None:
    _edit(farm / "26.08" / "sm89", _key_part(part, "something else"))
    assert _release(farm).missing == ()


def test_accepts_another_graph_for_another_precision(farm: Path) -> None:
    def edit(each: EngineRecord) -> EngineRecord:
        return dataclasses.replace(each, precision="int8", key_parts={**each.key_parts, "graph": "quantised"})

    _edit(farm / "26.08" / "sm89", _engine(edit))
    assert _release(farm).missing == ()


def test_real_keys_differ_only_in_allowed_parts(tmp_path: Path) -> None:
    """A part that newly differs between architectures fails here before a farm fails."""
    exported.export(tmp_path, "body_standard")
    (job,) = exported.jobs(tmp_path, "body_standard")
    keys = [
        dataclasses.replace(job, arch=arch, precision=precision).key_parts(
            compiler, {"library": compiler}, {"for": compiler}
        )
        for arch, precision, compiler in ((Arch.CPU, "fp32", "onnxruntime"), (Arch.SM80, "fp16", "tensorrt"))
    ]
    assert {part for part in keys[0] if keys[0][part] != keys[1][part]} <= release.MAY_DIFFER
    assert {"reference", "graph", "toolchain"} <= keys[0].keys()


def test_rejects_engine_that_was_not_gated(farm: Path) -> None:
    gate = Gate(outcome=NOT_RUN, reason="no GPU was there", parity=())
    _edit(farm / "26.08" / "sm86", _engine(lambda each: dataclasses.replace(each, gate=gate)))
    assert _refusal(ReleaseError, farm) == (
        f"{farm / '26.08' / 'sm86'} (body_standard/batch): its accuracy was not checked: no GPU was there. "
        "Build it on a host that can run it, or omit the bundle."
    )


def test_rejects_bundle_without_engines(farm: Path) -> None:
    _edit(farm / "26.08" / "sm86", lambda made: dataclasses.replace(made, engines=()))
    assert _refusal(ReleaseError, farm) == (
        f"{farm / '26.08' / 'sm86'}: it contains no engine. Build it again, or omit it."
    )


def test_rejects_damaged_file(farm: Path) -> None:
    path = farm / "26.08" / "sm86" / "body_standard" / "batch" / "model.plan"
    path.write_bytes(path.read_bytes().swapcase())
    assert _refusal(BundleError, farm) == (
        f"{path}: its content does not match the manifest. "
        "Build the bundle again with `python -m build.engines`, or copy it again from an intact source."
    )


def test_rejects_missing_file(farm: Path) -> None:
    path = farm / "26.08" / "sm86" / "timing.cache"
    path.unlink()
    assert _refusal(BundleError, farm).startswith(f"{path}: it is missing. ")


def test_rejects_folder_without_bundles(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="so it is not a bundle"):
        find((tmp_path,))


def _sign(farm: Path, key: Ed25519PrivateKey) -> None:
    for arch in GPUS:
        _edit(farm / "26.08" / arch.value, lambda made: signature.sign(made, key))


def _public(folder: Path, key: Ed25519PrivateKey, name: str = "key.pub") -> Path:
    path = folder / name
    path.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path


def test_verifies_signatures_and_lists_keys(farm: Path) -> None:
    key = Ed25519PrivateKey.generate()
    _sign(farm, key)
    index = _release(farm, ReleasePolicy(trusted_keys=(_public(farm.parent, key),)))
    assert {(each.signature_key, each.verified) for each in index.bundles} == {
        (signature.fingerprint(key.public_key()), True)
    }
    assert (farm.parent / "release" / "index.html").read_text().count("✓ verified") == len(GPUS)


def test_requires_key_or_allow_unsigned(farm: Path) -> None:
    assert _refusal(SettingError, farm, ReleasePolicy()) == (
        "--trusted-key: it is missing, so that no signature can be verified. "
        "Name a public key, or release unsigned bundles with --allow-unsigned."
    )


def test_rejects_untrusted_key(farm: Path) -> None:
    _sign(farm, Ed25519PrivateKey.generate())
    trusted = _public(farm.parent, Ed25519PrivateKey.generate())
    # --allow-unsigned does not allow a bundle that another key signed.
    for allow_unsigned in (False, True):
        assert _refusal(
            SignatureError, farm, ReleasePolicy(trusted_keys=(trusted,), allow_unsigned=allow_unsigned)
        ).startswith(f"{farm / '26.08' / 'sm75'}: it is signed by a key that is not trusted here. ")


def test_rejects_invalid_signature(farm: Path) -> None:
    key = Ed25519PrivateKey.generate()
    _sign(farm, key)
    _edit(farm / "26.08" / "sm86", lambda made: dataclasses.replace(made, accuracy=()))
    assert _refusal(SignatureError, farm, ReleasePolicy(trusted_keys=(_public(farm.parent, key),))).startswith(
        f"{farm / '26.08' / 'sm86'}: its signature does not match its manifest. "
    )


def test_rejects_unsigned_bundle_among_signed_ones(farm: Path) -> None:
    key = Ed25519PrivateKey.generate()
    _sign(farm, key)
    _edit(farm / "26.08" / "sm86", lambda made: dataclasses.replace(made, signature=None))
    trusted = (_public(farm.parent, key),)
    assert _refusal(SignatureError, farm, ReleasePolicy(trusted_keys=trusted)).startswith(
        f"{farm / '26.08' / 'sm86'}: it is not signed. "
    )
    index = _release(farm, ReleasePolicy(trusted_keys=trusted, allow_unsigned=True))
    assert [each.arch for each in index.bundles if not each.verified] == ["sm86"]


def test_does_not_replace_folder_of_other_files(farm: Path) -> None:
    out = farm.parent / "release"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(SettingError) as refusal:
        _release(farm)
    assert str(refusal.value) == (
        f"--out {out}: it exists and is not a release, and the whole folder would be replaced. "
        "Name a folder that is used only for the release."
    )
    assert (out / "thesis.txt").is_file()


def test_does_not_replace_folder_with_its_bundles(farm: Path) -> None:
    _release(farm)
    out = farm.parent / "release"
    with pytest.raises(SettingError) as refusal:
        release.release(find((out,)), UNSIGNED, out)
    assert str(refusal.value) == (
        f"--out {out}: {out / '26.08' / 'sm75'} is in it, and the whole folder would be replaced. "
        "Name a folder that is used only for the release."
    )
    assert (out / "26.08" / "sm75" / "manifest.json").is_file()


def _inside(setting: str, path: Path, bundle: Path) -> str:
    return (
        f"{setting} {path}: it is in the bundle {bundle}, whose manifest contains the hash of every file. "
        "Choose a place outside the bundle."
    )


@pytest.mark.parametrize("name", ["26.08/sm86", "compile-check/sm75"])
def test_does_not_write_release_into_a_bundle(farm: Path, name: str) -> None:
    _compile_checks(farm)
    bundle = farm / name
    with pytest.raises(SettingError) as refusal:
        release.release(find((farm,)), UNSIGNED, bundle / "new" / "release")
    assert str(refusal.value) == _inside("--out", bundle / "new" / "release", bundle)
    assert not (bundle / "new").exists()


@pytest.mark.parametrize("setting", ["--out", "--store"])
def test_does_not_build_into_a_bundle(farm: Path, setting: str) -> None:
    bundle = farm / "26.08" / "sm86"
    for path in (bundle, bundle / "more"):
        result = commands.run("build.engines", "--arch", "cpu", "--onnx", farm.parent, setting, path)
        assert (result.returncode, result.stderr) == (10, f"error: {_inside(setting, path, bundle)}\n")
    checked = commands.run("build.check", "--out", bundle)
    assert (checked.returncode, checked.stderr) == (10, f"error: {_inside('--out', bundle, bundle)}\n")


def test_writes_release_beside_manifest_of_another_program(farm: Path) -> None:
    (farm.parent / "manifest.json").write_text('{"name": "a web page"}')
    assert _release(farm).platform == "26.08"


def test_the_command(farm: Path) -> None:
    arguments = (farm, "--out", farm.parent / "release")
    made = commands.run("build.release", *arguments, "--allow-unsigned")
    assert made.returncode == 0, made.stderr
    assert made.stderr.endswith(f"release {farm.parent / 'release'}: platform 26.08, sm75, sm80, sm86, sm89, sm90\n")
    refused = commands.run("build.release", *arguments, "--allow-missing", "sm70")
    assert (refused.returncode, refused.stderr) == (
        10,
        "error: architecture 'sm70': Voxwright does not build for it. "
        "Choose one of cpu, sm75, sm80, sm86, sm89, sm90.\n",
    )
    assert commands.run("build.release", *arguments).returncode == 10


def test_rejects_bundle_that_changes_during_the_release(farm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signature of the first manifest was verified, not that of the second one."""
    path = farm / "26.08" / "sm90" / "manifest.json"
    link = files.link_or_copy

    def changing(source: Path, target: Path) -> None:
        if source == path:
            files.write(path, path.read_text().replace("5210", "5211"))
        link(source, target)

    monkeypatch.setattr(files, "link_or_copy", changing)
    assert _refusal(ReleaseError, farm) == f"{path.parent}: it changed while it was released. Run the command again."


def test_check_writes_nothing_and_needs_no_signature(farm: Path) -> None:
    _compile_checks(farm)
    arguments = (farm, "--out", farm.parent / "release", "--check")
    made = commands.run("build.release", *arguments)
    assert (made.returncode, made.stdout.splitlines()) == (0, [str(farm / "26.08" / arch.value) for arch in GPUS])
    assert [path.name for path in farm.parent.iterdir()] == ["farm"]
    (farm / "26.08" / "sm80" / "timing.cache").write_bytes(b"other")
    refused = commands.run("build.release", *arguments)
    assert (refused.returncode, refused.stdout) == (42, "")
    assert "sm80/timing.cache" in refused.stderr


def _compile_checks(farm: Path) -> Path:
    """Write compile checks of the same models next to the bundles, as `python -m build.check` does."""
    for arch in (Arch.SM75, Arch.SM89):
        check = made_up.manifest(arch, "compile-check")
        gate = Gate(outcome=NOT_RUN, reason="tensorrt_rtx engines run only on a GPU", parity=())
        engines = tuple(dataclasses.replace(each, gate=gate) for each in check.engines)
        made_up.write(farm / "compile-check" / arch.value, dataclasses.replace(check, engines=engines))
    return farm / "compile-check"


def test_leaves_out_compile_checks(farm: Path) -> None:
    checks = _compile_checks(farm)
    result = commands.run("build.release", farm, "--out", farm.parent / "release", "--allow-unsigned")
    assert (result.returncode, result.stderr.splitlines()[:2]) == (
        0,
        [f"release leaves out {checks / arch}: a compile check, which no server can load" for arch in ("sm75", "sm89")],
    )
    assert not (farm.parent / "release" / "compile-check").exists()


def test_rejects_named_compile_check(farm: Path) -> None:
    checks = _compile_checks(farm)
    for folder, cause in (
        (checks / "sm75", "it is a compile check, which no server can load"),
        (checks, "it contains only compile checks, which no server can load"),
    ):
        assert _refusal(ReleaseError, farm, UNSIGNED, folder) == (
            f"{folder}: {cause}. "
            "Build the engines to release with `python -m build.engines --arch ARCH`, and name their folder."
        )


def test_accepts_folder_of_one_platform(farm: Path) -> None:
    index = release.release(find((farm / "26.08",)), UNSIGNED, farm.parent / "release")
    assert index.architectures == tuple(arch.value for arch in GPUS)


def test_commands_of_the_page_make_a_signed_release(tmp_path: Path) -> None:
    """The steps of docs/architecture/35-release.md after a build and a compile check, with openssl's own files."""
    made_up.write(tmp_path / "engines" / "embedded" / "cpu", made_up.manifest(Arch.CPU, "embedded"))
    _compile_checks(tmp_path / "engines")
    for command in (
        "openssl genpkey -algorithm ed25519 -out release.key",
        "openssl pkey -in release.key -pubout -out release.pub",
    ):
        subprocess.run(command.split(), cwd=tmp_path, check=True)
    arguments = (tmp_path / "engines", "--out", tmp_path / "release", "--trusted-key", tmp_path / "release.pub")
    unsigned = commands.run("build.release", *arguments)
    assert unsigned.returncode == 15
    assert f"{tmp_path / 'engines' / 'embedded' / 'cpu'}: it is not signed. " in unsigned.stderr
    bundle = tmp_path / "engines" / "embedded" / "cpu"
    assert commands.run("build.sign", bundle, "--key", tmp_path / "release.key").returncode == 0
    released = commands.run("build.release", *arguments)
    assert released.returncode == 0, released.stderr
    assert released.stderr.endswith(f"release {tmp_path / 'release'}: platform embedded, cpu\n")
    assert load(tmp_path / "release" / "embedded" / "cpu").signature is not None
