"""Speech synthesis: seeded plans of utterances, spoken in parallel processes into shards of features."""

import json
import random
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from shutil import which

import numpy as np
import soundfile
from numpy.random import Generator
from numpy.typing import NDArray
from rich.progress import track
from scipy import signal

from training import corpus, espeak, voices
from training.augment import Samples, degrade, scale
from training.corpus import Sentence
from training.errors import MissingProgramError
from training.features import HOP_MS, SAMPLE_RATE_HZ, WINDOW_MS, log_mel
from training.voices import Voice

PROGRAMS = ("espeak-ng", "flite")
EVALUATION_PROGRAMS = ("festival", "text2wave")
FESTIVAL_VOICE_PACKAGE = "festvox-kdlpc16k"
EVALUATION_PARTS = ("grammar", "prose", "voices", "noisy")
WORDS_PER_MINUTE = (130, 215)
PITCH_JITTER = 4
FLITE_SHARE = 0.08
TWO_SPEAKERS_SHARE = 0.05
LIBRARY_SHARE = 0.7
# Shares of the third set: sentences of prose, and utterances by a speaker of the first set.
MEETINGS_PROSE_SHARE, KNOWN_VOICE_SHARE = 0.2, 0.5
# Range of the duration factor of flite and festival.
STRETCH = (0.85, 1.2)
# Numbers of sentences in one utterance, repeated by frequency.
SENTENCE_COUNTS = (1, 1, 1, 1, 2, 2, 2, 3, 3, 4)
LONGEST_WORDS = 45
PAUSE_SECONDS = (0.1, 0.8)
EDGE_SECONDS = (0.05, 0.5)
UNKNOWN_PHONEME = "?"
SILENCE = "_"


@dataclass(frozen=True, kw_only=True, slots=True)
class Utterance:
    """One example: sentences, the voice of each, and the seed of its random rate, pitch and degradation."""

    part: str
    seed: int
    sentences: tuple[Sentence, ...]
    voices: tuple[Voice, ...]
    degraded: bool

    @property
    def text(self) -> str:
        """Return the transcript."""
        return " ".join(one.text for one in self.sentences)

    @property
    def speaker(self) -> str:
        """Return the speaker's name, or "" when there are two speakers."""
        names = {voice.speaker for voice in self.voices}
        return names.pop() if len(names) == 1 else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Speech:
    """Samples at 16 kHz and the start in seconds of every phoneme."""

    samples: Samples
    phonemes: tuple[tuple[float, str], ...]


def plan(count: int, evaluation_count: int, seed: int) -> tuple[Utterance, ...]:
    """Draw the utterances of training and of each development part; the same seed draws the same."""
    source = random.Random(seed)
    training = [_training_utterance(source) for _ in range(count)]
    evaluation = [_evaluation_utterance(part, source) for part in EVALUATION_PARTS for _ in range(evaluation_count)]
    return (*evaluation, *training)


def library_plan(sentences: Sequence[Sentence], count: int, seed: int) -> tuple[Utterance, ...]:
    """Draw the second set of training: mostly sentences of the libraries, in more mixtures of accent and voice."""
    source = random.Random(f"{seed} library")
    return tuple(_library_utterance(sentences, source) for _ in range(count))


def meetings_plan(count: int, seed: int) -> tuple[Utterance, ...]:
    """Draw the third set of training: mostly sentences of meetings, without words in random order."""
    source = random.Random(f"{seed} meetings")
    return tuple(_meetings_utterance(source) for _ in range(count))


def require_programs(programs: Sequence[str] = PROGRAMS) -> None:
    """Raise MissingProgramError unless the synthesisers are installed."""
    for program in programs:
        if which(program) is None:
            raise MissingProgramError(program)


def require_all_programs() -> None:
    """Raise MissingProgramError unless festival, which only the evaluation uses, and its voice are installed too."""
    require_programs((*PROGRAMS, *EVALUATION_PROGRAMS))
    # text2wave exits with 0 and writes no file when it does not know a voice.
    (voice,) = voices.festival_voices()
    command = ["festival", "-b", f"(exit (if (member '{voice.name.removeprefix('voice_')} (voice.list)) 0 1))"]
    if subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
        raise MissingProgramError(FESTIVAL_VOICE_PACKAGE)


def write_shards(
    utterances: Sequence[Utterance], folder: Path, *, shard_size: int, processes: int, name: str = "shard"
) -> None:
    """Synthesise a plan into numbered shards; existing shards are kept, so that a killed run resumes."""
    require_programs()
    folder.mkdir(parents=True, exist_ok=True)
    shards = [
        (folder / f"{name}-{start // shard_size:04d}", utterances[start : start + shard_size])
        for start in range(0, len(utterances), shard_size)
    ]
    missing = [shard for shard in shards if not shard[0].exists()]
    # One process for each shard: espeak-ng keeps state between texts, and a shard must not depend on another.
    with get_context("spawn").Pool(processes, maxtasksperchild=1) as pool:
        done = pool.imap_unordered(_write_shard, missing, chunksize=1)
        for _ in track(done, description="speaking", total=len(missing)):
            pass


def speak(text: str, voice: Voice, source: Generator) -> Speech:
    """Synthesise one sentence at a random rate and slightly random pitch, at 16 kHz, at the synthesiser's level."""
    return _SYNTHESISERS[voice.synthesiser](text, voice, source)


def render(utterance: Utterance) -> Speech:
    """Synthesise an utterance, and degrade it if planned."""
    source = np.random.default_rng(utterance.seed)
    speech = join(utterance.sentences, utterance.voices, source)
    samples = degrade(speech.samples, source) if utterance.degraded else scale(speech.samples, -6.0)
    return Speech(samples=samples, phonemes=speech.phonemes)


def join(sentences: Sequence[Sentence], speakers: Sequence[Voice], source: Generator) -> Speech:
    """Synthesise sentences, each with its voice and at full level, with pauses between them and silence around."""
    pieces: list[NDArray[np.float32]] = []
    phonemes: list[tuple[float, str]] = [(0.0, SILENCE)]
    position = 0
    for index, (one, voice) in enumerate(zip(sentences, speakers, strict=True)):
        pause = silence(source.uniform(*(PAUSE_SECONDS if index else EDGE_SECONDS)))
        speech = speak(one.spoken, voice, source)
        position += len(pause)
        phonemes += [(start + position / SAMPLE_RATE_HZ, name) for start, name in speech.phonemes]
        position += len(speech.samples)
        phonemes.append((position / SAMPLE_RATE_HZ, SILENCE))
        pieces += [pause, scale(speech.samples, 0.0)]
    pieces.append(silence(source.uniform(*EDGE_SECONDS)))
    return Speech(samples=np.concatenate(pieces), phonemes=tuple(phonemes))


def silence(seconds: float) -> NDArray[np.float32]:
    """Return digital silence of a duration."""
    return np.zeros(int(seconds * SAMPLE_RATE_HZ), dtype=np.float32)


def resample(samples: NDArray[np.float32], rate_hz: int) -> NDArray[np.float32]:
    """Return samples at 16 kHz."""
    if rate_hz == SAMPLE_RATE_HZ:
        return samples
    return np.asarray(signal.resample_poly(samples, SAMPLE_RATE_HZ, rate_hz), dtype=np.float32)


def frame_labels(phonemes: Sequence[tuple[float, str]], frames: int, inventory: dict[str, int]) -> NDArray[np.uint8]:
    """Return the phoneme at the middle of each feature frame, as numbers of `inventory`, which grows as needed."""
    numbers = [inventory.setdefault(name, len(inventory)) for _, name in phonemes]
    middles = (np.arange(frames) * HOP_MS + WINDOW_MS / 2) / 1000.0
    which_phoneme = np.searchsorted([start for start, _ in phonemes], middles, side="right") - 1
    return np.asarray([numbers[each] for each in np.maximum(which_phoneme, 0)], dtype=np.uint8)


def _training_utterance(source: random.Random) -> Utterance:
    sentences = _sentences(source, lambda: _training_sentence(source))
    pool = voices.flite_voices() if source.random() < FLITE_SHARE else voices.training_voices()
    speakers = [source.choice(pool)] * len(sentences)
    if source.random() < TWO_SPEAKERS_SHARE:
        speakers = [source.choice(pool) for _ in sentences]
    return _utterance("train", source, sentences, speakers, degraded=True)


def _library_utterance(candidates: Sequence[Sentence], source: random.Random) -> Utterance:
    def draw() -> Sentence:
        return source.choice(candidates) if source.random() < LIBRARY_SHARE else _training_sentence(source)

    sentences = _sentences(source, draw)
    voice = source.choice(voices.flite_voices()) if source.random() < FLITE_SHARE else voices.any_voice(source)
    return _utterance("library", source, sentences, [voice] * len(sentences), degraded=True)


def _meetings_utterance(source: random.Random) -> Utterance:
    def draw() -> Sentence:
        if source.random() < MEETINGS_PROSE_SHARE:
            return corpus.draw(source, corpus.prose(), held_out=False)
        return corpus.draw_from_grammar(source, held_out=False)

    sentences = _sentences(source, draw)
    if source.random() < FLITE_SHARE:
        voice = source.choice(voices.flite_voices())
    elif source.random() < KNOWN_VOICE_SHARE:
        voice = source.choice(voices.training_voices())
    else:
        voice = voices.any_voice(source)
    return _utterance("meetings", source, sentences, [voice] * len(sentences), degraded=True)


def _sentences(source: random.Random, draw: Callable[[], Sentence]) -> list[Sentence]:
    """Draw one to four sentences, and drop those that would make the utterance too long."""
    sentences: list[Sentence] = []
    for _ in range(source.choice(SENTENCE_COUNTS)):
        one = draw()
        if sum(len(each.text.split()) for each in (*sentences, one)) <= LONGEST_WORDS:
            sentences.append(one)
    return sentences


def _training_sentence(source: random.Random) -> Sentence:
    kind = source.random()
    if kind < 0.12:
        return corpus.word_salad(source)
    if kind < 0.40:
        return corpus.draw(source, corpus.prose(), held_out=False)
    return corpus.draw_from_grammar(source, held_out=False)


def held_out_sentences(source: random.Random, *, prose: bool) -> list[Sentence]:
    """Draw held-out sentences: one of prose, or one or two of the grammar."""
    if prose:
        return [corpus.draw(source, corpus.prose(), held_out=True)]
    return [corpus.draw_from_grammar(source, held_out=True) for _ in range(source.choice((1, 1, 2)))]


def _evaluation_utterance(part: str, source: random.Random) -> Utterance:
    sentences = held_out_sentences(source, prose=part == "prose")
    pool: tuple[Voice, ...] = voices.training_voices()
    if part == "voices":
        unseen = voices.held_out_voices()
        pool = (*unseen, *[voices.held_out_flite_voice()] * (len(unseen) // 9))
    return _utterance(part, source, sentences, [source.choice(pool)] * len(sentences), degraded=part == "noisy")


def _utterance(
    part: str, source: random.Random, sentences: list[Sentence], speakers: list[Voice], *, degraded: bool
) -> Utterance:
    return Utterance(
        part=part,
        seed=source.getrandbits(32),
        sentences=tuple(sentences),
        voices=tuple(speakers),
        degraded=degraded,
    )


def _write_shard(shard: tuple[Path, Sequence[Utterance]]) -> None:
    path, utterances = shard
    inventory: dict[str, int] = {UNKNOWN_PHONEME: 0}
    features, labels, index = [], [], []
    for utterance in utterances:
        speech = render(utterance)
        features.append(log_mel(speech.samples))
        labels.append(frame_labels(speech.phonemes, len(features[-1]), inventory))
        index.append({"part": utterance.part, "text": utterance.text, "speaker": utterance.speaker,
                      "frames": len(features[-1]), "plan": asdict(utterance)["voices"]})  # fmt: skip
    partial_path = path.with_suffix(".partial")
    partial_path.mkdir(exist_ok=True)
    np.save(partial_path / "features.npy", np.concatenate(features))
    np.save(partial_path / "labels.npy", np.concatenate(labels))
    (partial_path / "index.json").write_text(json.dumps({"phonemes": list(inventory), "utterances": index}))
    partial_path.rename(path)


def _espeak(text: str, voice: Voice, source: Generator) -> Speech:
    spoken = espeak.speak(
        text,
        voice.name,
        words_per_minute=int(source.integers(*WORDS_PER_MINUTE)),
        pitch=voice.pitch + int(source.integers(-PITCH_JITTER, PITCH_JITTER + 1)),
        pitch_range=int(source.integers(30, 71)),
    )
    return Speech(samples=resample(spoken.samples, spoken.rate_hz), phonemes=spoken.phonemes)


def _flite(text: str, voice: Voice, source: Generator) -> Speech:
    stretch = f"duration_stretch={source.uniform(*STRETCH):.2f}"
    return _by_program(lambda path: ["flite", "-voice", voice.name, "--setf", stretch, "-t", text, "-o", path])


def _festival(text: str, voice: Voice, source: Generator) -> Speech:
    chosen = f"(begin ({voice.name}) (Parameter.set 'Duration_Stretch {source.uniform(*STRETCH):.2f}))"
    return _by_program(lambda path: ["text2wave", "-eval", chosen, "-o", path], text)


def _by_program(command: Callable[[str], list[str]], text: str = "") -> Speech:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        subprocess.run(
            command(str(path)), input=text.encode(), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        samples, rate_hz = soundfile.read(path, dtype="float32")
    return Speech(samples=resample(samples, rate_hz), phonemes=((0.0, UNKNOWN_PHONEME),))


_SYNTHESISERS = {"espeak": _espeak, "flite": _flite, "festival": _festival}
