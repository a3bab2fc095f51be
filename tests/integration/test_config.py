"""Every rendered configuration, read back with Triton's own schema."""

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format, text_format  # type: ignore[import-untyped]
from tritonclient.grpc import model_config_pb2

from contract.arch import Arch
from contract.catalogue import read_catalogue
from contract.client import PARAMETER, merge
from contract.platform import platform
from runtime import pbtxt, repository
from runtime.bundles import Bundle
from runtime.selection import Target, select
from tests.unit.runtime import golden_files, synthetic

TARGETS = {
    "cpu": Target(arch=Arch.CPU, platform=platform("embedded"), mode="batch", operating_point=None),
    "sm86": Target(arch=Arch.SM86, platform=platform("26.08"), mode="batch", operating_point=None),
    "sm75-legacy": Target(arch=Arch.SM75, platform=platform("23.12"), mode="batch", operating_point=None),
}
MODELS = read_catalogue().models()


def read_back(message: dict[str, Any]) -> Any:
    return text_format.Parse(pbtxt.render(message), model_config_pb2.ModelConfig())


@pytest.fixture(scope="module", params=TARGETS)
def configs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Target, dict[str, Any]]:
    target = TARGETS[request.param]
    made = synthetic.full_manifest(target.arch, target.platform.name)
    folder = synthetic.write(tmp_path_factory.mktemp("bundle"), made)
    assembled = tmp_path_factory.mktemp("serving") / "repository"
    repository.assemble(select([Bundle(folder=folder, manifest=made)], read_catalogue(), target), assembled, threads=2)
    files = sorted(assembled.glob("*/config.pbtxt"))
    parsed = {file.parent.name: text_format.Parse(file.read_text(), model_config_pb2.ModelConfig()) for file in files}
    return target, parsed


def test_every_model_has_a_configuration(configs: tuple[Target, dict[str, Any]]) -> None:
    assert list(configs[1]) == list(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_tensors_match_the_catalogue(configs: tuple[Target, dict[str, Any]], name: str) -> None:
    family, config = MODELS[name].family, configs[1][name]
    for tensors, rendered in ((family.inputs, config.input), (family.outputs, config.output)):
        assert [tensor.name for tensor in rendered] == [tensor.name for tensor in tensors]
        for tensor, entry in zip(tensors, rendered, strict=True):
            assert model_config_pb2.DataType.Name(entry.data_type) == f"TYPE_{tensor.type}"
            assert list(entry.dims) == [synthetic.DIMS.get(str(axis), -1) for axis in tensor.shape] or [1]
            assert entry.HasField("reshape") == (tensor.shape == () and not family.is_ensemble)


@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if not model.family.is_ensemble])
def test_engine_configuration(configs: tuple[Target, dict[str, Any]], name: str) -> None:
    target, parsed = configs
    config, on_cpu = parsed[name], target.arch is Arch.CPU
    assert config.name == name
    assert config.backend == target.platform.backend
    assert config.max_batch_size == MODELS[name].family.modes["batch"].batch.max
    assert list(config.version_policy.specific.versions) == [1]
    assert config.dynamic_batching.max_queue_delay_microseconds == (0 if on_cpu else 2000)
    assert config.HasField("dynamic_batching") != on_cpu
    assert [(group.count, group.Kind.Name(group.kind)) for group in config.instance_group] == [
        (2, "KIND_CPU") if on_cpu else (1, "KIND_GPU")
    ]
    key = ".".join(map(str, target.arch.capability or ()))
    assert dict(config.cc_model_filenames) == ({} if on_cpu else {key: f"model.{target.arch.value}.plan"})
    assert config.default_model_filename == ""
    counts = {"intra_op_thread_count": "1", "inter_op_thread_count": "1"}
    own = {**counts, "session.intra_op.allow_spinning": "0", "enable_mem_pattern": "0", "batching": "none"}
    threads = own if on_cpu else {}
    client = {PARAMETER: synthetic.client(MODELS[name].family).to_json()}
    found = {parameter: value.string_value for parameter, value in config.parameters.items()}
    assert found == {**threads, **client}


@pytest.mark.parametrize("point", ["standard", "enhanced"])
def test_ensemble_configuration(configs: tuple[Target, dict[str, Any]], point: str) -> None:
    config = configs[1][f"ensemble_en_{point}"]
    assert (config.platform, config.backend) == ("ensemble", "")
    assert config.max_batch_size == 16
    body, acoustic = config.ensemble_scheduling.step
    assert (body.model_name, acoustic.model_name) == (f"body_{point}", f"am_en_{point}")
    assert dict(body.input_map) == {"audio": "audio", "audio_lengths": "audio_lengths"}
    assert dict(body.output_map) == {"encoder_out": "encoder_out", "encoder_lengths": "encoder_lengths"}
    assert dict(acoustic.input_map) == dict(body.output_map)
    assert dict(acoustic.output_map) == {"top_log_probs": "top_log_probs", "top_tokens": "top_tokens"}
    steps = (MODELS[step.model_name].family for step in (body, acoustic))
    assert config.parameters[PARAMETER].string_value == merge(map(synthetic.client, steps)).to_json()


FIELDS = {
    "scheduling": {
        "dynamic_batching": {
            "preferred_batch_size": [4, 8],
            "preserve_ordering": True,
            "default_queue_policy": {"timeout_action": "DELAY", "max_queue_size": 5},
        },
        "instance_group": [{"name": "KIND_GPU", "count": 2, "kind": "KIND_GPU", "gpus": [0, 1]}],
    },
    "sequences": {
        "sequence_batching": {
            "oldest": {"max_candidate_sequences": 4},
            "control_input": [
                {"name": "START", "control": [{"kind": "CONTROL_SEQUENCE_END", "fp32_false_true": [0.0, 1.0]}]},
            ],
        },
    },
    "optimization": {"optimization": {"priority": "PRIORITY_MAX", "cuda": {"graphs": True}}},
}


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
def test_passes_any_triton_field_through(fields: dict[str, Any]) -> None:
    assert json_format.MessageToDict(read_back(fields), preserving_proto_field_name=True) == fields


def test_reads_a_list_of_pairs_as_a_map() -> None:
    config = read_back({"metric_tags": [{"key": 'a "key"', "value": "KIND_CPU"}, {"key": "b", "value": "c"}]})
    assert dict(config.metric_tags) == {'a "key"': "KIND_CPU", "b": "c"}


@pytest.mark.parametrize("text", ["", 'all of " \\ \n \r \t \0 \x1f \x7f', "▁größe 日本 🎙", "\\n is no line break"])
def test_escapes_strings(text: str) -> None:
    assert read_back({"name": text}).name == text


def test_several_profiles_are_in_tritons_schema() -> None:
    group = {"count": 1, "kind": "KIND_GPU", "profile": ["0", "1"]}
    parsed = read_back({"name": "body_standard", "instance_group": [group]})
    assert list(parsed.instance_group[0].profile) == ["0", "1"]


GOLDEN = sorted(golden_files.GOLDEN.rglob("*.pbtxt"))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: "-".join(path.with_suffix("").parts[-3:]))
def test_golden_files_parse_with_the_schema_of_triton(path: Path) -> None:
    """They parse with Triton's schema and agree with the catalogue."""
    config = text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    family = MODELS[path.stem].family
    mode, arch = path.parts[-3:-1]
    assert config.name == path.stem
    assert [tensor.name for tensor in config.input] == [tensor.name for tensor in family.inputs]
    assert [tensor.name for tensor in config.output] == [tensor.name for tensor in family.outputs]
    assert config.max_batch_size == family.modes[mode].batch.max
    if not family.is_ensemble:
        assert config.backend == ("onnxruntime" if arch == "cpu" else "tensorrt")


def test_golden_files_cover_every_mode() -> None:
    modes = {mode for model in MODELS.values() for mode in model.family.modes}
    assert {path.parts[-3] for path in GOLDEN} == modes
    assert len(GOLDEN) == 2 * sum(len(model.family.modes) for model in MODELS.values())
