"""The training of the speaker network, and of the similarity from which two windows count as one speaker."""

import itertools
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress as ProgressBar
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional

from demo.scores import pair_error_rate
from export.checkpoints import reference
from export.checkpoints.roles import speaker_spec, windowed
from export.networks.speaker_encoder import SpeakerEncoder
from training import curves, dataset, recordings, reporting, schedule
from training.augment import Samples
from training.dataset import Example
from training.features import SAMPLE_RATE_HZ, log_mel
from training.recipe import Point, Recipe
from training.recordings import Turn
from transcriber.clustering import NO_LIMITS, Speech, find_voices
from transcriber.segments import Segment, split
from transcriber.speakers import Window, speech_of, window_bounds, windows_of

FRAMES_PER_SECOND = 100
CROP_SECONDS = (1.0, 4.0)
BATCH_SIZE = 96
PEAK_LEARNING_RATE = 2.0e-3
WARM_UP_STEPS = 100
# Additive angular margin softmax (arXiv:1801.07698); the margin grows from zero over this share of the training.
SCALE, MARGIN, MARGIN_SHARE = 30.0, 0.2, 0.3
AVERAGE_DECAY = 0.995
# Random level change of a whole crop, at most this much, in nepers of power.
LEVEL_SHIFT = 2.0
EQUAL_ERROR_SECONDS = (1.5, 3.0)
DIALOGUES = 40
# Thresholds that are tried, and the accuracy of clusters below the best one that counts as equal.
THRESHOLDS, EQUAL_ACCURACY = np.arange(0.05, 0.99, 0.05), 0.01
# The windows of the networks that are exported.
WINDOWS = speaker_spec(0.0)
Speakers = Mapping[str, Sequence[Example]]


class Margin(nn.Module):
    """The classifier of training: cosine to the centre of each speaker, with an additive angular margin."""

    def __init__(self, size: int, speakers: int) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(speakers, size))

    def forward(self, embeddings: Tensor, speakers: Tensor, margin: float) -> Tensor:
        """Return the mean loss of unit embeddings [batch, size] with their speaker numbers [batch]."""
        cosine = functional.linear(embeddings, functional.normalize(self.centres, dim=-1)).clamp(-0.9999, 0.9999)
        target = torch.cos(torch.acos(cosine) + margin)
        is_speaker = functional.one_hot(speakers, len(self.centres)).bool()
        return functional.cross_entropy(SCALE * torch.where(is_speaker, target, cosine), speakers)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DevelopmentDialogue:
    """A dialogue in windows as the transcriber makes them: the true speaker of each window, and the speech."""

    speakers: tuple[str, ...]
    speech: Speech


def train(recipe: Recipe) -> None:
    """Train the network of every point; see train_point."""
    for point in recipe.points:
        train_point(recipe, point)
    curves.plot(recipe)


def train_point(recipe: Recipe, point: Point) -> None:
    """Train for the point's minutes, choose the threshold, save, and record the figures of the saved FP16 weights."""
    logger = reporting.open_log(recipe)
    torch.set_num_threads(recipe.processes)
    torch.manual_seed(recipe.seed)
    data = dataset.load(recipe)
    known, unknown = by_speaker(data.part("train")), by_speaker(data.part("voices"))
    network, steps = _fit(recipe, point, data.part("train"), known)
    path = recipe.weights / point.name / "diar.safetensors"
    reference.save(path, "diarization", network, {})
    network, _ = reference.load(path)
    threshold, figures = choose_threshold(network, recipe.seed, min(DIALOGUES, recipe.recordings))
    reference.save(path, "diarization", network, {"same_speaker_similarity": f"{threshold:.2f}"})
    for seconds in EQUAL_ERROR_SECONDS:
        figures[f"equal_error_{int(1000 * seconds)}_ms"] = equal_error(network, unknown, seconds, recipe.seed)
    figures |= {
        "minutes": round(point.speakers_minutes, 1),
        "steps": steps,
        "speakers": len(known),
        "unseen": len(unknown),
    }
    figures["same_speaker_similarity"] = round(threshold, 2)
    logger.info("speaker network, %s: %s", point.name, figures)
    reporting.record(recipe, f"speakers_{point.name}", figures)


def by_speaker(examples: Sequence[Example]) -> Speakers:
    """Group the examples that have a single speaker by speaker."""
    ordered = sorted((example for example in examples if example.speaker), key=lambda example: example.speaker)
    return {name: list(group) for name, group in itertools.groupby(ordered, key=lambda example: example.speaker)}


def crop(example: Example, frames: int, source: random.Random) -> NDArray[np.float16]:
    """Return a random crop of an example, or the whole example when it is shorter.

    The quarter of a second at each end, which may be silence, is left out where enough remains.
    """
    spare = len(example.features) - frames
    edge = FRAMES_PER_SECOND // 4 if spare > FRAMES_PER_SECOND // 2 else 0
    first = source.randint(edge, spare - edge) if spare > 0 else 0
    return example.features[first : first + frames]


@torch.inference_mode()
def embed(network: nn.Module, crops: Sequence[NDArray[np.float16]]) -> NDArray[np.float32]:
    """Return the embeddings of crops, FP32 [crops, E]."""
    embedded = []
    for start in range(0, len(crops), BATCH_SIZE):
        features, lengths = dataset.pad(crops[start : start + BATCH_SIZE])
        embedded.append(network(torch.from_numpy(features), torch.from_numpy(lengths)).numpy())
    return np.concatenate(embedded)


def equal_error(network: nn.Module, speakers: Speakers, seconds: float, seed: int) -> float:
    """Return the equal error rate of a speaker network over all pairs of different utterances."""
    source = random.Random(seed)
    frames = int(seconds * FRAMES_PER_SECOND)
    long_enough = [
        (name, example) for name, group in speakers.items() for example in group if len(example.features) >= frames
    ]
    embeddings = embed(network, [crop(example, frames, source) for _, example in long_enough])
    return pair_error_rate(embeddings, [name for name, _ in long_enough])


def choose_threshold(network: nn.Module, seed: int, count: int) -> tuple[float, dict[str, float]]:
    """Return the similarity that clusters development dialogues of two to four speakers best, and its figures.

    The figures are the share of windows in the right cluster and the share of dialogues with the right number of
    speakers. Dialogues are segmented and clustered as by the transcriber, changes of speaker within windows included.
    """
    source = random.Random(f"{seed} development dialogues")
    dialogues = [embed_dialogue(network, *recordings.dialogue(source)) for _ in range(count)]
    results = {threshold: _cluster_all(dialogues, threshold) for threshold in THRESHOLDS.tolist()}
    best = max(accuracy for accuracy, _ in results.values())
    good = [threshold for threshold, (accuracy, _) in results.items() if accuracy >= best - EQUAL_ACCURACY]
    # Of several thresholds that are equally good, the middle one is the most robust.
    chosen = good[len(good) // 2]
    return chosen, {"clustering_accuracy": results[chosen][0], "right_speaker_count": results[chosen][1]}


def embed_dialogue(network: nn.Module, samples: Samples, turns: Sequence[Turn]) -> DevelopmentDialogue:
    """Segment a dialogue at 16 kHz, and embed its windows; a window's speaker is that of most of it."""
    windows, embeddings = list[Window](), list[NDArray[np.float32]]()
    for number, segment in enumerate(split(iter([samples]), sample_rate_hz=SAMPLE_RATE_HZ)):
        found, embedded = embed_segment(network, number, segment)
        windows += found
        embeddings.append(embedded)
    owners = tuple(max(turns, key=lambda turn: _overlap_s(turn, window)).speaker for window in windows)
    return DevelopmentDialogue(speakers=owners, speech=speech_of(windows, np.concatenate(embeddings)))


@torch.inference_mode()
def embed_segment(network: Any, number: int, segment: Segment) -> tuple[list[Window], NDArray[np.float32]]:
    """Return the windows of a segment at 16 kHz, and their embeddings FP32 [windows, E] by the network as exported."""
    bounds = window_bounds(segment.samples.size, WINDOWS)
    features, lengths = dataset.pad([log_mel(segment.samples).astype(np.float16)])
    embeddings = windowed(network)(torch.from_numpy(features), torch.from_numpy(lengths))
    return windows_of(number, segment.start_s, bounds, WINDOWS), embeddings[0, : len(bounds)].numpy()


def _overlap_s(turn: Turn, window: Window) -> float:
    return min(turn.end, window.end_s) - max(turn.start, window.start_s)


def clustering_accuracy(truth: Sequence[str], clusters: NDArray[np.int64]) -> float:
    """Return the share of windows that agree with the truth under the best assignment of clusters to speakers."""
    names = sorted(set(truth))
    table = np.zeros((len(names), int(clusters.max()) + 1))
    for name, number in zip(truth, clusters, strict=True):
        table[names.index(name), number] += 1
    rows, columns = linear_sum_assignment(-table)
    return float(table[rows, columns].sum() / len(truth))


def _fit(recipe: Recipe, point: Point, examples: Sequence[Example], speakers: Speakers) -> tuple[nn.Module, int]:
    network, numbers = SpeakerEncoder(point.diarization), {name: index for index, name in enumerate(speakers)}
    mean, deviation = dataset.statistics(examples)
    network.feature_norm.mean.copy_(torch.from_numpy(mean))
    network.feature_norm.deviation.copy_(torch.from_numpy(deviation))
    margin = Margin(network.config.embedding, len(speakers))
    parameters = [*network.parameters(), *margin.parameters()]
    optimiser = torch.optim.AdamW(parameters, weight_decay=0.05, fused=True)
    average = torch.optim.swa_utils.AveragedModel(network, avg_fn=_average, use_buffers=False)
    source, logger = random.Random(recipe.seed), reporting.open_log(recipe)
    budget, start, step, reported = point.speakers_minutes * 60, time.monotonic(), 0, 0.0
    with ProgressBar(transient=True) as bar:
        task = bar.add_task(f"{point.name} speakers", total=budget)
        while (elapsed := time.monotonic() - start) < budget:
            share = elapsed / budget
            for group in optimiser.param_groups:
                group["lr"] = schedule.learning_rate(PEAK_LEARNING_RATE, WARM_UP_STEPS, step, share)
            loss = _step(network, margin, speakers, numbers, source, MARGIN * min(1.0, share / MARGIN_SHARE))
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(parameters, 5.0)
            optimiser.step()
            average.update_parameters(network)
            step += 1
            bar.update(task, completed=elapsed)
            if elapsed - reported > 20:
                reported = elapsed
                logger.info("%s speakers: %.1f min, step %d, loss %.3f", point.name, elapsed / 60, step, loss.item())
                curves.add(recipe, f"{point.name} speakers", elapsed / 60, {"loss": loss.item()})
    return average.module.eval(), step


def _average(average: Tensor, current: Tensor, _: Tensor | int) -> Tensor:
    return average.lerp(current, 1.0 - AVERAGE_DECAY)


def _step(
    network: nn.Module,
    margin: Margin,
    speakers: Speakers,
    numbers: Mapping[str, int],
    source: random.Random,
    angle: float,
) -> Tensor:
    frames = int(source.uniform(*CROP_SECONDS) * FRAMES_PER_SECOND)
    # A batch has more crops when they are short, so that every batch costs about the same.
    names = source.choices(list(speakers), k=int(BATCH_SIZE * 250 / frames))
    features, lengths = dataset.pad([crop(source.choice(speakers[name]), frames, source) for name in names])
    shifts = torch.tensor([source.uniform(-LEVEL_SHIFT, LEVEL_SHIFT) for _ in names])
    embeddings = network(torch.from_numpy(features) + shifts[:, None, None], torch.from_numpy(lengths))
    loss: Tensor = margin(embeddings, torch.tensor([numbers[name] for name in names]), angle)
    return loss


def _cluster_all(dialogues: Sequence[DevelopmentDialogue], threshold: float) -> tuple[float, float]:
    accuracies, counts_right = [], []
    for dialogue in dialogues:
        voices = find_voices(dialogue.speech, threshold, NO_LIMITS)
        accuracies.append(clustering_accuracy(dialogue.speakers, voices))
        counts_right.append(len(set(voices.tolist())) == len(set(dialogue.speakers)))
    return float(np.mean(accuracies)), float(np.mean(counts_right))
