"""Two languages and two sampling rates on one server: English at 16 kHz beside a made-up language at 8 kHz.

The made-up language qq has networks of its own: the reference encoder behind a filter bank for 8 kHz, and the reference
head with its rows turned, so that the blank is the last token. It is written in characters without spaces, without
a rescorer. Its words are nonsense, but each of them is known: what the networks find in the same
samples.
"""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from contract.catalogue import CATALOGUE_FOLDER, Model, read_catalogue
from contract.client import CHARACTERS, ClientSpec, TokenSpec
from contract.tokens import collapse, spell
from export.checkpoints import reference as weights
from export.checkpoints.checkpoint import Checkpoint, audio_spec
from export.exporter import export_all
from export.networks.ctc_head import CtcHead
from export.networks.front_end import FilterBank, FilterBankConfig, FromAudio
from export.plan import plan
from tests.integration import serving
from tests.integration.reference import ROOT, run
from transcriber.audio import Recording
from transcriber.pipeline import pad_to_minimum
from transcriber.segments import split

pytestmark = pytest.mark.integration
RATE_HZ, POINT = 8_000, "standard"
DIALOGUE = ROOT / "demo" / "dialogue.flac"
FAMILIES = {"body": "body_qq", "am_en": "am_qq", "ensemble_en": "ensemble_qq"}
# Numbers of samples in body/model.toml. At 8 kHz they are half as large.
SIZES = re.compile(r"\b(?:320000|256000|192000|160000|128000|96000|80000|64000|48000|32000|5840|720)\b")


def qq_pieces(count: int) -> tuple[str, ...]:
    """Return one character a token, the blank last."""
    return (*(chr(0x4E00 + number) for number in range(count - 1)), "<blank>")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Turned:
    """The networks of qq and what clients know of them."""

    body: Any
    head: CtcHead
    tokens: TokenSpec

    def open(self, model: Model) -> Checkpoint:
        """Return the checkpoint of a model of qq, or the reference one."""
        if model.family.language != "qq":
            return weights.open_checkpoint(model)
        rule = model.family.frames
        is_body = rule is not None
        client = ClientSpec(audio=audio_spec(RATE_HZ, rule)) if rule is not None else ClientSpec(tokens=self.tokens)
        network = self.body if is_body else self.head
        return Checkpoint(network=network, dims=network.dims, client=client, origin="turned", digest="turned")

    def text(self, segment: np.ndarray[Any, Any]) -> str:
        """Return what the networks find in a segment: the best token of every frame."""
        with torch.no_grad():
            samples = torch.from_numpy(segment)[None]
            encoded, lengths = self.body(samples, torch.tensor([segment.size], dtype=torch.int32))
            _, tokens = self.head(encoded, lengths)
        return spell(collapse(tokens[0, : int(lengths[0]), 0].tolist(), self.tokens.dropped), self.tokens)


def turned() -> Turned:
    """Build the networks of qq."""
    encoder, _ = weights.load(weights.checkpoint_path("body", POINT))
    head, _ = weights.load(weights.checkpoint_path("am_en", POINT))
    assert isinstance(head, CtcHead)
    vocabulary = head.config.vocabulary
    last = CtcHead(replace(head.config, blank=vocabulary - 1)).eval()
    last.load_state_dict({name: tensor.roll(-1, 0) for name, tensor in head.state_dict().items()})
    tokens = TokenSpec(
        pieces=qq_pieces(vocabulary), blank=vocabulary - 1, unspoken=(0, 1), style=CHARACTERS, word_separator=""
    )
    body = FromAudio(FilterBank(FilterBankConfig(sample_rate_hz=RATE_HZ)), encoder).eval()
    return Turned(body=body, head=last, tokens=tokens)


def write_catalogue(folder: Path) -> Path:
    """Write the shipped catalogue with the families of qq beside it, at the standard point."""
    shutil.copytree(CATALOGUE_FOLDER, folder)
    for family, own in FAMILIES.items():
        text = (folder / family / "model.toml").read_text()
        for ours, theirs in FAMILIES.items():
            text = text.replace(f'"{ours}"', f'"{theirs}"')
        text = text.replace('language = "en"\n', "").replace("role = ", 'language = "qq"\nrole = ', 1)
        text = text.replace('["standard", "enhanced"]', '["standard"]').replace("[400, 160]", "[200, 80]")
        if family == "body":
            text = SIZES.sub(lambda size: str(int(size.group()) // 2), text)
        (folder / own).mkdir()
        (folder / own / "model.toml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def networks() -> Turned:
    return turned()


@pytest.fixture(scope="module")
def folder(networks: Turned, reference_graphs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export and build both languages; return the folder."""
    folder = tmp_path_factory.mktemp("languages")
    catalogue = read_catalogue(write_catalogue(folder / "catalogue"))
    english = [name for name, model in read_catalogue().models(POINT).items() if not model.family.is_ensemble]
    for name in english:
        (folder / "onnx").mkdir(exist_ok=True)
        (folder / "onnx" / name).symlink_to(reference_graphs / name)
    names = tuple(f"{family}_{POINT}" for family in ("body_qq", "am_qq"))
    export_all(plan(catalogue, names, POINT, ("fp32",), "reference", folder / "onnx"), networks.open)
    places = ("--catalogue", folder / "catalogue", "--onnx", folder / "onnx", "--out", folder / "engines")
    run("build.engines", "--arch", "cpu", "--mode", "batch", "--operating-point", POINT, *places)
    return folder


@pytest.fixture(scope="module")
def endpoint(folder: Path) -> Iterator[str]:
    with serving.started(folder / "engines", folder, (f"--catalogue={folder / 'catalogue'}",)) as server:
        serving.wait_ready(server)
        yield f"127.0.0.1:{server.grpc}"


def transcript(endpoint: str, folder: Path, *options: str | Path) -> dict[str, Any]:
    """Transcribe the dialogue with the command line."""
    target = folder / "transcript.json"
    place = ("--endpoint", endpoint, "--catalogue", folder / "catalogue", "--operating-point", POINT)
    run("transcriber", DIALOGUE, *place, "--format", "json-v2", "--output", target, *options)
    found: dict[str, Any] = json.loads(target.read_text())
    return found


def words(document: dict[str, Any]) -> list[str]:
    return [result["alternatives"][0]["content"] for result in document["results"]]


def test_serves_both_languages(endpoint: str, folder: Path, networks: Turned) -> None:
    """Each recogniser gets its own rate, and its own tokens spell its words."""
    english = words(transcript(endpoint, folder, "--language", "en"))
    script = json.loads((ROOT / "demo" / "dialogue.json").read_text())["text"].split()
    assert len(english) == pytest.approx(len(script), abs=5)
    assert len(set(script) & set(english)) > 0.9 * len(set(script))

    nonsense = words(transcript(endpoint, folder, "--language", "qq", "--search", "greedy"))
    body = read_catalogue(folder / "catalogue").families["body_qq"].frames
    assert body is not None
    audio = audio_spec(RATE_HZ, body)
    recording = Recording(DIALOGUE, sample_rate_hz=RATE_HZ)
    segments = [pad_to_minimum(each.samples, audio) for each in split(recording.blocks(), sample_rate_hz=RATE_HZ)]
    assert "".join(nonsense) == "".join(map(networks.text, segments))
    assert len(nonsense) > 100
    assert set(map(len, nonsense)) == {1}


def test_speaker_network_of_another_rate_serves_the_language(endpoint: str, folder: Path) -> None:
    document = transcript(endpoint, folder, "--language", "qq")
    assert document["metadata"]["language"] == "qq"
    # The speaker network of the catalogue has no language, so it serves qq too, at its own 16 kHz.
    assert {result["alternatives"][0]["speaker"] for result in document["results"]} >= {"S1"}


def test_word_gate_is_a_languages_own(folder: Path) -> None:
    """English is measured on the demonstration's dialogue; for qq there are no recordings."""
    manifest = json.loads((folder / "engines" / "embedded" / "cpu" / "manifest.json").read_text())
    found = {each["model"]: (each["words"], each["reason"]) for each in manifest["accuracy"]}
    assert found["ensemble_en_standard"][0] > 200
    assert found["ensemble_qq_standard"] == (0, "not measured: export had no recordings with texts in its language")
