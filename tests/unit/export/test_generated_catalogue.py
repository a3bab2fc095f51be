"""The generated catalogue: every kind of network is read back as the catalogue of the reference networks is."""

from pathlib import Path

import pytest

from contract.catalogue import CTC, ENCODER, ENSEMBLE, RESCORER, SPEAKER, Catalogue, read_catalogue
from contract.client import EXACT, MASKED
from contract.errors import CatalogueError
from contract.frames import FrameRule
from export.generated_catalogue import OwnFamily, write

RULE = FrameRule.of((400, 160), (3, 2), (3, 2))
OUTPUTS = ("top_log_probs", "top_tokens", "encoder_out", "encoder_lengths")


def made(folder: Path, *families: OwnFamily) -> Catalogue:
    """Write a catalogue and read it."""
    write(folder / "catalogue", ("enhanced",), families)
    return read_catalogue(folder / "catalogue")


def encoder(step_frames: int = 0, rate_hz: int = 16_000, padding: str = MASKED) -> OwnFamily:
    """Return the family of an encoder."""
    return OwnFamily(
        name="body_de", role=ENCODER, language="de", operating_points=("enhanced",), sample_rate_hz=rate_hz,
        padding=padding, frames=RULE, step_frames=step_frames,
    )  # fmt: skip


def recogniser(step_frames: int = 0, rate_hz: int = 16_000, padding: str = MASKED) -> tuple[OwnFamily, ...]:
    """Return the families of a recogniser with encoder, head and rescorer."""
    points = ("enhanced",)
    return (
        encoder(step_frames, rate_hz, padding),
        OwnFamily(name="am_de", role=CTC, language="de", operating_points=points, step_frames=step_frames),
        OwnFamily(
            name="ensemble_de", role=ENSEMBLE, language="de", operating_points=points, steps=("body_de", "am_de"),
            outputs=OUTPUTS,
        ),
        OwnFamily(name="decoder_de", role=RESCORER, language="de", operating_points=points, step_frames=step_frames),
    )  # fmt: skip


def test_recogniser_without_streams(tmp_path: Path) -> None:
    found = made(tmp_path, *recogniser())
    assert list(found.models()) == ["am_de_enhanced", "body_de_enhanced", "decoder_de_enhanced", "ensemble_de_enhanced"]
    assert {name: list(family.modes) for name, family in found.families.items() if not family.is_ensemble} == {
        "am_de": ["batch"], "body_de": ["batch"], "decoder_de": ["batch"],
    }  # fmt: skip
    samples = found.families["body_de"].modes["batch"].axes["samples"]
    assert (samples.min, samples.opt, samples.max) == (32_000, 128_000, 320_000)
    assert samples.buckets == tuple(second * 16_000 for second in (2, 3, 4, 5, 6, 8, 10, 12, 16, 20))
    # The head takes what the encoder makes of these samples.
    assert found.families["am_de"].modes["batch"].axes["encoder_frames"].max == RULE.count(320_000)


def test_recogniser_with_streams(tmp_path: Path) -> None:
    found = made(tmp_path, *recogniser(step_frames=16))
    mode = found.families["body_de"].modes["realtime"]
    # Frames of 640 samples, and what the first one needs beyond its hop.
    assert (mode.axes["samples"].max, mode.overlap) == (RULE.shortest - 640 + 16 * 640, RULE.shortest - 640)
    assert mode.axes["encoder_frames"].max == 16
    assert [state.name for state in mode.states] == ["attention", "convolution", "frames"]
    assert mode.states[0].shape == ("layers", 2, 128, "encoder_size")


def test_samples_follow_the_sampling_rate(tmp_path: Path) -> None:
    samples = made(tmp_path, *recogniser(rate_hz=8_000)).families["body_de"].modes["batch"].axes["samples"]
    assert (samples.min, samples.opt, samples.max) == (16_000, 64_000, 160_000)


def test_exact_padding_has_no_buckets(tmp_path: Path) -> None:
    samples = made(tmp_path, *recogniser(padding=EXACT)).families["body_de"].modes["batch"].axes["samples"]
    assert (samples.min, samples.opt, samples.max, samples.buckets) == (3_200, 128_000, 320_000, ())


@pytest.mark.parametrize(("in_half", "absolute", "first"), [(False, 1e-3, 2e-3), (True, 1e-1, 2e-2)])
def test_graph_that_computes_in_half_has_its_tolerance(
    tmp_path: Path, in_half: bool, absolute: float, first: float
) -> None:
    graph = OwnFamily(
        name="am_de", role=CTC, language="de", operating_points=("enhanced",), sample_rate_hz=16_000, padding=MASKED,
        frames=RULE, computes_in_half=in_half,
    )  # fmt: skip
    outputs = made(tmp_path, graph).families["am_de"].outputs
    limits = {each.name: each.tolerance.fp32 for each in outputs if each.tolerance is not None}
    assert limits == {"top_log_probs": absolute, "top_tokens": first, "encoder_lengths": 0.0}


def test_speaker_network(tmp_path: Path) -> None:
    speaker = OwnFamily(
        name="diar_de", role=SPEAKER, language="de", operating_points=("enhanced",), sample_rate_hz=16_000,
        padding=MASKED, step_frames=16,
    )  # fmt: skip
    found = made(tmp_path, *recogniser(step_frames=16), speaker).families["diar_de"]
    assert {mode: each.axes["samples"].buckets for mode, each in found.modes.items()} == dict.fromkeys(
        ("batch", "realtime"), (8_000, 16_000, 32_000, 64_000)
    )


def test_replaces_an_older_catalogue(tmp_path: Path) -> None:
    write(tmp_path / "catalogue", ("enhanced",), recogniser())
    assert list(made(tmp_path, encoder()).families) == ["body_de"]


def test_rejects_empty_catalogue(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError):
        made(tmp_path)
