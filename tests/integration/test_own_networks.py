"""A user's own networks from checkpoint to transcript: the commands of docs/own-networks.md, for every format."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from jiwer import cer

from build.check import ARCHES
from contract.arch import Arch
from contract.graph import load
from tests.integration import own, serving
from tests.integration.own import Decoder
from tests.integration.reference import ROOT, run
from tests.integration.serving import Running
from tests.integration.test_pages import environment, run_page
from tests.pages import SERVER, blocks
from transcriber.audio import Recording
from transcriber.pipeline import pad_to_minimum
from transcriber.segments import split

pytestmark = [pytest.mark.integration, pytest.mark.slow]
DIALOGUE = ROOT / "demo" / "dialogue.flac"
PAGE = ROOT / "docs" / "own-networks.md"
(NETWORKS,) = re.findall(r"^```toml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
EXPORT = ".venv/bin/python -m export --networks networks.toml"
# The encoder output is FP16 on its way to the head. In a random network, the two best tokens of a few frames in a
# thousand are closer than that.
LARGEST_DIFFERENCE = 0.01
FORMATS = {
    "wenet": ("en", "standard"),
    "parakeet": ("en", "enhanced"),
    "wav2vec2 base": ("de", "standard"),
    "wav2vec2 lv60": ("de", "enhanced"),
    "wavlm": ("es", "enhanced"),
    "nemo": ("nl", "enhanced"),
    "hama": ("cs", "enhanced"),
}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Own:
    """A checkout with checkpoints, and what each network itself decodes."""

    folder: Path
    decoders: dict[tuple[str, str], Decoder]

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
    decoders = {
        ("en", "standard"): own.wenet_network(folder / "wenet"),
        ("en", "enhanced"): own.parakeet_network(folder / "parakeet"),
        ("de", "standard"): own.wave_network(folder / "wav2vec2-base"),
        ("de", "enhanced"): own.wave_network(folder / "wav2vec2-lv60", norm="layer"),
        ("es", "enhanced"): own.wave_network(folder / "wavlm", "wavlm"),
        ("nl", "enhanced"): own.nemo_network(folder / "parakeet.nemo"),
        ("cs", "enhanced"): own.hama_network(folder / "hama"),
    }
    return Own(folder=folder, decoders=decoders)


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


def transcribed(mine: Own, server: Running, language: str, point: str, *options: str) -> str:
    """Return the words of a transcript of the dialogue."""
    target = mine.folder / "dist" / "transcript.json"
    endpoint = f"127.0.0.1:{server.grpc}"
    chosen = ("--language", language, "--operating-point", point, "--catalogue", mine.catalogue)
    run("transcriber", DIALOGUE, "--endpoint", endpoint, *chosen, *options, "--output", target)
    results = json.loads(target.read_text())["results"]
    return " ".join(each["alternatives"][0]["content"] for each in results if each["type"] == "word")


@pytest.mark.parametrize("format_name", FORMATS)
def test_transcript_is_what_the_library_decodes(format_name: str, built: Own, server: Running) -> None:
    language, point = FORMATS[format_name]
    found = {load(folder).client.audio for folder in built.graphs.glob(f"*_{language}*_{point}")}
    (audio,) = (each for each in found if each is not None)
    segments = [pad_to_minimum(each.samples, audio) for each in split(Recording(DIALOGUE).blocks())]
    expected = " ".join(filter(None, map(built.decoders[language, point], segments)))
    assert len(expected) > 200
    text = transcribed(built, server, language, point, "--search", "greedy")
    assert cer(expected, text) <= (0.0 if format_name == "hama" else LARGEST_DIFFERENCE)


def test_decoder_of_wenet_rescores(built: Own, server: Running) -> None:
    """Without an option the client rescores, as the checkpoint has a decoder."""
    place = ("en", "standard")
    beam, rescored = (transcribed(built, server, *place, "--search", search) for search in ("beam", "rescore"))
    assert transcribed(built, server, *place) == rescored != beam


def test_serves_streams_where_a_network_can(built: Own, tmp_path: Path) -> None:
    with serving.started(built.engines, tmp_path, SM_BATCH_MODE="false") as running:
        serving.wait_ready(running)
        words = transcribed(built, running, "en", "standard", "--realtime", "--search", "greedy").split()
        assert len(words) > 20
        served = running.log.read_text().partition("serving standard")[2]
    assert "ensemble_en_standard" in served
    assert "ensemble_de" not in served


def test_commands_of_the_page(built: Own) -> None:
    """All but those that export and build; each transcript has words."""
    page = blocks(PAGE)[1:]
    assert [block.needs for block in page].count(SERVER) == 2
    run_page(page, built.folder)
    for name in ("de", "nl", "en", "es", "stream"):
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


@pytest.mark.slow
def test_compiles_but_for_heads_in_fp32_on_turing(built: Own) -> None:
    built.run(f"{EXPORT} --out dist/both/onnx")
    arches = [Arch.SM75, Arch.SM86]
    assert set(arches) <= set(ARCHES)
    options = " ".join(f"--arch {arch.value}" for arch in arches)
    command = f".venv/bin/python -m build.check --onnx dist/both/onnx --out dist/both/engines {options} --json || true"
    found = json.loads(built.run(command).stdout)["graphs"]
    # Heads that the export leaves in FP32 multiply matrices in FP32, which Turing does not: that of hama, and that of
    # wenet's fixture, whose random tokens are close to each other.
    refused = {(each["model"], each["arch"]) for each in found if not each["compiles"]}
    assert refused == {("am_cs_enhanced", "sm75"), ("am_en_standard", "sm75")}
