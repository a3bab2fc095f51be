"""Test the selection: every reason for a rejection, and the operating points."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from contract.arch import Arch
from contract.catalogue import Catalogue
from contract.errors import ManifestError, NoEngineError
from contract.manifest import EngineRecord, Gate
from contract.platform import platform
from contract.signature import Verdict
from runtime import bundles
from runtime.bundles import Bundle
from runtime.selection import Selection, Target, explain, select
from tests.unit.runtime import synthetic

CPU = Target(arch=Arch.CPU, platform=platform("embedded"), mode="batch", operating_point=None)
A10 = Target(arch=Arch.SM86, platform=platform("26.08"), mode="batch", operating_point=None)
STANDARD = ("am_en_standard", "body_standard", "decoder_standard", "diar_standard")
HERE = Path("engines")


def choose(target: Target, *found: Bundle) -> Selection:
    return select(found, synthetic.CATALOGUE, target)


def full(target: Target, *points: str, **changes: Any) -> Bundle:
    """Return a synthetic bundle, with the same changes in every record."""
    made = synthetic.full_manifest(target.arch, target.platform.name, *points)
    engines = tuple(dataclasses.replace(engine, **changes) for engine in made.engines)
    return Bundle(folder=HERE, manifest=dataclasses.replace(made, engines=engines))


def with_manifest(bundle: Bundle, **changes: Any) -> Bundle:
    return dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, **changes))


def without(*models: str, catalogue: Catalogue = synthetic.CATALOGUE) -> Bundle:
    """Return a synthetic bundle for the CPU that does not list some models."""
    made = synthetic.full_manifest(catalogue=catalogue)
    engines = tuple(engine for engine in made.engines if engine.model not in models)
    return Bundle(folder=HERE, manifest=dataclasses.replace(made, engines=engines))


def unusable(bundle: Bundle, model: str) -> Bundle:
    """Return a bundle in which the accuracy of one model was not checked."""
    unchecked = Gate(outcome="not run", reason="no GPU on this host", parity=())
    engines = (
        dataclasses.replace(engine, gate=unchecked) if engine.model == model else engine
        for engine in bundle.manifest.engines
    )
    return with_manifest(bundle, engines=tuple(engines))


def names(selection: Selection) -> tuple[str, ...]:
    return tuple(choice.record.model for choice in selection.chosen)


@pytest.mark.parametrize("target", [CPU, A10], ids=["cpu", "sm86"])
def test_serves_everything(target: Target) -> None:
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


def test_serves_the_complete_point_and_lists_the_incomplete_one() -> None:
    selection = choose(CPU, full(CPU, "standard"))
    assert selection.operating_points == ("standard",)
    assert names(selection) == STANDARD
    assert [model.name for model in selection.ensembles] == ["ensemble_en_standard"]
    assert selection.left_out == {"enhanced": ("am_en_enhanced", "body_enhanced")}


def test_never_serves_part_of_an_operating_point() -> None:
    selection = choose(CPU, without("body_enhanced"))
    assert names(selection) == STANDARD
    assert selection.left_out == {"enhanced": ("body_enhanced",)}
    assert {rejection.reason for rejection in selection.rejected} == {"operating point enhanced lacks body_enhanced"}


def served_without(selection: Selection) -> list[str]:
    return [str(absence) for absence in selection.absent]


def test_serves_without_unlisted_optional_models() -> None:
    selection = choose(CPU, without("decoder_standard", "diar_standard", "lm_enhanced"))
    assert selection.operating_points == ("standard", "enhanced")
    assert selection.rejected == ()
    assert "ensemble_en_standard" in selection.models()
    assert not {"decoder_standard", "diar_standard", "lm_enhanced"} & set(selection.models())
    assert served_without(selection) == [
        "operating point standard is served without decoder_standard: no rescoring by attention for en",
        "operating point standard is served without diar_standard: speakers are not distinguished",
        "operating point enhanced is served without lm_enhanced: no language model for en",
    ]


@pytest.mark.parametrize("model", ["decoder_enhanced", "diar_enhanced", "lm_enhanced", "am_en_enhanced"])
def test_rejects_listed_engine_that_is_unusable(model: str) -> None:
    selection = choose(CPU, unusable(full(CPU), model))
    assert names(selection) == STANDARD
    assert selection.left_out == {"enhanced": (model,)}
    assert selection.absent == ()
    reasons = {it.reason for it in selection.rejected if it.runs_here}
    assert reasons == {f"operating point enhanced lacks {model}"}


def test_serves_two_languages_side_by_side() -> None:
    catalogue = synthetic.two_languages()
    selection = select([without(catalogue=catalogue)], catalogue, CPU)
    assert selection.languages == {"standard": ("en", "tlh"), "enhanced": ("en", "tlh")}
    assert {"am_tlh_standard", "decoder_tlh_standard", "ensemble_tlh_standard", "ensemble_en_standard"} <= set(
        selection.models()
    )
    assert (selection.absent, selection.rejected, selection.left_out) == ((), (), {})


def test_serves_without_unlisted_language() -> None:
    catalogue = synthetic.two_languages()
    selection = select([full(CPU)], catalogue, CPU)
    assert selection.languages == {"standard": ("en",), "enhanced": ("en",)}
    assert selection.models() == tuple(synthetic.CATALOGUE.models())
    assert served_without(selection) == [
        "operating point standard is served without am_tlh_standard: language tlh is not served",
        "operating point enhanced is served without am_tlh_enhanced: language tlh is not served",
    ]


def test_never_serves_part_of_a_language() -> None:
    """A rescorer without its head is a mistake of the build, not a choice."""
    catalogue = synthetic.two_languages()
    with pytest.raises(NoEngineError, match=r"standard lacks am_tlh_standard; enhanced lacks am_tlh_enhanced"):
        select([without("am_tlh_standard", "am_tlh_enhanced", catalogue=catalogue)], catalogue, CPU)


def test_serves_body_and_head_alone() -> None:
    catalogue = synthetic.body_and_head()
    selection = select([without(catalogue=catalogue)], catalogue, CPU)
    assert selection.models() == (
        *("am_en_enhanced", "am_en_standard", "body_enhanced", "body_standard"),
        *("ensemble_en_enhanced", "ensemble_en_standard"),
    )
    assert selection.absent == ()


def test_serves_network_that_takes_audio_by_itself() -> None:
    catalogue = synthetic.head_alone()
    selection = select([without(catalogue=catalogue)], catalogue, CPU)
    assert (selection.models(), selection.ensembles) == (("ctc_enhanced", "ctc_standard"), ())
    assert selection.languages == {"standard": ("en",), "enhanced": ("en",)}


def test_rejects_catalogue_without_recogniser() -> None:
    catalogue = synthetic.catalogue_of(synthetic.FAMILIES["diar"])
    with pytest.raises(NoEngineError) as refusal:
        select([without(catalogue=catalogue)], catalogue, dataclasses.replace(CPU, operating_point="standard"))
    assert refusal.value.cause == ("standard lacks a CTC network that clients can call: the catalogue has none")


def test_prefers_the_bundle_with_more_models() -> None:
    small = dataclasses.replace(without("diar_standard"), folder=Path("small"))
    selection = choose(dataclasses.replace(CPU, operating_point="standard"), small, full(CPU))
    assert {choice.bundle.folder for choice in selection.chosen} == {HERE}
    reasons = {it.reason for it in selection.rejected if it.record.operating_point == "standard"}
    assert reasons == {"operating point standard is served from engines, which has more models"}


def test_serves_the_requested_operating_point() -> None:
    selection = choose(dataclasses.replace(CPU, operating_point="standard"), full(CPU))
    assert names(selection) == STANDARD
    assert selection.left_out == {}
    assert {rejection.reason for rejection in selection.rejected} == {"operating point standard was requested"}


def test_rejects_incomplete_requested_operating_point() -> None:
    with pytest.raises(NoEngineError) as refusal:
        choose(dataclasses.replace(CPU, operating_point="enhanced"), full(CPU, "standard"))
    assert str(refusal.value) == (
        "batch engines for arch cpu on platform embedded: enhanced lacks am_en_enhanced, body_enhanced. "
        "Build them with `python -m build.engines --arch cpu --platform embedded`."
    )


def test_rejects_no_bundle() -> None:
    with pytest.raises(NoEngineError, match=r"standard lacks am_en_standard.*; enhanced lacks am_en_enhanced"):
        choose(CPU)


def test_takes_the_first_of_two_equal_bundles() -> None:
    selection = choose(CPU, full(CPU), dataclasses.replace(full(CPU), folder=Path("other")))
    assert {choice.bundle.folder for choice in selection.chosen} == {HERE}
    assert {(str(rejection.bundle), rejection.reason) for rejection in selection.rejected} == {
        ("other", "operating point standard is served from engines, which comes first"),
        ("other", "operating point enhanced is served from engines, which comes first"),
    }


def test_an_operating_point_comes_from_one_bundle() -> None:
    """Two bundles may come from two trainings: a mismatched encoder and head give wrong text without an error."""
    bodies, heads = without("am_en_standard", "decoder_standard"), without("body_standard", "diar_standard")
    parts = (dataclasses.replace(it, folder=Path(name)) for it, name in ((bodies, "bodies"), (heads, "heads")))
    with pytest.raises(NoEngineError) as refusal:
        choose(dataclasses.replace(CPU, operating_point="standard"), *parts)
    assert refusal.value.cause == (
        "standard lacks am_en_standard. Not used: bodies (body_standard/batch, diar_standard/batch): "
        "operating point standard lacks am_en_standard; "
        "heads (am_en_standard/batch, decoder_standard/batch): operating point standard lacks body_standard"
    )


def test_operating_points_from_two_bundles() -> None:
    bundles_of = {
        point: dataclasses.replace(full(CPU, point), folder=Path(point)) for point in ("standard", "enhanced")
    }
    selection = choose(CPU, *bundles_of.values())
    assert {choice.model.operating_point: str(choice.bundle.folder) for choice in selection.chosen} == {
        "standard": "standard",
        "enhanced": "enhanced",
    }
    assert selection.rejected == ()


def test_rejects_second_engine_of_a_model() -> None:
    made = full(CPU).manifest
    selection = choose(CPU, with_manifest(full(CPU), engines=(*made.engines, made.engines[0])))
    assert explain(selection.rejected) == "engines (am_en_enhanced/batch): the bundle has another one"


def level(name: str) -> dict[str, Any]:
    return {"key_parts": {"options": {"compatibility": name}}}


def bundle_of(arch: Arch, compatibility: str, folder: str) -> Bundle:
    made = full(dataclasses.replace(A10, arch=arch), **level(compatibility))
    return dataclasses.replace(made, folder=Path(folder))


def test_order_of_preference() -> None:
    """This architecture with the narrowest level, then wider levels, then another architecture that a level admits."""
    rungs = [
        bundle_of(Arch.SM86, "none", "exact"),
        bundle_of(Arch.SM86, "same-capability", "same"),
        bundle_of(Arch.SM86, "ampere-plus", "wide"),
        bundle_of(Arch.SM80, "ampere-plus", "other"),
    ]
    unusable = [bundle_of(Arch.SM80, "none", "other arch"), bundle_of(Arch.SM75, "ampere-plus", "turing")]
    for first in range(len(rungs)):
        # The best bundle is last: the order of the bundles must not decide.
        selection = choose(A10, *unusable, *reversed(rungs[first:]))
        assert {choice.bundle.folder for choice in selection.chosen} == {rungs[first].folder}
        assert bool(selection.compatible()) is (rungs[first].folder == Path("other"))
        reasons = {rejection.reason for rejection in selection.rejected if rejection.bundle == rungs[-1].folder}
        if first < 3:
            assert reasons == {
                f"operating point {point} is served from {rungs[first].folder}, which fits this GPU more closely"
                for point in ("standard", "enhanced")
            }
    with pytest.raises(NoEngineError) as refusal:
        choose(A10, *unusable)
    assert "it is built for sm80, not for sm86" in refusal.value.cause
    assert "it is built for sm75, and its compatibility ampere-plus does not admit sm86" in refusal.value.cause


def rejected(target: Target, bundle: Bundle) -> str:
    """Return the one reason for which every engine of a bundle is rejected."""
    with pytest.raises(NoEngineError) as refusal:
        choose(target, bundle)
    match = re.search(r"Not used: engines \(.*?\): (.*?)\. (?:Build them|No model)", str(refusal.value))
    assert match is not None, str(refusal.value)
    return match[1]


@pytest.mark.parametrize("arch", [Arch.SM75, Arch.SM80, Arch.SM89, Arch.SM90], ids=lambda arch: arch.value)
def test_rejects_another_architecture(arch: Arch) -> None:
    bundle = Bundle(folder=HERE, manifest=synthetic.full_manifest(arch, "26.08"))
    assert rejected(A10, bundle) == f"it is built for {arch.value}, not for sm86"


def test_rejects_another_platform() -> None:
    bundle = Bundle(folder=HERE, manifest=synthetic.full_manifest(Arch.SM86, "23.12"))
    assert rejected(A10, bundle) == "it is built for platform 23.12, not for 26.08"


@pytest.mark.parametrize("version", ["11.2.1.1", "11.2.1", "11.2.1.20", "8.6.1.6"])
def test_rejects_another_tensorrt(version: str) -> None:
    bundle = with_manifest(full(A10), toolchain={"tensorrt": version})
    assert rejected(A10, bundle) == f"it is built with TensorRT {version}, but platform 26.08 has 11.2.1.2"


def test_rejects_unknown_tensorrt() -> None:
    reason = rejected(A10, with_manifest(full(A10), toolchain={}))
    assert reason == "it is built with TensorRT an unknown version, but platform 26.08 has 11.2.1.2"


@pytest.mark.parametrize("target", [CPU, A10], ids=["cpu", "sm86"])
def test_rejects_compile_check(target: Target) -> None:
    bundle = Bundle(folder=HERE, manifest=synthetic.full_manifest(Arch.SM86, "compile-check"))
    assert rejected(target, bundle) == "Triton has no backend for TensorRT-RTX engines"


def test_rejects_another_compiler() -> None:
    assert rejected(A10, full(A10, compiler="onnxruntime")) == "tensorrt serves no engine of onnxruntime"


def test_rejects_another_mode() -> None:
    target = dataclasses.replace(CPU, mode="realtime")
    assert rejected(target, full(CPU)) == "it is built for batch, not for realtime"
    with pytest.raises(NoEngineError, match=r"Build them with `python -m build\.engines --arch cpu"):
        choose(target, full(CPU))


def test_rejects_mode_that_the_catalogue_does_not_have() -> None:
    # Building would not help: the catalogue has no such mode.
    batch = {"batch": synthetic.FAMILIES["body"].modes["batch"]}
    families = [dataclasses.replace(family, modes=batch) for family in synthetic.FAMILIES.values()]
    target = dataclasses.replace(CPU, mode="realtime")
    with pytest.raises(NoEngineError, match="has a realtime mode: serve the batch mode, with SM_BATCH_MODE=true"):
        select([full(CPU)], synthetic.catalogue_of(*families), target)


def test_serves_every_model_in_real_time() -> None:
    engines = tuple(synthetic.record(model, mode="realtime") for model in synthetic.engine_models().values())
    bundle = Bundle(folder=HERE, manifest=synthetic.manifest(*engines))
    target = dataclasses.replace(CPU, mode="realtime", operating_point=None)
    assert choose(target, bundle).models() == tuple(synthetic.CATALOGUE.models())


def test_an_ensemble_without_its_steps_is_not_served() -> None:
    """A catalogue may have two ensembles of a language, and the bundle the steps of one."""
    second = dataclasses.replace(synthetic.FAMILIES["ensemble_en"], name="ensemble_en2", steps=("body", "am_en2"))
    head = dataclasses.replace(synthetic.FAMILIES["am_en"], name="am_en2")
    catalogue = synthetic.catalogue_of(*synthetic.FAMILIES.values(), head, second)
    found = select([full(CPU)], catalogue, CPU)
    assert {model.family.name for model in found.ensembles} == {"ensemble_en"}


def test_rejects_unchecked_engine() -> None:
    bundle = full(A10, gate=Gate(outcome="not run", reason="no GPU on this host", parity=()))
    assert rejected(A10, bundle) == "its accuracy was not checked: no GPU on this host"


@pytest.mark.parametrize("verdict", Verdict)
def test_signature(verdict: Verdict) -> None:
    bundle = dataclasses.replace(full(CPU), verdict=verdict)
    if verdict in (Verdict.NOT_CHECKED, Verdict.TRUSTED):
        assert choose(CPU, bundle).rejected == ()
    else:
        assert (
            rejected(CPU, bundle)
            == {
                Verdict.UNSIGNED: "it is not signed",
                Verdict.UNKNOWN_KEY: "it is signed by a key that is not trusted here",
                Verdict.INVALID: "its signature does not match its manifest",
            }[verdict]
        )


def test_rejects_unknown_model() -> None:
    made = full(CPU).manifest
    unknown = dataclasses.replace(made.engines[0], model="am_xx_standard")
    selection = choose(CPU, with_manifest(full(CPU), engines=(*made.engines, unknown)))
    assert explain(selection.rejected) == "engines (am_xx_standard/batch): the catalogue has no such model"


def test_explain_groups_equal_reasons() -> None:
    selection = choose(dataclasses.replace(CPU, operating_point="standard"), full(CPU))
    assert explain(selection.rejected) == (
        "engines (am_en_enhanced/batch, body_enhanced/batch, decoder_enhanced/batch, diar_enhanced/batch, "
        "lm_enhanced/batch): operating point standard was requested"
    )


def record() -> EngineRecord:
    return synthetic.record(synthetic.engine_models()["diar_standard"])


def test_find_ignores_unfinished_bundle(tmp_path: Path) -> None:
    made = synthetic.manifest(record())
    finished = synthetic.write(tmp_path / "embedded" / "cpu", made)
    synthetic.write(tmp_path / "embedded" / ".cpu.abc.partial", made)
    assert bundles.find(tmp_path) == (Bundle(folder=finished, manifest=made),)
    assert bundles.find(finished) == (Bundle(folder=finished, manifest=made),)
    assert bundles.find(tmp_path / "absent") == ()


def test_find_rejects_unreadable_manifest(tmp_path: Path) -> None:
    folder = synthetic.write(tmp_path / "26.08" / "sm86", synthetic.manifest(record()))
    (folder / "manifest.json").write_text('{"schema_version": 99}')
    with pytest.raises(ManifestError, match="schema_version: it is 99, and this release reads 4"):
        bundles.find(tmp_path)
