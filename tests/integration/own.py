"""Checkpoints of every format that `python -m export --networks` reads, and what each network itself decodes.

All but one are small networks with random weights: their words are nonsense, but each of them is known. The library of
each format decodes the same segments: transformers and hama; for wenet the layers that its fixtures are compared with.
"""

import importlib.util
from collections.abc import Callable, Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from contract.tokens import collapse
from export.checkpoints import wenet as wenet_importer
from tests.unit.export import foreign, wenet
from transcriber.audio import Samples

HAMA = importlib.util.find_spec("hama")
Decoder = Callable[[Samples], str]
"""Returns the text of a segment."""
HAMA_TOML = """\
schema_version = 1
role = "ctc"
sample_rate_hz = 16000

[input]
kind = "audio"

[output]
# Windows of 400 samples, centred by reflection, then a convolution that halves their number.
frames = [[400, 160, 400], [3, 2, 2]]

[tokens]
file = "tokens.txt"
blank = "<blank>"
style = "delimiter"
delimiter = "<wb>"
"""


def wenet_network(folder: Path) -> Decoder:
    """Write a U2++ of wenet's fixtures; its own code does not install, so its layers are those of the importer."""
    wenet.write(folder, wenet.U2PP)
    read = wenet_importer.read(folder)

    def decode(samples: Samples) -> str:
        with torch.no_grad():
            audio, lengths = torch.from_numpy(samples)[None], torch.tensor([samples.size], dtype=torch.int32)
            encoded, frames = read.encoder(audio, lengths)
            path = read.head(encoded, frames)[1][0, : int(frames[0]), 0].tolist()
        # Its units are characters, and each of them is a word of a transcript.
        return " ".join(read.tokens.pieces[token] for token in collapse(path, read.tokens.dropped))

    return decode


def wave_network(folder: Path, kind: str = "wav2vec2", norm: str = "group") -> Decoder:
    """Write a network of transformers that takes a waveform."""
    model, extractor = foreign.wave(folder, kind, norm)
    letters = {number: letter for letter, number in foreign.LETTERS.items()}

    def decode(samples: Samples) -> str:
        text = "".join(letters[token] for token in _best(model, extractor, samples) if letters[token][0] != "<")
        return " ".join(text.replace("|", " ").split())

    return decode


def parakeet_network(folder: Path) -> Decoder:
    """Write a Parakeet in transformers' format."""
    model, extractor = foreign.parakeet(folder)

    def decode(samples: Samples) -> str:
        found = _best(model, extractor, samples)
        return " ".join(f"w{token}" for token in found if token not in (0, foreign.PIECES))

    return decode


def nemo_network(path: Path) -> Decoder:
    """Write a Parakeet as an archive of NeMo; transformers' network has the same weights."""
    model, extractor = foreign.parakeet_model()
    files = foreign.nemo_files(path.parent, model, foreign.nemo_config())
    foreign.write_tar(path, files)
    import sentencepiece

    pieces: Any = sentencepiece.SentencePieceProcessor(model_proto=files["./0a1b_tokenizer.model"])

    def decode(samples: Samples) -> str:
        found = [token for token in _best(model, extractor, samples) if token < foreign.PIECES]
        shown = [token for token in found if not (pieces.is_control(token) or pieces.is_unknown(token))]
        return " ".join("".join(pieces.id_to_piece(token) for token in shown).replace("\u2581", " ").split())

    return decode


def hama_network(folder: Path) -> Decoder:
    """Write hama's recogniser, whose weights are real, with a description; it is decoded by hama itself."""
    from hama import ASRDecodeConfig, ASRModel

    assert HAMA is not None
    folder.mkdir()
    model = ASRModel(decode=ASRDecodeConfig(blank_bias=0.0))
    source = Path(str(HAMA.origin)).parent / "assets" / "asr_waveform_fp16.onnx"
    (folder / "network.onnx").write_bytes(source.read_bytes())
    (folder / "network.toml").write_text(HAMA_TOML, encoding="utf-8")
    lines = (f"{piece} {number}\n" for number, piece in enumerate(model.decoder_tokens))
    (folder / "tokens.txt").write_text("".join(lines), encoding="utf-8")

    def decode(samples: Samples) -> str:
        return words_of_phonemes(model.decoder_tokens[token] for token in model(samples, foreign.RATE_HZ).token_ids)

    return decode


def words_of_phonemes(phonemes: Iterable[str]) -> str:
    """Return phonemes as text, with a blank between words."""
    text = "".join(" " if each == "<wb>" else each for each in phonemes if each == "<wb>" or each[0] != "<")
    return " ".join(text.split())


def _best(model: Any, extractor: Any, samples: Samples) -> list[int]:
    """Return the best token of every frame, repeats merged, as transformers' processors do it."""
    (logits,) = foreign.reference_logits(model, extractor, [np.ascontiguousarray(samples)])
    return [token for token, _ in groupby(logits.argmax(dim=-1).tolist())]
