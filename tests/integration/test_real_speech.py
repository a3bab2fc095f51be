"""Real speech through the whole pipeline: hama's weights on recorded prompts, import to transcript.

The network recognises English phonemes; its weights are those that the package publishes. The recordings and their
texts are those of Debian's asterisk-core-sounds-en-g722, one voice. No other text than hama's own conversion of
letters to phonemes is the reference, so the rate is that of the network and of the conversion together.
"""

import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import jiwer
import numpy as np
import pytest

from tests.integration import own, serving
from tests.integration.reference import run
from transcriber.audio import Recording
from transcriber.segments import split

SOUNDS = Path("/usr/share/asterisk/sounds/en_US_f_Allison")
TEXTS = Path("/usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz")
PROMPTS, FEWEST_WORDS = 80, 4
# Texts with digits, or with a description in brackets, are not what is spoken.
SPOKEN = re.compile(r"[A-Za-z ,.'!?-]+")
# On these prompts the network has 14.8 %; a wrong scale, blank or frame rule makes it 60 % and more.
LARGEST_RATE = 0.16
# Recordings are cut at pauses, and the network sees no context beyond a cut.
RATE_OF_CUTS = 0.005

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.skipif(own.HAMA is None, reason="the package hama is not installed"),
    pytest.mark.skipif(not SOUNDS.is_dir(), reason="asterisk-core-sounds-en-g722 is not installed: run ci/packages"),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """A recording and its words."""

    path: Path
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Results:
    """The phonemes of every prompt, as text without blanks."""

    reference: list[str]
    bare_whole: list[str]
    """Of the network alone in ONNX Runtime, from whole recordings."""
    bare: list[str]
    """The same from the segments that the transcriber cuts."""
    served: list[str]
    notes: str
    """What the import printed."""


def prompts() -> list[Prompt]:
    """Return the first prompts whose text is what is spoken, and has some words."""
    return list(islice(_all_prompts(), PROMPTS))


def _all_prompts() -> Iterator[Prompt]:
    for line in gzip.decompress(TEXTS.read_bytes()).decode().splitlines():
        name, _, text = line.partition(": ")
        path = SOUNDS / f"{name}.g722"
        if SPOKEN.fullmatch(text.strip()) and len(text.split()) >= FEWEST_WORDS and path.is_file():
            yield Prompt(path=path, text=text)


def bare_phonemes(network: own.Decoder, prompt: Prompt) -> tuple[str, str]:
    """Return what the network finds in a whole recording, and in the segments of it."""
    whole = np.concatenate(list(Recording(prompt.path).blocks()))
    cut = [segment.samples for segment in split(Recording(prompt.path).blocks())]
    return _joined(network(whole)), _joined(" ".join(map(network, cut)))


def served_phonemes(folder: Path, chosen: list[Prompt]) -> tuple[str, list[str]]:
    """Import, build, serve and transcribe with the commands; return the import's notes and the phonemes."""
    (folder / "networks.toml").write_text('[en.enhanced]\nrecogniser = "hama"\n')
    graphs, engines, transcripts = (folder / name for name in ("onnx", "engines", "transcripts"))
    notes = run("export", "--networks", folder / "networks.toml", "--out", graphs).stderr
    run("build.engines", "--arch", "cpu", "--onnx", graphs, "--out", engines)
    options = (
        "--catalogue",
        graphs / "catalogue",
        "--search",
        "greedy",
        "--format",
        "json-v2",
        "--output",
        transcripts,
    )
    with serving.started(engines, folder) as server:
        serving.wait_ready(server)
        paths = [prompt.path for prompt in chosen]
        run("transcriber", *paths, "--endpoint", f"127.0.0.1:{server.grpc}", *options)
    found = [json.loads((transcripts / f"{path.stem}.json").read_text())["results"] for path in paths]
    return notes, [_joined("".join(each["alternatives"][0]["content"] for each in words)) for words in found]


def reference_phonemes(text: str) -> str:
    """Return the phonemes of a text by hama's own conversion."""
    from hama import G2PModel

    return _joined(G2PModel()(re.sub("[^a-z' ]", " ", text.lower())).ipa)


def error_rate(reference: list[str], found: list[str]) -> float:
    """Return the share of phonemes that are substituted, deleted or inserted."""
    return float(jiwer.wer([*map(_spaced, reference)], [*map(_spaced, found)]))


def _joined(text: str) -> str:
    return "".join(text.split())


def _spaced(text: str) -> str:
    """Part phonemes by blanks; some have several characters, and the longest counts."""
    from hama import Vocabulary

    known = sorted((re.escape(each) for each in Vocabulary.load(None).decoder if each[0] != "<"), key=len, reverse=True)
    return " ".join(re.findall("|".join(known), text))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("real")
    chosen = prompts()
    network = own.hama_network(folder / "hama")
    bare = [bare_phonemes(network, prompt) for prompt in chosen]
    notes, served = served_phonemes(folder, chosen)
    return Results(
        reference=[reference_phonemes(prompt.text) for prompt in chosen],
        bare_whole=[whole for whole, _ in bare],
        bare=[cut for _, cut in bare],
        served=served,
        notes=notes,
    )


def test_server_finds_the_phonemes_of_the_bare_network(results: Results) -> None:
    assert len(results.served) == PROMPTS
    assert results.served == results.bare


def test_phoneme_error_rate_is_that_of_the_bare_network(results: Results) -> None:
    served, bare, whole = (
        error_rate(results.reference, each) for each in (results.served, results.bare, results.bare_whole)
    )
    print(f"phoneme error rate: served {served:.2%}, bare {bare:.2%}, bare on whole recordings {whole:.2%}")
    assert served == bare
    assert abs(served - whole) < RATE_OF_CUTS
    assert 0.05 < served < LARGEST_RATE


def test_import_states_what_the_network_cannot_do(results: Results) -> None:
    assert "Padding changes the results of this network" in results.notes
    assert "does not compile for Turing" in results.notes
