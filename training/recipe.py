"""The numbers of the recipe, in one place."""

from dataclasses import dataclass, replace
from pathlib import Path

from export.networks.body import BodyConfig
from export.networks.decoder import DecoderConfig
from export.networks.diarization import DiarizationConfig
from export.networks.language import LanguageConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """The networks of one operating point, and how long they are trained."""

    name: str
    body: BodyConfig
    decoder: DecoderConfig
    diarization: DiarizationConfig
    recogniser_minutes: float
    speakers_minutes: float
    peak_learning_rate: float
    warm_up_steps: int
    # The n-gram model of the search travels as text, a quarter longer, in every record of the acoustic head.
    ngram_bytes: int
    # The point whose weights the first blocks begin with, and which is trained on within this one; "" begins with
    # random ones and alone.
    begins_with: str = ""


POINTS = (
    Point(
        name="standard",
        body=BodyConfig(layers=5, conditioned=(3,)),
        decoder=DecoderConfig(layers=1),
        diarization=DiarizationConfig(size=128, dilations=(1, 2, 3), attention=48),
        recogniser_minutes=54.0,
        speakers_minutes=15.0,
        peak_learning_rate=1.5e-3,
        warm_up_steps=400,
        ngram_bytes=148_000,
    ),
    Point(
        name="enhanced",
        body=BodyConfig(layers=12, conditioned=(3, 5, 8)),
        decoder=DecoderConfig(layers=2),
        diarization=DiarizationConfig(),
        recogniser_minutes=77.0,
        speakers_minutes=18.0,
        peak_learning_rate=1.0e-3,
        warm_up_steps=200,
        ngram_bytes=500_000,
        begins_with="standard",
    ),
)


LANGUAGE = LanguageConfig(size=128, layers=3, hidden=448)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What decides the weights, apart from the code; `minutes` are of training, after the data are made."""

    out: Path
    weights: Path = Path("export/checkpoints/reference")
    seed: int = 20_261_122
    utterances: int = 12_000
    library_utterances: int = 7_000
    meetings_utterances: int = 6_000
    evaluation_utterances: int = 150
    # Of each of these parts, to find the weights of the rescorers on.
    weighting_utterances: int = 150
    # Of each set that `python -m training evaluation` writes.
    recordings: int = 160
    shard_size: int = 250
    processes: int = 2
    vocabulary: int = 256
    points: tuple[Point, ...] = POINTS
    language: LanguageConfig = LANGUAGE
    language_minutes: float = 36.0
    # Sentences of the grammar that the n-gram model is counted on; prose and documentation are what they are.
    ngram_sentences: int = 60_000
    # Padded feature frames in the batch of one process.
    batch_frames: int = 3000
    # What a killed run loses at most, in seconds.
    checkpoint_seconds: float = 60.0
    demo: Path = Path("demo")
    # Where `python -m training evaluation` writes its sets.
    evaluation: Path = Path("dist/accuracy/recordings")

    @property
    def shards(self) -> Path:
        """Where the features lie."""
        return self.out / "shards"

    @property
    def library(self) -> Path:
        """Where the sentences of the libraries' documentation lie."""
        return self.out / "library.txt"

    @property
    def tokenizer(self) -> Path:
        """The tokenizer that both points share."""
        return self.weights / "tokenizer.model"

    def ngram(self, point: Point) -> Path:
        """Say where the n-gram model of a point's search lies."""
        return self.weights / point.name / "am_en.ngram"

    @property
    def figures(self) -> Path:
        """Where every stage leaves what it measured."""
        return self.weights / "figures.json"

    @property
    def log(self) -> Path:
        """Where every stage writes what it reports."""
        return self.out / "training.log"

    @property
    def curves(self) -> Path:
        """Where every stage writes its losses, a JSON object a line."""
        return self.out / "curves.jsonl"

    @property
    def minutes(self) -> float:
        """Training time of all networks together."""
        return self.language_minutes + sum(point.recogniser_minutes + point.speakers_minutes for point in self.points)

    def point(self, name: str) -> Point:
        """Give the operating point of a name."""
        return next(point for point in self.points if point.name == name)

    def lasting(self, minutes: float) -> "Recipe":
        """Share out another training time between the networks as this recipe shares its own."""
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
    """Give a recipe of minutes that proves the path and nothing else, and writes nothing outside `out`."""
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
    return replace(recipe, points=points).lasting(1.5)
