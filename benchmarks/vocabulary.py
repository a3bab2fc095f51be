"""python -m benchmarks.vocabulary: made-up names with and without a vocabulary, and the cost where there are no names.

Sentences of meetings, held out from the training, in which made-up names replace those of persons. Voices of the
training speak them. Everything runs through the embedded server and the transcriber's own pipeline.
"""

import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
import soundfile
from rich.progress import track

from benchmarks import recordings
from benchmarks.accuracy.measure import operating_points, rate
from benchmarks.accuracy.results import Rate
from benchmarks.recordings import LabelledRecording, RecordingSet
from benchmarks.server import ensure_bundle, served
from contract import command_line, files
from contract.access import from_environment
from demo.scores import word_errors
from training import augment, corpus, synthesis, voices
from training.features import SAMPLE_RATE_HZ
from transcriber import pipeline
from transcriber.audio import Recording
from transcriber.connection import Connection
from transcriber.phrases import MOST_PHRASES, Phrase
from transcriber.recogniser import Recogniser
from transcriber.triton_recogniser import TritonRecogniser

FOLDER, RESULTS = Path("dist/benchmarks/vocabulary"), Path("dist/benchmarks/vocabulary.json")
NAMES, SENTENCES, OTHERS = 40, 120, 120
CONCURRENCY = 4
_ONSETS = (*"bdfgjklmnprstvz", "br", "dr", "gr", "kr", "st", "tr")
_VOWELS = ["a", "e", "i", "o", "u"]
_CODAS = ["k", "l", "m", "n", "r", "s", "t", "x", "nd", "rk"]
_PERSON = re.compile(r"\b(" + "|".join(corpus.read_grammar()["person"]) + r")\b")


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """The word errors of a set, and the share of its names that were found; None for a set without names."""

    words: Rate
    found: float | None


def make_names(count: int, seed: int) -> tuple[str, ...]:
    """Return different made-up names of two or three syllables, none of which is a word of the grammar."""
    source, known = random.Random(seed), set(corpus.vocabulary())  # noqa: S311 - not a secret
    names: dict[str, None] = {}
    while len(names) < count:
        syllables = [source.choice(_ONSETS) + source.choice(_VOWELS) for _ in range(source.choice((2, 3)))]
        name = "".join(syllables) + source.choice(_CODAS)
        if name not in known:
            names[name.capitalize()] = None
    return tuple(names)


def synthesise(folder: Path, names: Sequence[str]) -> RecordingSet:
    """Write the recordings, and return them; each has one made-up name."""
    source, found = random.Random(11), []  # noqa: S311 - not a secret
    folder.mkdir(parents=True, exist_ok=True)
    for number in track(range(SENTENCES), "names"):
        spoken = _PERSON.sub(names[number % len(names)], _sentence_with_person(source), count=1)
        voice = source.choice(voices.training_voices())
        sentence = corpus.sentence(spoken)
        speech = synthesis.join([sentence], [voice], np.random.default_rng(source.getrandbits(32)))
        path = folder / f"{number:03d}.flac"
        soundfile.write(path, augment.scale(speech.samples, -6.0), SAMPLE_RATE_HZ, subtype="PCM_16")
        seconds = speech.samples.size / SAMPLE_RATE_HZ
        found.append(LabelledRecording(path=path, text=sentence.text, speaker=voice.speaker, seconds=seconds))
    return RecordingSet(name="names", description="meetings with made-up names", recordings=tuple(found))


def _sentence_with_person(source: random.Random) -> str:
    while True:
        spoken = corpus.draw_from_grammar(source, held_out=True).spoken
        if len(_PERSON.findall(spoken)) == 1 and len(spoken.split()) > 3:
            return spoken


def measure(chosen: Sequence[RecordingSet], names: Sequence[str]) -> dict[str, dict[str, dict[str, Score]]]:
    """Return the scores by operating point, set and vocabulary."""
    others = [name for name in make_names(2 * MOST_PHRASES, 5) if name not in names]
    vocabularies = {
        "none": (),
        f"the {len(names)} names": tuple(names),
        f"{MOST_PHRASES} names": (*names, *others[: MOST_PHRASES - len(names)]),
    }
    with served("dist/benchmarks/repository-vocabulary") as endpoint:
        return {
            point: {
                one.name: {
                    title: score(recogniser, one, [Phrase(content=name) for name in vocabulary], names)
                    for title, vocabulary in vocabularies.items()
                }
                for one in chosen
            }
            for point, recogniser in operating_points(Connection(endpoint, access=from_environment()), TritonRecogniser)
        }


def score(recogniser: Recogniser, chosen: RecordingSet, vocabulary: Sequence[Phrase], names: Sequence[str]) -> Score:
    """Transcribe a set with a vocabulary, and count wrong words and the names that were found."""
    plan = pipeline.Plan(speakers=False, vocabulary=tuple(vocabulary))

    def text(one: LabelledRecording) -> str:
        turns = pipeline.transcribe(Recording(one.path), recogniser, plan).transcript.turns
        return " ".join(turn.text for turn in turns).lower()

    with ThreadPoolExecutor(CONCURRENCY) as pool:
        texts = list(pool.map(text, chosen.recordings))
    wrong = np.array([word_errors(one.text, found) for one, found in zip(chosen.recordings, texts, strict=True)])
    lengths = np.array([len(one.text.split()) for one in chosen.recordings])
    known = {name.lower() for name in names}
    wanted = [known & set(one.text.split()) for one in chosen.recordings]
    total = sum(map(len, wanted))
    right = sum(len(each & set(found.split())) for each, found in zip(wanted, texts, strict=True))
    return Score(words=rate(wrong, lengths), found=right / total if total else None)


def table(results: Mapping[str, Mapping[str, Mapping[str, Score]]]) -> Iterator[str]:
    """Yield the lines of a Markdown table; rates in percent, with half the width of their 95 % interval."""
    yield "| point | set | vocabulary | names found | words wrong |"
    yield "|---|---|---|---|---|"
    for point, sets in results.items():
        for name, scores in sets.items():
            for title, each in scores.items():
                found = "" if each.found is None else f"{100 * each.found:.0f} %"
                half = 50 * (each.words.upper - each.words.lower)
                yield f"| {point} | {name} | {title} | {found} | {100 * each.words.rate:.1f} ± {half:.1f} |"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--recordings", "folder", type=click.Path(path_type=Path), default=recordings.FOLDER, show_default=True,
              help="Folder of the sets that `python -m training evaluation` writes.")  # fmt: skip
@command_line.verbose_option()
def command(folder: Path) -> None:
    """Measure a vocabulary on made-up names, and on sets without them."""
    plain = [recordings.load(folder, name, OTHERS) for name in ("grammar", "prose")]
    names = make_names(NAMES, 3)
    ensure_bundle()
    results = measure([synthesise(FOLDER, names), *plain], names)
    written = {
        point: {one: {title: asdict(each) for title, each in scores.items()} for one, scores in sets.items()}
        for point, sets in results.items()
    }
    files.write(RESULTS, json.dumps(written, indent=2) + "\n")
    print("\n".join(table(results)), f"\n{RESULTS}", sep="\n")


if __name__ == "__main__":
    command_line.run(command)
