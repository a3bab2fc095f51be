"""The catalogue: the shipped one, and the errors of a wrong one."""

from pathlib import Path

import pytest

from contract.catalogue import (
    CATALOGUE_FOLDER,
    AxisRange,
    Catalogue,
    Family,
    InputGenerator,
    Tensor,
    Tolerance,
    check_replaceable,
    models,
    read_catalogue,
)
from contract.catalogue import read_family as read_family_of
from contract.errors import CatalogueError, SettingError

REMEDY = "Correct the file; docs/architecture/10-catalogue.md describes every field"
FAMILY = """\
schema_version = 2
role = "encoder"
network = "body"
operating_points = ["standard"]

[[inputs]]
name = "x"
type = "FP16"
shape = ["frames", 80]
synthetic = { normal = [0.0, 1.0] }

[[inputs]]
name = "lengths"
type = "INT32"
shape = []
synthetic = { length_of = "frames" }

[[outputs]]
name = "y"
type = "FP32"
shape = ["frames", "size"]
tolerance = { measure = "relative", fp32 = 1e-3, fp16 = 2e-2 }

[modes.batch]
batch = { min = 1, opt = 8, max = 16 }
axes.frames = { min = 200, opt = 800, max = 2000, buckets = [200, 800, 2000] }

[triton.dynamic_batching]
max_queue_delay_microseconds = 2000
"""
ENSEMBLE = """\
schema_version = 2
role = "ensemble"
language = "en"
operating_points = ["standard"]
steps = ["one"]
outputs = ["y"]
"""


POINTS = """\
schema_version = 2
operating_points = ["standard", "enhanced"]
"""


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name / "model.toml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    (folder / "catalogue.toml").write_text(POINTS)
    return path


def read_family(path: Path) -> Family:
    return read_family_of(path, ("standard", "enhanced"))


def shipped() -> Catalogue:
    return read_catalogue()


def test_shipped_models() -> None:
    assert list(shipped().models()) == [
        *("am_en_enhanced", "am_en_standard", "body_enhanced", "body_standard", "decoder_enhanced", "decoder_standard"),
        *("diar_enhanced", "diar_standard", "ensemble_en_enhanced", "ensemble_en_standard", "lm_enhanced"),
    ]
    assert "lm_standard" not in shipped().models("standard")
    assert len(shipped().models("standard")) == 5
    assert shipped().models() == models(shipped().families)


def test_shipped_ensemble_has_the_tensors_of_its_steps() -> None:
    families = shipped().families
    ensemble, body, acoustic = families["ensemble_en"], families["body"], families["am_en"]
    assert ensemble.is_ensemble
    assert ensemble.inputs == body.inputs
    assert ensemble.outputs == (*acoustic.outputs, *body.outputs)
    assert ensemble.modes == body.modes


def test_shipped_catalogue_has_known_types_and_full_buckets() -> None:
    for family in shipped().families.values():
        for tensor in (*family.inputs, *family.outputs):
            assert tensor.type in ("FP16", "FP32", "INT32")
        # A client pads to a bucket, and may send the largest size.
        for mode in family.modes.values():
            assert all((extent.buckets or (extent.min,))[-1] == extent.max for extent in mode.axes.values())


def test_read_family(tmp_path: Path) -> None:
    family = read_family(write(tmp_path, "one", FAMILY))
    assert (family.name, family.network, family.operating_points) == ("one", "body", ("standard",))
    assert family.inputs == (
        Tensor(name="x", type="FP16", shape=("frames", 80), synthetic=InputGenerator(normal=(0.0, 1.0))),
        Tensor(name="lengths", type="INT32", shape=(), synthetic=InputGenerator(length_of="frames")),
    )
    tolerance = Tolerance(measure="relative", fp32=1e-3, fp16=2e-2)
    assert family.outputs == (Tensor(name="y", type="FP32", shape=("frames", "size"), tolerance=tolerance),)
    assert (tolerance.limit("fp32"), tolerance.limit("fp16")) == (1e-3, 2e-2)
    assert family.modes["batch"].batch == AxisRange(min=1, opt=8, max=16)
    assert family.modes["batch"].axes["frames"].buckets == (200, 800, 2000)
    assert family.triton == {"dynamic_batching": {"max_queue_delay_microseconds": 2000}}
    assert family.dynamic_axes() == ("frames",)
    assert family.model_names() == ("one_standard",)
    assert not family.is_ensemble


@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [
        ("schema_version = 2", "schema_version = 1", "schema_version: this release reads version 2"),
        ("schema_version = 2", "", "schema_version: this field is missing"),
        ('role = "encoder"', "", "role: this field is missing"),
        (
            'role = "encoder"',
            'role = "body"',
            "role: 'body' is not one of encoder, ctc, rescorer, lm, speaker, ensemble",
        ),
        ('role = "encoder"', 'role = "ctc"', "language: this field is missing, and the role ctc needs it"),
        (
            'role = "encoder"',
            'role = "ensemble"\nlanguage = "en"',
            "steps: this field is missing, and the role ensemble needs it",
        ),
        ('role = "encoder"', 'role = "encoder"\nlanguage = 1', "language: expected a string, found an integer"),
        (
            'network = "body"',
            'network = "body"\nframes = [[400]]',
            "frames[0]: two or three whole numbers are required: kernel, stride, padding",
        ),
        (
            'network = "body"',
            'network = "body"\nframes = [[400, 160], [3, 0]]',
            "frames[1]: two or three whole numbers are required: kernel, stride, padding",
        ),
        ('network = "body"', 'network = "body"\nframes = [3]', "frames[0]: expected a list, found an integer"),
        ('network = "body"', "network = 3", "network: expected a string, found an integer"),
        ('network = "body"', 'network = "body"\ntypo = 1', "typo: this field is unknown"),
        ('["standard"]', '["premium"]', "operating_points: 'premium' is not one of standard, enhanced"),
        ('["standard"]', "[1]", "operating_points[0]: expected a string, found an integer"),
        ('["standard"]', '"standard"', "operating_points: expected a list, found a string"),
        ('type = "INT32"', 'type = "INT64"', "inputs[1].type: 'INT64' is not one of FP16, FP32, INT32"),
        ('["frames", 80]', '["frames", 0]', "inputs[0].shape: 0 is neither the name of an axis nor a positive size"),
        (
            '["frames", 80]',
            '["frames", true]',
            "inputs[0].shape: True is neither the name of an axis nor a positive size",
        ),
        ("length_of =", "longest_of =", "inputs[1].synthetic.longest_of: this field is unknown"),
        (
            "{ normal = [0.0, 1.0] }",
            '{ normal = [0.0, 1.0], token_below = "v" }',
            "inputs[0].synthetic: exactly one of normal, length_of, token_below, constant is required",
        ),
        ("[0.0, 1.0]", '[0.0, "1"]', "inputs[0].synthetic.normal[1]: expected a number, found a string"),
        (
            '"relative"',
            '"vague"',
            "outputs[0].tolerance.measure: 'vague' is not one of absolute, relative, cosine, differing, "
            "first_differing, best_differing",
        ),
        (
            "fp16 = 2e-2 }",
            'fp16 = 2e-2 }\nfigures = ["vague"]',
            "outputs[0].figures: 'vague' is not one of absolute, relative, cosine, differing, first_differing, "
            "best_differing",
        ),
        ("fp16 = 2e-2 }", "fp16 = 2e-2, int4 = 1 }", "outputs[0].tolerance.int4: this field is unknown"),
        (
            '"relative", fp32',
            '"relative", ties = "y", fp32',
            "outputs[0].tolerance.ties: only the measure first_differing has ties",
        ),
        (
            '"relative", fp32',
            '"first_differing", ties = "y", fp32',
            "outputs[0].tolerance.ties: 'y' is not an output of the same shape with the measure absolute",
        ),
        ("[modes.batch]", "[modes.night]", "modes.night: a mode must be one of batch, realtime"),
        ("opt = 8", "opt = 80", "modes.batch.batch: min 1, opt 80, max 16 must be positive and ascend"),
        (
            "min = 1, opt = 8",
            "min = 2, opt = 8",
            "modes.batch.batch.min: it is 2, and must be 1, because Triton also sends single requests",
        ),
        ("min = 200", "min = 0", "modes.batch.axes.frames: min 0, opt 800, max 2000 must be positive and ascend"),
        ("min = 200", "min = 200.5", "modes.batch.axes.frames.min: expected an integer, found a number"),
        ("min = 200", "min = true", "modes.batch.axes.frames.min: expected an integer, found a boolean"),
        (
            "[200, 800, 2000]",
            "[200, 100]",
            "modes.batch.axes.frames.buckets: the sizes must ascend and lie between 200 and 2000",
        ),
        (
            "[200, 800, 2000]",
            "[200, 4000]",
            "modes.batch.axes.frames.buckets: the sizes must ascend and lie between 200 and 2000",
        ),
    ],
)
def test_rejects_wrong_family(tmp_path: Path, old: str, new: str, cause: str) -> None:
    assert old in FAMILY
    path = write(tmp_path, "one", FAMILY.replace(old, new, 1))
    with pytest.raises(CatalogueError) as error:
        read_family(path)
    assert str(error.value) == f"{path}: {cause}. {REMEDY}."


def test_rejects_damaged_toml(tmp_path: Path) -> None:
    path = write(tmp_path, "one", "network = ")
    with pytest.raises(CatalogueError, match="it is not TOML: Invalid value"):
        read_family(path)
    path.write_bytes(b"\xff")
    with pytest.raises(CatalogueError, match="it is not TOML: 'utf-8' codec"):
        read_family(path)


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        ("x = " + "9" * 5_000, "it is not TOML: a number in it has too many digits"),
        ("x = " + "[" * 2_000 + "]" * 2_000, "it is not TOML: it is nested more than 64 levels deep"),
        (".".join("x" * 200) + " = 1", "it is not TOML: it is nested more than 64 levels deep"),
        ("x = 2020-01-01", "triton.dynamic_batching.x: a date cannot be written to a configuration of Triton"),
        ("x = [[1]]", "triton.dynamic_batching.x: a list cannot be written to a configuration of Triton"),
        ("x = [1, {a = 1}]", "triton.dynamic_batching.x[0]: expected a table, found an integer"),
        ("x = [1, inf]", "triton.dynamic_batching.x[1]: inf is not a finite number"),
        ("x = nan", "triton.dynamic_batching.x: nan is not a finite number"),
        ("x = 99999999999999999999", "triton.dynamic_batching.x: a number of 67 bits is too large"),
        ('"a }" = 1', "triton.dynamic_batching.a }: this is not the name of a field of Triton's configuration"),
        ("[triton]\ninstance_group = 3", "triton.instance_group: expected a list, found an integer"),
        ("[triton]\ninstance_group = [3]", "triton.instance_group[0]: expected a table, found an integer"),
        (
            '[[triton.instance_group]]\ncount = "2"',
            "triton.instance_group[0].count: expected an integer, found a string",
        ),
        ("[[triton.instance_group]]\ncount = 0", "triton.instance_group[0].count: 0 is below 1"),
        ("[triton]\nsequence_batching = 1", "triton.sequence_batching: expected a table, found an integer"),
        (
            "[triton.sequence_batching]\noldest = 1",
            "triton.sequence_batching.oldest: expected a table, found an integer",
        ),
        (
            "[triton.sequence_batching.oldest]\nmax_candidate_sequences = true",
            "triton.sequence_batching.oldest.max_candidate_sequences: expected an integer, found a boolean",
        ),
    ],
)
def test_rejects_what_triton_cannot_have(tmp_path: Path, value: str, cause: str) -> None:
    head, _ = FAMILY.split("[triton.dynamic_batching]\n")
    text = head + value if value.startswith("[") else f"{head}[triton.dynamic_batching]\n{value}\n"
    path = write(tmp_path, "one", text)
    with pytest.raises(CatalogueError) as error:
        read_family(path)
    assert str(error.value) == f"{path}: {cause}. {REMEDY}."


def test_triton_may_have_every_scalar_and_lists_of_tables(tmp_path: Path) -> None:
    written = 'a = true\nb = 1.5\nc = ["x", true, 2]\nd = [{ e = 1 }, { e = 2 }]\n'
    family = read_family(write(tmp_path, "one", FAMILY + written))
    assert family.triton["dynamic_batching"]["d"] == [{"e": 1}, {"e": 2}]


def test_rejects_families_that_read_each_others_outputs(tmp_path: Path) -> None:
    """The outputs of one are the inputs of the other, and the other way round."""
    other = FAMILY.replace('"x"', '"z"').replace('"y"', '"x"').replace('"z"', '"y"')
    write(tmp_path, "one", FAMILY)
    write(tmp_path, "two", other)
    with pytest.raises(CatalogueError) as error:
        read_catalogue(tmp_path)
    assert str(error.value) == (
        f"{tmp_path / 'two' / 'model.toml'}: inputs: 'y' is an output of one, which reads an output of this family. "
        f"{REMEDY}."
    )


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("operating_points = []", "schema_version: this field is missing"),
        ("schema_version = 2", "operating_points: this field is missing"),
        (
            "schema_version = 2\noperating_points = []",
            "operating_points: it must name at least one point, and each point once",
        ),
        (
            'schema_version = 2\noperating_points = ["a", "a"]',
            "operating_points: it must name at least one point, and each point once",
        ),
        ('schema_version = 2\noperating_points = ["a"]\nbest = "a"', "best: this field is unknown"),
    ],
)
def test_rejects_wrong_operating_points(tmp_path: Path, text: str, cause: str) -> None:
    write(tmp_path, "one", FAMILY)
    (tmp_path / "catalogue.toml").write_text(text)
    with pytest.raises(CatalogueError) as error:
        read_catalogue(tmp_path)
    assert str(error.value) == f"{tmp_path}/catalogue.toml: {cause}. {REMEDY}."


def test_rejects_folder_that_is_not_a_catalogue(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError) as error:
        read_catalogue(tmp_path / "absent")
    assert str(error.value) == (
        f"{tmp_path}/absent: it holds no catalogue.toml, so it is not a catalogue. "
        "Name the folder of a catalogue, or reinstall the package."
    )


def test_catalogue_names_and_ranks_its_operating_points(tmp_path: Path) -> None:
    write(tmp_path, "one", FAMILY.replace('["standard"]', '["quick", "slow"]'))
    (tmp_path / "catalogue.toml").write_text('schema_version = 2\noperating_points = ["quick", "middle", "slow"]\n')
    found = read_catalogue(tmp_path)
    assert (found.operating_points, found.preferred_points) == (
        ("quick", "middle", "slow"),
        ("slow", "middle", "quick"),
    )
    assert list(found.models()) == ["one_quick", "one_slow"]


def test_rejects_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "catalogue.toml").write_text(POINTS)
    with pytest.raises(CatalogueError, match=r"it holds no <family>/model\.toml"):
        read_catalogue(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [
        ('steps = ["one"]', 'steps = ["two"]', "steps: there is no family 'two' in this catalogue"),
        ('outputs = ["y"]', 'outputs = ["z"]', "outputs: no step has an output 'z'"),
        ('outputs = ["y"]', 'outputs = ["y"]\nnetwork = "body"', "network: this field is unknown"),
    ],
)
def test_rejects_wrong_ensemble(tmp_path: Path, old: str, new: str, cause: str) -> None:
    write(tmp_path, "one", FAMILY)
    write(tmp_path, "whole", ENSEMBLE.replace(old, new))
    with pytest.raises(CatalogueError) as error:
        read_catalogue(tmp_path)
    assert error.value.cause == cause
    assert error.value.subject.endswith("whole/model.toml")


def test_ensemble(tmp_path: Path) -> None:
    write(tmp_path, "one", FAMILY)
    write(tmp_path, "whole", ENSEMBLE)
    whole = read_catalogue(tmp_path).families["whole"]
    assert [tensor.name for tensor in whole.inputs] == ["x", "lengths"]
    assert whole.outputs[0].type == "FP32"


def test_check_operating_point() -> None:
    for point in ("standard", "enhanced"):
        assert shipped().check_operating_point(point, "SETTING") == point
    with pytest.raises(SettingError) as error:
        shipped().check_operating_point("best", "SETTING")
    assert str(error.value) == (
        f"SETTING: 'best' is not an operating point of {CATALOGUE_FOLDER}. Use standard or enhanced."
    )


@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [
        ('shape = ["frames", 80]', "shape = 5", "inputs[0].shape: expected a list, found an integer"),
        ('shape = ["frames", 80]', 'shape = "ab"', "inputs[0].shape: expected a list, found a string"),
        (
            "normal = [0.0, 1.0]",
            "normal = [0.0]",
            "inputs[0].synthetic.normal: two numbers are required: the mean and the standard deviation",
        ),
        (
            'length_of = "frames"',
            'length_of = "framez"',
            "inputs[1].synthetic.length_of: 'framez' is not an axis of this model",
        ),
        ('name = "lengths"', 'name = "x"', "inputs[1].name: 'x' is the name of two tensors"),
    ],
)
def test_rejects_wrong_tensors(tmp_path: Path, old: str, new: str, cause: str) -> None:
    path = write(tmp_path, "one", FAMILY.replace(old, new))
    with pytest.raises(CatalogueError) as error:
        read_family(path)
    assert str(error.value) == f"{path}: {cause}. {REMEDY}."


@pytest.mark.parametrize(
    ("ensemble", "cause"),
    [
        (ENSEMBLE.replace('"standard"', '"enhanced"'), "operating_points: one has no enhanced"),
        (ENSEMBLE.replace('"one"', '"all"'), "steps: 'all' is itself an ensemble"),
        (ENSEMBLE.replace('"one"', '"two"'), "steps: there is no family 'two' in this catalogue"),
        (ENSEMBLE.replace('"ensemble"', '"lm"'), "role: a family with steps has the role ensemble"),
        (
            ENSEMBLE.replace('language = "en"\n', ""),
            "language: this field is missing, and the role ensemble needs it",
        ),
    ],
)
def test_rejects_wrong_steps(tmp_path: Path, ensemble: str, cause: str) -> None:
    write(tmp_path, "one", FAMILY)
    path = write(tmp_path, "all", ensemble)
    with pytest.raises(CatalogueError) as error:
        read_catalogue(tmp_path)
    assert str(error.value) == f"{path}: {cause}. {REMEDY}."


def test_figures_and_int8_are_optional(tmp_path: Path) -> None:
    plain = read_family(write(tmp_path, "plain", FAMILY))
    assert (plain.outputs[0].figures, plain.supports_int8) == ((), False)
    with pytest.raises(ValueError, match="no tolerance is stated for int8"):
        plain.outputs[0].tolerance.limit("int8")  # type: ignore[union-attr]
    text = FAMILY.replace("fp16 = 2e-2 }", 'fp16 = 2e-2, int8 = 0.25 }\nfigures = ["absolute"]')
    stated = read_family(write(tmp_path, "stated", text))
    assert (stated.outputs[0].figures, stated.supports_int8) == (("absolute",), True)
    assert stated.outputs[0].tolerance == Tolerance(measure="relative", fp32=1e-3, fp16=2e-2, int8=0.25)


def test_max_wer_increase(tmp_path: Path) -> None:
    write(tmp_path, "one", FAMILY)
    write(tmp_path, "two", ENSEMBLE + "max_wer_increase = { fp32 = 0, fp16 = 1.5, int8 = 2.5 }\n")
    write(tmp_path, "three", ENSEMBLE)
    found = read_catalogue(tmp_path).families
    assert found["two"].max_wer_increase == {"fp32": 0.0, "fp16": 1.5, "int8": 2.5}
    assert found["three"].max_wer_increase == {}


HEAD = """\
schema_version = 2
role = "ctc"
language = "{language}"
network = "acoustic"
operating_points = ["standard"]

[[inputs]]
name = "y"
type = "FP32"
shape = ["encoder_frames", "size"]
synthetic = {{ normal = [0.0, 1.0] }}

[[outputs]]
name = "top_{language}"
type = "FP32"
shape = ["encoder_frames", 4]
tolerance = {{ measure = "relative", fp32 = 1e-3, fp16 = 2e-2 }}

[modes.batch]
batch = {{ min = 1, opt = 8, max = 16 }}
"""
ENCODER = (
    FAMILY.replace('"frames"', '"samples"')
    .replace('["samples", 80]', '["samples"]')
    .replace("axes.frames", "axes.samples")
    .replace('["samples", "size"]', '["encoder_frames", "size"]')
    .replace('network = "body"', 'network = "body"\nframes = [[100, 50], [3, 2, 1]]')
)


def two_languages(folder: Path) -> Catalogue:
    """Write and read a catalogue of one encoder, two heads and their ensembles."""
    write(folder, "one", ENCODER)
    for language in ("en", "xx"):
        write(folder, f"head_{language}", HEAD.format(language=language))
        text = ENSEMBLE.replace('"en"', f'"{language}"').replace('["one"]', f'["one", "head_{language}"]')
        write(folder, f"whole_{language}", text.replace('["y"]', f'["top_{language}"]'))
    return read_catalogue(folder)


def test_languages_side_by_side(tmp_path: Path) -> None:
    found = two_languages(tmp_path)
    assert found.languages() == ("en", "xx")
    for language in found.languages():
        recogniser = found.recogniser(language, "standard")
        assert recogniser is found.families[f"whole_{language}"]
        assert found.find("ctc", language, "standard") is found.families[f"head_{language}"]
        head = found.families[f"head_{language}"]
        assert found.upstream(head, "standard") == (found.families["one"],)
    assert found.find("speaker", "en", "standard") is None
    assert found.recogniser("en", "enhanced") is None
    assert found.recogniser("yy", "standard") is None


def test_axis_of_encoder_frames_is_derived(tmp_path: Path) -> None:
    found = two_languages(tmp_path)
    # 200, 800 and 2000 samples are 3, 15 and 39 windows of 100 every 50, and half of them after the second step.
    derived = AxisRange(min=1, opt=7, max=19, buckets=(1, 7, 19))
    for name in ("one", "head_en", "head_xx", "whole_en"):
        assert found.families[name].modes["batch"].axes["encoder_frames"] == derived
    assert found.families["one"].modes["batch"].axes["samples"].buckets == (200, 800, 2000)


def test_mode_that_states_encoder_frames_keeps_them(tmp_path: Path) -> None:
    write(tmp_path, "one", ENCODER)
    stated = "\naxes.encoder_frames = { min = 2, opt = 3, max = 4 }\n"
    write(tmp_path, "head", HEAD.format(language="en") + stated)
    axes = read_catalogue(tmp_path).families["head"].modes["batch"].axes
    assert axes == {"encoder_frames": AxisRange(min=2, opt=3, max=4)}


def test_rejects_points_with_different_encoder_frames(tmp_path: Path) -> None:
    write(tmp_path, "one", ENCODER)
    other = ENCODER.replace('["standard"]', '["enhanced"]').replace("[3, 2, 1]", "[5, 2]")
    write(tmp_path, "other", other)
    path = write(tmp_path, "head", HEAD.format(language="en").replace('["standard"]', '["standard", "enhanced"]'))
    with pytest.raises(CatalogueError) as error:
        read_catalogue(tmp_path)
    assert str(error.value) == (
        f"{path}: the encoders of its operating points make different numbers of frames. "
        "Describe each point as a family."
    )


def test_rejects_step_of_another_language(tmp_path: Path) -> None:
    write(tmp_path, "one", FAMILY.replace('role = "encoder"', 'role = "encoder"\nlanguage = "xx"'))
    path = write(tmp_path, "whole", ENSEMBLE)
    with pytest.raises(CatalogueError) as error:
        read_catalogue(tmp_path)
    assert str(error.value) == f"{path}: steps: 'one' is of the language xx, and the ensemble of en. {REMEDY}."


def test_recogniser_is_a_network_that_takes_audio(tmp_path: Path) -> None:
    write(tmp_path, "alone", ENCODER.replace('role = "encoder"', 'role = "ctc"\nlanguage = "en"'))
    found = read_catalogue(tmp_path)
    assert found.recogniser("en", "standard") is found.families["alone"]
    assert found.families["alone"].takes_audio


def test_shipped_frames() -> None:
    body, rescorer = shipped().families["body"], shipped().families["decoder"]
    assert body.frames is not None
    assert (body.frames.hop, body.frames.shortest, body.frames.first_centre) == (640, 1360, 680.0)
    buckets = (48, 73, 98, 123, 148, 198, 248, 298, 398, 498)
    assert body.modes["batch"].axes["encoder_frames"].buckets == buckets
    # A rescorer reads whole segments in real time too.
    for mode in ("batch", "realtime"):
        assert rescorer.modes[mode].axes["encoder_frames"].buckets == buckets
    assert body.modes["realtime"].axes["encoder_frames"] == AxisRange(min=8, opt=8, max=8)


@pytest.mark.parametrize(
    ("samples", "starts"),
    [
        (0, [0]),
        (5840, [0]),
        (6479, [0]),
        (6480, [0, 5120]),
        (16000, [0, 5120, 10240]),
    ],
)
def test_windows_of_a_stream(samples: int, starts: list[int]) -> None:
    assert list(shipped().families["body"].modes["realtime"].window_starts(samples)) == starts


def _catalogue(folder: Path) -> Path:
    write(folder / "catalogue", "one", FAMILY)
    return folder / "catalogue"


def test_catalogue_is_replaceable(tmp_path: Path) -> None:
    check_replaceable(tmp_path / "catalogue", "--out x")
    (tmp_path / "empty").mkdir()
    check_replaceable(tmp_path / "empty", "--out x")
    check_replaceable(_catalogue(tmp_path), "--out x")


@pytest.mark.parametrize("name", ["customers.csv", "one/notes.md", "one/deep/model.toml", ".hidden"])
def test_catalogue_with_other_files_is_not_replaceable(name: str, tmp_path: Path) -> None:
    folder = _catalogue(tmp_path)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).touch()
    with pytest.raises(SettingError) as caught:
        check_replaceable(folder, "--out x")
    assert str(caught.value) == (
        f"--out x: {folder / name} is not a part of a catalogue, and its folder would be replaced. "
        "Name another folder, or move this one to another place."
    )


def test_linked_folder_in_catalogue_is_not_replaceable(tmp_path: Path) -> None:
    folder = _catalogue(tmp_path)
    (folder / "two").symlink_to(folder / "one")
    with pytest.raises(SettingError, match="two is not a part of a catalogue"):
        check_replaceable(folder, "--out x")


def test_folder_of_models_alone_and_file_are_not_replaceable(tmp_path: Path) -> None:
    folder = _catalogue(tmp_path)
    (folder / "catalogue.toml").unlink()
    for path in (folder, folder / "one" / "model.toml"):
        with pytest.raises(SettingError) as caught:
            check_replaceable(path, "--out x")
        assert str(caught.value) == (
            f"--out x: {path} is not a catalogue, and it would be replaced. "
            "Name another folder, or move this one to another place."
        )
