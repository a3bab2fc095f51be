"""The networks in torch: padding changes nothing, and lengths match the catalogue."""

from typing import Any

import numpy as np
import pytest
import torch

from contract import synthetic_inputs
from contract.catalogue import SAMPLES, Family, read_catalogue
from export.networks.conformer_encoder import subsampled
from export.networks.layers import Attention, chunk_mask, convolve
from export.networks.speaker_encoder import WindowedSpeakerEncoder
from tests.unit.export import small
from tests.unit.export.small import FAMILIES
from transcriber.speakers import window_bounds

PADDING_LEAK = 1e-5
# How much an axis is padded, where 12 would be too little to see a difference.
_PADDING = {SAMPLES: 2_000}


def _sizes(family: str, batch: int) -> dict[str, int]:
    axes = dict.fromkeys(_family(family).dynamic_axes(), 40)
    several = {SAMPLES: 6_500, "hypothesis_count": 3, "hypothesis_tokens": 7}
    return {"batch": batch, **axes, **several, **small.network(family).dims}


def _family(name: str) -> Family:
    return read_catalogue().families[name]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("filler", [0.0, 30.0])
def test_padding_changes_nothing(family: str, filler: float) -> None:
    """An item padded in a batch has the same outputs as alone, whatever values the padding has."""
    network, spec = small.whole(family), _family(family)
    sample = synthetic_inputs.make_inputs(spec, _sizes(family, 1), np.random.default_rng(5))
    alone = network(*map(torch.from_numpy, sample.values()))
    padded = {
        tensor.name: _pad(
            sample[tensor.name],
            [_PADDING.get(str(axis), 12) * (axis in spec.dynamic_axes()) for axis in tensor.shape],
            filler,
        )
        for tensor in spec.inputs
    }
    together = network(*map(torch.from_numpy, padded.values()))
    for ours, theirs in zip(_tuple(together), _tuple(alone), strict=True):
        cut = ours[tuple(slice(None, size) for size in theirs.shape)]
        assert torch.allclose(cut.float(), theirs.float(), atol=PADDING_LEAK)


def _tuple(outputs: torch.Tensor | tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _pad(array: np.ndarray, added: list[int], filler: float) -> np.ndarray:  # type: ignore[type-arg]
    return np.pad(array, [(0, 1), *((0, size) for size in added)], constant_values=filler)


@pytest.mark.parametrize(("frames", "encoder_frames"), [(35, 8), (200, 49), (400, 99), (2000, 499), (7, 1)])
def test_subsamples_by_four(frames: int, encoder_frames: int) -> None:
    features, lengths = torch.zeros(1, frames, 80), torch.tensor([frames])
    encoded, encoder_lengths = small.network("body")(features, lengths)
    assert subsampled(frames) == encoded.shape[1] == encoder_lengths.item() == encoder_frames


@pytest.mark.parametrize("samples", [1_360, 1_999, 2_000, 5_840, 32_000])
def test_frames_of_the_body_follow_the_rule_of_the_catalogue(samples: int) -> None:
    """The buckets of every network that reads the body's output come from this rule."""
    rule = _family("body").frames
    assert rule is not None
    encoded, lengths = small.whole("body")(torch.zeros(1, samples), torch.tensor([samples]))
    assert rule.count(samples) == encoded.shape[1] == lengths.item()
    assert (rule.hop, rule.shortest) == (640, 1_360)


def test_chunk_attends_to_itself_and_the_past() -> None:
    mask = chunk_mask(5, 2, None, torch.device("cpu")).int().tolist()
    assert mask == [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]


def test_chunk_attends_to_a_limited_past() -> None:
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
def test_long_chunk_or_past_hides_nothing(chunk: int, left: int) -> None:
    mask = chunk_mask(9, chunk, left, torch.device("cpu"))
    assert bool(mask.diagonal().all())
    assert bool(mask.all()) == (chunk == 9)
    assert torch.equal(mask, chunk_mask(9, chunk, None, torch.device("cpu"))) == (left >= 8 or chunk == 9)


def test_chunks_hide_later_frames() -> None:
    network = small.network("body")
    features, lengths = torch.randn(1, 67, 80), torch.tensor([67])
    changed = features.clone()
    # Encoder frame 7, the last of its chunk, depends on feature frames up to 34.
    changed[:, 35:] += 1.0
    ours, _, _ = network.encode(features, lengths, chunk=4)
    theirs, _, _ = network.encode(changed, lengths, chunk=4)
    assert torch.equal(ours[:, :8], theirs[:, :8])
    assert not torch.allclose(ours[:, 8:], theirs[:, 8:])


def test_limited_past_hides_earlier_frames() -> None:
    """Attention sees `left` frames before the chunk; the causal convolution after it sees two more."""
    network = small.network("body")
    features, lengths = torch.randn(1, 99, 80), torch.tensor([99])
    changed = features.clone()
    changed[:, :12] += 1.0
    for left, same in ((8, True), (None, False)):
        ours, _, _ = network.encode(features, lengths, chunk=4, left=left)
        theirs, _, _ = network.encode(changed, lengths, chunk=4, left=left)
        # The change reaches encoder frames 0 to 2 and frames that see them; the chunk of 12 to 15 sees back to frame 4.
        assert torch.equal(ours[:, 14:], theirs[:, 14:]) == same
        assert not torch.allclose(ours[:, :12], theirs[:, :12])


def test_chunk_as_long_as_the_recording_changes_nothing() -> None:
    network = small.network("body")
    features, lengths = torch.randn(2, 99, 80), torch.tensor([99, 60])
    whole, _ = network(features, lengths)
    chunked, _, _ = network.encode(features, lengths, chunk=1000, left=0)
    assert torch.equal(whole, chunked)


def test_streaming_bias_changes_streams_only() -> None:
    """The vector that a block adds in a stream does not change the encoding of a whole recording."""
    network = small.network("body")
    features, lengths = torch.randn(2, 99, 80), torch.tensor([99, 60])
    whole, _ = network(features, lengths)
    with torch.no_grad():
        network.get_parameter("blocks.0.streamed").normal_()
    assert torch.equal(whole, network(features, lengths)[0])
    chunked, _, _ = network.encode(features, lengths, chunk=1000, left=0)
    assert not torch.allclose(whole, chunked, atol=1e-2)


def test_returns_the_outputs_of_tapped_blocks() -> None:
    network = small.network("body")
    features, lengths = torch.randn(1, 67, 80), torch.tensor([67])
    encoded, tapped, _ = network.encode(features, lengths, taps=(0,))
    assert set(tapped) == {0}
    # The network has one block, so its output is the tapped output after conditioning.
    assert torch.equal(encoded, network.condition(0, tapped[0]))
    assert not torch.equal(encoded, tapped[0])
    assert network.encode(features, lengths)[1] == {}


@pytest.mark.parametrize("rotary", [False, True])
def test_attention_is_the_same_in_training_and_in_export(rotary: bool) -> None:
    torch.manual_seed(0)
    attention = Attention(16, 2, rotary=rotary)
    queries, keys = torch.randn(3, 7, 16), torch.randn(3, 11, 16)
    mask = torch.rand(3, 1, 7, 11) < 0.5
    # A query without a visible key, as in a chunk of padding, attends to all keys equally.
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
def test_body_is_the_same_in_training_and_in_export(options: dict[str, int]) -> None:
    network = small.network("body")
    features, lengths = torch.randn(2, 99, 80), torch.tensor([99, 40])
    exported, _, _ = network.encode(features, lengths, **options)
    trained, _, _ = network.train().encode(features, lengths, **options)
    assert torch.allclose(trained, exported, atol=1e-4)


@pytest.mark.parametrize("frames", [7, 8, 35, 66])
def test_subsampling_equals_two_strided_convolutions(frames: int) -> None:
    """The matrix products equal convolutions of torch over time, of width 3 and stride 2."""
    torch.manual_seed(0)
    network = small.network("body").subsampling
    values = torch.randn(2, frames, 80)
    expected = values.transpose(1, 2)
    for index, layer in enumerate((network.first, network.second)):
        weight = layer.weight.unflatten(1, (3, -1)).transpose(1, 2)
        expected = torch.nn.functional.conv1d(expected, weight, layer.bias, stride=2)
        expected = torch.nn.functional.silu(expected) if index == 0 else expected
    assert torch.allclose(network(values), expected.transpose(1, 2), atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"dilation": 3}, {"padding": 2}, {"groups": 4}])
def test_convolution_over_two_axes_equals_one_over_time(options: dict[str, Any]) -> None:
    layer = torch.nn.Conv1d(4, 8, 3, **options)
    values = torch.randn(2, 4, 20, generator=torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(values, (5, 0))
    for before, expected in ((0, layer(values)), (5, layer(padded))):
        assert torch.allclose(convolve(layer, values, before), expected, atol=1e-6)


def test_head_sorts_and_normalises() -> None:
    head = small.network("am_en")
    log_probs, tokens = head(torch.randn(1, 6, small.SIZE), torch.tensor([4]))
    assert torch.all(log_probs[0, :4].diff(dim=-1) <= 0)
    assert torch.all(log_probs[0, :4].exp().sum(-1) <= 1.0 + 1e-5)
    assert tokens[0, 4:, 0].tolist() == [0, 0]
    assert log_probs[0, 4:, 0].tolist() == [0.0, 0.0]


def test_decoder_sums_its_log_probabilities() -> None:
    """The score is the sum over the tokens and the end, step by step."""
    decoder = small.network("decoder")
    encoded, encoded_lengths = torch.randn(1, 9, small.SIZE), torch.tensor([9])
    tokens = torch.tensor([[[5, 7, 9, 0, 0]]])
    score = decoder(encoded, encoded_lengths, tokens, torch.tensor([[3]]))
    steps = decoder.log_probs(encoded, encoded_lengths, tokens[0, :, :3])[0]
    expected = sum(steps[index, token].item() for index, token in enumerate((5, 7, 9, 2)))
    assert score.item() == pytest.approx(expected, abs=1e-4)


def test_embedding_has_unit_length() -> None:
    embedding = small.network("diar")(torch.randn(2, 60, 80), torch.tensor([60, 20]))
    assert embedding.norm(dim=-1).tolist() == pytest.approx([1.0, 1.0], abs=1e-5)


def test_windows_of_a_segment_are_pooled_as_alone() -> None:
    """The frames come from the whole segment, which is padded; a window of them has the embedding of these frames."""
    encoder = small.network("diar")
    features, length = 3 * torch.randn(1, 500, 80), 431
    found = WindowedSpeakerEncoder(encoder, 198, 75)(features, torch.tensor([length]))
    assert found.shape == (1, 7, 8)
    assert found.norm(dim=-1).flatten().tolist() == pytest.approx([1.0] * 7, abs=1e-5)
    values, valid = encoder.frames(features, torch.tensor([length]))
    for place in range(6):
        window = slice(75 * place, min(75 * place + 198, length))
        alone = encoder.embedded(encoder._pool(values[:, window], valid[:, window]))
        assert torch.allclose(found[0, place], alone[0], atol=1e-5), place


@pytest.mark.parametrize("samples", [8_000, 12_240, 12_241, 31_999, 32_000, 32_001, 44_000, 44_001, 55_777, 320_000])
def test_has_a_window_for_each_of_the_client(samples: int) -> None:
    (embedding,) = small.whole("diar")(torch.randn(1, samples), torch.tensor([samples]))
    rule, spec = _family("diar").frames, small.client("diar").speaker
    assert rule is not None
    assert spec is not None
    assert rule.count(samples) == len(embedding) >= len(window_bounds(samples, spec))
