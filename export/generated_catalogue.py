"""Write the catalogue of a user's own networks: a model.toml for each network, from what its importer found."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from contract import files
from contract.catalogue import CATALOGUE_FILE, CTC, ENCODER, ENSEMBLE, MODEL_FILE, RESCORER, SCHEMA_VERSION, SPEAKER
from contract.client import EXACT
from contract.frames import FrameRule

# Seconds that clients pad audio to, for recognisers and for speaker networks.
RECOGNISER_BUCKETS_S = (2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0, 16.0, 20.0)
SPEAKER_BUCKETS_S = (0.5, 1.0, 2.0, 4.0)
_RECOGNISER_OPTIMUM_S, _SPEAKER_OPTIMUM_S = 8.0, 2.0
# The shortest segment that clients send.
_SHORTEST_S = 0.2
# Encoder frames of the past that a stream keeps.
STREAM_PAST_FRAMES = 128
AUDIO_INPUTS = """\
[[inputs]]
name = "audio"
type = "FP32"
shape = ["samples"]
synthetic = { normal = [0.0, 0.1] }

[[inputs]]
name = "audio_lengths"
type = "INT32"
shape = []
synthetic = { length_of = "samples" }
"""
ENCODER_LENGTHS = """\
[[outputs]]
name = "encoder_lengths"
type = "INT32"
shape = []
tolerance = { measure = "differing", fp32 = 0.0, fp16 = 0.0 }
"""
ENCODED_INPUTS = """\
[[inputs]]
name = "encoder_out"
type = "FP16"
shape = ["encoder_frames", "encoder_size"]
synthetic = { normal = [0.0, 1.0] }

[[inputs]]
name = "encoder_lengths"
type = "INT32"
shape = []
synthetic = { length_of = "encoder_frames" }
"""
_BEST_TOKENS = """\
[[outputs]]
name = "top_log_probs"
type = "FP32"
shape = ["encoder_frames", "top"]
tolerance = { measure = "absolute", fp32 = 1e-3, fp16 = 1e-1 }

[[outputs]]
name = "top_tokens"
type = "INT32"
shape = ["encoder_frames", "top"]
tolerance = { measure = "first_differing", fp32 = 2e-3, fp16 = 2e-2, ties = "top_log_probs" }
figures = ["differing"]
"""
_STATES = """\
[[modes.realtime.states]]
name = "attention"
type = "FP16"
shape = ["layers", 2, {past}, "encoder_size"]
synthetic = {{ normal = [0.0, 1.0] }}
tolerance = {{ measure = "relative", fp32 = 1e-3, fp16 = 5e-2 }}

[[modes.realtime.states]]
name = "convolution"
type = "FP16"
shape = ["layers", "convolution_past", "encoder_size"]
synthetic = {{ normal = [0.0, 0.5] }}
tolerance = {{ measure = "relative", fp32 = 1e-3, fp16 = 5e-2 }}

[[modes.realtime.states]]
name = "frames"
type = "INT32"
shape = [1]
synthetic = {{ constant = 100 }}
tolerance = {{ measure = "differing", fp32 = 0.0, fp16 = 0.0 }}

[modes.realtime.triton.sequence_batching]
max_sequence_idle_microseconds = 60_000_000
oldest = {{ max_candidate_sequences = 64, max_queue_delay_microseconds = 2000 }}
"""
_QUEUE = """\
[triton.dynamic_batching]
max_queue_delay_microseconds = 2000
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnFamily:
    """A family of a generated catalogue."""

    name: str
    role: str
    language: str
    operating_points: tuple[str, ...]
    sample_rate_hz: int = 0
    padding: str = ""
    frames: FrameRule | None = None
    step_frames: int = 0
    """Encoder frames of a step of a stream; 0 where the network takes whole recordings only."""
    steps: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    computes_in_half: bool = False
    """Whether a graph computes in FP16 by itself, so that its FP32 form is as inexact as FP16."""
    checkpoints: Mapping[str, str] = field(default_factory=dict)
    """The digest of the checkpoint at each operating point: `build` compares the graphs with it."""


def write(folder: Path, operating_points: Sequence[str], families: Iterable[OwnFamily]) -> None:
    """Replace a catalogue's folder in one step."""
    with files.replacing(folder) as staging:
        text = f"schema_version = {SCHEMA_VERSION}\noperating_points = {_list(operating_points)}\n"
        files.write(staging / CATALOGUE_FILE, text)
        for family in families:
            path = staging / family.name / MODEL_FILE
            path.parent.mkdir(parents=True)
            files.write(path, model_toml(family))


def model_toml(family: OwnFamily) -> str:
    """Return the text of a family's model.toml."""
    head = [
        f"schema_version = {SCHEMA_VERSION}",
        f'role = "{family.role}"',
        f'language = "{family.language}"',
        f"operating_points = {_list(family.operating_points)}",
    ]
    if family.role == ENSEMBLE:
        head += [f"steps = {_list(family.steps)}", f"outputs = {_list(family.outputs)}", _LIMITS]
        return "\n".join(head) + "\n"
    head.append('network = "imported"')
    if family.checkpoints:
        digests = ", ".join(f'{point} = "{found}"' for point, found in family.checkpoints.items())
        head.append(f"checkpoints = {{ {digests} }}")
    if family.frames is not None:
        steps = ", ".join(f"[{step.kernel}, {step.stride}, {step.padding}]" for step in family.frames.steps)
        head.append(f"frames = [{steps}]")
    if family.role == CTC and family.frames is not None:
        head.append(_LIMITS)
    return "\n".join(["\n".join(head) + "\n", *_tensors(family), *_modes(family), _QUEUE])


_LIMITS = "max_wer_increase = { fp32 = 0.5, fp16 = 1.5 }"


def _tensors(family: OwnFamily) -> list[str]:
    if family.role == ENCODER:
        return [AUDIO_INPUTS, _ENCODER_OUT, ENCODER_LENGTHS]
    if family.role == SPEAKER:
        return [AUDIO_INPUTS, _as_half(_EMBEDDING) if family.computes_in_half else _EMBEDDING]
    if family.role == RESCORER:
        return [ENCODED_INPUTS, _HYPOTHESES]
    if family.frames is not None:
        return [AUDIO_INPUTS, _as_half(_BEST_TOKENS) if family.computes_in_half else _BEST_TOKENS, ENCODER_LENGTHS]
    return [ENCODED_INPUTS, _BEST_TOKENS]


def _as_half(outputs: str) -> str:
    """Return outputs whose tolerance in FP32 is that of FP16."""
    return re.sub(r"fp32 = [^,]+, fp16 = ([^ ,]+)", r"fp32 = \1, fp16 = \1", outputs)


_ENCODER_OUT = """\
[[outputs]]
name = "encoder_out"
type = "FP16"
shape = ["encoder_frames", "encoder_size"]
tolerance = { measure = "relative", fp32 = 1e-3, fp16 = 5e-2 }
figures = ["absolute"]
"""
_EMBEDDING = """\
[[outputs]]
name = "embedding"
type = "FP32"
shape = ["embedding_size"]
tolerance = { measure = "cosine", fp32 = 1e-5, fp16 = 5e-3 }
figures = ["absolute", "relative"]
"""
_HYPOTHESES = """\
[[inputs]]
name = "hypotheses"
type = "INT32"
shape = ["hypothesis_count", "hypothesis_tokens"]
synthetic = { token_below = "vocabulary" }

[[inputs]]
name = "hypothesis_lengths"
type = "INT32"
shape = ["hypothesis_count"]
synthetic = { length_of = "hypothesis_tokens" }

[[outputs]]
name = "scores"
type = "FP32"
shape = ["hypothesis_count"]
tolerance = { measure = "relative", fp32 = 1e-4, fp16 = 1e-2 }
figures = ["absolute", "best_differing"]
"""


def _modes(family: OwnFamily) -> list[str]:
    batch = "[modes.batch]\nbatch = { min = 1, opt = 8, max = 16 }\n"
    if family.role == RESCORER:
        batch = "[modes.batch]\nbatch = { min = 1, opt = 4, max = 8 }\n" + _HYPOTHESIS_AXES
    streamed = _streaming(family)
    return [batch + _samples_axis(family), *([streamed] if streamed else [])]


_HYPOTHESIS_AXES = """\
axes.hypothesis_count = { min = 1, opt = 16, max = 16, buckets = [4, 8, 16] }
axes.hypothesis_tokens = { min = 16, opt = 64, max = 256, buckets = [16, 32, 48, 64, 96, 128, 192, 256] }
"""


def _streaming(family: OwnFamily) -> str:
    """Return the mode of streams; speaker networks have one in every catalogue with streams."""
    if not family.step_frames:
        return ""
    if family.role == ENCODER and family.frames is not None:
        overlap = family.frames.shortest - family.frames.hop
        window = overlap + family.step_frames * family.frames.hop
        axis = f"axes.samples = {{ min = {window}, opt = {window}, max = {window} }}\noverlap = {overlap}\n\n"
        states = _STATES.format(past=STREAM_PAST_FRAMES)
        return "[modes.realtime]\nbatch = { min = 1, opt = 8, max = 32 }\n" + axis + states
    if family.role == RESCORER:
        return "[modes.realtime]\nbatch = { min = 1, opt = 1, max = 8 }\n" + _HYPOTHESIS_AXES
    return "[modes.realtime]\nbatch = { min = 1, opt = 8, max = 32 }\n" + _samples_axis(family)


def _samples_axis(family: OwnFamily) -> str:
    if not family.sample_rate_hz:
        return ""
    of_speaker = family.role == SPEAKER
    seconds = SPEAKER_BUCKETS_S if of_speaker else RECOGNISER_BUCKETS_S
    buckets = [round(each * family.sample_rate_hz) for each in seconds]
    optimum = round((_SPEAKER_OPTIMUM_S if of_speaker else _RECOGNISER_OPTIMUM_S) * family.sample_rate_hz)
    if family.padding == EXACT:
        shortest = max(round(_SHORTEST_S * family.sample_rate_hz), family.frames.shortest if family.frames else 0)
        return f"axes.samples = {{ min = {shortest}, opt = {optimum}, max = {buckets[-1]} }}\n"
    return f"axes.samples = {{ min = {buckets[0]}, opt = {optimum}, max = {buckets[-1]}, buckets = {buckets} }}\n"


def _list(texts: Iterable[str]) -> str:
    return "[" + ", ".join(f'"{text}"' for text in texts) + "]"
