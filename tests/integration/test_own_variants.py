"""A user's own networks at another sampling rate, with speakers and words, and an export that is interrupted."""

import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tritonclient import grpc as triton

from contract import digest, files
from contract.graph import RECORD_FILE, load
from contract.tokens import spell
from tests.integration import own, serving
from tests.integration.own import Library
from tests.integration.reference import ROOT, run
from tests.integration.requests import infer
from tests.integration.serving import Running
from tests.unit.export.test_speaker_networks import mel_energies, write_resemblyzer
from transcriber import ctc, parameters
from transcriber.audio import Recording, Samples
from transcriber.segments import split

pytestmark = [pytest.mark.integration, pytest.mark.slow]
DIALOGUE = ROOT / "demo" / "dialogue.flac"
TELEPHONE_HZ, SPEAKER_WINDOW = 8_000, 25_600
NETWORKS = """\
[it.fast]
recogniser = "telephone"
ngram = "words.arpa"
speaker = "pretrained.pt"
"""
LIMIT_S = 400
WORDS, LETTERS = 60, range(3, 13)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Served:
    """A recogniser at 8 kHz with a speaker network at 16 kHz, from file to server."""

    folder: Path
    library: Library
    voices: torch.nn.Module
    server: Running

    @property
    def catalogue(self) -> Path:
        return self.folder / "onnx" / "catalogue"


def segments() -> list[Samples]:
    """Return the segments of the dialogue at 8 kHz."""
    recording = Recording(DIALOGUE, sample_rate_hz=TELEPHONE_HZ)
    return [each.samples for each in split(recording.blocks(), sample_rate_hz=TELEPHONE_HZ)]


def write_words(path: Path, words: list[str]) -> None:
    """Write an n-gram model of some of these words, each as probable as the others."""
    known = sorted({word for word in words if len(word) in LETTERS})[:WORDS]
    assert len(known) > WORDS // 2
    lines = [f"{-math.log10(len(known)):.3f}\t{word}" for word in known]
    head = f"\\data\\\nngram 1={len(lines) + 3}\n\n\\1-grams:\n-4\t<unk>\n-99\t<s>\n-1\t</s>\n"
    path.write_text(head + "\n".join(lines) + "\n\n\\end\\\n", encoding="utf-8")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("telephone")
    library = own.telephone_network(folder / "telephone")
    voices = write_resemblyzer(folder / "pretrained.pt")
    write_words(folder / "words.arpa", " ".join(map(library.decode, segments())).split())
    (folder / "networks.toml").write_text(NETWORKS)
    run("export", "--networks", folder / "networks.toml", "--out", folder / "onnx", "--precision", "fp32")
    run("build.engines", "--arch", "cpu", "--onnx", folder / "onnx", "--out", folder / "engines")
    with serving.started(folder / "engines", folder) as server:
        serving.wait_ready(server)
        yield Served(folder=folder, library=library, voices=voices, server=server)


def transcribed(served: Served, *options: str) -> list[dict[str, Any]]:
    """Return the words. Neither language nor rate is named: both are those of the catalogue's only network."""
    target = served.folder / "transcript.json"
    chosen = ("--endpoint", f"127.0.0.1:{served.server.grpc}", "--catalogue", served.catalogue)
    run("transcriber", DIALOGUE, *chosen, *options, "--output", target)
    results = json.loads(target.read_text())["results"]
    return [each["alternatives"][0] for each in results if each["type"] == "word"]


def test_transcript_of_a_network_at_8_khz(served: Served) -> None:
    words = transcribed(served, "--search", "greedy")
    expected = " ".join(filter(None, map(served.library.decode_rounded, segments())))
    assert " ".join(each["content"] for each in words) == expected
    assert len(expected) > 200
    assert all(each["speaker"].startswith("S") for each in words)


def test_model_of_words_chooses_among_the_hypotheses(served: Served) -> None:
    """What the search finds with the words in the emissions of the library."""
    client = load(served.folder / "onnx" / "am_it_fast").client
    assert client.tokens is not None
    assert client.search is not None
    model = parameters.ngram_model(client.search, client.tokens, "am_it_fast")
    assert model is not None
    assert served.library.emissions is not None
    fusion = ctc.Fusion(model=model, weight=client.search.ngram_weight, bonus=client.search.token_bonus)
    found = (ctc.beam(served.library.emissions(each), client.tokens, fusion=fusion)[0] for each in segments())
    expected = " ".join(filter(None, (spell(each.tokens, client.tokens) for each in found)))
    with_words, without = (
        " ".join(each["content"] for each in transcribed(served, *options)) for options in ((), ("--no-ngram",))
    )
    assert with_words == expected
    known = set((client.search.words or "").split())
    shares = [sum(word in known for word in text.split()) / len(text.split()) for text in (with_words, without)]
    assert shares[0] > 2 * shares[1]


def test_speaker_network_makes_the_embeddings_of_its_library(served: Served) -> None:
    samples = np.concatenate(list(Recording(DIALOGUE).blocks()))
    windows = np.stack([samples[first : first + SPEAKER_WINDOW] for first in (16_000, 200_000)])
    lengths = np.full((len(windows), 1), SPEAKER_WINDOW, dtype=np.int32)
    client = triton.InferenceServerClient(f"127.0.0.1:{served.server.grpc}")
    answer: Any = infer(client, "diar_it_fast", {"audio": windows, "audio_lengths": lengths}, "embedding")
    client.close()
    # Resemblyzer raises a window to -30 dB of full scale.
    levels = np.sqrt((windows**2).mean(axis=1, keepdims=True))
    raised = windows * np.maximum(1.0, 10.0**-1.5 / levels)
    with torch.no_grad():
        expected = served.voices(torch.from_numpy(np.stack([mel_energies(each) for each in raised]))).numpy()
    assert np.abs(answer.as_numpy("embedding") - expected).max() < 1e-4
    # Random weights make similar embeddings.
    assert np.abs(expected[0] - expected[1]).max() > 4e-3


def contents(folder: Path) -> dict[str, str]:
    """Return the digests of all files below a folder."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): digest.of_file(path) for path in found}


def export(folder: Path) -> subprocess.Popen[str]:
    options = ("--networks", str(folder.parent / "networks.toml"), "--out", str(folder), "--precision", "fp32")
    command = [sys.executable, "-m", "export", *options]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


@pytest.mark.parametrize(("kind", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_interrupted_export_resumes(served: Served, kind: signal.Signals, code: int) -> None:
    """After the first model; the second run keeps it, and makes what a run without interruption makes."""
    folder = served.folder / f"interrupted-{kind.name}"
    process = export(folder)
    _wait_for(process, lambda: len(list(folder.glob(f"*/{RECORD_FILE}"))) == 1)
    process.send_signal(kind)
    stderr = process.communicate(timeout=LIMIT_S)[1]
    assert process.returncode == code
    assert "Traceback" not in stderr
    whole = served.folder / "onnx"
    finished = [path.parent.name for path in folder.glob(f"*/{RECORD_FILE}")]
    assert len(finished) < len(list(whole.glob(f"*/{RECORD_FILE}")))
    for name in finished:
        assert contents(folder / name) == contents(whole / name)
    if kind == signal.SIGKILL:
        # What was half written is removed by a later run, when it is old enough to be no other run's.
        time.sleep(files._GRACE_SECONDS + 1)
    again = export(folder)
    stderr = again.communicate(timeout=LIMIT_S)[1]
    assert again.returncode == 0, stderr
    unchanged = [line.split()[1] for line in stderr.splitlines() if line.endswith("unchanged")]
    assert set(finished) == set(unchanged)
    assert contents(folder) == contents(whole)


def _wait_for(process: subprocess.Popen[str], reached: Any) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not reached():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
