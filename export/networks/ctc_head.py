"""The CTC head of one language: log-probabilities of tokens, of which the graph returns the best few per frame."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from export.networks.layers import valid_positions
from export.networks.reserved_tokens import BLANK


@dataclass(frozen=True, kw_only=True, slots=True)
class CtcHeadConfig:
    """The sizes of a head's weights; `top` is the number of tokens returned per frame."""

    size: int = 128
    vocabulary: int = 256
    top: int = 16
    blank: int = BLANK


class CtcHead(nn.Module):
    """Linear CTC head with log-softmax and top-k in the graph: K values per frame are sent to the client, not V."""

    config_type = CtcHeadConfig

    def __init__(self, config: CtcHeadConfig) -> None:
        super().__init__()
        self.config = config
        self.out = nn.Linear(config.size, config.vocabulary)

    @property
    def dims(self) -> dict[str, int]:
        """Return the sizes that depend on the configuration, by the catalogue's axis names."""
        return {"encoder_size": self.config.size, "vocabulary": self.config.vocabulary, "top": self.config.top}

    def forward(self, encoder_out: Tensor, encoder_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Score frames: [batch, time, size], INT [batch] -> log-probabilities and tokens, each [batch, time, K].

        Tokens are sorted by decreasing probability and include the blank. A padded frame is blank with
        probability one.
        """
        log_probs, tokens = torch.topk(self.log_probs(encoder_out), self.config.top, dim=-1)
        valid = valid_positions(encoder_lengths, encoder_out.shape[1])[..., None]
        first = torch.arange(self.config.top, device=tokens.device) == 0
        padded = torch.where(first, 0.0, MASKED_LOG_PROB)
        return torch.where(valid, log_probs, padded), torch.where(valid, tokens, self.config.blank)

    def log_probs(self, encoder_out: Tensor) -> Tensor:
        """Return all log-probabilities in FP32: [batch, time, V]."""
        return torch.log_softmax(self.out(encoder_out.to(self.out.weight.dtype)).float(), dim=-1)


MASKED_LOG_PROB = -1.0e4
