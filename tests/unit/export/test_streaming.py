"""A stream encoded window by window gives the encoding of the whole recording under the same mask."""

import pytest
import torch
from torch import Tensor

from contract.catalogue import read_catalogue
from export.checkpoints import roles
from export.networks.conformer_encoder import ConformerEncoder, ConformerEncoderConfig
from export.samples import streaming_samples
from export.speech import read_demo

BANDS, WINDOW, STRIDE, CHUNK, PAST = 80, 35, 32, 8, 16
FAMILY = read_catalogue().families["body"].in_mode("realtime")


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


def zero_states(body: ConformerEncoder, batch: int) -> list[Tensor]:
    """Return the states of streams that begin, with an attention to PAST frames."""
    dims = body.dims
    attention = torch.zeros(batch, dims["layers"], 2, PAST, dims["encoder_size"])
    convolution = torch.zeros(batch, dims["layers"], dims["convolution_past"], dims["encoder_size"])
    return [attention, convolution, torch.zeros(batch, 1, dtype=torch.int32)]


def streamed(body: ConformerEncoder, features: Tensor, lengths: list[int]) -> list[Tensor]:
    """Encode recordings [batch, frames, bands] window by window in one batch; return the valid frames of each."""
    network, states = body.streaming(), zero_states(body, len(lengths))
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


@pytest.mark.parametrize("length", range(10_640, 16_000, 160))
def test_samples_exist_for_segments_of_any_length(body: ConformerEncoder, length: int) -> None:
    """Up to three hops at the end of a segment give no encoder frame and no window."""
    segments = [torch.randn(length).numpy() * 0.1]
    last = list(streaming_samples(roles.with_front_end(body, "encoder"), FAMILY, segments))[-1]
    assert 1_360 <= int(last["audio_lengths"][0]) <= FAMILY.modes["realtime"].axes["samples"].max


def test_samples_contain_a_past(body: ConformerEncoder) -> None:
    """The first step has no past; later steps have at most as much as the attention sees."""
    longest = read_demo().segments[-1].samples
    found = list(streaming_samples(roles.with_front_end(body, "encoder"), FAMILY, [longest]))
    assert [int(sample["state_frames"].max()) for sample in found][:3] == [0, 32, 128]
    assert [list(sample) for sample in found] == [[tensor.name for tensor in FAMILY.inputs]] * len(found)
    assert not found[0]["state_attention"].any()
    assert found[1]["state_attention"][:, :, :, -32:].any()
    assert not found[1]["state_attention"][:, :, :, :-32].any()
    assert found[-1]["audio_lengths"].tolist() != [FAMILY.modes["realtime"].axes["samples"].max]
