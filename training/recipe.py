"""The numbers of the recipe, in one place."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What decides the weights, apart from the code; `minutes` are of training, after the data are made."""

    out: Path
    weights: Path = Path("export/checkpoints/reference/standard")
    seed: int = 20_261_122
    utterances: int = 12_000
    evaluation_utterances: int = 150
    shard_size: int = 250
    processes: int = 2
    vocabulary: int = 256
    recogniser_minutes: float = 50.0
    spelling_minutes: float = 18.0
    speakers_minutes: float = 6.0
    peak_learning_rate: float = 1.5e-3
    warm_up_steps: int = 300
    # Padded feature frames in the batch of one process.
    batch_frames: int = 3600

    @property
    def shards(self) -> Path:
        """Where the features lie."""
        return self.out / "shards"

    @property
    def figures(self) -> Path:
        """Where every stage leaves what it measured."""
        return self.weights / "figures.json"

    @property
    def log(self) -> Path:
        """Where every stage writes what it reports."""
        return self.out / "training.log"


def smoke(out: Path) -> Recipe:
    """Give a recipe of a minute that proves the path and nothing else."""
    return Recipe(
        out=out,
        weights=out / "weights",
        utterances=300,
        evaluation_utterances=8,
        shard_size=100,
        recogniser_minutes=0.4,
        spelling_minutes=0.2,
        speakers_minutes=0.2,
    )
