"""Greedy transcripts of the development sets: word error rates and limited context."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from contract.client import TokenSpec
from export.checkpoints.roles import token_spec
from tests.unit.training import tiny
from training import evaluation
from training.model import JointModel


def test_word_error_rate_counts_words_of_all_texts_together() -> None:
    assert evaluation.word_error_rate(["a b c", "d"], ["a x c", "d"]) == 0.25


def test_chunks_limit_the_context() -> None:
    """Greedy texts with a chunk longer than the input equal those without; short chunks do not depend on the future."""
    torch.manual_seed(1)
    recipe = tiny.recipe(Path("x"))
    network = JointModel(recipe.point("standard"), tiny.VOCABULARY, 4).eval()
    features = [torch.randn(frames, 80).numpy().astype(np.float16) for frames in (131, 90, 200)]
    contexts: list[tuple[int | None, int | None]] = []

    class FakeEncoder:
        def encode(self, *arguments: Any, chunk: int | None, left: int | None) -> Any:
            contexts.append((chunk, left))
            return network.body.encode(*arguments, chunk=chunk, left=left)

    class Letters:
        def decode(self, tokens: list[int]) -> str:
            return " ".join(map(str, tokens))

        def spec(self) -> TokenSpec:
            return token_spec(tuple(map(str, range(tiny.VOCABULARY))))

    letters: Any = Letters()
    whole = evaluation.greedy_texts(FakeEncoder(), network.acoustic, letters, features)
    assert evaluation.greedy_texts(FakeEncoder(), network.acoustic, letters, features, chunk=1000) == whole
    assert evaluation.greedy_texts(FakeEncoder(), network.acoustic, letters, features, chunk=2, left=0) != whole
    assert set(contexts) == {(None, None), (1000, None), (2, 0)}
    alone = [
        evaluation.greedy_texts(FakeEncoder(), network.acoustic, letters, [one], chunk=4, left=8)[0] for one in features
    ]
    assert evaluation.greedy_texts(FakeEncoder(), network.acoustic, letters, features, chunk=4, left=8) == alone
