"""Archives that NeMo itself wrote: the importer against NeMo's own features and logits, and the kinds it refuses."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from contract.errors import CheckpointError
from export.checkpoints import nemo
from export.checkpoints.imported import Imported
from tests.unit.export import foreign

DATA = Path(__file__).parent / "data" / "nemo"
DIALOGUE = Path(__file__).parents[3] / "demo" / "dialogue.flac"
SUPPORTED = ("ctc-pieces", "ctc-characters", "hybrid")
# The largest differences are 5e-5 and 1.3e-5.
LOG_PROB_DIFFERENCE, FEATURE_DIFFERENCE = 2e-4, 1e-4
PADDED_SAMPLES = 64_000
Arrays = dict[str, NDArray[Any]]


@pytest.fixture(scope="module", params=SUPPORTED)
def case(request: pytest.FixtureRequest) -> tuple[Imported, Arrays]:
    """Return the import of an archive, and what NeMo computes with it."""
    with np.load(DATA / f"{request.param}.npz") as arrays:
        return nemo.read(DATA / f"{request.param}.nemo"), dict(arrays)


def recordings(expected: Arrays) -> list[NDArray[np.float32]]:
    """Return the excerpts of real speech that NeMo computed with."""
    samples, _ = soundfile.read(DIALOGUE, dtype="float32")
    return [samples[begin : begin + length] for begin, length in expected["excerpts"]]


def assert_equal(imported: Imported, encoded: torch.Tensor, lengths: torch.Tensor, theirs: list[Any]) -> None:
    """Compare the log-probabilities of a batch with those of NeMo for each recording alone."""
    head: Any = imported.head
    with torch.no_grad():
        found = head.log_probs(encoded)
    assert lengths.tolist() == [len(each) for each in theirs]
    for row, expected in zip(found.numpy(), theirs, strict=True):
        assert np.abs(row[: len(expected)] - expected).max() < LOG_PROB_DIFFERENCE


def test_equals_nemo_for_each_recording_alone(case: tuple[Imported, Arrays]) -> None:
    imported, expected = case
    for number, audio in enumerate(recordings(expected)):
        with torch.no_grad():
            encoded, lengths = imported.encoder(*foreign.padded([audio], len(audio)))
        assert_equal(imported, encoded, lengths, [expected[f"log_probs_{number}"]])


def test_equals_nemo_for_all_recordings_padded(case: tuple[Imported, Arrays]) -> None:
    imported, expected = case
    audio = recordings(expected)
    with torch.no_grad():
        encoded, lengths = imported.encoder(*foreign.padded(audio, PADDED_SAMPLES))
    assert_equal(imported, encoded, lengths, [expected[f"log_probs_{number}"] for number in range(len(audio))])


def test_features_are_those_of_nemo(case: tuple[Imported, Arrays]) -> None:
    """Of the last recording, as [bands, frames]."""
    imported, expected = case
    audio = recordings(expected)[-1]
    front_end = imported.encoder.get_submodule("front_end")
    with torch.no_grad():
        features, lengths = front_end(*foreign.padded([audio], len(audio)))
    theirs = expected["features"]
    assert lengths.tolist() == [theirs.shape[1]]
    assert np.abs(features[0, : theirs.shape[1]].numpy().T - theirs).max() < FEATURE_DIFFERENCE
    assert np.abs(theirs).max() > 1.0


@pytest.mark.parametrize("name", SUPPORTED)
def test_blank_is_last_and_pieces_are_those_of_the_archive(name: str) -> None:
    tokens = nemo.read(DATA / f"{name}.nemo").tokens
    assert tokens.blank == len(tokens.pieces) - 1
    if name == "ctc-characters":
        assert (tokens.style, tokens.delimiter, tokens.pieces[:3]) == ("delimiter", " ", (" ", "a", "b"))
    else:
        assert (tokens.style, tokens.pieces[:5]) == ("sentencepiece", ("<unk>", "<s>", "</s>", "th", "\u2581o"))
        assert tokens.unspoken == (0, 1, 2)


def test_head_of_a_hybrid_is_the_ctc_head() -> None:
    assert nemo.read(DATA / "hybrid.nemo").origin == "CTC head of a hybrid FastConformer of NeMo, hybrid.nemo"


REFUSED = {
    "conformer": (
        "model_config.yaml: encoder.subsampling: striding is not supported: it is a Conformer, and a FastConformer has"
        " a subsampling by 8 with dw_striding"
    ),
    "citrinet": (
        "model_config.yaml: encoder._target_: ConvASREncoder is not supported: it is a convolutional network, such as"
        " Citrinet or QuartzNet, and the encoder must be a FastConformer"
    ),
    "streaming": (
        "model_config.yaml: preprocessor.normalize: NA is not supported: it is a cache-aware streaming network, and"
        " those for whole recordings are supported"
    ),
    "transducer": (
        "model_config.yaml: target: EncDecRNNTBPEModel is not supported: it is a transducer without a CTC head; hybrid"
        " networks have one"
    ),
    "tdt": (
        "model_config.yaml: target: EncDecRNNTBPEModel is not supported: it is a token-and-duration transducer (TDT)"
        " without a CTC head; hybrid networks have one"
    ),
    "speakers": (
        "model_config.yaml: target: EncDecSpeakerLabelModel is not supported: it is a speaker network; export it to"
        " ONNX, and name it as `speaker`"
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refuses_other_networks_of_nemo(kind: str) -> None:
    path = DATA / f"refused-{kind}.nemo"
    assert nemo.recognises(path)
    with pytest.raises(CheckpointError) as error:
        nemo.read(path)
    assert f"{error.value.subject}: {error.value.cause}" == f"{path}: {REFUSED[kind]}"


def test_tests_cover_every_file() -> None:
    names = {*SUPPORTED, *(f"refused-{kind}" for kind in REFUSED)}
    assert {path.stem for path in DATA.glob("*.nemo")} == names
    assert all(path.stat().st_size < 200_000 for path in DATA.iterdir() if path.is_file())
