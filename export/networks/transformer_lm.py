"""The language model: a small causal transformer that scores hypotheses by their tokens, without the audio."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.networks.decoder import causal_mask, sequence_scores
from export.networks.layers import Attention, FeedForward, Norm, add
from export.networks.reserved_tokens import BOUNDARY


@dataclass(frozen=True, kw_only=True, slots=True)
class TransformerLmConfig:
    """The sizes of a language model's weights."""

    size: int = 192
    layers: int = 3
    heads: int = 4
    hidden: int = 512
    vocabulary: int = 256


class TransformerBlock(nn.Module):
    """Causal self-attention and feed-forward."""

    def __init__(self, config: TransformerLmConfig) -> None:
        super().__init__()
        self.attention_norm, self.attention = Norm(config.size), Attention(config.size, config.heads, rotary=True)
        self.feed_norm, self.feed = Norm(config.size), FeedForward(config.size, config.hidden)

    def forward(self, values: Tensor, causal: Tensor) -> Tensor:
        """Transform [rows, L, size]."""
        normed = self.attention_norm(values)
        values = values + self.attention(normed, normed, causal)
        return add(values, self.feed(self.feed_norm(values)))


class TransformerLm(nn.Module):
    """Neural language model that rescores n-best hypotheses."""

    config_type = TransformerLmConfig

    def __init__(self, config: TransformerLmConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.size)
        self.blocks = nn.ModuleList(TransformerBlock(config) for _ in range(config.layers))
        self.norm = Norm(config.size)
        self.out = nn.Linear(config.size, config.vocabulary)

    @property
    def dims(self) -> dict[str, int]:
        """Return the sizes that depend on the configuration, by the catalogue's axis names."""
        return {"vocabulary": self.config.vocabulary}

    def forward(self, hypotheses: Tensor, hypothesis_lengths: Tensor) -> Tensor:
        """Score hypotheses INT [batch, N, L] with lengths INT [batch, N] -> FP32 [batch, N], including the end."""
        batch, count, _ = hypotheses.shape
        flat, lengths = hypotheses.flatten(0, 1), hypothesis_lengths.flatten()
        return sequence_scores(self.log_probs(flat), flat, lengths).reshape(batch, count)

    def log_probs(self, tokens: Tensor) -> Tensor:
        """Return FP32 [rows, L+1, V]: log-probabilities of the next token after the boundary and after each of L."""
        values = self.embedding(functional.pad(tokens, (1, 0), value=BOUNDARY))
        causal = causal_mask(values[..., 0])
        for block in self.blocks:
            values = block(values, causal)
        return torch.log_softmax(self.out(self.norm(values)).float(), dim=-1)
