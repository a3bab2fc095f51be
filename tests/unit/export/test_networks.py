"""The networks in torch: padding changes nothing, lengths are what the contract says."""

import numpy as np
import pytest
import torch

from contract import synthetic_inputs
from contract.catalogue import catalogue
from export.networks.body import subsampled
from export.networks.layers import Attention, chunk_mask
from tests.unit.export import small

FAMILIES = ("body", "am_en", "decoder", "lm", "diar")
PADDING_LEAK = 1e-5


def _sizes(family: str, batch: int) -> dict[str, int]:
    axes = dict.fromkeys(catalogue()[family].axes(), 40) | {"hypothesis_count": 3, "hypothesis_tokens": 7}
    return {"batch": batch, **axes, **small.network(family).dims}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rubbish", [0.0, 30.0])
def test_padding_changes_nothing(family: str, rubbish: float) -> None:
    """An item padded inside a batch gives what it gives alone, whatever the padding holds."""
    network, spec = small.network(family), catalogue()[family]
    sample = synthetic_inputs.inputs(spec, _sizes(family, 1), np.random.default_rng(5))
    alone = network(*map(torch.from_numpy, sample.values()))
    padded = {
        tensor.name: _pad(sample[tensor.name], [axis in spec.axes() for axis in tensor.shape], rubbish)
        for tensor in spec.inputs
    }
    together = network(*map(torch.from_numpy, padded.values()))
    for ours, theirs in zip(_tuple(together), _tuple(alone), strict=True):
        cut = ours[tuple(slice(None, size) for size in theirs.shape)]
        assert torch.allclose(cut.float(), theirs.float(), atol=PADDING_LEAK)


def _tuple(outputs: torch.Tensor | tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _pad(array: np.ndarray, dynamic: list[bool], rubbish: float) -> np.ndarray:  # type: ignore[type-arg]
    return np.pad(array, [(0, 1), *((0, 12 if axis else 0) for axis in dynamic)], constant_values=rubbish)


@pytest.mark.parametrize(("frames", "encoder_frames"), [(35, 8), (200, 49), (400, 99), (2000, 499), (7, 1)])
def test_subsampling_is_by_four(frames: int, encoder_frames: int) -> None:
    features, lengths = torch.zeros(1, frames, 80), torch.tensor([frames])
    encoded, encoder_lengths = small.network("body")(features, lengths)
    assert subsampled(frames) == encoded.shape[1] == encoder_lengths.item() == encoder_frames


def test_buckets_of_the_body_give_those_of_its_readers() -> None:
    """What the body makes of a bucket is a bucket of everything that reads it."""
    made = [subsampled(size) for size in catalogue()["body"].modes["batch"].axes["frames"].buckets]
    for family in ("am_en", "decoder"):
        assert list(catalogue()[family].modes["batch"].axes["encoder_frames"].buckets) == made


def test_a_chunk_sees_itself_and_the_past() -> None:
    mask = chunk_mask(5, 2, None, torch.device("cpu")).int().tolist()
    assert mask == [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]


def test_a_chunk_sees_as_much_of_the_past_as_it_may() -> None:
    mask = chunk_mask(6, 2, 1, torch.device("cpu")).int().tolist()
    assert mask == [
        [1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 0, 0, 1, 1, 1],
        [0, 0, 0, 1, 1, 1],
    ]


@pytest.mark.parametrize("chunk", [1, 3, 4, 9])
@pytest.mark.parametrize("left", [0, 2, 9, 100])
def test_with_chunk_and_past_as_long_as_all_everything_is_seen(chunk: int, left: int) -> None:
    mask = chunk_mask(9, chunk, left, torch.device("cpu"))
    assert bool(mask.diagonal().all())
    assert bool(mask.all()) == (chunk == 9)
    assert torch.equal(mask, chunk_mask(9, chunk, None, torch.device("cpu"))) == (left >= 8 or chunk == 9)


def test_chunks_hide_the_future() -> None:
    network = small.network("body")
    features, lengths = torch.randn(1, 67, 80), torch.tensor([67])
    changed = features.clone()
    # Encoder frame 7, the last of its chunk, sees feature frames up to 34.
    changed[:, 35:] += 1.0
    ours, _, _ = network.encode(features, lengths, chunk=4)
    theirs, _, _ = network.encode(changed, lengths, chunk=4)
    assert torch.equal(ours[:, :8], theirs[:, :8])
    assert not torch.allclose(ours[:, 8:], theirs[:, 8:])


def test_a_limited_past_hides_what_is_before_it() -> None:
    """Attention sees `left` frames before its chunk; the causal convolution behind it reaches two more frames back."""
    network = small.network("body")
    features, lengths = torch.randn(1, 99, 80), torch.tensor([99])
    changed = features.clone()
    changed[:, :12] += 1.0
    for left, same in ((8, True), (None, False)):
        ours, _, _ = network.encode(features, lengths, chunk=4, left=left)
        theirs, _, _ = network.encode(changed, lengths, chunk=4, left=left)
        # Encoder frames 0 to 2 are touched, and all that sees them; the chunk of frames 12 to 15 sees back to frame 4.
        assert torch.equal(ours[:, 14:], theirs[:, 14:]) == same
        assert not torch.allclose(ours[:, :12], theirs[:, :12])


def test_a_chunk_as_long_as_everything_changes_nothing() -> None:
    network = small.network("body")
    features, lengths = torch.randn(2, 99, 80), torch.tensor([99, 60])
    whole, _ = network(features, lengths)
    chunked, _, _ = network.encode(features, lengths, chunk=1000, left=0)
    assert torch.equal(whole, chunked)


def test_a_stream_may_be_heard_with_other_ears() -> None:
    """What a block adds to a stream changes nothing of what is heard as a whole."""
    network = small.network("body")
    features, lengths = torch.randn(2, 99, 80), torch.tensor([99, 60])
    whole, _ = network(features, lengths)
    with torch.no_grad():
        network.get_parameter("blocks.0.streamed").normal_()
    assert torch.equal(whole, network(features, lengths)[0])
    chunked, _, _ = network.encode(features, lengths, chunk=1000, left=0)
    assert not torch.allclose(whole, chunked, atol=1e-2)


def test_the_tapped_blocks_are_those_asked_for() -> None:
    network = small.network("body")
    features, lengths = torch.randn(1, 67, 80), torch.tensor([67])
    encoded, tapped, _ = network.encode(features, lengths, taps=(0,))
    assert set(tapped) == {0}
    # It has one block only, so what it taps is its answer, but for what it would tell a block above.
    assert torch.equal(encoded, network.told(0, tapped[0]))
    assert not torch.equal(encoded, tapped[0])
    assert network.encode(features, lengths)[1] == {}


@pytest.mark.parametrize("rotary", [False, True])
def test_attention_while_training_is_that_of_the_exported_graph(rotary: bool) -> None:
    torch.manual_seed(0)
    attention = Attention(16, 2, rotary=rotary)
    queries, keys = torch.randn(3, 7, 16), torch.randn(3, 11, 16)
    mask = torch.rand(3, 1, 7, 11) < 0.5
    # A query that sees no key at all, as in a chunk that holds padding only, attends to all alike.
    mask[1, :, 4] = False
    mask[2] = False
    trained, exported = attention.train()(queries, keys, mask), attention.eval()(queries, keys, mask)
    assert bool(torch.isfinite(trained).all())
    assert torch.allclose(trained, exported, atol=1e-5)


def test_gradients_of_padding_are_finite() -> None:
    torch.manual_seed(0)
    network = small.network("body").train()
    encoded, _, _ = network.encode(torch.randn(2, 99, 80), torch.tensor([99, 11]), chunk=4, left=4)
    torch.autograd.backward(encoded.square().sum())
    assert all(bool(torch.isfinite(each.grad).all()) for each in network.parameters())


@pytest.mark.parametrize("options", [{}, {"chunk": 4}, {"chunk": 4, "left": 3}])
def test_a_body_while_training_answers_as_it_is_exported(options: dict[str, int]) -> None:
    network = small.network("body")
    features, lengths = torch.randn(2, 99, 80), torch.tensor([99, 40])
    exported, _, _ = network.encode(features, lengths, **options)
    trained, _, _ = network.train().encode(features, lengths, **options)
    assert torch.allclose(trained, exported, atol=1e-4)


@pytest.mark.parametrize("frames", [7, 8, 35, 66])
def test_subsampling_is_two_strided_convolutions(frames: int) -> None:
    """The matrix products are the convolutions of torch, three wide and of stride two, over time."""
    torch.manual_seed(0)
    network = small.network("body").subsampling
    values = torch.randn(2, frames, 80)
    expected = values.transpose(1, 2)
    for index, layer in enumerate((network.first, network.second)):
        weight = layer.weight.unflatten(1, (3, -1)).transpose(1, 2)
        expected = torch.nn.functional.conv1d(expected, weight, layer.bias, stride=2)
        expected = torch.nn.functional.silu(expected) if index == 0 else expected
    assert torch.allclose(network(values), expected.transpose(1, 2), atol=1e-5)


def test_the_head_sorts_and_normalises() -> None:
    head = small.network("am_en")
    log_probs, tokens = head(torch.randn(1, 6, small.SIZE), torch.tensor([4]))
    assert torch.all(log_probs[0, :4].diff(dim=-1) <= 0)
    assert torch.all(log_probs[0, :4].exp().sum(-1) <= 1.0 + 1e-5)
    assert tokens[0, 4:, 0].tolist() == [0, 0]
    assert log_probs[0, 4:, 0].tolist() == [0.0, 0.0]


def test_the_decoder_scores_what_its_softmax_says() -> None:
    """The score is the sum over the tokens and the end, step by step."""
    decoder = small.network("decoder")
    heard, heard_lengths = torch.randn(1, 9, small.SIZE), torch.tensor([9])
    tokens = torch.tensor([[[5, 7, 9, 0, 0]]])
    score = decoder(heard, heard_lengths, tokens, torch.tensor([[3]]))
    steps = decoder.log_probs(heard, heard_lengths, tokens[0, :, :3])[0]
    expected = sum(steps[index, token].item() for index, token in enumerate((5, 7, 9, 2)))
    assert score.item() == pytest.approx(expected, abs=1e-4)


def test_an_embedding_has_unit_length() -> None:
    embedding = small.network("diar")(torch.randn(2, 60, 80), torch.tensor([60, 20]))
    assert embedding.norm(dim=-1).tolist() == pytest.approx([1.0, 1.0], abs=1e-5)
