"""The joint model: what it starts from, its losses, and the point within it."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.training import tiny
from training.batch import Batch
from training.model import JointModel, start_from_smaller_point

FEATURES, LENGTHS = torch.randn(2, 131, 80), torch.tensor([131, 90])


def _started(tmp_path: Path) -> tuple[JointModel, JointModel]:
    torch.manual_seed(5)
    recipe = tiny.recipe(tmp_path)
    small, large = recipe.points
    large = dataclasses.replace(large, body=dataclasses.replace(large.body, layers=5))
    networks = [JointModel(small, tiny.VOCABULARY, 4).eval(), JointModel(large, tiny.VOCABULARY, 0, small).eval()]
    with torch.no_grad():
        # Training moves the gains of norms far from one, and their offsets from zero.
        for name, parameter in networks[0].named_parameters():
            if "norm" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    start_from_smaller_point(networks[1], networks[0].state_dict())
    return networks[0], networks[1]


def test_body_starts_with_outputs_of_smaller_point(tmp_path: Path) -> None:
    small, large = _started(tmp_path)
    with torch.inference_mode():
        ours, _ = large.body(FEATURES, LENGTHS)
        theirs, _ = small.body(FEATURES, LENGTHS)
    # A norm after a norm divides by the root of 1 + 1e-5.
    assert torch.allclose(ours, theirs, atol=1e-3)


def test_decoder_starts_with_outputs_of_smaller_point(tmp_path: Path) -> None:
    small, large = _started(tmp_path)
    tokens = torch.randint(3, tiny.VOCABULARY, (2, 7))
    encoded, lengths = torch.randn(2, 30, 16), torch.tensor([30, 20])
    with torch.inference_mode():
        assert torch.equal(
            large.decoder.log_probs(encoded, lengths, tokens), small.decoder.log_probs(encoded, lengths, tokens)
        )


def test_inner_point_starts_with_outputs_of_smaller_point(tmp_path: Path) -> None:
    small, large = _started(tmp_path)
    _, body, acoustic, decoder = large.networks()["standard"]
    tokens = torch.randint(3, tiny.VOCABULARY, (2, 7))
    with torch.inference_mode():
        encoded, lengths = small.body(FEATURES, LENGTHS)
        within, _ = body.eval()(FEATURES, LENGTHS)
        pairs = (
            (acoustic.log_probs(within), small.acoustic.log_probs(encoded)),
            (decoder.log_probs(within, lengths, tokens), small.decoder.log_probs(encoded, lengths, tokens)),
        )
        assert not torch.allclose(within, encoded, atol=1e-3)
        for ours, theirs in pairs:
            valid = slice(0, int(lengths.min()))
            assert torch.allclose(ours[:, valid], theirs[:, valid], atol=1e-4)


def test_losses_include_those_of_the_inner_point(tmp_path: Path) -> None:
    small, large = _started(tmp_path)
    batch = Batch(
        features=FEATURES,
        lengths=LENGTHS,
        tokens=torch.randint(3, tiny.VOCABULARY, (2, 4)),
        token_lengths=torch.tensor([4, 2]),
        labels=torch.zeros((2, 32), dtype=torch.int64),
    )
    with torch.inference_mode():
        alone, within = small.losses(batch), large.losses(batch)
    for name in ("ctc", "decoder"):
        assert within[f"inner {name}"].item() == pytest.approx(alone[name].item(), rel=1e-4)
    assert set(within) == {"ctc", "decoder", "inner ctc", "inner decoder"}


def test_new_blocks_get_gradients(tmp_path: Path) -> None:
    """Layers that start at zero get a gradient."""
    _, large = _started(tmp_path)
    large.train()
    batch = Batch(
        features=FEATURES,
        lengths=LENGTHS,
        tokens=torch.randint(3, tiny.VOCABULARY, (2, 4)),
        token_lengths=torch.tensor([4, 2]),
        labels=torch.randint(0, 4, (2, 32)),
    )
    losses = large.losses(batch)
    torch.autograd.backward(losses["ctc"] + losses["decoder"])
    zeroed: list[Any] = [*(block.after[2] for block in list(large.body.blocks)[1:]), large.decoder.blocks[1].feed[2]]  # type: ignore[index]
    assert all(float(layer.weight.grad.abs().sum()) > 0 for layer in zeroed)


def test_blocks_are_conditioned_on_the_inner_point(tmp_path: Path) -> None:
    """The conditioning head is the inner point's head, and has an effect once its projection is not zero."""
    _, large = _started(tmp_path)
    conditioning: Any = large.body.conditioning[0]
    assert conditioning.ctc_head is large.inner_acoustic.out
    with torch.no_grad():
        before, *_ = large.body(FEATURES, LENGTHS)
        conditioning.project.weight.add_(torch.randn_like(conditioning.project.weight))
        after, *_ = large.body(FEATURES, LENGTHS)
    assert not torch.allclose(before, after, atol=1e-3)
