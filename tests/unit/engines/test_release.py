"""Releases: what is joined, and every reason why bundles do not belong together, with its exact sentence."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from build import release
from build.release import Index, Terms, find
from contract import digest, signature
from contract.arch import Arch
from contract.errors import BundleError, ReleaseError, SettingError, SignatureError, VoxwrightError
from contract.manifest import NOT_RUN, BundleManifest, EngineRecord, Gate, load
from tests.unit.engines import exported, made_up

ROOT = Path(__file__).parents[3]
GPUS = tuple(arch for arch in Arch if arch is not Arch.CPU)
UNSIGNED = Terms(allow_unsigned=True)
REBUILD = "Build both from the same export, with the same release of Voxwright."
Edit = Callable[[BundleManifest], BundleManifest]


@pytest.fixture
def farm(tmp_path: Path) -> Path:
    """A bundle of every GPU architecture of a platform, as the hosts of a farm hand them in."""
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


def _release(farm: Path, terms: Terms = UNSIGNED, *more: Path) -> Index:
    return release.release(find((farm, *more)), terms, farm.parent / "release")


def _refusal(kind: type[VoxwrightError], farm: Path, terms: Terms = UNSIGNED, *more: Path) -> str:
    with pytest.raises(kind) as refusal:
        _release(farm, terms, *more)
    assert not (farm.parent / "release").exists()
    assert sorted(path.name for path in farm.parent.glob(".*")) == []
    return str(refusal.value)


def test_the_bundles_of_every_architecture_make_a_release(farm: Path) -> None:
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


def test_files_are_linked(farm: Path) -> None:
    _release(farm)
    engine = "26.08/sm75/body_standard/batch/model.plan"
    assert (farm.parent / "release" / engine).samefile(farm / engine)


def test_a_release_takes_the_place_of_the_one_before(farm: Path) -> None:
    _release(farm)
    second = Terms(allow_unsigned=True, allow_missing=frozenset({Arch.SM90}))
    index = release.release(
        [each for each in find((farm,)) if each.manifest.arch is not Arch.SM90], second, farm.parent / "release"
    )
    assert index.missing == ("sm90",)
    assert not (farm.parent / "release" / "26.08" / "sm90").exists()


def test_people_see_what_is_missing_and_what_is_unsigned(farm: Path) -> None:
    _release(farm)
    page = (farm.parent / "release" / "index.html").read_text()
    assert "Every architecture of the platform is here." in page
    assert page.count("○ unsigned") == len(GPUS)
    assert "A10, A40, RTX 30" in page


def test_a_missing_architecture(farm: Path) -> None:
    bundles = [each for each in find((farm,)) if each.manifest.arch not in (Arch.SM75, Arch.SM90)]
    with pytest.raises(ReleaseError) as refusal:
        release.release(bundles, UNSIGNED, farm.parent / "release")
    assert str(refusal.value) == (
        "release for platform 26.08: there is no bundle for sm75 (T4, RTX 20), sm90 (H100, H200). "
        "Build it with `python -m build.engines --arch sm75 --platform 26.08`, "
        "or release without: --allow-missing sm75 --allow-missing sm90."
    )


def test_two_bundles_of_an_architecture(farm: Path) -> None:
    other = made_up.write(farm.parent / "again", made_up.manifest(Arch.SM86))
    assert _refusal(ReleaseError, farm, UNSIGNED, other) == (
        f"{other}: it is for sm86, as {farm / '26.08' / 'sm86'} is. Name one of the two."
    )


def test_two_platforms(farm: Path) -> None:
    other = made_up.write(farm.parent / "old", made_up.manifest(Arch.SM86, "23.12"))
    assert _refusal(ReleaseError, farm, UNSIGNED, other) == (
        "platforms 23.12 and 26.08: a release is for one platform. Make a release of each."
    )


def test_the_embedded_bundle_comes_along_when_asked(farm: Path) -> None:
    other = made_up.write(farm.parent / "cpu", made_up.manifest(Arch.CPU, "embedded"))
    assert _refusal(ReleaseError, farm, UNSIGNED, other) == (
        f"{other}: it is for platform embedded, and the release for 26.08. "
        "Let it accompany the release with --with-embedded, or leave it out."
    )
    index = _release(farm, Terms(allow_unsigned=True, with_embedded=True), other)
    assert index.platform == "26.08"
    assert index.architectures == tuple(arch.value for arch in GPUS)
    assert "embedded/cpu" in [each.folder for each in index.bundles]


def test_the_embedded_platform_alone_is_a_release(tmp_path: Path) -> None:
    made_up.write(tmp_path / "farm", made_up.manifest(Arch.CPU, "embedded"))
    assert _release(tmp_path / "farm").architectures == ("cpu",)


def test_other_models(farm: Path) -> None:
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
        ("profiles", [], "profiles"),
        ("a part that is new", 1, "a part that is new"),
    ],
)
def test_keys_that_differ_where_they_may_not(farm: Path, part: str, value: Any, words: str) -> None:
    _edit(farm / "26.08" / "sm89", _key_part(part, value))
    assert _refusal(ReleaseError, farm) == (
        f"{farm / '26.08' / 'sm89'} (body_standard/batch): its {words} is not that of the same engine in "
        f"{farm / '26.08' / 'sm75'}. {REBUILD}"
    )


@pytest.mark.parametrize("part", ["reference", "graph", "toolchain"])
def test_a_key_that_names_no_graph_proves_nothing(farm: Path, part: str) -> None:
    def edit(each: EngineRecord) -> EngineRecord:
        return dataclasses.replace(
            each, key_parts={name: each.key_parts[name] for name in each.key_parts if name != part}
        )

    for arch in GPUS:
        _edit(farm / "26.08" / arch.value, _engine(edit))
    assert "(body_standard/batch): its " in _refusal(ReleaseError, farm)


@pytest.mark.parametrize("part", ["arch", "options"])
def test_keys_may_differ_by_architecture(farm: Path, part: str) -> None:
    _edit(farm / "26.08" / "sm89", _key_part(part, "something else"))
    assert _release(farm).missing == ()


def test_another_precision_may_have_another_graph(farm: Path) -> None:
    def edit(each: EngineRecord) -> EngineRecord:
        return dataclasses.replace(each, precision="int8", key_parts={**each.key_parts, "graph": "quantised"})

    _edit(farm / "26.08" / "sm89", _engine(edit))
    assert _release(farm).missing == ()


def test_real_keys_differ_only_where_a_release_lets_them(tmp_path: Path) -> None:
    """A part that comes to differ between architectures makes this fail before it makes a farm fail."""
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


def test_an_engine_that_was_not_checked(farm: Path) -> None:
    gate = Gate(outcome=NOT_RUN, reason="no GPU was there", parity=())
    _edit(farm / "26.08" / "sm86", _engine(lambda each: dataclasses.replace(each, gate=gate)))
    assert _refusal(ReleaseError, farm) == (
        f"{farm / '26.08' / 'sm86'} (body_standard/batch): its accuracy was not checked: no GPU was there. "
        "Build it on a host that can run it, or leave the bundle out."
    )


def test_an_empty_bundle(farm: Path) -> None:
    _edit(farm / "26.08" / "sm86", lambda made: dataclasses.replace(made, engines=()))
    assert _refusal(ReleaseError, farm) == (
        f"{farm / '26.08' / 'sm86'}: it holds no engine. Build it again, or leave it out."
    )


def test_a_damaged_file(farm: Path) -> None:
    path = farm / "26.08" / "sm86" / "body_standard" / "batch" / "model.plan"
    path.write_bytes(path.read_bytes().swapcase())
    assert _refusal(BundleError, farm) == (
        f"{path}: its content is not what the manifest says. "
        "Build the bundle again with `python -m build.engines`, or copy it again from where it is whole."
    )


def test_a_missing_file(farm: Path) -> None:
    path = farm / "26.08" / "sm86" / "timing.cache"
    path.unlink()
    assert _refusal(BundleError, farm).startswith(f"{path}: it is missing. ")


def test_nothing_to_release(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="so it is no bundle"):
        find((tmp_path,))


def _sign(farm: Path, key: Ed25519PrivateKey) -> None:
    for arch in GPUS:
        _edit(farm / "26.08" / arch.value, lambda made: signature.sign(made, key))


def _public(folder: Path, key: Ed25519PrivateKey, name: str = "key.pub") -> Path:
    path = folder / name
    path.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path


def test_signatures_are_verified_and_named(farm: Path) -> None:
    key = Ed25519PrivateKey.generate()
    _sign(farm, key)
    index = _release(farm, Terms(trusted_keys=(_public(farm.parent, key),)))
    assert {(each.signature_key, each.verified) for each in index.bundles} == {
        (signature.fingerprint(key.public_key()), True)
    }
    assert (farm.parent / "release" / "index.html").read_text().count("✓ verified") == len(GPUS)


def test_no_key_and_no_leave_to_do_without(farm: Path) -> None:
    assert _refusal(SettingError, farm, Terms()) == (
        "--trusted-key: it is not given, so no signature can be verified. "
        "Name a public key, or release what is not signed: --allow-unsigned."
    )


def test_a_key_that_is_not_trusted(farm: Path) -> None:
    _sign(farm, Ed25519PrivateKey.generate())
    trusted = _public(farm.parent, Ed25519PrivateKey.generate())
    # Leave to release what is unsigned is no leave to release what somebody else signed.
    for allow_unsigned in (False, True):
        assert _refusal(SignatureError, farm, Terms(trusted_keys=(trusted,), allow_unsigned=allow_unsigned)).startswith(
            f"{farm / '26.08' / 'sm75'}: it is signed by a key that is not trusted here. "
        )


def test_a_signature_over_something_else(farm: Path) -> None:
    key = Ed25519PrivateKey.generate()
    _sign(farm, key)
    _edit(farm / "26.08" / "sm86", lambda made: dataclasses.replace(made, accuracy=()))
    assert _refusal(SignatureError, farm, Terms(trusted_keys=(_public(farm.parent, key),))).startswith(
        f"{farm / '26.08' / 'sm86'}: its signature does not fit its manifest. "
    )


def test_an_unsigned_bundle_among_signed_ones(farm: Path) -> None:
    key = Ed25519PrivateKey.generate()
    _sign(farm, key)
    _edit(farm / "26.08" / "sm86", lambda made: dataclasses.replace(made, signature=None))
    trusted = (_public(farm.parent, key),)
    assert _refusal(SignatureError, farm, Terms(trusted_keys=trusted)).startswith(
        f"{farm / '26.08' / 'sm86'}: it is not signed. "
    )
    index = _release(farm, Terms(trusted_keys=trusted, allow_unsigned=True))
    assert [each.arch for each in index.bundles if not each.verified] == ["sm86"]


def test_a_folder_of_something_else_is_not_replaced(farm: Path) -> None:
    out = farm.parent / "release"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(SettingError) as refusal:
        _release(farm)
    assert str(refusal.value) == (
        f"--out {out}: it exists and is no release, and it would be replaced as a whole. "
        "Name a folder that is for the release alone."
    )
    assert (out / "thesis.txt").is_file()


def test_a_bundle_inside_the_release_is_not_lost(farm: Path) -> None:
    _release(farm)
    out = farm.parent / "release"
    with pytest.raises(SettingError) as refusal:
        release.release(find((out,)), UNSIGNED, out)
    assert str(refusal.value) == (
        f"--out {out}: {out / '26.08' / 'sm75'} lies in it, and it would be replaced as a whole. "
        "Name a folder that is for the release alone."
    )
    assert (out / "26.08" / "sm75" / "manifest.json").is_file()


def test_the_command(farm: Path) -> None:
    command = [sys.executable, "-m", "build.release", str(farm), "--out", str(farm.parent / "release")]
    made = subprocess.run([*command, "--allow-unsigned"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    assert made.stderr.endswith(f"release {farm.parent / 'release'}: platform 26.08, sm75, sm80, sm86, sm89, sm90\n")
    refused = subprocess.run(
        [*command, "--allow-missing", "sm70"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (refused.returncode, refused.stderr) == (
        10,
        "error: architecture 'sm70': it is not one that Voxwright builds for. "
        "Choose one of cpu, sm75, sm80, sm86, sm89, sm90.\n",
    )
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert refused.returncode == 10
