"""A stream encoded window by window gives the encoding of the whole recording under the same mask."""

import pytest
import torch
from torch import Tensor

from contract.catalogue import catalogue
from export.networks.conformer_encoder import ConformerEncoder, ConformerEncoderConfig
from export.networks.streaming import zero_states
from export.samples import speech, streaming_samples

BANDS, WINDOW, STRIDE, CHUNK, PAST = 80, 35, 32, 8, 16


@pytest.fixture(params=[(), (1, 2)], ids=["plain", "conditioned"])
def body(request: pytest.FixtureRequest) -> ConformerEncoder:
    torch.manual_seed(3)
    config = ConformerEncoderConfig(
        size=16, layers=3, heads=2, hidden=24, channels=24, conditioned=request.param, vocabulary=24
    )
    encoder = ConformerEncoder(config).eval()
    encoder.feature_norm.mean.fill_(10.0)
    encoder.feature_norm.deviation.fill_(4.0)
    for name, parameter in encoder.named_parameters():
        if name.endswith(".streamed"):
            torch.nn.init.normal_(parameter)
    return encoder


def streamed(body: ConformerEncoder, features: Tensor, lengths: list[int]) -> list[Tensor]:
    """Encode recordings [batch, frames, bands] window by window in one batch; return the valid frames of each."""
    network, states = body.streaming(), zero_states(body, len(lengths), PAST)
    found: list[list[Tensor]] = [[] for _ in lengths]
    for first in range(0, max(lengths) - WINDOW + STRIDE, STRIDE):
        window = torch.zeros(len(lengths), WINDOW, BANDS)
        part = features[:, first : first + WINDOW]
        window[:, : part.shape[1]] = part
        remaining = torch.tensor([min(max(length - first, 1), WINDOW) for length in lengths])
        with torch.no_grad():
            encoded, valid, *states = network(window, remaining, *states)
        for index, length in enumerate(lengths):
            if length - first >= 7:
                found[index].append(encoded[index, : int(valid[index])])
    return [torch.cat(parts) for parts in found]


@pytest.mark.parametrize("length", [35, 67, 99, 323, 400, 418])
def test_stream_equals_the_recording_under_the_same_mask(body: ConformerEncoder, length: int) -> None:
    """Includes recordings longer than the past of the attention, and recordings that end within a window."""
    features = torch.randn(1, length, BANDS) * 4.0 + 10.0
    with torch.no_grad():
        expected, _, lengths = body.encode(features, torch.tensor([length]), chunk=CHUNK, left=PAST)
    (found,) = streamed(body, features, [length])
    assert len(found) == int(lengths)
    assert (found - expected[0]).abs().max() < 1e-5


def test_ended_stream_does_not_change_another(body: ConformerEncoder) -> None:
    features = torch.randn(2, 418, BANDS) * 4.0 + 10.0
    short, long = streamed(body, features, [100, 418])
    (alone,) = streamed(body, features[1:], [418])
    assert (long - alone).abs().max() < 1e-5
    assert len(short) == 24


@pytest.mark.parametrize("length", range(64, 96))
def test_samples_exist_for_segments_of_any_length(body: ConformerEncoder, length: int) -> None:
    """Up to three frames at the end of a segment give no encoder frame and no window."""
    segments = [torch.randn(length, BANDS).numpy().astype("float16")]
    family = catalogue()["body"].in_mode("realtime")
    last = list(streaming_samples(body, family, segments))[-1]
    assert 7 <= int(last["feature_lengths"][0]) <= WINDOW


def test_samples_contain_a_past(body: ConformerEncoder) -> None:
    """The first step has no past; later steps have at most as much as the attention sees."""
    family = catalogue()["body"].in_mode("realtime")
    found = list(streaming_samples(body, family, speech()[-1:]))
    assert [int(sample["state_frames"].max()) for sample in found][:3] == [0, 32, 128]
    assert [list(sample) for sample in found] == [[tensor.name for tensor in family.inputs]] * len(found)
    assert not found[0]["state_attention"].any()
    assert found[1]["state_attention"][:, :, :, -32:].any()
    assert not found[1]["state_attention"][:, :, :, :-32].any()
    assert found[-1]["feature_lengths"].tolist() != [WINDOW]
