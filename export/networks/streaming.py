"""A step of a body over a stream: a window of features and the states of the past in, a chunk and the next states out.

Frame by frame it is `Body.encode` with a chunk of as many frames as a window makes and as many to the left as the
attention state holds: keys and values before their rotation stand for the frames that attention still sees, gated
values for those that the causal convolution does. Positions count from the oldest of them; rotary scores depend on
their differences only.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from export.networks.layers import valid_positions

if TYPE_CHECKING:
    from export.networks.body import Body


class StreamingBody(nn.Module):
    """The step; holds the body whose weights it uses."""

    def __init__(self, body: "Body") -> None:
        super().__init__()
        self.body = body

    def forward(
        self,
        features: Tensor,
        feature_lengths: Tensor,
        state_attention: Tensor,
        state_convolution: Tensor,
        state_frames: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Encode the next window of every stream of a batch.

        features: log-mel [batch, frames, bands], each window beginning where the encoder's stride leads from the one
        before; feature_lengths: INT [batch], less than a window only in the last one of a stream.
        state_attention: [batch, layers, 2, past, size], keys and values; state_convolution: [batch, layers, kernel-1,
        size]; state_frames: INT [batch, 1], how many of the past frames are real. All zero before the first window.
        Gives encoder_out [batch, frames/4, size], zero where padded, encoder_lengths INT [batch], and the states for
        the next window.
        """
        body = self.body
        values = body.subsampling(body.feature_norm(features))
        chunk, past = values.shape[1], state_attention.shape[3]
        lengths = body.lengths(feature_lengths)
        valid = valid_positions(lengths, chunk)
        mask = torch.cat((_real(state_frames, past), valid), dim=1)[:, None, None, :]
        attended, convolved = state_attention.to(values.dtype), state_convolution.to(values.dtype)
        next_attention, next_convolution = [], []
        block: Any
        for index, block in enumerate(body.blocks):
            values, seen, heard = block.step(values, valid, mask, attended[:, index], convolved[:, index])
            values = body.told(index, values)
            next_attention.append(seen[:, :, -past:])
            next_convolution.append(heard)
        return (
            values * valid[..., None].to(values.dtype),
            lengths,
            torch.stack(next_attention, dim=1),
            torch.stack(next_convolution, dim=1),
            (state_frames + chunk).clamp(max=past),
        )


def zero_states(body: "Body", batch: int, past: int) -> tuple[Tensor, Tensor, Tensor]:
    """Give what stands before the first window of `batch` streams, with `past` frames for attention."""
    config = body.config
    return (
        torch.zeros(batch, config.layers, 2, past, config.size),
        torch.zeros(batch, config.layers, config.kernel - 1, config.size),
        torch.zeros(batch, 1, dtype=torch.int32),
    )


def _real(frames: Tensor, past: int) -> Tensor:
    # The newest stand last.
    position = torch.arange(past, device=frames.device)
    return position[None, :] >= past - frames
