"""The recipe: every number that determines the data and the training."""

from dataclasses import dataclass, replace
from pathlib import Path

from export.networks.conformer_encoder import ConformerEncoderConfig
from export.networks.decoder import DecoderConfig
from export.networks.speaker_encoder import SpeakerEncoderConfig
from export.networks.transformer_lm import TransformerLmConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """The networks of one operating point, and the duration of their training."""

    name: str
    body: ConformerEncoderConfig
    decoder: DecoderConfig
    diarization: SpeakerEncoderConfig
    recogniser_minutes: float
    speakers_minutes: float
    peak_learning_rate: float
    warm_up_steps: int
    # Size of the search's n-gram model. Every record of the acoustic head contains it as text, a quarter longer.
    ngram_bytes: int
    # The point whose weights the first blocks start from, and whose training continues within this one; "" starts from
    # random weights, alone.
    starts_from: str = ""


POINTS = (
    Point(
        name="standard",
        body=ConformerEncoderConfig(layers=5, conditioned=(3,)),
        decoder=DecoderConfig(layers=1),
        diarization=SpeakerEncoderConfig(size=128, dilations=(1, 2, 3), attention=48),
        recogniser_minutes=54.0,
        speakers_minutes=15.0,
        peak_learning_rate=1.5e-3,
        warm_up_steps=400,
        ngram_bytes=148_000,
    ),
    Point(
        name="enhanced",
        body=ConformerEncoderConfig(layers=12, conditioned=(3, 5, 8)),
        decoder=DecoderConfig(layers=2),
        diarization=SpeakerEncoderConfig(),
        recogniser_minutes=77.0,
        speakers_minutes=18.0,
        peak_learning_rate=1.0e-3,
        warm_up_steps=200,
        ngram_bytes=500_000,
        starts_from="standard",
    ),
)


LANGUAGE = TransformerLmConfig(size=128, layers=3, hidden=448)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """The numbers that determine the weights, apart from the code; `minutes` exclude the making of the data."""

    out: Path
    weights: Path = Path("export/checkpoints/reference")
    seed: int = 20_261_122
    utterances: int = 12_000
    library_utterances: int = 7_000
    meetings_utterances: int = 6_000
    evaluation_utterances: int = 150
    # Utterances of each development part on which the weights of the rescorers are tuned.
    weighting_utterances: int = 150
    # Recordings of each set that `python -m training evaluation` writes.
    recordings: int = 160
    shard_size: int = 250
    processes: int = 2
    vocabulary: int = 256
    points: tuple[Point, ...] = POINTS
    language: TransformerLmConfig = LANGUAGE
    language_minutes: float = 36.0
    # Sentences of the grammar that the n-gram model is counted on, in addition to all prose and documentation.
    ngram_sentences: int = 60_000
    # Padded feature frames in a batch of one process.
    batch_frames: int = 3000
    # The training time that a killed run loses at most.
    checkpoint_seconds: float = 60.0
    demo: Path = Path("demo")
    # Folder of the sets that `python -m training evaluation` writes.
    evaluation: Path = Path("dist/accuracy/recordings")

    @property
    def shards(self) -> Path:
        """Return the folder of the features."""
        return self.out / "shards"

    @property
    def library(self) -> Path:
        """Return the file of the sentences of the libraries' documentation."""
        return self.out / "library.txt"

    @property
    def tokenizer(self) -> Path:
        """Return the path of the tokenizer, which both points share."""
        return self.weights / "tokenizer.model"

    def ngram(self, point: Point) -> Path:
        """Return the path of the n-gram model of a point's search."""
        return self.weights / point.name / "am_en.ngram"

    @property
    def figures(self) -> Path:
        """Return the file of the figures of every stage."""
        return self.weights / "figures.json"

    @property
    def log(self) -> Path:
        """Return the log file of every stage."""
        return self.out / "training.log"

    @property
    def curves(self) -> Path:
        """Return the file of the losses of every stage, one JSON object per line."""
        return self.out / "curves.jsonl"

    @property
    def minutes(self) -> float:
        """Return the training time of all networks together."""
        return self.language_minutes + sum(point.recogniser_minutes + point.speakers_minutes for point in self.points)

    def point(self, name: str) -> Point:
        """Return the operating point of a name."""
        return next(point for point in self.points if point.name == name)

    def with_minutes(self, minutes: float) -> "Recipe":
        """Return the recipe with another total training time, split between the networks in the same proportions."""
        factor = minutes / self.minutes
        points = tuple(
            replace(
                point,
                recogniser_minutes=point.recogniser_minutes * factor,
                speakers_minutes=point.speakers_minutes * factor,
            )
            for point in self.points
        )
        return replace(self, points=points, language_minutes=self.language_minutes * factor)


def smoke(out: Path) -> Recipe:
    """Return a recipe that runs every stage within minutes, as a test, and writes nothing outside `out`."""
    recipe = Recipe(
        out=out,
        weights=out / "weights",
        demo=out / "demo",
        evaluation=out / "recordings",
        utterances=300,
        library_utterances=100,
        meetings_utterances=100,
        evaluation_utterances=24,
        weighting_utterances=2,
        ngram_sentences=500,
        recordings=3,
        shard_size=50,
        checkpoint_seconds=5.0,
    )
    points = tuple(replace(point, ngram_bytes=20_000) for point in recipe.points)
    return replace(recipe, points=points).with_minutes(1.5)
