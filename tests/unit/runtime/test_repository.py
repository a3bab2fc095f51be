"""Test assembly: what is written, what is rejected, and that an error changes nothing."""

import dataclasses
import errno
import fcntl
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

import contract.digest
import contract.files
from contract.arch import Arch
from contract.catalogue import Catalogue
from contract.client import ClientSpec
from contract.errors import BundleError, CatalogueError, OutputError, SettingError
from contract.manifest import BoundTensor, BundleFile, BundleManifest
from contract.platform import platform
from runtime import repository
from runtime.bundles import Bundle
from runtime.selection import Choice, Selection, Target, select
from tests.unit.runtime import synthetic

CPU = Target(arch=Arch.CPU, platform=platform("embedded"), mode="batch", operating_point="standard")
A10 = Target(arch=Arch.SM86, platform=platform("26.08"), mode="batch", operating_point="standard")


def bundle(folder: Path, target: Target = CPU) -> Bundle:
    made = synthetic.full_manifest(target.arch, target.platform.name)
    return Bundle(folder=synthetic.write(folder, made, lambda model: b"engine"), manifest=made)


def selection(found: Bundle, target: Target = CPU) -> Selection:
    return select([found], synthetic.CATALOGUE, target)


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(("target", "engine"), [(CPU, "model.onnx"), (A10, "model.sm86.plan")], ids=["cpu", "sm86"])
def test_layout(tmp_path: Path, target: Target, engine: str) -> None:
    repository.assemble(selection(bundle(tmp_path / "b", target), target), tmp_path / "repository", threads=2)
    assert files_below(tmp_path / "repository") == [
        *("am_en_standard/1/" + engine, "am_en_standard/config.pbtxt"),
        *("body_standard/1/" + engine, "body_standard/config.pbtxt"),
        *("decoder_standard/1/" + engine, "decoder_standard/config.pbtxt"),
        *("diar_standard/1/" + engine, "diar_standard/config.pbtxt"),
        "ensemble_en_standard/config.pbtxt",
    ]
    assert (tmp_path / "repository" / "ensemble_en_standard" / "1").is_dir()


def test_engines_are_copied(tmp_path: Path) -> None:
    found = bundle(tmp_path / "b")
    repository.assemble(selection(found), tmp_path / "repository", threads=2)
    source = found.folder / "body_standard" / "batch" / "model.onnx"
    engine = tmp_path / "repository" / "body_standard" / "1" / "model.onnx"
    assert engine.read_bytes() == source.read_bytes()
    assert not engine.samefile(source)


def large_bundle(folder: Path) -> tuple[Bundle, Path]:
    """Write a bundle whose body has its weights in a second file; return it and this file."""
    made, file = synthetic.full_manifest(), "body_standard/batch/model.onnx.data"
    data = BundleFile(file=file, sha256=hashlib.sha256(b"weights").hexdigest(), size_bytes=len(b"weights"))
    engines = [
        dataclasses.replace(each, data=(data,)) if each.model == "body_standard" else each for each in made.engines
    ]
    made = dataclasses.replace(made, engines=tuple(engines))
    synthetic.write(folder, made)
    (folder / file).write_bytes(b"weights")
    return Bundle(folder=folder, manifest=made), folder / file


def test_weights_of_a_large_engine_lie_beside_it(tmp_path: Path) -> None:
    found, data = large_bundle(tmp_path / "b")
    repository.assemble(selection(found), tmp_path / "repository", threads=2)
    version = tmp_path / "repository" / "body_standard" / "1"
    assert files_below(version) == ["model.onnx", "model.onnx.data"]
    assert (version / "model.onnx.data").read_bytes() == data.read_bytes()
    others = [each for each in files_below(tmp_path / "repository") if each.endswith(".data")]
    assert others == ["body_standard/1/model.onnx.data"]


@pytest.mark.parametrize(
    ("damage", "cause"),
    [
        (lambda path: path.write_bytes(b"weightS"), "its content does not match the manifest"),
        (lambda path: path.write_bytes(b"weight"), "it has 6 bytes, and the manifest states 7"),
        (Path.unlink, "it is missing"),
    ],
    ids=["flip", "truncate", "remove"],
)
def test_rejects_damaged_weights(tmp_path: Path, damage: Callable[[Path], None], cause: str) -> None:
    found, data = large_bundle(tmp_path / "b")
    damage(data)
    with pytest.raises(BundleError) as refusal:
        repository.assemble(selection(found), tmp_path / "repository", threads=2)
    assert str(refusal.value) == f"{data}: {cause}. {REBUILD}"
    assert not (tmp_path / "repository").exists()


def test_rejects_unlisted_weights(tmp_path: Path) -> None:
    """The ONNX file beside it might read it."""
    found = bundle(tmp_path / "b")
    data = found.folder / "body_standard" / "batch" / "model.onnx.data"
    data.write_bytes(b"weights")
    with pytest.raises(BundleError) as refusal:
        repository.assemble(selection(found), tmp_path / "repository", threads=2)
    assert str(refusal.value) == f"{data}: the manifest does not list it. {REBUILD}"


def cannot_clone(*_: object) -> int:
    raise OSError(errno.EOPNOTSUPP, "Operation not supported")


def clone(copy: FileIO, _request: int, source: int) -> int:
    """Copy a file as a file system that shares blocks would."""
    return os.sendfile(copy.fileno(), source, 0, os.fstat(source).st_size)


def test_replaces_old_repository(tmp_path: Path) -> None:
    (tmp_path / "repository" / "old_model").mkdir(parents=True)
    (tmp_path / "repository" / "old_model" / "config.pbtxt").write_text("")
    repository.assemble(selection(bundle(tmp_path / "b")), tmp_path / "repository", threads=2)
    assert not (tmp_path / "repository" / "old_model").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "repository"]


def flip(folder: Path, engine: Path) -> None:
    engine.write_bytes(b"enginE")


def truncate(folder: Path, engine: Path) -> None:
    engine.write_bytes(b"engin")


def remove(folder: Path, engine: Path) -> None:
    engine.unlink()


def add(folder: Path, engine: Path) -> None:
    (folder / "notes.txt").write_text("left behind")


def link_out(folder: Path, engine: Path) -> None:
    """The content is right, but it is outside the bundle."""
    outside = folder.parent / "outside.onnx"
    engine.rename(outside)
    engine.symlink_to(outside)


REBUILD = "Build the bundle again with `python -m build.engines`, or copy it again from an intact source."
DAMAGES: dict[Callable[[Path, Path], None], str] = {
    flip: "{engine}: its content does not match the manifest. " + REBUILD,
    truncate: "{engine}: it has 5 bytes, and the manifest states 6. " + REBUILD,
    remove: "{engine}: it is missing. " + REBUILD,
    add: "{folder}/notes.txt: the manifest does not list it. " + REBUILD,
    link_out: "{engine}: it is a symbolic link to {folder.parent}/outside.onnx, "
    "and a bundle may hold only regular files. " + REBUILD,
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("model", ["decoder_standard", "lm_enhanced"], ids=["served", "not served"])
@pytest.mark.parametrize("cloned", [False, True], ids=["copied", "cloned"])
def test_rejects_damaged_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path, Path], None], model: str, *, cloned: bool
) -> None:
    """Every file counts, also that of an engine that is not served."""
    monkeypatch.setattr(fcntl, "ioctl", clone if cloned else cannot_clone)
    found = bundle(tmp_path / "b" / "sound")
    repository.assemble(selection(found), tmp_path / "repository", threads=2)
    before = files_below(tmp_path / "repository")
    engine = found.folder / model / "batch" / "model.onnx"
    damage(found.folder, engine)
    with pytest.raises(BundleError) as refusal:
        repository.assemble(selection(found), tmp_path / "repository", threads=2)
    assert str(refusal.value) == DAMAGES[damage].format(engine=engine, folder=found.folder)
    # The old repository is complete, and no other file is left.
    assert files_below(tmp_path / "repository") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "repository"]


def test_verifies_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def copy_badly(source: Path, target: Path) -> str:
        target.write_bytes(b"enginE")
        return contract.digest.of_file(target)

    monkeypatch.setattr(contract.digest, "of_copy", copy_badly)
    found = bundle(tmp_path / "b")
    with pytest.raises(BundleError) as refusal:
        repository.assemble(selection(found), tmp_path / "repository", threads=2)
    assert str(refusal.value) == (
        f"{found.folder}/am_en_standard/batch/model.onnx: it changed while it was copied. "
        "Start again while no process writes to the bundle."
    )
    assert not (tmp_path / "repository").exists()


def test_every_byte_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Served engines are hashed while they are copied, the others in the bundle."""
    found = bundle(tmp_path / "b")
    hashed, copied = list[Path](), list[Path]()
    of_file, of_copy = contract.digest.of_file, contract.digest.of_copy

    def count(path: Path) -> str:
        hashed.append(path)
        return of_file(path)

    def count_copy(source: Path, target: Path) -> str:
        copied.append(target)
        return of_copy(source, target)

    monkeypatch.setattr(fcntl, "ioctl", cannot_clone)
    monkeypatch.setattr(contract.digest, "of_file", count)
    monkeypatch.setattr(contract.digest, "of_copy", count_copy)
    repository.assemble(selection(found), tmp_path / "repository", threads=2)
    assert sorted(path.parts[-3] for path in copied) == [
        *("am_en_standard", "body_standard", "decoder_standard", "diar_standard")
    ]
    assert [path.is_relative_to(found.folder) for path in hashed] == [True] * 5


def test_a_bundle_that_is_overwritten_later_is_not_served(tmp_path: Path) -> None:
    """As by `cp new old`: the name and the file stay, and its content changes while tritonserver loads."""
    found = bundle(tmp_path / "b")
    repository.assemble(selection(found), tmp_path / "repository", threads=2)
    for engine in found.folder.rglob("*.onnx"):
        engine.write_bytes(b"enginE")
    assert {path.read_bytes() for path in (tmp_path / "repository").rglob("*.onnx")} == {b"engine"}


def test_rejects_file_exchanged_while_it_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process replaces an engine by a bad one, and puts the right one back before the copy is compared."""
    found = bundle(tmp_path / "b")
    engine = found.folder / "body_standard" / "batch" / "model.onnx"
    engine.write_bytes(b"enginE")
    of_copy = contract.digest.of_copy

    def exchange(source: Path, target: Path) -> str:
        found = of_copy(source, target)
        if source == engine:
            engine.unlink()
            engine.write_bytes(b"engine")
        return found

    monkeypatch.setattr(contract.digest, "of_copy", exchange)
    with pytest.raises(BundleError, match=r"body_standard/batch/model\.onnx: it changed while it was copied"):
        repository.assemble(selection(found), tmp_path / "repository", threads=2)


def test_a_repository_belongs_to_one_server(tmp_path: Path) -> None:
    """tritonserver, which replaces the process, keeps the lock; its children do not."""
    folder, chosen = tmp_path / "repository", selection(bundle(tmp_path / "b"))
    program = (
        "import os, sys; from pathlib import Path; from runtime import repository; "
        "repository.hold(Path(sys.argv[1])); "
        "os.execv('/bin/sh', ['sh', '-c', 'sleep 60 & echo $!; exec cat'])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        left = int(server.stdout.readline())
        sentence = f"--repository {folder}: another server uses it. Stop that server, or name another folder."
        for attempt in (lambda: repository.hold(folder), lambda: repository.check(chosen, folder, threads=1)):
            with pytest.raises(SettingError) as refusal:
                attempt()
            assert str(refusal.value) == sentence
        server.kill()
    # Its child lives on, with a copy of the descriptor.
    os.kill(left, 0)
    repository.check(chosen, folder, threads=1)
    os.close(repository.hold(folder))
    os.kill(left, signal.SIGKILL)


def test_check_writes_nothing(tmp_path: Path) -> None:
    repository.check(selection(bundle(tmp_path / "b")), tmp_path / "new" / "repository", threads=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b"]


def test_check_rejects_read_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(OutputError) as refusal:
        repository.check(selection(bundle(tmp_path / "b")), tmp_path / "repository", threads=2)
    assert str(refusal.value) == (
        f"{tmp_path}/repository: cannot be written (Permission denied). Choose a folder that you may write to."
    )


def parameter(spec: ClientSpec) -> dict[str, Any]:
    return {"key": "client", "value": {"string_value": spec.to_json()}}


NO_BATCHING = {"key": "batching", "value": {"string_value": "none"}}


def test_embedded_configuration(tmp_path: Path) -> None:
    configs = repository.configurations(selection(bundle(tmp_path)), threads=3)
    assert configs["body_standard"] == {
        "name": "body_standard",
        "backend": "onnxruntime",
        "max_batch_size": 16,
        "version_policy": {"specific": {"versions": [1]}},
        "input": [
            {"name": "audio", "data_type": "TYPE_FP32", "dims": [-1]},
            {"name": "audio_lengths", "data_type": "TYPE_INT32", "dims": [1], "reshape": {"shape": []}},
        ],
        "output": [
            {"name": "encoder_out", "data_type": "TYPE_FP16", "dims": [-1, 8]},
            {"name": "encoder_lengths", "data_type": "TYPE_INT32", "dims": [1], "reshape": {"shape": []}},
        ],
        "instance_group": [{"count": 3, "kind": "KIND_CPU"}],
        "parameters": [
            NO_BATCHING,
            parameter(synthetic.CLIENTS["encoder"]),
            {"key": "enable_mem_pattern", "value": {"string_value": "0"}},
            {"key": "inter_op_thread_count", "value": {"string_value": "1"}},
            {"key": "intra_op_thread_count", "value": {"string_value": "1"}},
            {"key": "session.intra_op.allow_spinning", "value": {"string_value": "0"}},
        ],
    }


def instances(config: dict[str, Any]) -> tuple[int, int]:
    """Return the instances of a model and the threads of each."""
    texts = {each["key"]: each["value"]["string_value"] for each in config["parameters"]}
    (group,) = config["instance_group"]
    return group["count"], int(texts["intra_op_thread_count"])


@pytest.mark.parametrize(("threads", "found"), [(1, (1, 1)), (2, (2, 1)), (4, (4, 1)), (7, (4, 1)), (8, (4, 2))])
def test_instances_of_small_networks_share_the_threads(tmp_path: Path, threads: int, found: tuple[int, int]) -> None:
    configs = repository.configurations(selection(bundle(tmp_path)), threads)
    assert {instances(config) for config in configs.values() if "instance_group" in config} == {found}


def test_a_large_network_is_loaded_once(tmp_path: Path) -> None:
    found = bundle(tmp_path)
    engines = tuple(
        dataclasses.replace(engine, size_bytes=2**30) if engine.model == "body_standard" else engine
        for engine in found.manifest.engines
    )
    large = dataclasses.replace(found, manifest=dataclasses.replace(found.manifest, engines=engines))
    configs = repository.configurations(selection(large), threads=4)
    assert instances(configs["body_standard"]) == (1, 4)
    assert instances(configs["am_en_standard"]) == (4, 1)


def test_gpu_configuration_fails_closed(tmp_path: Path) -> None:
    config = repository.configurations(selection(bundle(tmp_path, A10), A10), threads=3)["body_standard"]
    assert config["backend"] == "tensorrt"
    assert config["cc_model_filenames"] == [{"key": "8.6", "value": "model.sm86.plan"}]
    assert "default_model_filename" not in config
    assert config["instance_group"] == [{"count": 1, "kind": "KIND_GPU"}]
    assert config["parameters"] == [parameter(synthetic.CLIENTS["encoder"])]


def same(*names: str) -> list[dict[str, str]]:
    return [{"key": name, "value": name} for name in names]


def test_ensemble_configuration(tmp_path: Path) -> None:
    config = repository.configurations(selection(bundle(tmp_path)), threads=3)["ensemble_en_standard"]
    assert config["platform"] == "ensemble"
    assert config["max_batch_size"] == 16
    assert config["input"] == [
        {"name": "audio", "data_type": "TYPE_FP32", "dims": [-1]},
        {"name": "audio_lengths", "data_type": "TYPE_INT32", "dims": [1]},
    ]
    assert [tensor["name"] for tensor in config["output"]] == [
        *("top_log_probs", "top_tokens", "encoder_out", "encoder_lengths"),
    ]
    assert config["ensemble_scheduling"]["step"] == [
        {
            "model_name": "body_standard",
            "model_version": 1,
            "input_map": same("audio", "audio_lengths"),
            "output_map": same("encoder_out", "encoder_lengths"),
        },
        {
            "model_name": "am_en_standard",
            "model_version": 1,
            "input_map": same("encoder_out", "encoder_lengths"),
            "output_map": same("top_log_probs", "top_tokens"),
        },
    ]
    # What clients must know of both steps.
    encoder, ctc = synthetic.CLIENTS["encoder"], synthetic.CLIENTS["ctc"]
    merged = ClientSpec(audio=encoder.audio, tokens=ctc.tokens, search=ctc.search)
    assert config["parameters"] == [NO_BATCHING, parameter(merged)]


def test_gpu_models_join_requests(tmp_path: Path) -> None:
    configs = repository.configurations(selection(bundle(tmp_path, A10), A10), threads=1)
    assert configs["body_standard"]["dynamic_batching"] == {"max_queue_delay_microseconds": 2000}
    assert all(NO_BATCHING not in config["parameters"] for config in configs.values())


def test_a_queue_policy_keeps_the_batcher_on_a_cpu(tmp_path: Path) -> None:
    batcher = {"max_queue_delay_microseconds": 2000, "default_queue_policy": {"max_queue_size": 5}}
    chosen = with_triton(selection(bundle(tmp_path)), "body_standard", dynamic_batching=batcher)
    configs = repository.configurations(chosen, threads=1)
    assert configs["body_standard"]["dynamic_batching"] == batcher
    assert [name for name, config in configs.items() if NO_BATCHING not in config["parameters"]] == [
        "body_standard",
        "ensemble_en_standard",
    ]


def test_ensemble_uses_the_smallest_batch(tmp_path: Path) -> None:
    found = bundle(tmp_path)
    engines = tuple(
        dataclasses.replace(engine, max_batch=3) if engine.model == "am_en_standard" else engine
        for engine in found.manifest.engines
    )
    smaller = dataclasses.replace(found, manifest=dataclasses.replace(found.manifest, engines=engines))
    configs = repository.configurations(selection(smaller), threads=1)
    assert configs["ensemble_en_standard"]["max_batch_size"] == 3


def with_triton(chosen: Selection, model: str, **triton: Any) -> Selection:
    def changed(choice: Choice) -> Choice:
        family = dataclasses.replace(choice.model.family, triton=triton)
        return dataclasses.replace(choice, model=dataclasses.replace(choice.model, family=family))

    choices = tuple(changed(choice) if choice.model.name == model else choice for choice in chosen.chosen)
    return dataclasses.replace(chosen, chosen=choices)


def test_the_catalogue_sets_instances(tmp_path: Path) -> None:
    chosen = with_triton(selection(bundle(tmp_path)), "body_standard", instance_group=[{"count": 2}])
    config = repository.configurations(chosen, threads=1)["body_standard"]
    assert config["instance_group"] == [{"count": 2, "kind": "KIND_CPU"}]


def test_gpu_models_have_one_gpu_instance(tmp_path: Path) -> None:
    configs = repository.configurations(selection(bundle(tmp_path, A10), A10), threads=1)
    assert configs["body_standard"]["instance_group"] == [{"count": 1, "kind": "KIND_GPU"}]


def test_rejects_catalogue_field_that_is_derived(tmp_path: Path) -> None:
    chosen = with_triton(selection(bundle(tmp_path)), "body_standard", max_batch_size=4)
    with pytest.raises(CatalogueError) as refusal:
        repository.configurations(chosen, threads=1)
    assert str(refusal.value) == (
        f"{synthetic.CATALOGUE.folder}/body/model.toml: triton.max_batch_size: "
        "this field follows from the rest of the file and from the engine. Remove it."
    )


def test_rejects_a_batcher_that_is_no_table(tmp_path: Path) -> None:
    chosen = with_triton(selection(bundle(tmp_path)), "body_standard", dynamic_batching=True)
    with pytest.raises(CatalogueError, match=r"triton.dynamic_batching: it is not a table. Write \[triton."):
        repository.configurations(chosen, threads=1)


def other_tensor(made: BundleManifest, model: str, **changes: Any) -> BundleManifest:
    """Change the first input of a model."""

    def changed(tensor: BoundTensor, index: int) -> BoundTensor:
        return dataclasses.replace(tensor, **changes) if index == 0 else tensor

    return dataclasses.replace(
        made,
        engines=tuple(
            dataclasses.replace(engine, inputs=tuple(changed(tensor, i) for i, tensor in enumerate(engine.inputs)))
            if engine.model == model
            else engine
            for engine in made.engines
        ),
    )


@pytest.mark.parametrize(
    ("model", "changes", "cause"),
    [
        ("body_standard", {"type": "FP16"}, "audio is FP16, but FP32 in the catalogue"),
        ("body_standard", {"name": "features"}, "tensor 'audio' is not in both the catalogue and the engine"),
        ("body_standard", {"dims": (-1, -1, 80)}, "audio has dims [-1, -1, 80], but [samples] in the catalogue"),
        (
            "am_en_standard",
            {"dims": (-1, -1, 9)},
            "encoder_out has dims [-1, -1, 9], but [encoder_frames, encoder_size] in the catalogue",
        ),
    ],
)
def test_rejects_engine_with_other_tensors(tmp_path: Path, model: str, changes: dict[str, Any], cause: str) -> None:
    found = bundle(tmp_path)
    other = dataclasses.replace(found, manifest=other_tensor(found.manifest, model, **changes))
    with pytest.raises(BundleError) as refusal:
        repository.configurations(selection(other), threads=1)
    assert refusal.value.subject == str(found.folder / "manifest.json")
    assert refusal.value.cause == f"{model}: {cause}"


def test_does_not_replace_folder_with_other_content(tmp_path: Path) -> None:
    found = bundle(tmp_path / "b")
    holiday = tmp_path / "photos" / "holiday.jpg"
    holiday.parent.mkdir()
    holiday.write_bytes(b"picture")
    for target in (holiday.parent, holiday, tmp_path / "b"):
        with pytest.raises(
            SettingError, match="it exists and is not a Triton repository; all of its content would be replaced"
        ):
            repository.assemble(selection(found), target, threads=1)
    assert holiday.read_bytes() == b"picture"
    assert (tmp_path / "b" / "manifest.json").is_file()


def configured(catalogue: Catalogue, target: Target = CPU) -> dict[str, Any]:
    made = synthetic.full_manifest(target.arch, target.platform.name, catalogue=catalogue)
    return repository.configurations(select([Bundle(folder=Path("b"), manifest=made)], catalogue, target), threads=1)


def client_of(config: dict[str, Any]) -> ClientSpec:
    (text,) = (each["value"]["string_value"] for each in config["parameters"] if each["key"] == "client")
    return ClientSpec.from_json(text, config["name"], BundleError, "Build it again")


def test_two_languages_have_their_own_heads_and_client_specs() -> None:
    configs = configured(synthetic.two_languages())
    second = configs["ensemble_tlh_standard"]
    assert [step["model_name"] for step in second["ensemble_scheduling"]["step"]] == [
        "body_standard",
        "am_tlh_standard",
    ]
    encoder = synthetic.CLIENTS["encoder"]
    assert client_of(second) == ClientSpec(audio=encoder.audio, tokens=synthetic.SECOND_CLIENT.tokens)
    assert client_of(configs["am_tlh_standard"]) == synthetic.SECOND_CLIENT
    ctc = synthetic.CLIENTS["ctc"]
    assert client_of(configs["ensemble_en_standard"]) == ClientSpec(
        audio=encoder.audio, tokens=ctc.tokens, search=ctc.search
    )
    assert client_of(configs["decoder_tlh_standard"]) == ClientSpec()
    assert client_of(configs["diar_standard"]) == synthetic.CLIENTS["speaker"]


def test_body_and_head_alone() -> None:
    assert sorted(configured(synthetic.body_and_head())) == ["am_en_standard", "body_standard", "ensemble_en_standard"]


def test_network_that_takes_audio_by_itself() -> None:
    (config,) = configured(synthetic.head_alone(), A10).values()
    assert config["name"] == "ctc_standard"
    assert [tensor["name"] for tensor in config["input"]] == ["audio", "audio_lengths"]
    assert [tensor["name"] for tensor in config["output"]] == ["top_log_probs", "top_tokens", "encoder_lengths"]
    assert client_of(config) == synthetic.CLIENTS["ctc"]
