"""The language model, trained on text alone: the grammar, prose, and the documentation of libraries, mixed.

A model trained on the grammar alone makes prose worse, and one trained on prose alone lacks the words of meetings.
"""

import itertools
import math
import random
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.checkpoints import reference
from export.networks.reserved_tokens import BOUNDARY
from export.networks.transformer_lm import TransformerLm
from training import corpus, curves, reporting, schedule, synthesis
from training.batch import IGNORED, next_tokens
from training.recipe import Recipe
from training.tokenizer import Tokenizer
from training.trainer import LARGEST_GRADIENT

GRAMMAR_SHARE, PROSE_SHARE = 0.4, 0.3
BATCH_SIZE, POOL_BATCHES = 48, 12
PEAK_LEARNING_RATE = 2.0e-3
WARM_UP_STEPS = 100
AVERAGE_DECAY = 0.995
HELD_OUT_TEXTS = 300
# The loss is logged every so many steps.
REPORT_STEPS = 100


def train(recipe: Recipe) -> None:
    """Train for the recipe's minutes, save, and record the perplexity of held-out text."""
    logger = reporting.open_log(recipe)
    torch.manual_seed(recipe.seed)
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pieces = Tokenizer(recipe.tokenizer)
    network = TransformerLm(recipe.language).to(device).train()
    average = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    optimiser = torch.optim.AdamW(network.parameters(), betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    batches = _batches(recipe, pieces)
    # The first batch reads whole libraries of text, before the training time starts.
    first = next(batches)
    began, budget, step, seen = time.monotonic(), recipe.language_minutes * 60, 0, 0
    for tokens, lengths in itertools.chain([first], batches):
        share = (time.monotonic() - began) / budget
        if share >= 1.0:
            break
        for group in optimiser.param_groups:
            group["lr"] = schedule.learning_rate(PEAK_LEARNING_RATE, WARM_UP_STEPS, step, share)
        loss = cross_entropy(network, tokens.to(device), lengths.to(device))
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(network.parameters(), LARGEST_GRADIENT)
        optimiser.step()
        step, seen = step + 1, seen + int(lengths.sum())
        decay = min(AVERAGE_DECAY, step / (10 + step))
        for name, tensor in network.state_dict().items():
            average[name].lerp_(tensor, 1.0 - decay)
        if step % REPORT_STEPS == 0:
            logger.info("language: %.1f min, step %d: loss %.3f", share * budget / 60, step, loss.item())
            curves.add(recipe, "language", share * budget / 60, {"loss": loss.item()})
    network.load_state_dict(average)
    path = recipe.weights / "enhanced" / "lm.safetensors"
    reference.save(path, "language", network.cpu(), {})
    saved, _ = reference.load(path)
    figures: dict[str, Any] = {"minutes": recipe.language_minutes, "steps": step, "tokens": seen}
    figures |= {f"perplexity_{name}": round(value, 2) for name, value in perplexities(saved, pieces, recipe).items()}
    logger.info("language: %s", figures)
    reporting.record(recipe, "language", figures)
    curves.plot(recipe)


def cross_entropy(network: Any, tokens: Tensor, lengths: Tensor) -> Tensor:
    """Return the mean loss per token, including the closing boundary, of tokens [rows, L] and lengths [rows]."""
    log_probs = network.log_probs(tokens)
    return functional.nll_loss(log_probs.flatten(0, 1), next_tokens(tokens, lengths).flatten(), ignore_index=IGNORED)


@torch.inference_mode()
def perplexities(network: nn.Module, pieces: Tokenizer, recipe: Recipe) -> dict[str, float]:
    """Return the perplexity per token on held-out sentences of the grammar and of prose."""
    return {
        name: math.exp(float(cross_entropy(network, *pad_tokens([pieces.encode(text) for text in group]))))
        for name, group in held_out_texts(recipe).items()
    }


def held_out_texts(recipe: Recipe) -> dict[str, list[str]]:
    """Draw the held-out sentences on which perplexities are measured."""
    source = random.Random(f"{recipe.seed} perplexity")
    return {
        "grammar": [corpus.draw_from_grammar(source, held_out=True).text for _ in range(HELD_OUT_TEXTS)],
        "prose": [corpus.draw(source, corpus.prose(), held_out=True).text for _ in range(HELD_OUT_TEXTS)],
    }


def pad_tokens(texts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Pad token lists with the boundary, INT64 [rows, longest], and return their lengths [rows] too."""
    rows = [torch.tensor(text, dtype=torch.int64) for text in texts]
    padded = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=BOUNDARY)
    return padded, torch.tensor([len(text) for text in texts])


def _batches(recipe: Recipe, pieces: Tokenizer) -> Iterator[tuple[Tensor, Tensor]]:
    source = random.Random(f"{recipe.seed} language")
    library = corpus.library_prose(recipe.library)
    while True:
        # Texts of similar length share a batch; in the order of drawing, two thirds of a batch would be padding.
        pool = sorted((pieces.encode(_text(source, library)) for _ in range(POOL_BATCHES * BATCH_SIZE)), key=len)
        batches = [pool[start : start + BATCH_SIZE] for start in range(0, len(pool), BATCH_SIZE)]
        source.shuffle(batches)
        for batch in batches:
            yield pad_tokens(batch)


def _text(source: random.Random, library: Sequence[corpus.Sentence]) -> str:
    """Draw the text of a segment: one to four sentences of one kind, since people rarely switch within a segment."""
    kind = source.random()
    count = source.choice(synthesis.SENTENCE_COUNTS)
    if kind < GRAMMAR_SHARE:
        return " ".join(corpus.draw_from_grammar(source, held_out=False).text for _ in range(count))
    candidates = corpus.prose() if kind < GRAMMAR_SHARE + PROSE_SHARE else library
    return " ".join(corpus.draw(source, candidates, held_out=False).text for _ in range(count))
