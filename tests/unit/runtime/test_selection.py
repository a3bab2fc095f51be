"""What is chosen and why the rest is not: every reason once, and the operating points."""

import dataclasses
import re
from pathlib import Path

import pytest

from contract.arch import Arch
from contract.catalogue import catalogue
from contract.errors import ManifestError, NoEngineError
from contract.manifest import EngineRecord, Gate
from contract.platform import platform
from runtime import bundles
from runtime.bundles import Bundle
from runtime.selection import Selection, Target, explain, select
from tests.unit.runtime import synthetic

CPU = Target(arch=Arch.CPU, platform=platform("embedded"), mode="batch", operating_point=None)
A10 = Target(arch=Arch.SM86, platform=platform("26.08"), mode="batch", operating_point=None)
STANDARD = ("am_en_standard", "body_standard", "decoder_standard", "diar_standard")
HERE = Path("engines")


def choose(target: Target, *found: Bundle) -> Selection:
    return select(found, catalogue(), target)


def full(target: Target, *points: str) -> Bundle:
    return HERE, synthetic.full_manifest(target.arch, target.platform.name, *points)


def names(selection: Selection) -> tuple[str, ...]:
    return tuple(choice.record.model for choice in selection.chosen)


@pytest.mark.parametrize("target", [CPU, A10], ids=["cpu", "sm86"])
def test_everything_is_served(target: Target) -> None:
    selection = choose(target, full(target))
    assert selection.operating_points == ("standard", "enhanced")
    assert names(selection) == tuple(sorted(synthetic.engine_models()))
    assert selection.models() == (
        *("am_en_enhanced", "am_en_standard", "body_enhanced", "body_standard", "decoder_enhanced"),
        *("decoder_standard", "diar_enhanced", "diar_standard", "ensemble_en_enhanced", "ensemble_en_standard"),
        "lm_enhanced",
    )
    assert selection.rejected == ()
    assert selection.left_out == {}


def test_unset_serves_the_complete_point_and_names_the_other() -> None:
    selection = choose(CPU, full(CPU, "standard"))
    assert selection.operating_points == ("standard",)
    assert names(selection) == STANDARD
    assert [model.name for model in selection.ensembles] == ["ensemble_en_standard"]
    assert selection.left_out == {
        "enhanced": ("am_en_enhanced", "body_enhanced", "decoder_enhanced", "diar_enhanced", "lm_enhanced")
    }


def test_half_an_operating_point_is_never_served() -> None:
    path, manifest = full(CPU)
    engines = tuple(engine for engine in manifest.engines if engine.model != "lm_enhanced")
    selection = choose(CPU, (path, dataclasses.replace(manifest, engines=engines)))
    assert names(selection) == STANDARD
    assert selection.left_out == {"enhanced": ("lm_enhanced",)}
    assert {rejection.reason for rejection in selection.rejected} == {"operating point enhanced lacks lm_enhanced"}


def test_an_operating_point_that_was_asked_for() -> None:
    selection = choose(dataclasses.replace(CPU, operating_point="standard"), full(CPU))
    assert names(selection) == STANDARD
    assert selection.left_out == {}
    assert {rejection.reason for rejection in selection.rejected} == {"operating point standard was asked for"}


def test_an_incomplete_operating_point_that_was_asked_for_is_refused() -> None:
    with pytest.raises(NoEngineError) as refusal:
        choose(dataclasses.replace(CPU, operating_point="enhanced"), full(CPU, "standard"))
    assert str(refusal.value) == (
        "batch engines for arch cpu on platform embedded: enhanced lacks am_en_enhanced, body_enhanced, "
        "decoder_enhanced, diar_enhanced, lm_enhanced. "
        "Build them with `python -m build.engines --arch cpu --platform embedded`."
    )


def test_nothing_at_all_is_refused() -> None:
    with pytest.raises(NoEngineError, match=r"standard lacks am_en_standard.*; enhanced lacks am_en_enhanced"):
        choose(CPU)


def test_the_first_of_two_equal_bundles() -> None:
    first, second = full(CPU), (Path("other"), full(CPU)[1])
    selection = choose(CPU, first, second)
    assert {choice.bundle for choice in selection.chosen} == {HERE}
    assert {rejection.reason for rejection in selection.rejected} == {"engines has one already"}


def rejected(target: Target, bundle: Bundle) -> str:
    """Give the one reason for which every engine of a bundle is refused."""
    with pytest.raises(NoEngineError) as refusal:
        choose(target, bundle)
    match = re.search(r"Not used: engines \(.*?\): (.*?)\. (?:Build them|No model)", str(refusal.value))
    assert match is not None, str(refusal.value)
    return match[1]


@pytest.mark.parametrize("arch", [Arch.SM75, Arch.SM80, Arch.SM89, Arch.SM90], ids=lambda arch: arch.value)
def test_another_architecture(arch: Arch) -> None:
    bundle = HERE, synthetic.full_manifest(arch, "26.08")
    assert rejected(A10, bundle) == f"it is built for {arch.value}, not for sm86"


def test_another_platform() -> None:
    bundle = HERE, synthetic.full_manifest(Arch.SM86, "23.12")
    assert rejected(A10, bundle) == "it is built for platform 23.12, not for 26.08"


@pytest.mark.parametrize("version", ["11.2.1.1", "11.2.1", "11.2.1.20", "8.6.1.6"])
def test_another_tensorrt(version: str) -> None:
    path, manifest = full(A10)
    bundle = path, dataclasses.replace(manifest, toolchain={"tensorrt": version})
    assert rejected(A10, bundle) == f"it is built with TensorRT {version}, and platform 26.08 has 11.2.1.2"


def test_an_unknown_tensorrt() -> None:
    path, manifest = full(A10)
    reason = rejected(A10, (path, dataclasses.replace(manifest, toolchain={})))
    assert reason == "it is built with TensorRT an unknown version, and platform 26.08 has 11.2.1.2"


@pytest.mark.parametrize("target", [CPU, A10], ids=["cpu", "sm86"])
def test_a_compile_check_is_no_engine(target: Target) -> None:
    bundle = HERE, synthetic.full_manifest(Arch.SM86, "compile-check")
    assert rejected(target, bundle) == "Triton has no backend for TensorRT-RTX engines"


def changed(target: Target, **changes: object) -> Bundle:
    path, manifest = full(target)
    engines = tuple(dataclasses.replace(engine, **changes) for engine in manifest.engines)  # type: ignore[arg-type]
    return path, dataclasses.replace(manifest, engines=engines)


def test_another_compiler() -> None:
    assert rejected(A10, changed(A10, compiler="onnxruntime")) == "tensorrt serves no engine of onnxruntime"


def test_real_time_has_no_engines_yet() -> None:
    target = dataclasses.replace(CPU, mode="realtime")
    assert rejected(target, full(CPU)) == "it is built for batch, not for realtime"
    # Building would not help: the catalogue has no such profiles.
    with pytest.raises(NoEngineError, match="has a realtime mode: serve the batch mode, with SM_BATCH_MODE=true"):
        choose(target, full(CPU))


def test_an_unchecked_engine() -> None:
    bundle = changed(A10, gate=Gate(outcome="not run", reason="no GPU on this host", parity=()))
    assert rejected(A10, bundle) == "its accuracy was not checked: no GPU on this host"


def test_a_model_that_the_catalogue_does_not_have() -> None:
    path, manifest = full(CPU)
    stranger = dataclasses.replace(manifest.engines[0], model="am_xx_standard")
    selection = choose(CPU, (path, dataclasses.replace(manifest, engines=(*manifest.engines, stranger))))
    assert explain(selection.rejected) == "engines (am_xx_standard/batch): the catalogue has no such model"


def test_explain_puts_equal_reasons_together() -> None:
    selection = choose(dataclasses.replace(CPU, operating_point="standard"), full(CPU))
    assert explain(selection.rejected) == (
        "engines (am_en_enhanced/batch, body_enhanced/batch, decoder_enhanced/batch, diar_enhanced/batch, "
        "lm_enhanced/batch): operating point standard was asked for"
    )


def record() -> EngineRecord:
    return synthetic.record(synthetic.engine_models()["diar_standard"])


def test_find_reads_every_bundle_but_the_unfinished(tmp_path: Path) -> None:
    made = synthetic.manifest(record())
    finished = synthetic.write(tmp_path / "embedded" / "cpu", made)
    synthetic.write(tmp_path / "embedded" / ".cpu.abc.partial", made)
    assert bundles.find(tmp_path) == ((finished, made),)
    assert bundles.find(finished) == ((finished, made),)
    assert bundles.find(tmp_path / "absent") == ()


def test_find_refuses_a_manifest_it_cannot_read(tmp_path: Path) -> None:
    folder = synthetic.write(tmp_path / "26.08" / "sm86", synthetic.manifest(record()))
    (folder / "manifest.json").write_text('{"schema_version": 99}')
    with pytest.raises(ManifestError, match="schema_version: it is 99, and this release reads 2"):
        bundles.find(tmp_path)
