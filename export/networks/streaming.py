"""One step of an encoder over a stream.

It takes a window of features and the states of the past; it returns a chunk of encoder frames and the next states.

Frame by frame, the result equals `ConformerEncoder.encode` with `chunk` set to the frames of a window and `left` set to
the frames of the attention state. The attention state holds unrotated keys and values of the frames that attention
still sees; the convolution state holds gated values of the frames that the causal convolution still sees. Positions
count from the oldest of these frames: rotary scores depend on differences of positions only.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from export.networks.layers import valid_positions

if TYPE_CHECKING:
    from export.networks.conformer_encoder import ConformerEncoder


class StreamingEncoder(nn.Module):
    """One step of a stream; uses the weights of the encoder that it holds."""

    def __init__(self, encoder: "ConformerEncoder") -> None:
        super().__init__()
        self.encoder = encoder

    def forward(
        self,
        features: Tensor,
        feature_lengths: Tensor,
        state_attention: Tensor,
        state_convolution: Tensor,
        state_frames: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Encode the next window of every stream of a batch.

        features: log-mel [batch, frames, bands]; a window begins one stride of the encoder after the one before.
        feature_lengths: INT [batch], less than a window only in the last window of a stream.
        state_attention: [batch, layers, 2, past, size], keys and values; state_convolution: [batch, layers, kernel-1,
        size]; state_frames: INT [batch, 1], the number of past frames that are valid. All are zero before the first
        window.
        Returns encoder_out [batch, frames/4, size], zero where padded, encoder_lengths INT [batch], and the states for
        the next window.
        """
        encoder = self.encoder
        values = encoder.subsampling(encoder.feature_norm(features))
        chunk, past = values.shape[1], state_attention.shape[3]
        lengths = encoder.lengths(feature_lengths)
        valid = valid_positions(lengths, chunk)
        mask = torch.cat((_valid_past(state_frames, past), valid), dim=1)[:, None, None, :]
        attention, convolution = state_attention.to(values.dtype), state_convolution.to(values.dtype)
        next_attention, next_convolution = [], []
        block: Any
        for index, block in enumerate(encoder.blocks):
            values, attended, convolved = block.step(values, valid, mask, attention[:, index], convolution[:, index])
            values = encoder.condition(index, values)
            next_attention.append(attended[:, :, -past:])
            next_convolution.append(convolved)
        return (
            values * valid[..., None].to(values.dtype),
            lengths,
            torch.stack(next_attention, dim=1),
            torch.stack(next_convolution, dim=1),
            (state_frames + chunk).clamp(max=past),
        )


def _valid_past(frames: Tensor, past: int) -> Tensor:
    # The newest frames are last.
    position = torch.arange(past, device=frames.device)
    return position[None, :] >= past - frames
