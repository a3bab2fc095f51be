"""The import of a user's own networks: which families it makes of them, what it measures and what it rejects."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from contract.catalogue import read_catalogue
from contract.client import EXACT, MASKED, Calibration, SearchSpec
from contract.errors import CheckpointError
from export import networks_file, own_networks
from export.checkpoints import network_measuring, transformers
from export.own_networks import OwnCheckpoints, import_all
from tests.unit.export import foreign, onnx_networks, wenet

ROOT = Path(__file__).parents[3]
ARPA = """\
\\data\\
ngram 1=5

\\1-grams:
-1.0 <s>
-1.0 </s>
-1.0 <unk>
-0.5 a
-0.7 b

\\end\\
"""
Write = Callable[[str], OwnCheckpoints]


@pytest.fixture
def imported(tmp_path: Path) -> Write:
    """Return a function that imports the networks of a text beside the folder of a wenet."""
    wenet.write(tmp_path / "wenet", wenet.U2PP)

    def read(text: str) -> OwnCheckpoints:
        (tmp_path / "networks.toml").write_text(text)
        found = import_all(networks_file.read(tmp_path / "networks.toml"))
        found.write_catalogue(tmp_path / "catalogue")
        return found

    return read


def test_wenet_becomes_encoder_head_rescorer_and_ensemble(imported: Write, tmp_path: Path) -> None:
    found = imported('[qa.standard]\nrecogniser = "wenet"\n')
    catalogue = read_catalogue(tmp_path / "catalogue")
    assert {name: family.role for name, family in catalogue.families.items()} == {
        "am_qa": "ctc", "body_qa": "encoder", "decoder_qa": "rescorer", "ensemble_qa": "ensemble",
    }  # fmt: skip
    assert {family.language for family in catalogue.families.values()} == {"qa"}
    assert sorted(found.checkpoints) == ["am_qa_standard", "body_qa_standard", "decoder_qa_standard"]
    assert all("realtime" in family.modes for family in catalogue.families.values())
    head = found.open(catalogue.models()["am_qa_standard"])
    assert head.client.search == SearchSpec(rescorers={"rescorer": 2.0}, rescorers_with_ngram={"rescorer": 2.0})


def test_digest_changes_with_the_importers(imported: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the export would keep the graphs that a defect of an importer had made."""
    text = '[qa.standard]\nrecogniser = "wenet"\n'
    before, again = ({name: each.digest for name, each in imported(text).checkpoints.items()} for _ in range(2))
    assert before == again
    monkeypatch.setattr(own_networks, "_code_digest", lambda: "another release")
    after = {name: each.digest for name, each in imported(text).checkpoints.items()}
    assert all(after[name] != found for name, found in before.items())


def test_points_of_one_kind_share_families(imported: Write, tmp_path: Path) -> None:
    imported('[qa.standard]\nrecogniser = "wenet"\n[qa.enhanced]\nrecogniser = "wenet"\n')
    families = read_catalogue(tmp_path / "catalogue").families
    assert list(families) == ["am_qa", "body_qa", "decoder_qa", "ensemble_qa"]
    assert {family.operating_points for family in families.values()} == {("standard", "enhanced")}


def test_points_of_two_kinds_have_families_each(imported: Write, tmp_path: Path) -> None:
    foreign.wave(tmp_path / "wave")
    imported('[qa.standard]\nrecogniser = "wenet"\n[qa.enhanced]\nrecogniser = "wave"\n')
    families = read_catalogue(tmp_path / "catalogue").families
    assert {name: family.operating_points for name, family in families.items() if family.role == "ctc"} == {
        "am_qa": ("standard",), "am_qa_enhanced": ("enhanced",),
    }  # fmt: skip


def test_graph_is_one_model(imported: Write, tmp_path: Path) -> None:
    onnx_networks.write_described(tmp_path / "graph", onnx_networks.Network())
    found = imported('[qb.standard]\nrecogniser = "graph"\n')
    (model,) = read_catalogue(tmp_path / "catalogue").models().values()
    assert (model.name, model.family.role) == ("am_qb_standard", "ctc")
    assert found.open(model).precisions == ("fp32",)


def test_remarks_name_the_point_and_the_figures(imported: Write, tmp_path: Path) -> None:
    foreign.wave(tmp_path / "wave")
    remarks = imported('[qc.standard]\nrecogniser = "wave"\n').remarks
    assert remarks[0] == ("qc.standard: It takes whole recordings only, not streams: every frame attends to all others")
    assert any(each.startswith("qc.standard: Measured on speech: padding changes") for each in remarks)
    assert any(each.startswith("qc.standard: The largest value that a layer returned is ") for each in remarks)


def test_ngram_of_tokens_joins_the_search(imported: Write, tmp_path: Path) -> None:
    (tmp_path / "tokens.arpa").write_text(ARPA)
    found = imported('[qa.standard]\nrecogniser = "wenet"\nngram = "tokens.arpa"\n')
    search = found.checkpoints["am_qa_standard"].client.search
    assert search is not None
    assert (search.ngram_weight, search.token_bonus) == (0.5, 1.0)
    assert search.ngram is not None


@pytest.mark.parametrize("ngram", ["", 'ngram = "tokens.arpa"\n'])
def test_calibration_is_that_of_the_default_search(imported: Write, tmp_path: Path, ngram: str) -> None:
    (tmp_path / "tokens.arpa").write_text(ARPA)
    lines = f"{ngram}confidence = {{ slope = 0.5, offset = 1.5 }}\n"
    found = imported(f'[qa.standard]\nrecogniser = "wenet"\n{lines}')
    search = found.checkpoints["am_qa_standard"].client.search
    assert search is not None
    stated, absent = search.confidence, search.confidence_with_ngram
    if ngram:
        stated, absent = absent, stated
    assert (stated, absent) == (Calibration(slope=0.5, offset=1.5), None)


@pytest.mark.parametrize(
    ("field", "what"), [("recogniser", "a recogniser in a known format (nemo, transformers, wenet, onnx)"),
                        ("speaker", "a speaker network in a known format (speaker_onnx, resemblyzer)")],
)  # fmt: skip
def test_rejects_unknown_format(imported: Write, tmp_path: Path, field: str, what: str) -> None:
    (tmp_path / "other").mkdir()
    fields = {"recogniser": "wenet", field: "other"}
    lines = "".join(f'{key} = "{value}"\n' for key, value in fields.items())
    with pytest.raises(CheckpointError) as caught:
        imported(f"[qa.standard]\n{lines}")
    assert (caught.value.subject, caught.value.cause) == (str(tmp_path / "other"), f"it is not {what}")
    assert caught.value.remedy == "See docs/own-networks.md for the formats and the files that each one needs"


@pytest.mark.parametrize("size", [0, 100, 10_000])
def test_damaged_archive_of_nemo_is_named_as_such(imported: Write, tmp_path: Path, size: int) -> None:
    archive = (Path(__file__).parent / "data" / "nemo" / "ctc-pieces.nemo").read_bytes()
    (tmp_path / "cut.nemo").write_bytes(archive[:size])
    with pytest.raises(CheckpointError) as caught:
        imported('[qa.standard]\nrecogniser = "cut.nemo"\n')
    assert caught.value.subject == str(tmp_path / "cut.nemo")
    assert caught.value.cause.startswith("it is a damaged archive (")


@pytest.mark.parametrize("text", ["", '{"model_type": "wav2ve'])
def test_damaged_configuration_of_transformers_is_named_as_such(imported: Write, tmp_path: Path, text: str) -> None:
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "config.json").write_text(text)
    with pytest.raises(CheckpointError) as caught:
        imported('[qa.standard]\nrecogniser = "cut"\n')
    assert caught.value.subject == str(tmp_path / "cut" / "config.json")
    assert caught.value.cause.startswith("it is not JSON (")


def test_rejects_ngram_that_is_none(imported: Write, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("no model")
    with pytest.raises(CheckpointError) as caught:
        imported('[qa.standard]\nrecogniser = "wenet"\nngram = "words.txt"\n')
    assert caught.value.cause == "it is not an ARPA file"


class _Averaging(torch.nn.Module):
    """An encoder whose frames know of the padding behind them."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, audio: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        encoded, frames = self.encoder(audio, lengths)
        return encoded * (1.0 + audio.shape[1] / 100_000), frames


def test_network_that_padding_changes_is_marked(tmp_path: Path) -> None:
    foreign.wave(tmp_path / "wave")
    sound = transformers.read(tmp_path / "wave")
    assert network_measuring.measured(sound, tmp_path).audio.padding == MASKED
    changed = network_measuring.measured(replace(sound, encoder=_Averaging(sound.encoder)), tmp_path)
    assert changed.audio.padding == EXACT
    assert any(each.startswith("Padding changes the results of this network") for each in changed.remarks)


def test_network_near_the_end_of_fp16_is_marked(tmp_path: Path) -> None:
    foreign.wave(tmp_path / "wave")
    sound = transformers.read(tmp_path / "wave")
    encoder: Any = sound.encoder
    with torch.no_grad():
        encoder.projection.bias.fill_(20_000.0)
    remarks = network_measuring.measured(sound, tmp_path).remarks
    assert remarks[-1] == (
        "This is close to the end of FP16, so louder speech may exceed it. Compare transcripts of FP16 and FP32 before "
        "you serve it on GPUs."
    )


@pytest.mark.parametrize(
    ("own", "made", "cause"),
    [
        (True, "am_en_standard/record.json", "it holds graphs that were exported without --networks"),
        (False, "catalogue/catalogue.toml", "it holds networks of your own, which were exported with --networks"),
    ],
)
def test_rejects_folder_of_other_networks(imported: Write, tmp_path: Path, own: bool, made: str, cause: str) -> None:
    imported('[qa.standard]\nrecogniser = "wenet"\n')
    file = tmp_path / "out" / made
    file.parent.mkdir(parents=True)
    file.touch()
    chosen = ["--networks", str(tmp_path / "networks.toml")] if own else []
    command = [sys.executable, "-m", "export", "--out", str(tmp_path / "out"), *chosen]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    expected = f"error: --out {tmp_path / 'out'}: {cause}. Name another folder, or remove this one."
    assert (done.returncode, done.stderr.splitlines()[-1]) == (10, expected)


def test_does_not_replace_catalogue_folder_of_other_files(imported: Write, tmp_path: Path) -> None:
    imported('[qa.standard]\nrecogniser = "wenet"\n')
    kept = tmp_path / "out" / "catalogue" / "customers.csv"
    kept.parent.mkdir(parents=True)
    kept.write_text("precious")
    done = exported(tmp_path, "--out", str(tmp_path / "out"))
    assert (done.returncode, kept.read_text()) == (10, "precious")
    assert done.stderr.splitlines()[-1].startswith(f"error: --out {tmp_path / 'out'}: {kept.parent} is not a catalogue")


def exported(folder: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Export the networks of a folder's networks.toml with further options."""
    command = [sys.executable, "-m", "export", "--networks", str(folder / "networks.toml"), *options]
    given = {**os.environ, **variables}
    return subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--operating-point", "enhanced"),
         "--operating-point: 'enhanced' is not an operating point of {file}. Use standard"),
        (("--weights", "reference"),
         "--weights: the weights are those that the file of --networks names. Leave out --weights or --networks"),
        (("--catalogue", "model_repository"),
         "--catalogue: the catalogue is made of the networks that the file of --networks names. Leave out --catalogue "
         "or --networks"),
    ],
)  # fmt: skip
def test_rejects_option_for_other_networks(
    imported: Write, tmp_path: Path, options: tuple[str, ...], sentence: str
) -> None:
    imported('[qa.standard]\nrecogniser = "wenet"\n')
    done = exported(tmp_path, "--out", str(tmp_path / "out"), *options)
    assert done.returncode == 10
    assert done.stderr.splitlines()[-1] == f"error: {sentence.format(file=tmp_path / 'networks.toml')}."
    assert not (tmp_path / "out").exists()


def test_catalogue_of_clients_does_not_matter(imported: Write, tmp_path: Path) -> None:
    """The variable names the catalogue that the export replaces, or none at all."""
    imported('[qa.standard]\nrecogniser = "wenet"\n')
    out = tmp_path / "out"
    options = ("--out", str(out), "--precision", "fp32", "--model", "am_qa_standard")
    assert exported(tmp_path, *options, VOXWRIGHT_CATALOGUE=str(out / "catalogue")).returncode == 0
    (tmp_path / "networks.toml").write_text('[qb.standard]\nrecogniser = "wenet"\n')
    renamed = (*options[:-1], "am_qb_standard")
    assert exported(tmp_path, *renamed, VOXWRIGHT_CATALOGUE=str(out / "catalogue")).returncode == 0
    assert (out / "am_qb_standard" / "record.json").exists()


def test_command_that_is_refused_leaves_the_catalogue(imported: Write, tmp_path: Path) -> None:
    imported('[qa.standard]\nrecogniser = "wenet"\n')
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "catalogue").rename(out / "catalogue")
    before = {path: path.read_bytes() for path in out.rglob("*.toml")}
    (tmp_path / "networks.toml").write_text('[qb.standard]\nrecogniser = "wenet"\n')
    done = exported(tmp_path, "--out", str(out), "--model", "am_qc_standard")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        10,
        "error: --model am_qc_standard: the catalogue has no such model. Choose from am_qb_standard, body_qb_standard,"
        " decoder_qb_standard.",
    )
    assert {path: path.read_bytes() for path in out.rglob("*.toml")} == before


def test_build_rejects_parts_of_two_checkpoints(imported: Write, tmp_path: Path) -> None:
    """An export of one model, or one that ended early, leaves the encoder of the checkpoint before."""
    imported('[qa.standard]\nrecogniser = "wenet"\n')
    out, both = tmp_path / "out", ("--model", "body_qa_standard", "--model", "am_qa_standard")
    options = ("--out", str(out), "--precision", "fp32")
    assert exported(tmp_path, *options, *both).returncode == 0
    assert _planned(out).returncode == 0
    weights = wenet.weights(wenet.U2PP)
    torch.save({name: 1.1 * value for name, value in weights.items()}, tmp_path / "wenet" / "final.pt")
    assert exported(tmp_path, *options, *both[2:]).returncode == 0
    done = _planned(out)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        30,
        f"error: {out / 'body_qa_standard'}: it was exported from another checkpoint than the catalogue describes, so"
        " its parts do not fit together. Run `python -m export --networks` again, without --model.",
    )


def _planned(onnx: Path) -> subprocess.CompletedProcess[str]:
    options = ("--arch", "cpu", "--onnx", str(onnx), "--out", str(onnx.parent / "engines"), "--dry-run")
    command = [sys.executable, "-m", "build.engines", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
