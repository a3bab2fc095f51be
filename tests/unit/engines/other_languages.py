"""A made-up catalogue: two languages side by side, and a language whose recogniser is one network for audio.

Its networks recognise pulses. A frame is 1,360 samples, one every 640. A pulse at sample `n` of a frame is token `n`.
The language qq is written in characters without spaces, and its blank is the last token. English has the pieces and the
blank of the reference networks.
"""

from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor, nn

from contract.catalogue import CTC, ENCODER, Model
from contract.client import CHARACTERS, AudioSpec, ClientSpec, TokenSpec
from export.checkpoints.checkpoint import Checkpoint, audio_spec
from export.generated_catalogue import AUDIO_INPUTS, ENCODED_INPUTS, ENCODER_LENGTHS
from tests.unit.engines.exported import TOKENS

RATE_HZ, SHORTEST, HOP, SIZE = 8_000, 1_360, 640, 8
QQ = TokenSpec(
    pieces=(*"天地人水火山木", "<blank>"), blank=7, unspoken=(6,), style=CHARACTERS, word_separator=""
)  # fmt: skip
TOKENS_OF = {"en": TOKENS, "qq": QQ, "ss": QQ}
_TOKENS = """
[[outputs]]
name = "top_log_probs"
type = "FP32"
shape = ["encoder_frames", "top"]
tolerance = { measure = "absolute", fp32 = 1e-3, fp16 = 5e-2 }
[[outputs]]
name = "top_tokens"
type = "INT32"
shape = ["encoder_frames", "top"]
tolerance = { measure = "first_differing", fp32 = 0.0, fp16 = 0.0 }
"""
_SAMPLES = """
[modes.batch]
batch = { min = 1, opt = 2, max = 2 }
axes.samples = { min = 8000, opt = 16000, max = 32000, buckets = [8000, 16000, 32000] }
"""
_HEAD = "\n" + ENCODED_INPUTS + _TOKENS + "[modes.batch]\nbatch = { min = 1, opt = 2, max = 2 }\n"
_BODY = (
    f'role = "encoder"\nframes = [[{SHORTEST}, {HOP}]]\n'
    + AUDIO_INPUTS
    + """
[[outputs]]
name = "encoder_out"
type = "FP16"
shape = ["encoder_frames", "encoder_size"]
tolerance = { measure = "relative", fp32 = 1e-3, fp16 = 2e-2 }
"""
    + ENCODER_LENGTHS
    + _SAMPLES
)
_ALONE = (
    f'role = "ctc"\nlanguage = "ss"\nframes = [[{SHORTEST}, {HOP}]]\n'
    "max_wer_increase = { fp32 = 0.0, fp16 = 0.0 }\n" + AUDIO_INPUTS + _TOKENS + ENCODER_LENGTHS + _SAMPLES
)


def write_catalogue(folder: Path, *languages: str) -> Path:
    """Write a catalogue of one point for some of the languages en, qq and ss; ss needs no body."""
    families = {"alone_ss": _ALONE} if "ss" in languages else {}
    for language in languages:
        if language != "ss":
            families |= {"body": _BODY, f"am_{language}": f'role = "ctc"\nlanguage = "{language}"' + _HEAD}
            families[f"ensemble_{language}"] = (
                f'role = "ensemble"\nlanguage = "{language}"\nsteps = ["body", "am_{language}"]\n'
                'outputs = ["top_log_probs", "top_tokens", "encoder_lengths"]\n'
                "max_wer_increase = { fp32 = 0.0, fp16 = 0.0 }\n"
            )
    folder.mkdir(parents=True)
    (folder / "catalogue.toml").write_text('schema_version = 2\noperating_points = ["only"]\n')
    for name, text in families.items():
        (folder / name).mkdir()
        network = "" if "steps" in text else 'network = "pulses"\n'
        head = f'schema_version = 2\noperating_points = ["only"]\n{network}'
        (folder / name / "model.toml").write_text(head + text)
    return folder


def record(folder: Path, language: str, number: int, tokens: list[int], text: str) -> None:
    """Write a recording of pulses and its text."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = np.zeros(SHORTEST + HOP * 2 * len(tokens), dtype=np.float32)
    samples[2 * HOP * np.arange(len(tokens)) + tokens] = 0.5
    soundfile.write(folder / f"{language}{number}.wav", samples, RATE_HZ, subtype="PCM_16")
    (folder / f"{language}{number}.txt").write_text(text, encoding="utf-8")


class Body(nn.Module):
    """An encoder whose vectors are the first eight samples of every frame."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("first", torch.eye(SIZE)[:, None, :])

    def forward(self, audio: Tensor, audio_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return encoder_out and encoder_lengths."""
        first = self.get_buffer("first")
        begins = audio[:, None, : SIZE - SHORTEST].to(first.dtype)
        frames = torch.nn.functional.conv1d(begins, first, stride=HOP).transpose(1, 2)
        return frames, ((audio_lengths - SHORTEST) // HOP + 1).clamp(min=1)


class Head(nn.Module):
    """A head that takes the position of a pulse for the token, and a frame without one for the blank."""

    def __init__(self, blank: int) -> None:
        super().__init__()
        bias = -0.01 * torch.arange(SIZE)
        bias[blank] = 1.0
        self.register_buffer("bias", bias)

    def forward(self, encoder_out: Tensor, encoder_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return top_log_probs and top_tokens."""
        del encoder_lengths
        found = torch.log_softmax(10.0 * encoder_out.float() + self.get_buffer("bias"), dim=-1)
        values, tokens = found.topk(4, dim=-1)
        return values, tokens


class Alone(nn.Module):
    """Both in one network."""

    def __init__(self, blank: int) -> None:
        super().__init__()
        self.body, self.head = Body(), Head(blank)

    def forward(self, audio: Tensor, audio_lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return top_log_probs, top_tokens and encoder_lengths."""
        encoded, lengths = self.body(audio, audio_lengths)
        return (*self.head(encoded, lengths), lengths)


def open_checkpoint(model: Model) -> Checkpoint:
    """Return a network of the catalogue as a source of weights would."""
    family = model.family
    tokens = TOKENS_OF.get(family.language or "")
    audio: AudioSpec | None = audio_spec(RATE_HZ, family.frames) if family.frames else None
    if family.role == ENCODER or tokens is None:
        network: nn.Module = Body()
    else:
        network = Alone(tokens.blank) if family.takes_audio else Head(tokens.blank)
    return Checkpoint(
        network=network.eval(),
        dims={"encoder_size": SIZE, "top": 4},
        client=ClientSpec(audio=audio, tokens=tokens if family.role == CTC else None),
        origin="pulses",
        digest=model.name,
    )
