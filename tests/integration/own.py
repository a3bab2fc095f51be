"""Checkpoints of every format that `python -m export --networks` reads, and what each network itself decodes.

All but one are small networks with random weights: their words are nonsense, but each of them is known. The library of
each format decodes the same segments: transformers and hama; for wenet the layers that its fixtures are compared with.
"""

import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from contract.tokens import collapse
from export.checkpoints import wenet as wenet_importer
from export.checkpoints.imported import Imported
from export.checkpoints.wav2vec2 import TOP
from tests.unit.export import foreign, wenet
from transcriber import ctc
from transcriber.audio import Samples
from transcriber.buckets import pad_tokens

HAMA = importlib.util.find_spec("hama")
SOUNDS, PROMPTS = Path("/usr/share/asterisk/sounds/en_US_f_Allison"), 8
DELIMITER_BIAS = 3.0
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Library:
    """How a library decodes, with the best token of each frame."""

    decode: Decoder
    decode_rounded: Decoder
    """The same from the output of the encoder in FP16, in which it passes from the encoder to the head on a server."""
    emissions: Callable[[Samples], ctc.Emissions] | None = None
    """The best tokens of each frame of a segment, from the output of the encoder in FP16."""


def wenet_network(folder: Path) -> Library:
    """Write a U2++ of wenet's fixtures; its own code does not install, so its layers are those of the importer."""
    wenet.write(folder, wenet.U2PP)
    read = wenet_importer.read(folder)

    def decode(samples: Samples, *, in_half: bool) -> str:
        encoded, frames = _encoded(read, samples, in_half=in_half)
        path = read.head(encoded, frames)[1][0, : int(frames[0]), 0].tolist()
        # Its units are characters, and each of them is a word of a transcript.
        return " ".join(read.tokens.pieces[token] for token in collapse(path, read.tokens.dropped))

    return _library(decode)


def rescored_by_wenet(folder: Path) -> Decoder:
    """Return how the decoder of a folder of wenet chooses among the hypotheses of the search."""
    read = wenet_importer.read(folder)
    assert read.rescorer is not None
    assert read.rescorer_weight is not None
    rescorer, weight = read.rescorer, read.rescorer_weight

    def decode(samples: Samples) -> str:
        encoded, frames = _encoded(read, samples, in_half=True)
        log_probs, tokens = (each[0, : int(frames[0])].numpy() for each in read.head(encoded, frames))
        found = ctc.beam(ctc.Emissions(log_probs=log_probs, tokens=tokens.astype(np.int32)), read.tokens)
        padded, sizes = pad_tokens([each.tokens for each in found], len(found), max(len(each.tokens) for each in found))
        with torch.no_grad():
            scores = rescorer(encoded, frames, torch.from_numpy(padded)[None], torch.from_numpy(sizes)[None])[0]
        totals = [each.log_prob + weight * float(score) for each, score in zip(found, scores, strict=True)]
        return " ".join(read.tokens.pieces[token] for token in found[int(np.argmax(totals))].tokens)

    return decode


def _encoded(read: Imported, samples: Samples, *, in_half: bool) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        encoded, frames = read.encoder(torch.from_numpy(samples)[None], torch.tensor([samples.size], dtype=torch.int32))
    return (encoded.half().float() if in_half else encoded), frames


def wave_network(folder: Path, kind: str = "wav2vec2", norm: str = "group") -> Library:
    """Write a network of transformers that takes a waveform."""
    return _letters(*foreign.wave(folder, kind, norm))


def telephone_network(folder: Path) -> Library:
    """Write a network at 8 kHz whose words are as short as those of a language."""
    model, extractor = foreign.wave(folder)
    model.lm_head.bias.data[foreign.LETTERS["|"]] += DELIMITER_BIAS
    extractor.sampling_rate = 8_000
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return _letters(model, extractor)


def w2v_bert_network(folder: Path) -> Library:
    """Write a w2v-BERT of transformers with an adapter, as its recipe for fine-tuning makes it."""
    return _letters(*foreign.w2v_bert(folder, add_adapter=True))


def _letters(model: Any, extractor: Any) -> Library:
    letters = {number: letter for letter, number in foreign.LETTERS.items()}

    def decode(samples: Samples, *, in_half: bool) -> str:
        found = _best(model, extractor, samples, in_half=in_half)
        text = "".join(letters[token] for token in found if letters[token][0] != "<")
        return " ".join(text.replace("|", " ").split())

    def emissions(samples: Samples) -> ctc.Emissions:
        log_probs = torch.log_softmax(_logits(model, extractor, samples, in_half=True), dim=-1)
        values, tokens = (each.numpy() for each in torch.topk(log_probs, TOP))
        return ctc.Emissions(log_probs=values, tokens=tokens.astype(np.int32))

    return replace(_library(decode), emissions=emissions)


def parakeet_network(folder: Path) -> Library:
    """Write a Parakeet in transformers' format."""
    model, extractor = foreign.parakeet(folder)

    def decode(samples: Samples, *, in_half: bool) -> str:
        found = _best(model, extractor, samples, in_half=in_half)
        return " ".join(f"w{token}" for token in found if token not in (0, foreign.PIECES))

    return _library(decode)


def nemo_network(path: Path) -> Library:
    """Write a Parakeet as an archive of NeMo; transformers' network has the same weights."""
    model, extractor = foreign.parakeet_model()
    files = foreign.nemo_files(path.parent, model, foreign.nemo_config())
    foreign.write_tar(path, files)
    import sentencepiece

    pieces: Any = sentencepiece.SentencePieceProcessor(model_proto=files["./0a1b_tokenizer.model"])

    def decode(samples: Samples, *, in_half: bool) -> str:
        found = [token for token in _best(model, extractor, samples, in_half=in_half) if token < foreign.PIECES]
        shown = [token for token in found if not (pieces.is_control(token) or pieces.is_unknown(token))]
        return " ".join("".join(pieces.id_to_piece(token) for token in shown).replace("\u2581", " ").split())

    return _library(decode)


def _library(decode: Callable[..., str]) -> Library:
    return Library(decode=partial(decode, in_half=False), decode_rounded=partial(decode, in_half=True))


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


def _best(model: Any, extractor: Any, samples: Samples, *, in_half: bool) -> list[int]:
    """Return the best token of every frame, repeats merged, as transformers' processors do it."""
    found = _logits(model, extractor, samples, in_half=in_half).argmax(dim=-1).tolist()
    return [token for token, _ in groupby(found)]


def _logits(model: Any, extractor: Any, samples: Samples, *, in_half: bool) -> torch.Tensor:
    head = model.ctc_head if hasattr(model, "ctc_head") else model.lm_head
    hook = head.register_forward_pre_hook(_rounded) if in_half else None
    (logits,) = foreign.reference_logits(model, extractor, [np.ascontiguousarray(samples)])
    if hook is not None:
        hook.remove()
    if hasattr(model, "ctc_head"):
        # Parakeet's features have a frame that is not valid; transformers' generate leaves out what is made of it.
        frames = samples.size // extractor.hop_length
        for _ in range(3):
            frames = (frames + 1) // 2
        return logits[:frames]
    return logits


def _rounded(_head: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(each.half().float() for each in inputs)


def prompts() -> list[Path]:
    """Return long recordings of Debian's asterisk-core-sounds-en-g722: one voice, 16 kHz."""
    found = sorted(SOUNDS.glob("*.g722"), key=lambda path: path.stat().st_size)
    assert found, f"{SOUNDS} has no recordings: run ci/packages"
    return found[-PROMPTS:]
