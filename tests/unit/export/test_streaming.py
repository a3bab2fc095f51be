"""A stream, window after window, is what the whole recording is under the same mask."""

import pytest
import torch
from torch import Tensor

from contract.catalogue import catalogue
from export.networks.body import Body, BodyConfig
from export.networks.streaming import zero_states
from export.samples import speech, steps

BANDS, WINDOW, STRIDE, CHUNK, PAST = 80, 35, 32, 8, 16


@pytest.fixture(params=[(), (1, 2)], ids=["plain", "conditioned"])
def body(request: pytest.FixtureRequest) -> Body:
    torch.manual_seed(3)
    config = BodyConfig(size=16, layers=3, heads=2, hidden=24, channels=24, conditioned=request.param, vocabulary=24)
    made = Body(config).eval()
    made.feature_norm.mean.fill_(10.0)
    made.feature_norm.deviation.fill_(4.0)
    for name, parameter in made.named_parameters():
        if name.endswith(".streamed"):
            torch.nn.init.normal_(parameter)
    return made


def streamed(body: Body, features: Tensor, lengths: list[int]) -> list[Tensor]:
    """Encode recordings [batch, frames, bands] side by side, window after window; give each one's valid frames."""
    network, states = body.streaming(), zero_states(body, len(lengths), PAST)
    found: list[list[Tensor]] = [[] for _ in lengths]
    for first in range(0, max(lengths) - WINDOW + STRIDE, STRIDE):
        window = torch.zeros(len(lengths), WINDOW, BANDS)
        heard = features[:, first : first + WINDOW]
        window[:, : heard.shape[1]] = heard
        left = torch.tensor([min(max(length - first, 1), WINDOW) for length in lengths])
        with torch.no_grad():
            encoded, valid, *states = network(window, left, *states)
        for index, length in enumerate(lengths):
            if length - first >= 7:
                found[index].append(encoded[index, : int(valid[index])])
    return [torch.cat(parts) for parts in found]


@pytest.mark.parametrize("length", [35, 67, 99, 323, 400, 418])
def test_a_stream_is_the_recording_under_the_same_mask(body: Body, length: int) -> None:
    """Longer ones too than what attention sees of the past, and ones that end within a window."""
    features = torch.randn(1, length, BANDS) * 4.0 + 10.0
    with torch.no_grad():
        expected, _, lengths = body.encode(features, torch.tensor([length]), chunk=CHUNK, left=PAST)
    (found,) = streamed(body, features, [length])
    assert len(found) == int(lengths)
    assert (found - expected[0]).abs().max() < 1e-5


def test_a_stream_that_has_ended_does_not_disturb_another(body: Body) -> None:
    features = torch.randn(2, 418, BANDS) * 4.0 + 10.0
    short, long = streamed(body, features, [100, 418])
    (alone,) = streamed(body, features[1:], [418])
    assert (long - alone).abs().max() < 1e-5
    assert len(short) == 24


@pytest.mark.parametrize("length", range(64, 96))
def test_real_inputs_come_of_speech_of_any_length(body: Body, length: int) -> None:
    """Up to three frames at its end make no encoder frame and no window."""
    stretches = [torch.randn(length, BANDS).numpy().astype("float16") for _ in range(1)]
    family = catalogue()["body"].at("realtime")
    last = list(steps(body, family, stretches))[-1]
    assert 7 <= int(last["feature_lengths"][0]) <= WINDOW


def test_real_inputs_of_the_gate_hold_a_past(body: Body) -> None:
    """The first step knows nothing, the later ones as much as attention sees, and none more."""
    family = catalogue()["body"].at("realtime")
    found = list(steps(body, family, speech()[-1:]))
    assert [int(sample["state_frames"].max()) for sample in found][:3] == [0, 32, 128]
    assert [list(sample) for sample in found] == [[tensor.name for tensor in family.inputs]] * len(found)
    assert not found[0]["state_attention"].any()
    assert found[1]["state_attention"][:, :, :, -32:].any()
    assert not found[1]["state_attention"][:, :, :, :-32].any()
    assert found[-1]["feature_lengths"].tolist() != [WINDOW]
