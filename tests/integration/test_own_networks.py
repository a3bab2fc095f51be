"""A user's own networks from checkpoint to transcript: the commands of docs/own-networks.md, for every format."""

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jiwer import cer
from numpy.typing import NDArray
from tritonclient import grpc as triton

from build.check import ARCHES
from contract.arch import Arch
from contract.catalogue import read_catalogue
from contract.graph import load
from export.checkpoints import wenet as wenet_importer
from export.generated_catalogue import STREAM_PAST_FRAMES
from export.networks.wenet_encoder import STEP_FRAMES
from runtime import probe
from tests.integration import own, serving
from tests.integration.own import Decoder, Library
from tests.integration.reference import ROOT, run
from tests.integration.requests import tensors
from tests.integration.serving import Running
from tests.integration.test_pages import environment, run_page
from tests.pages import SERVER, blocks
from transcriber.audio import Recording, Samples
from transcriber.pipeline import pad_to_minimum
from transcriber.segments import split

pytestmark = [pytest.mark.integration, pytest.mark.slow]
DIALOGUE = ROOT / "demo" / "dialogue.flac"
# A window of a stream has 67 feature frames for 16 encoder frames, and the next one begins 64 later.
WINDOW, STEP, WINDOWS = 400 + 66 * 160, 64 * 160, 16
# Output and states are FP16.
CHUNK_DIFFERENCE = 2e-3
PAGE = ROOT / "docs" / "own-networks.md"
(NETWORKS,) = re.findall(r"^```toml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
EXPORT = ".venv/bin/python -m export --networks networks.toml"
# The encoder output is FP16 on its way to the head, so that near ties of a random network's tokens fall otherwise: the
# largest share of letters that differ from the library in FP32. With this output in FP16, the library's text is equal.
LARGEST_DIFFERENCE = {
    "wenet": 0.002,
    "parakeet": 0.001,
    "nemo": 0.001,
    "wav2vec2 lv60": 0.001,
    "wavlm": 0.001,
    "w2v-bert": 0.002,
}
FORMATS = {
    "wenet": ("en", "standard"),
    "parakeet": ("en", "enhanced"),
    "wav2vec2 base": ("de", "standard"),
    "wav2vec2 lv60": ("de", "enhanced"),
    "wavlm": ("es", "enhanced"),
    "hubert": ("fi", "enhanced"),
    "w2v-bert": ("sv", "enhanced"),
    "nemo": ("nl", "enhanced"),
    "hama": ("cs", "enhanced"),
}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Own:
    """A checkout with checkpoints, and what each network itself decodes."""

    folder: Path
    libraries: dict[tuple[str, str], Library]

    @property
    def graphs(self) -> Path:
        return self.folder / "dist" / "own" / "onnx"

    @property
    def catalogue(self) -> Path:
        return self.graphs / "catalogue"

    @property
    def engines(self) -> Path:
        return self.folder / "dist" / "own" / "engines"

    def run(self, text: str) -> subprocess.CompletedProcess[str]:
        """Run commands as a page has them; fail with their output unless the exit code is 0."""
        shell = ["bash", "-euo", "pipefail", "-c", text]
        done = subprocess.run(shell, cwd=self.folder, env=environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{text}\n{done.stderr}"
        return done


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Own:
    folder = tmp_path_factory.mktemp("own")
    for path in ROOT.iterdir():
        if path.name not in ("dist", ".venv", ".git"):
            (folder / path.name).symlink_to(path)
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / "networks.toml").write_text(NETWORKS)
    hama = own.hama_network(folder / "hama")
    libraries = {
        ("en", "standard"): own.wenet_network(folder / "wenet"),
        ("en", "enhanced"): own.parakeet_network(folder / "parakeet"),
        ("de", "standard"): own.wave_network(folder / "wav2vec2-base"),
        ("de", "enhanced"): own.wave_network(folder / "wav2vec2-lv60", norm="layer"),
        ("es", "enhanced"): own.wave_network(folder / "wavlm", "wavlm"),
        ("fi", "enhanced"): own.wave_network(folder / "hubert", "hubert"),
        ("sv", "enhanced"): own.w2v_bert_network(folder / "w2v-bert"),
        ("nl", "enhanced"): own.nemo_network(folder / "parakeet.nemo"),
        ("cs", "enhanced"): Library(decode=hama, decode_rounded=hama),
    }
    return Own(folder=folder, libraries=libraries)


@pytest.fixture(scope="module")
def exported(checkpoints: Own) -> str:
    """Export as the page does, but in FP32 only, and return what the export prints."""
    return checkpoints.run(f"{EXPORT} --precision fp32").stderr


@pytest.fixture(scope="module")
def built(checkpoints: Own, exported: str) -> Own:
    """Build as the page does: the catalogue beside the graphs is found."""
    assert exported
    first = blocks(PAGE)[0].text
    assert first.startswith(f"{EXPORT}\n")
    checkpoints.run(first.removeprefix(f"{EXPORT}\n"))
    return checkpoints


@pytest.fixture(scope="module")
def server(built: Own, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving.started(built.engines, tmp_path_factory.mktemp("server")) as running:
        serving.wait_ready(running)
        yield running


def recordings() -> list[Path]:
    """Return a made-up dialogue and recordings of a real voice."""
    return [DIALOGUE, *own.prompts()]


def transcribed(mine: Own, server: Running, place: tuple[str, str], *options: str) -> str:
    """Return the words of the transcripts of all recordings."""
    folder = mine.folder / "dist" / "transcripts"
    language, point = place
    endpoint = f"127.0.0.1:{server.grpc}"
    chosen = ("--language", language, "--operating-point", point, "--catalogue", mine.catalogue)
    written = ("--format", "json-v2", "--output", folder)
    run("transcriber", *recordings(), "--endpoint", endpoint, *chosen, *options, *written)
    found = [json.loads((folder / f"{path.stem}.json").read_text())["results"] for path in recordings()]
    words = (each["alternatives"][0]["content"] for results in found for each in results if each["type"] == "word")
    return " ".join(words)


def decoded(mine: Own, place: tuple[str, str], decode: Decoder) -> str:
    """Return what a library decodes of the segments of all recordings."""
    language, point = place
    found = {load(folder).client.audio for folder in mine.graphs.glob(f"*_{language}*_{point}")}
    (audio,) = (each for each in found if each is not None)
    segments = [each.samples for path in recordings() for each in split(Recording(path).blocks())]
    return " ".join(filter(None, (decode(pad_to_minimum(each, audio)) for each in segments)))


@pytest.mark.parametrize("format_name", FORMATS)
def test_transcript_is_what_the_library_decodes(format_name: str, built: Own, server: Running) -> None:
    place = FORMATS[format_name]
    library = built.libraries[place]
    expected, rounded = (decoded(built, place, each) for each in (library.decode, library.decode_rounded))
    assert len(expected) > 200
    text = transcribed(built, server, place, "--search", "greedy")
    assert text == rounded
    assert cer(expected, text) <= LARGEST_DIFFERENCE.get(format_name, 0.0)


def test_decoder_of_wenet_rescores(built: Own, server: Running) -> None:
    """Without an option the client rescores, as the checkpoint has a decoder: it chooses as wenet's own layers do."""
    place = FORMATS["wenet"]
    beam, rescored = (transcribed(built, server, place, "--search", search) for search in ("beam", "rescore"))
    expected = decoded(built, place, own.rescored_by_wenet(built.folder / "wenet"))
    assert rescored == expected != beam
    assert transcribed(built, server, place) == rescored


@pytest.fixture(scope="module")
def stream_server(built: Own, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving.started(built.engines, tmp_path_factory.mktemp("streams"), SM_BATCH_MODE="false") as running:
        serving.wait_ready(running)
        yield running


@pytest.mark.parametrize("fixture", ["server", "stream_server"])
def test_every_model_answers_the_startup_probe(fixture: str, built: Own, request: pytest.FixtureRequest) -> None:
    url, catalogue = request.getfixturevalue(fixture).url, read_catalogue(built.catalogue)
    count = len(probe.models(url))
    report = probe.run(url, serving.READY_S, catalogue, live=False, inference=True, answer_timeout_s=60)
    assert report.endswith(f"; {count} answered correctly")


def test_streamed_encoder_equals_the_chunk_mask(built: Own, stream_server: Running) -> None:
    """The states of the server make what wenet's encoder makes of the whole recording behind a mask of chunks."""
    network: Any = wenet_importer.read(built.folder / "wenet").encoder
    samples = np.concatenate(list(Recording(DIALOGUE).blocks()))[: WINDOW + (WINDOWS - 1) * STEP]
    streamed = np.concatenate(list(_stream(stream_server, samples)))
    features, count = network.front_end(torch.from_numpy(samples)[None]), torch.tensor([samples.size])
    lengths = network.front_end.lengths(count)
    masked, whole = (
        network.encode(features, lengths, chunk=chunk, left=STREAM_PAST_FRAMES)[0][0].detach().numpy()
        for chunk in (STEP_FRAMES, None)
    )
    assert streamed.shape == masked.shape == (WINDOWS * STEP_FRAMES, network.config.size)
    assert np.abs(streamed - masked).max() < CHUNK_DIFFERENCE * np.abs(masked).max()
    assert np.abs(whole - masked).max() > 10 * CHUNK_DIFFERENCE * np.abs(masked).max()


def _stream(server: Running, samples: Samples) -> Iterator[NDArray[np.float32]]:
    """Send the windows of one stream and yield the encoder output of each."""
    with contextlib.closing(triton.InferenceServerClient(f"127.0.0.1:{server.grpc}")) as client:
        # Triton 2.51 fails where outputs of only one step of an ensemble are requested (triton-inference-server#7482).
        names = ("encoder_out", "encoder_lengths", "top_log_probs", "top_tokens")
        outputs = [triton.InferRequestedOutput(name) for name in names]
        for number in range(WINDOWS):
            window = samples[number * STEP :][:WINDOW][None]
            arrays = {"audio": window, "audio_lengths": np.array([[WINDOW]], dtype=np.int32)}
            answer: Any = client.infer(
                "ensemble_en_standard",
                tensors(arrays),
                outputs=outputs,
                sequence_id=9,
                sequence_start=number == 0,
                sequence_end=number == WINDOWS - 1,
            )
            yield answer.as_numpy("encoder_out")[0].astype(np.float32)


def test_serves_streams_where_a_network_can(built: Own, stream_server: Running, tmp_path: Path) -> None:
    target = tmp_path / "stream.json"
    chosen = ("--language", "en", "--operating-point", "standard", "--catalogue", built.catalogue)
    endpoint = f"127.0.0.1:{stream_server.grpc}"
    run("transcriber", DIALOGUE, "--realtime", "--endpoint", endpoint, *chosen, "--output", target)
    assert len(json.loads(target.read_text())["results"]) > 20
    served = stream_server.log.read_text().partition("serving standard")[2]
    assert "ensemble_en_standard" in served
    assert "ensemble_de" not in served


def test_commands_of_the_page(built: Own) -> None:
    """All but those that export and build; each transcript has words."""
    page = blocks(PAGE)[1:]
    assert [block.needs for block in page].count(SERVER) == 2
    run_page(page, built.folder)
    for name in ("de", "nl", "en", "es", "sv", "stream"):
        results = json.loads((built.folder / "dist" / "own" / f"{name}.json").read_text())["results"]
        assert len(results) >= 10, name


def test_notes_state_what_was_measured(exported: str) -> None:
    notes = [line for line in exported.splitlines() if line.startswith("note: ")]
    for language, point in FORMATS.values():
        assert any(line.startswith(f"note: {language}.{point}: Measured on speech: padding changes") for line in notes)
    changed = [line.split(": ")[1] for line in notes if "Padding changes the results of this network" in line]
    assert changed == ["cs.enhanced"]


def test_second_export_changes_nothing(built: Own) -> None:
    again = built.run(f"{EXPORT} --precision fp32").stderr
    lines = [line.split() for line in again.splitlines() if line.startswith("export ")]
    assert {words[-1] for words in lines} == {"unchanged"}
    assert len(lines) == len(list(built.graphs.glob("*/record.json")))


def test_compiles_but_for_products_in_fp32_on_turing(built: Own) -> None:
    built.run(f"{EXPORT} --out dist/both/onnx")
    arches = [Arch.SM75, Arch.SM86]
    assert set(arches) <= set(ARCHES)
    options = " ".join(f"--arch {arch.value}" for arch in arches)
    command = f".venv/bin/python -m build.check --onnx dist/both/onnx --out dist/both/engines {options} --json || true"
    found = json.loads(built.run(command).stdout)["graphs"]
    # The graph of hama multiplies matrices in FP32, and a graph in ONNX is not converted.
    assert {(each["model"], each["arch"]) for each in found if not each["compiles"]} == {("am_cs_enhanced", "sm75")}
