"""The decoder: scores hypotheses of a search by attention to the encoder output (LAS rescoring, arXiv:1908.10992)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.networks.layers import Attention, FeedForward, Norm, add, valid_positions
from export.networks.reserved_tokens import BOUNDARY


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderConfig:
    """The sizes of a decoder's weights."""

    size: int = 128
    encoder_size: int = 128
    layers: int = 2
    heads: int = 4
    hidden: int = 256
    vocabulary: int = 256


class DecoderBlock(nn.Module):
    """Causal self-attention within each hypothesis, cross-attention to the encoder output, feed-forward."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.self_norm, self.self_attention = Norm(config.size), Attention(config.size, config.heads, rotary=True)
        self.cross_norm, self.cross_attention = Norm(config.size), Attention(config.size, config.heads, rotary=False)
        self.feed_norm, self.feed = Norm(config.size), FeedForward(config.size, config.hidden)

    def forward(self, values: Tensor, causal: Tensor, encoded: Tensor, encoded_mask: Tensor) -> Tensor:
        """Transform [batch*N, L, size]; the N hypotheses of an item share its row of `encoded` [batch, time, size]."""
        normed = self.self_norm(values)
        values = values + self.self_attention(normed, normed, causal)
        batch, size = encoded.shape[0], values.shape[-1]
        queries = self.cross_norm(values).reshape(batch, -1, size)
        attended = self.cross_attention(queries, encoded, encoded_mask)
        values = values + attended.reshape(values.shape)
        return add(values, self.feed(self.feed_norm(values)))


class Decoder(nn.Module):
    """Attention decoder over the tokens of the CTC head."""

    config_type = DecoderConfig

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.size)
        self.bridge = nn.Linear(config.encoder_size, config.size)
        self.blocks = nn.ModuleList(DecoderBlock(config) for _ in range(config.layers))
        self.norm = Norm(config.size)
        self.out = nn.Linear(config.size, config.vocabulary)

    @property
    def dims(self) -> dict[str, int]:
        """Return the sizes that depend on the configuration, by the catalogue's axis names."""
        return {"encoder_size": self.config.encoder_size, "vocabulary": self.config.vocabulary}

    def forward(
        self, encoder_out: Tensor, encoder_lengths: Tensor, hypotheses: Tensor, hypothesis_lengths: Tensor
    ) -> Tensor:
        """Score hypotheses: FP32 [batch, N], the sum of the log-probabilities of the tokens and of the end after them.

        encoder_out [batch, time, E] and INT [batch]; hypotheses INT [batch, N, L], padded with any token, and their
        lengths INT [batch, N].
        """
        batch, count, _ = hypotheses.shape
        flat, lengths = hypotheses.flatten(0, 1), hypothesis_lengths.flatten()
        log_probs = self.log_probs(encoder_out, encoder_lengths, flat)
        return sequence_scores(log_probs, flat, lengths).reshape(batch, count)

    def log_probs(self, encoder_out: Tensor, encoder_lengths: Tensor, tokens: Tensor) -> Tensor:
        """Return FP32 [batch*N, L+1, V]: log-probabilities of the next token after the boundary and after each of L."""
        inputs = functional.pad(tokens, (1, 0), value=BOUNDARY)
        encoded = self.bridge(encoder_out.to(self.bridge.weight.dtype))
        encoded_mask = valid_positions(encoder_lengths, encoded.shape[1])[:, None, None, :]
        values = self.embedding(inputs)
        causal = causal_mask(inputs)
        for block in self.blocks:
            values = block(values, causal, encoded, encoded_mask)
        return torch.log_softmax(self.out(self.norm(values)).float(), dim=-1)


def causal_mask(tokens: Tensor) -> Tensor:
    """Return BOOL [L, L] for tokens [rows, L]: a token attends to itself and to earlier ones, never to padding."""
    positions = torch.arange(tokens.shape[1], device=tokens.device)
    return positions[None, :] <= positions[:, None]


def sequence_scores(log_probs: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
    """Sum the log-probabilities [rows, L+1, V] of tokens [rows, L] and of the boundary after them: [rows]."""
    positions = torch.arange(log_probs.shape[1], device=tokens.device)[None, :]
    targets = functional.pad(tokens, (0, 1), value=BOUNDARY)
    targets = torch.where(positions == lengths[:, None], BOUNDARY, targets)
    chosen = log_probs.gather(2, targets[..., None].long())[..., 0]
    return torch.where(positions <= lengths[:, None], chosen, 0.0).sum(dim=1)
