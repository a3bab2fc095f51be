"""The networks of an operating point as one module for joint training: body, acoustic head and decoder.

CTC alone stays on its plateau of blanks for long. A phoneme loss on a middle block, from the synthesiser's own phoneme
times, breaks the plateau within minutes and is then faded out.

The enhanced point starts from the blocks of the standard point, with new blocks above them. What the small network has
learnt need not be learnt again at the price of the large one. From then on both points are trained together: the
standard point is the first blocks of the enhanced one, with a head and a decoder of its own. A step costs an
eighth more than a step of the large network alone, and is a step for both.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.networks.conformer_encoder import Block, ConformerEncoder, ConformerEncoderConfig
from export.networks.ctc_head import CtcHead, CtcHeadConfig
from export.networks.decoder import Decoder
from training.batch import IGNORED, Batch, next_tokens
from training.recipe import Point

LABEL_SMOOTHING = 0.1


class JointModel(nn.Module):
    """The three networks of a point, and the parts that serve only the training or belong to the inner point.

    A point that starts from another contains it, as its inner point: the first blocks of its body are the inner point's
    body, and `inner_acoustic` and `inner_decoder` the inner point's head and decoder. A point that starts from none has
    a phoneme head on a middle block.
    """

    def __init__(self, point: Point, vocabulary: int, phonemes: int, inner: Point | None = None) -> None:
        super().__init__()
        self.point, self.inner = point, inner
        self.body = ConformerEncoder(conditioned(point.body, vocabulary))
        self.acoustic = CtcHead(CtcHeadConfig(size=point.body.size, vocabulary=vocabulary))
        self.decoder = Decoder(point.decoder)
        if inner is None:
            self.phonemes = nn.Linear(point.body.size, phonemes)
            self.tap = point.body.layers // 2
        else:
            self.inner_acoustic = CtcHead(CtcHeadConfig(size=inner.body.size, vocabulary=vocabulary))
            self.inner_decoder = Decoder(inner.decoder)
            self.tap = inner.body.layers - 1
        # CTC heads of self-conditioning by the index of the block that they follow, except the inner point's head.
        self.intermediate_heads: dict[int, nn.Linear] = {}
        conditioning: Any
        for layers, conditioning in zip(point.body.conditioned, self.body.conditioning, strict=True):
            if inner is not None and layers == inner.body.layers:
                # The blocks above are conditioned on the output of the inner point's own head.
                self.inner_acoustic.out = conditioning.ctc_head
            else:
                self.intermediate_heads[layers - 1] = conditioning.ctc_head

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the mean losses: "ctc" and "decoder" per token, and those that belong to the kind of point.

        "phonemes" is per encoder frame, for a point without an inner point; "inner ctc" and "inner decoder" are for one
        with. "intermediate ctc" is the mean CTC loss of the intermediate heads, where there are any.
        """
        encoded, tapped, lengths = self.body.encode(
            batch.features, batch.lengths, chunk=batch.chunk, left=batch.left, taps=(self.tap, *self.intermediate_heads)
        )
        ctc, decoder = token_losses(self.acoustic, self.decoder, encoded, lengths, batch)
        found = {"ctc": ctc, "decoder": decoder}
        if self.intermediate_heads:
            intermediate = [
                ctc_loss(torch.log_softmax(head(tapped[index]), dim=-1), lengths, batch)
                for index, head in self.intermediate_heads.items()
            ]
            found["intermediate ctc"] = torch.stack(intermediate).mean()
        if self.inner is None:
            phonemes = functional.cross_entropy(
                self.phonemes(tapped[self.tap]).flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORED
            )
            return {**found, "phonemes": phonemes}
        inner = token_losses(self.inner_acoustic, self.inner_decoder, tapped[self.tap], lengths, batch)
        return {**found, "inner ctc": inner[0], "inner decoder": inner[1]}

    def networks(self) -> dict[str, tuple[Point, ConformerEncoder, CtcHead, Decoder]]:
        """Return the networks of this point and of the inner point, by the point's name."""
        found = {self.point.name: (self.point, self.body, self.acoustic, self.decoder)}
        if self.inner is not None:
            body = ConformerEncoder(conditioned(self.inner.body, self.acoustic.config.vocabulary))
            known = self.body.state_dict()
            body.load_state_dict({name: known[name] for name in body.state_dict()})
            found[self.inner.name] = (self.inner, body, self.inner_acoustic, self.inner_decoder)
        return found


def token_losses(
    acoustic: CtcHead, decoder: Decoder, encoded: Tensor, lengths: Tensor, batch: Batch
) -> tuple[Tensor, Tensor]:
    """Return the mean CTC loss and the decoder's mean cross-entropy, both per token."""
    ctc = ctc_loss(acoustic.log_probs(encoded), lengths, batch)
    log_probs = decoder.log_probs(encoded, lengths, batch.tokens)
    targets = next_tokens(batch.tokens, batch.token_lengths)
    cross_entropy = functional.cross_entropy(
        log_probs.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, label_smoothing=LABEL_SMOOTHING
    )
    return ctc, cross_entropy


def ctc_loss(log_probs: Tensor, lengths: Tensor, batch: Batch) -> Tensor:
    """Return the mean CTC loss per token of log-probabilities [batch, time, vocabulary]."""
    total = functional.ctc_loss(
        log_probs.transpose(0, 1), batch.tokens, lengths, batch.token_lengths, reduction="sum", zero_infinity=True
    )
    return total / batch.token_lengths.sum()


def conditioned(body: ConformerEncoderConfig, vocabulary: int) -> ConformerEncoderConfig:
    """Return the configuration of a body with the vocabulary that its blocks are conditioned on, if they are at all."""
    return replace(body, vocabulary=vocabulary if body.conditioned else 0)


def start_from_smaller_point(network: JointModel, weights: dict[str, Tensor]) -> None:
    """Load every weight of a smaller point; the blocks above its last one become the identity.

    So the outputs of both points are at first those of the smaller one. A norm after a norm changes nothing as long as
    its gains are one: those of the last loaded block move to the last new block, and into the layers of the inner point
    that follow the last loaded block.
    """
    own = network.state_dict()
    inner = {f"inner_{name}": tensor for name, tensor in weights.items() if f"inner_{name}" in own}
    weights = {**weights, **inner}
    fitting = {name: tensor for name, tensor in weights.items() if name in own and own[name].shape == tensor.shape}
    network.load_state_dict(fitting, strict=False)
    known = 1 + max(int(name.split(".")[2]) for name in fitting if name.startswith("body.blocks."))
    blocks: Any = network.body.blocks
    for block in blocks[known:]:
        _make_identity(block)
    conditioning: Any
    for number, conditioning in enumerate(network.body.conditioning):
        if f"body.conditioning.{number}.project.weight" not in fitting:
            _zero(conditioning.project)
    norm = blocks[known - 1].norm
    for layer in (network.inner_acoustic.out, network.inner_decoder.bridge):
        _fold_norm(layer, norm.weight, norm.bias)
    blocks[-1].norm, blocks[known - 1].norm = norm, blocks[-1].norm
    loaded = 1 + max(int(name.split(".")[2]) for name in fitting if name.startswith("decoder.blocks."))
    for index in range(loaded, len(network.decoder.blocks)):
        above: Any = network.decoder.blocks[index]
        _zero(above.self_attention.out, above.cross_attention.out, above.feed[2])


def _make_identity(block: Block) -> None:
    _zero(block.before[2], block.attention.out, block.convolution.out, block.after[2])


@torch.no_grad()
def _fold_norm(layer: nn.Linear, gains: Tensor, offsets: Tensor) -> None:
    # W (g * x + b) + c = (W * g) x + (W b + c)
    layer.bias.add_(layer.weight @ offsets)
    layer.weight.mul_(gains)


def _zero(*layers: Any) -> None:
    for layer in layers:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
