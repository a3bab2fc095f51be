"""The attention decoders of wenet's U2++ (arXiv:2106.05642), which score hypotheses in both directions."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.networks.decoder import causal_mask
from export.networks.feed_forward import FeedForward
from export.networks.layers import Attention, Norm, valid_positions
from export.networks.wenet_encoder import ACTIVATIONS, position_table


@dataclass(frozen=True, kw_only=True, slots=True)
class WenetDecoderConfig:
    """The sizes of the weights of both decoders."""

    size: int = 256
    layers: int = 3
    reverse_layers: int = 3
    heads: int = 4
    hidden: int = 2_048
    vocabulary: int = 5_000
    activation: str = "relu"
    epsilon: float = 1.0e-5
    start: int = 4_999
    """The token before a hypothesis."""
    end: int = 4_999
    """The token after a hypothesis."""
    reverse_weight: float = 0.0
    """How much the decoder from right to left counts, from 0 to 1; 0 without one."""


class Block(nn.Module):
    """Causal self-attention within each hypothesis, cross-attention to the encoder output, feed-forward."""

    def __init__(self, config: WenetDecoderConfig) -> None:
        super().__init__()
        size, epsilon = config.size, config.epsilon
        self.self_norm, self.cross_norm, self.feed_norm = (Norm(size, epsilon) for _ in range(3))
        self.self_attention = Attention(size, config.heads, rotary=False)
        self.cross_attention = Attention(size, config.heads, rotary=False)
        self.feed = FeedForward(size, config.hidden, ACTIVATIONS[config.activation])

    def forward(self, values: Tensor, causal: Tensor, encoded: Tensor, encoded_mask: Tensor) -> Tensor:
        """Transform FP32 [batch*N, L, size]; the N hypotheses of an item share its row of `encoded`."""
        normed = self.self_norm(values).to(encoded.dtype)
        values = values + self.self_attention(normed, normed, causal)
        batch, _, size = encoded.shape
        queries = self.cross_norm(values).to(encoded.dtype).reshape(batch, -1, size)
        values = values + self.cross_attention(queries, encoded, encoded_mask).reshape(values.shape)
        return values + self.feed(self.feed_norm(values))  # type: ignore[no-any-return]


class OneWayDecoder(nn.Module):
    """Scores the tokens of a hypothesis in the order in which they are passed."""

    def __init__(self, config: WenetDecoderConfig, layers: int) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.size)
        self.blocks = nn.ModuleList(Block(config) for _ in range(layers))
        self.norm = Norm(config.size, config.epsilon)
        self.out = nn.Linear(config.size, config.vocabulary)

    def forward(self, encoded: Tensor, encoded_mask: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Return FP32 [rows]: the log-probability of tokens INT [rows, L] up to their lengths and of the end."""
        config = self.config
        inputs = functional.pad(tokens, (1, 0), value=config.start)
        positions = torch.arange(inputs.shape[1], device=tokens.device)
        values = self.embedding(inputs).float() * config.size**0.5 + position_table(positions, config.size)
        causal = causal_mask(inputs)
        for block in self.blocks:
            values = block(values, causal, encoded, encoded_mask)
        logits = self.out(self.norm(values).to(self.out.weight.dtype))
        log_probs = torch.log_softmax(logits.float(), dim=-1)
        targets = torch.where(positions == lengths[:, None], config.end, functional.pad(tokens, (0, 1)))
        chosen = log_probs.gather(2, targets[..., None].long())[..., 0]
        return torch.where(positions <= lengths[:, None], chosen, 0.0).sum(dim=1)


class WenetDecoder(nn.Module):
    """Attention rescoring of wenet without its CTC part: (1 - r) * left + r * right, r the reverse weight."""

    config_type = WenetDecoderConfig

    def __init__(self, config: WenetDecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.left = OneWayDecoder(config, config.layers)
        if config.reverse_weight > 0:
            self.right = OneWayDecoder(config, config.reverse_layers)

    @property
    def dims(self) -> dict[str, int]:
        """Return the sizes that depend on the configuration, by the catalogue's axis names."""
        return {"encoder_size": self.config.size, "vocabulary": self.config.vocabulary}

    def forward(
        self, encoder_out: Tensor, encoder_lengths: Tensor, hypotheses: Tensor, hypothesis_lengths: Tensor
    ) -> Tensor:
        """Score hypotheses: FP32 [batch, N].

        encoder_out [batch, time, E] and INT [batch]; hypotheses INT [batch, N, L], padded with any token, and their
        lengths INT [batch, N].
        """
        encoded = encoder_out.to(self.left.out.weight.dtype)
        encoded_mask = valid_positions(encoder_lengths, encoded.shape[1])[:, None, None, :]
        tokens, lengths = hypotheses.flatten(0, 1), hypothesis_lengths.flatten()
        scores = self.left(encoded, encoded_mask, tokens, lengths)
        weight = self.config.reverse_weight
        if weight > 0:
            right = self.right(encoded, encoded_mask, _reversed(tokens, lengths), lengths)
            scores = (1.0 - weight) * scores + weight * right
        return scores.reshape(hypothesis_lengths.shape)  # type: ignore[no-any-return]


def _reversed(tokens: Tensor, lengths: Tensor) -> Tensor:
    """Reverse the valid tokens of each row; padding becomes the row's first token."""
    positions = torch.arange(tokens.shape[1], device=tokens.device)
    return tokens.gather(1, (lengths[:, None] - 1 - positions).clamp(min=0).long())
