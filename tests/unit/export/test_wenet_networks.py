"""Networks of wenet compared with what wenet's own code computes: parity, padding, streams, types, graphs."""

from pathlib import Path
from typing import Any

import kaldi_native_fbank as knf
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from export import parity
from export.checkpoints import wenet
from export.checkpoints.imported import Imported
from export.networks.wenet_encoder import STREAM_POSITIONS, WenetEncoder
from export.samples import streaming_samples
from export.tracing import Boundary
from tests.unit.export.wenet import (
    BANDS,
    STATIC,
    SYMMETRIC,
    TRANSFORMER,
    U2PP,
    VARIANTS,
    catalogue,
    fixture,
    job,
    traced,
    weights,
)
from tests.unit.export.wenet import write as write_folder

LENGTHS, CHUNK, PAST = (7, 203, 680), 16, 128
WINDOW, STEP = (67 - 1) * 160 + 400, 64 * 160


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("wenet")


def imported(folder: Path, variant: str, **changes: Any) -> Imported:
    return wenet.read(write_folder(folder / variant, variant, **changes))


def encode(encoder: Any, features: Tensor, lengths: list[int], **chunks: Any) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        encoded, found = encoder.encode(features, torch.tensor(lengths), **chunks)
    return encoded, found


def difference(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found.float() - expected.float()).abs().max())


def audio(samples: int, items: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return 0.1 * torch.randn(items, samples, generator=generator)


def test_encoder_equals_wenet_alone_and_padded(folder: Path, variant: str) -> None:
    encoder, expected = imported(folder, variant).encoder, fixture(variant)
    chunk = 16 if variant == STATIC else None
    features = expected["features"].float()[None].repeat(len(LENGTHS), 1, 1)
    padded, lengths = encode(encoder, features, list(LENGTHS), chunk=chunk)
    assert lengths.tolist() == [1, 50, 169]
    for index, length in enumerate(LENGTHS):
        wanted = expected[f"encoded.{length}"]
        alone, _ = encode(encoder, features[:1, :length], [length], chunk=chunk)
        assert difference(alone[0], wanted) < 1e-5
        assert difference(padded[index, : len(wanted)], wanted) < 1e-5
        assert not padded[index, len(wanted) :].any()


@pytest.mark.parametrize("variant", [U2PP, TRANSFORMER])
def test_encoder_equals_wenet_under_the_mask_of_chunks(folder: Path, variant: str) -> None:
    encoder, expected = imported(folder, variant).encoder, fixture(variant)
    features = expected["features"].float()[None]
    chunked, _ = encode(encoder, features, [680], chunk=CHUNK, left=PAST)
    assert difference(chunked[0], expected["chunked"]) < 1e-5
    assert difference(chunked[0], expected["encoded.680"]) > 0.1


def test_whole_recordings_keep_the_mask_of_static_chunks(folder: Path) -> None:
    """wenet applies the mask of a network with static chunks in every decoding."""
    expected = fixture(STATIC)
    encoder: Any = imported(folder, STATIC).encoder
    encoder.front_end = Features()
    features = expected["features"].float()[None]
    with torch.no_grad():
        encoded, _ = encoder(features, torch.tensor([680]))
    assert difference(encoded[0], expected["encoded.680"]) < 1e-5
    without_mask, _ = encode(encoder, features, [680])
    assert difference(without_mask[0], expected["encoded.680"]) > 0.1


def test_head_equals_wenet(folder: Path, variant: str) -> None:
    expected = fixture(variant)
    head: Any = imported(folder, variant).head
    with torch.no_grad():
        found = head.log_probs(expected["encoded.203"])
    assert difference(found, expected["log_probs"]) < 1e-5


@pytest.mark.parametrize("padding", [0, 11])
def test_rescorer_equals_attention_rescoring_of_wenet(folder: Path, variant: str, padding: int) -> None:
    """Neither frames nor tokens of padding change a score, nor does another item of the batch."""
    expected = fixture(variant)
    rescorer: Any = imported(folder, variant).rescorer
    encoded = torch.randn(2, 60, 16, generator=torch.Generator().manual_seed(1))
    encoded[1, :50] = expected["encoded.203"]
    lengths = expected["hypothesis_lengths"].int()[None].repeat(2, 1)
    tokens = torch.full((2, 3, 9), padding, dtype=torch.int32)
    for row, size in enumerate(lengths[1].tolist()):
        tokens[1, row, :size] = expected["hypotheses"][row, :size]
    with torch.no_grad():
        found = rescorer(encoded, torch.tensor([60, 50], dtype=torch.int32), tokens, lengths)
    assert found.dtype == torch.float32
    assert difference(found[1], expected["scores"]) < 1e-4


def test_front_end_is_the_filter_bank_of_kaldi(folder: Path) -> None:
    """wenet computes Kaldi's features of samples in the range of 16-bit integers, without dither."""
    encoder: Any = imported(folder, U2PP).encoder
    samples = audio(32_000)
    options = knf.FbankOptions()
    options.frame_opts.dither, options.mel_opts.num_bins = 0.0, BANDS
    options.energy_floor = 0.0
    bank = knf.OnlineFbank(options)
    bank.accept_waveform(16_000, (samples[0] * 32_768).tolist())
    features = torch.from_numpy(np.stack([bank.get_frame(index) for index in range(bank.num_frames_ready)]))
    with torch.no_grad():
        found, lengths = encoder(samples, torch.tensor([32_000], dtype=torch.int32))
    expected, wanted = encode(encoder, features[None], [len(features)])
    assert lengths.tolist() == wanted.tolist() == [48]
    assert difference(found, expected) < 2e-3


@pytest.mark.parametrize("samples", [0, 399, 400, 1_359, 1_360, 1_999, 2_000, 31_999, 32_000])
def test_lengths_follow_the_rule_of_frames(folder: Path, variant: str, samples: int) -> None:
    found = imported(folder, variant)
    with torch.no_grad():
        encoded, lengths = found.encoder(audio(32_000), torch.tensor([samples], dtype=torch.int32))
    assert lengths.tolist() == [max(1, found.frames.count(samples))]
    assert encoded.shape[1] == found.frames.count(32_000)
    assert found.audio.frames(32_000) == 48
    assert found.audio.shortest_samples == 1_360


def test_padded_audio_is_encoded_as_alone(folder: Path, variant: str) -> None:
    encoder = imported(folder, variant).encoder
    batch, sizes = audio(64_000, 3), [1_360, 33_333, 64_000]
    for row, size in zip(batch, sizes, strict=True):
        row[size:] = 0.0
    with torch.no_grad():
        padded, lengths = encoder(batch, torch.tensor(sizes, dtype=torch.int32))
        for index, size in enumerate(sizes):
            alone, _ = encoder(batch[index : index + 1, :size], torch.tensor([size], dtype=torch.int32))
            assert difference(padded[index, : int(lengths[index])], alone[0]) < 1e-5


class Features(nn.Module):
    """A front end whose audio is features already."""

    def forward(self, features: Tensor) -> Tensor:
        return features

    def lengths(self, feature_lengths: Tensor) -> Tensor:
        return feature_lengths


def states(encoder: WenetEncoder, items: int) -> list[Tensor]:
    dims = encoder.dims
    return [
        torch.zeros(items, dims["layers"], 2, PAST, dims["encoder_size"]),
        torch.zeros(items, dims["layers"], dims["convolution_past"], dims["encoder_size"]),
        torch.zeros(items, 1, dtype=torch.int32),
    ]


def streamed(encoder: Any, batch: Tensor, sizes: list[int], window: int, step: int, least: int) -> list[Tensor]:
    """Encode recordings window by window in one batch; return the valid frames of each."""
    network, after = encoder.streaming(), states(encoder, len(sizes))
    found: list[list[Tensor]] = [[] for _ in sizes]
    for first in range(0, max(sizes), step):
        part = batch[:, first : first + window]
        filled = torch.zeros(len(sizes), window, *batch.shape[2:])
        filled[:, : part.shape[1]] = part
        remaining = torch.tensor([min(max(size - first, 1), window) for size in sizes], dtype=torch.int32)
        with torch.no_grad():
            encoded, valid, *after = network(filled, remaining, *after)
        for index, size in enumerate(sizes):
            if size - first >= least:
                found[index].append(encoded[index, : int(valid[index])])
    return [torch.cat(parts) for parts in found]


def test_steps_equal_wenet_under_the_mask_of_chunks(folder: Path) -> None:
    """The recording is longer than the past that attention sees, so positions count on."""
    expected = fixture(U2PP)
    encoder: Any = imported(folder, U2PP).encoder
    encoder.front_end = Features()
    (found,) = streamed(encoder, expected["features"].float()[None], [680], 67, 64, 7)
    assert difference(found, expected["chunked"]) < 1e-5


@pytest.mark.parametrize("variant", [U2PP, STATIC])
@pytest.mark.parametrize("size", [1_360, 10_960, 21_200, 21_201, 111_111])
def test_steps_of_audio_equal_the_recording_under_the_mask_of_chunks(folder: Path, variant: str, size: int) -> None:
    encoder: Any = imported(folder, variant).encoder
    batch, sizes = audio(111_111, 2), [111_111, size]
    found = streamed(encoder, batch, sizes, WINDOW, STEP, 1_360)[1]
    with torch.no_grad():
        features = encoder.front_end(batch[1:, :size])
    expected, _ = encode(encoder, features, [features.shape[1]], chunk=CHUNK, left=PAST)
    assert difference(found, expected[0]) < 1e-5


def test_positions_of_a_stream_end_after_20_seconds(folder: Path) -> None:
    """A stream stays at the last positions; a step there differs from one at earlier positions."""
    encoder: Any = imported(folder, U2PP).encoder
    network, batch = encoder.streaming(), audio(WINDOW, 2)
    lengths = torch.full((2,), WINDOW, dtype=torch.int32)
    after = states(encoder, 2)
    after[2] += STREAM_POSITIONS - CHUNK - 3
    counts = []
    with torch.no_grad():
        for _ in range(3):
            *_, attention, convolution, frames = network(batch, lengths, *after)
            after = [attention, convolution, frames]
            counts.append(after[2].tolist())
        late, _, *_ = network(batch, lengths, *after)
        early, _, *_ = network(batch, lengths, after[0], after[1], after[2] - 64)
    assert counts == [[[STREAM_POSITIONS - CHUNK]] * 2] * 3
    assert after[2].dtype == torch.int32
    assert difference(late, early) > 1e-3


def test_fp16_is_close_to_fp32(folder: Path, variant: str) -> None:
    found = imported(folder, variant)
    batch, lengths = audio(64_000, 2), torch.tensor([64_000, 33_333], dtype=torch.int32)
    family = catalogue(folder).families["body"].variants()[""]
    with torch.no_grad():
        wide, _ = found.encoder(batch, lengths)
        narrow, _ = Boundary(found.encoder, family, "fp16")(batch, lengths)
    assert narrow.dtype == torch.float16
    assert difference(narrow, wide) / float(wide.abs().max()) < 1e-2


def run(path: Path, inputs: list[Tensor]) -> list[Any]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    found: list[Any] = session.run(None, dict(zip(names, (each.numpy() for each in inputs), strict=True)))
    return found


@pytest.mark.parametrize("variant", [U2PP, SYMMETRIC, STATIC])
def test_graph_equals_the_network_at_every_length(folder: Path, variant: str) -> None:
    """An exporter can fix the time axis without an error, so inputs are shorter and longer than its example."""
    encoder = imported(folder, variant).encoder
    path = traced(folder, encoder, "body", "fp32")
    for samples, items in ((1_360, 1), (5_840, 3), (32_000, 1), (111_111, 2)):
        batch = audio(samples, items)
        lengths = torch.tensor([samples, *[samples // 2] * (items - 1)], dtype=torch.int32)
        with torch.no_grad():
            expected, counts = encoder(batch, lengths)
        encoded, found = run(path, [batch, lengths])
        assert found.tolist() == counts.tolist()
        assert difference(torch.from_numpy(encoded), expected) < 1e-2


@pytest.mark.parametrize(("positions", "factor"), [("abs_pos", 4.0), ("no_pos", 1.0)])
def test_input_without_positions_is_not_scaled(folder: Path, positions: str, factor: float) -> None:
    """wenet multiplies by the root of the size, 16, in its positional encodings only."""
    changed = {"encoder_conf.pos_enc_layer_type": positions, "encoder_conf.selfattention_layer_type": "selfattn"}
    encoder: Any = imported(folder, TRANSFORMER, changed=changed).encoder
    features = encoder.front_end(audio(16_000))
    mean, scale = encoder._normalisation
    with torch.no_grad():
        expected = encoder.subsampling((features - mean) * scale) * factor
        assert torch.allclose(encoder.embed(features), expected)


def test_smallest_epsilon_of_old_networks_is_finite_in_fp16(folder: Path) -> None:
    """In FP16 1e-12 is zero, and a layer norm of a constant vector divides by it: norms are FP32 in an FP16 graph."""
    state = {name: torch.zeros_like(value) for name, value in weights(U2PP).items()}
    encoder: Any = imported(folder, U2PP, changed={"encoder_conf.norm_eps": "1e-12"}, state=state).encoder
    assert encoder.norm.eps == 1e-12
    path = traced(folder, encoder, "body", "fp16")
    (encoded, _) = run(path, [audio(16_000), torch.tensor([16_000], dtype=torch.int32)])
    assert np.isfinite(encoded).all()
    graph = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
    types = {each.name: each.type.tensor_type.elem_type for each in graph.value_info}
    norms = [node for node in graph.node if node.op_type == "LayerNormalization"]
    assert len(norms) == 2 * 6 + 1
    assert {types[node.output[0]] for node in norms} == {onnx.TensorProto.FLOAT}


def test_graph_of_a_step_equals_the_network(folder: Path) -> None:
    encoder: Any = imported(folder, U2PP).encoder
    path = traced(folder, encoder, "body", "fp32", "realtime")
    network, after = encoder.streaming(), states(encoder, 3)
    for first in range(12):
        batch = audio(WINDOW, 3) * (1 + first)
        lengths = torch.tensor([WINDOW, 5_000, WINDOW], dtype=torch.int32)
        inputs = [batch, lengths, *(each.half() if each.is_floating_point() else each for each in after)]
        with torch.no_grad():
            expected = network(*inputs)
        found = run(path, inputs)
        for left, right in zip(found, expected, strict=True):
            assert difference(torch.from_numpy(left), right) < 2e-2
        after = list(expected[2:])
    assert after[2].tolist() == [[192]] * 3


@pytest.mark.parametrize("variant", [U2PP, SYMMETRIC])
def test_graph_of_the_rescorer_equals_the_network(folder: Path, variant: str) -> None:
    rescorer: Any = imported(folder, variant).rescorer
    path = traced(folder, rescorer, "decoder", "fp32")
    generator = torch.Generator().manual_seed(2)
    for items, frames, count, size in ((1, 4, 1, 1), (2, 90, 3, 12)):
        encoded = torch.randn(items, frames, 16, generator=generator).half()
        tokens = torch.randint(0, 20, (items, count, size), generator=generator, dtype=torch.int32)
        lengths = torch.randint(0, size + 1, (items, count), generator=generator, dtype=torch.int32)
        inputs = [encoded, torch.full((items,), frames, dtype=torch.int32), tokens, lengths]
        with torch.no_grad():
            expected = rescorer(*inputs)
        (found,) = run(path, inputs)
        assert difference(torch.from_numpy(found), expected) < 1e-3


@pytest.mark.parametrize(
    ("variant", "part", "family", "mode"),
    [(U2PP, "encoder", "body", ""), (U2PP, "encoder", "body", "realtime"), (U2PP, "rescorer", "decoder", "")],
)
def test_fp16_graph_is_within_the_limits_of_the_catalogue(
    folder: Path, variant: str, part: str, family: str, mode: str
) -> None:
    network: Any = getattr(imported(folder, variant), part)
    exported = job(folder, network, family, "fp16", mode)
    path = traced(folder, network, family, "fp16", mode)
    found = parity.check(exported, path, parity.references(exported, []))
    assert {each.output for each in found} == {tensor.name for tensor in exported.family.outputs}
    assert all(each.within_limit for each in found)


def test_samples_of_steps_have_a_past_and_count_on(folder: Path) -> None:
    family = catalogue(folder).families["body"].in_mode("realtime")
    segment = audio(300_000)[0].numpy()
    found = list(streaming_samples(imported(folder, U2PP).encoder, family, [segment]))
    assert [int(sample["state_frames"].max()) for sample in found] == [0, 64, 320, 464]
    assert [int(sample["audio_lengths"][0]) for sample in found] == [10_960, 10_960, 10_960, 300_000 - 29 * 10_240]
    assert [sample["state_attention"].shape for sample in found] == [(1, 2, 2, 128, 16)] * 4
    assert not found[1]["state_attention"][:, :, :, :-64].any()
