"""How a graph from elsewhere is to be used: its inputs, outputs, frames and tokens, from one of three sources.

1. A TOML file beside it, `<name>.toml` for `<name>.onnx`. docs/architecture/12-onnx-networks.md describes its fields.
2. The layout of sherpa-onnx: model.onnx with metadata, and tokens.txt.
3. The layout of onnx-asr: config.json, model.onnx and vocab.txt.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from contract.client import CHARACTERS, SAMPLE_RATES_HZ, STYLES, SpeakerSpec, TokenSpec
from contract.errors import CheckpointError
from contract.fields import Fields
from contract.frames import FrameRule
from export.checkpoints import plain_files, token_files
from export.checkpoints.settings import parse_json
from export.networks.front_end import FULL_SCALE, FilterBankConfig
from export.networks.graph_parts import (
    OUTPUT_KINDS,
    OUTPUT_LAYOUTS,
    TIME_TOKENS,
    Part,
    kaldi_features,
    nemo_features,
    waveform,
)

SCHEMA_VERSION = 1
CTC, SPEAKER = ROLES = ("ctc", "speaker")
TOKENS_FILE, VOCABULARY_FILE, CONFIG_FILE = "tokens.txt", "vocab.txt", "config.json"
AUDIO, KALDI, NEMO = INPUT_KINDS = ("audio", "kaldi", "nemo")
DESCRIPTION = "docs/architecture/12-onnx-networks.md"
SAMPLE_RATE_HZ = 16_000
# Icefall trains with lhotse's features: the bank ends 400 Hz below half the sampling rate.
_ICEFALL_HIGH_HZ = -400.0
_CONFIG_BYTES = 1 << 20
_LARGEST_BANDS, _LARGEST_STEP = 256, 1 << 20
_STEP_SIZES = (2, 3)
_SHORTEST_HOP_S, _LONGEST_WINDOW_S = 0.1, 10.0
_REMEDY = f"Correct the file; {DESCRIPTION} describes every field"
_DESCRIBE = f"Describe the network in a TOML file beside it: {DESCRIPTION}"
# Windows of speech that are compared, where a network does not state them.
DEFAULT_WINDOW_S, DEFAULT_HOP_S, DEFAULT_SIMILARITY = 2.0, 0.75, 0.5
_HALVING = (3, 2, 2)
"""A convolution of NeMo's subsampling: half the frames, rounded up."""


_NO_STEPS = FrameRule(())


@dataclass(frozen=True, kw_only=True, slots=True)
class Ends:
    """The names of a graph's tensors; None for a name that the graph itself shows, or for lengths that it lacks."""

    values: str | None = None
    lengths: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokens:
    """What a description states of tokens; None where the token list shows it."""

    file: Path
    blank: str | int | None = None
    unspoken: tuple[str, ...] = ()
    style: str | None = None
    delimiter: str | None = None
    word_separator: str | None = None
    boundary: str | None = None

    def spec(self, vocabulary: int) -> TokenSpec:
        """Return the tokens of a network with a number of outputs; raise CheckpointError for another list."""
        pieces, unnamed = token_files.fit(self.file, token_files.read(self.file), vocabulary)
        blank = self._number("blank", self.blank, pieces)
        if blank is None:
            blank = token_files.find_blank(self.file, pieces)
        found = token_files.describe(pieces, blank, unnamed)
        unspoken = {*found.unspoken, *(self._number("unspoken", each, pieces) for each in self.unspoken)}
        delimiter = found.delimiter if self.delimiter is None else self.delimiter
        spoken = {pieces.index(delimiter)} if delimiter in pieces else set()
        style = found.style if self.style is None else self.style
        separator = "" if style == CHARACTERS else " "
        return TokenSpec(
            pieces=pieces,
            blank=blank,
            unspoken=tuple(sorted(number for number in unspoken - spoken if number is not None)),
            boundary=self._number("boundary", self.boundary, pieces),
            style=style,
            delimiter=delimiter,
            word_separator=separator if self.word_separator is None else self.word_separator,
        )

    def _number(self, field: str, token: str | int | None, pieces: tuple[str, ...]) -> int | None:
        if isinstance(token, str):
            if token not in pieces:
                raise CheckpointError(self.file, f"it has no token {token!r}, the {field} of the network", _REMEDY)
            return pieces.index(token)
        if token is not None and not 0 <= token < len(pieces):
            cause = f"it has {len(pieces)} tokens, and {field} is number {token}"
            raise CheckpointError(self.file, cause, _REMEDY)
        return token


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """How one graph is used."""

    role: str
    source: str
    """The layout, as text for people."""
    files: tuple[Path, ...]
    """What determines the description, besides the graph."""
    sample_rate_hz: int
    part: Part
    inputs: Ends = Ends()
    outputs: Ends = Ends()
    steps: FrameRule = _NO_STEPS
    """From the values that the graph takes, samples or features, to its frames."""
    kind: str | None = None
    """What the output holds, one of OUTPUT_KINDS; None: it is measured."""
    layout: str = TIME_TOKENS
    tokens: Tokens | None = None
    speaker: SpeakerSpec | None = None
    bands: int | None = None
    """The bands of features; None for audio."""

    @property
    def frames(self) -> FrameRule:
        """Return the rule from samples to encoder frames."""
        return FrameRule((*self.part.steps, *self.steps.steps))

    @property
    def first_centre(self) -> float:
        """Return the sample that the first encoder frame is centred on."""
        # The rule has half of each padding before the values; the front end knows its own centre.
        front = FrameRule(self.part.steps).first_centre if self.part.steps else self.part.first_centre
        return self.frames.first_centre - front + self.part.first_centre


def of_file(graph: Path, metadata: Mapping[str, str]) -> Description:
    """Return the description of a graph by the files beside it; raise CheckpointError where there is none."""
    described = graph.with_suffix(".toml")
    if described.is_file():
        return read_toml(described)
    if metadata.get("framework") in _SPEAKER_FRAMEWORKS:
        return _speaker_metadata(graph, metadata)
    tokens = graph.parent / TOKENS_FILE
    if "model_type" in metadata and tokens.is_file():
        return _sherpa(graph, metadata, tokens)
    config, vocabulary = graph.parent / CONFIG_FILE, graph.parent / VOCABULARY_FILE
    if config.is_file() and vocabulary.is_file():
        return _onnx_asr(config, vocabulary)
    cause = (
        f"nothing describes it: neither {described.name}, nor sherpa-onnx's metadata with {TOKENS_FILE}, nor "
        f"onnx-asr's {CONFIG_FILE} with {VOCABULARY_FILE}"
    )
    raise CheckpointError(graph, cause, _DESCRIBE)


def read_toml(path: Path) -> Description:
    """Return the description of a TOML file; raise CheckpointError with the field that is wrong."""
    try:
        table = tomllib.loads(plain_files.read(path, _CONFIG_BYTES).decode())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(path, f"it is not TOML ({error})", _REMEDY) from error
    fields = Fields(table, source=path, error=CheckpointError, remedy=_REMEDY)
    fields.reject_unknown("schema_version", "role", "sample_rate_hz", "input", "output", "tokens", "speaker")
    if fields.integer("schema_version") != SCHEMA_VERSION:
        raise fields.error("schema_version", f"this release reads version {SCHEMA_VERSION}")
    role, rate = _one_of(fields, "role", ROLES), fields.integer("sample_rate_hz")
    if rate not in SAMPLE_RATES_HZ:
        raise fields.error("sample_rate_hz", f"{rate} is not one of {', '.join(map(str, SAMPLE_RATES_HZ))}")
    given, output = fields.table("input"), fields.table("output")
    part, bands = _part(given, rate)
    output.reject_unknown("name", "lengths", "kind", "layout", "frames")
    unused = "speaker" if role == CTC else "tokens"
    if fields.has(unused):
        raise fields.error(unused, f"a network of the role {role} has no such table")
    return Description(
        role=role,
        source=f"described by {path.name}",
        files=(path,),
        sample_rate_hz=rate,
        part=part,
        bands=bands,
        inputs=_ends(given),
        outputs=_ends(output),
        steps=_steps(output) if role == CTC else FrameRule(()),
        kind=_one_of(output, "kind", OUTPUT_KINDS) if output.has("kind") else None,
        layout=_one_of(output, "layout", OUTPUT_LAYOUTS) if output.has("layout") else TIME_TOKENS,
        tokens=_tokens(fields.table("tokens"), path.parent) if role == CTC else None,
        speaker=_speaker(fields.table("speaker"), rate) if role == SPEAKER else None,
    )


def _ends(fields: Fields) -> Ends:
    return Ends(
        values=fields.text("name") if fields.has("name") else None,
        lengths=fields.text("lengths") if fields.has("lengths") else None,
    )


def _part(fields: Fields, rate: int) -> tuple[Part, int | None]:
    kind = _one_of(fields, "kind", INPUT_KINDS)
    if kind == AUDIO:
        fields.reject_unknown("kind", "name", "lengths", "scale", "normalise")
        return waveform(_number(fields, "scale", 1.0), normalise=_flag(fields, "normalise", default=False)), None
    bands = fields.integer("bands")
    if not 1 <= bands <= _LARGEST_BANDS:
        raise fields.error("bands", f"{bands} is not between 1 and {_LARGEST_BANDS}")
    if kind == NEMO:
        if rate != SAMPLE_RATE_HZ:
            raise fields.error("kind", f"NeMo's features are known for {SAMPLE_RATE_HZ} Hz only")
        fields.reject_unknown("kind", "name", "lengths", "bands", "normalise")
        return nemo_features(bands, rate, normalise=_flag(fields, "normalise", default=True)), bands
    fields.reject_unknown(
        *("kind", "name", "lengths", "bands", "normalise"),
        *("window", "scale", "preemphasis", "low_hz", "high_hz", "snip_edges"),
    )
    usual = FilterBankConfig()
    config = FilterBankConfig(
        sample_rate_hz=rate,
        bands=bands,
        window=_one_of(fields, "window", ("povey", "hamming")) if fields.has("window") else usual.window,
        scale=_number(fields, "scale", usual.scale),
        preemphasis=_number(fields, "preemphasis", usual.preemphasis),
        low_hz=_number(fields, "low_hz", usual.low_hz),
        high_hz=_number(fields, "high_hz", usual.high_hz),
    )
    high_hz = config.high_hz if config.high_hz > 0 else rate / 2 + config.high_hz
    if not 0 <= config.low_hz < high_hz <= rate / 2:
        cause = f"the bands lie between {config.low_hz:g} and {high_hz:g} Hz, which is not within 0 and {rate // 2}"
        raise fields.error("high_hz", cause)
    snip_edges, normalise = _flag(fields, "snip_edges", default=True), _flag(fields, "normalise", default=False)
    return kaldi_features(config, snip_edges=snip_edges, subtract_mean=normalise), bands


def _steps(fields: Fields) -> FrameRule:
    steps = fields.items("frames", list)
    for place, step in enumerate(steps):
        numbers = all(isinstance(each, int) and not isinstance(each, bool) for each in step)
        in_range = numbers and all(0 <= each <= _LARGEST_STEP for each in step)
        if not (in_range and len(step) in _STEP_SIZES and min(step[:2])):
            raise fields.error(f"frames[{place}]", "it is not [kernel, stride] or [kernel, stride, padding]")
    return FrameRule.of(*(tuple(step) for step in steps))


def _tokens(fields: Fields, folder: Path) -> Tokens:
    fields.reject_unknown("file", "blank", "unspoken", "style", "delimiter", "word_separator", "boundary")
    name = fields.text("file")
    if Path(name).name != name:
        raise fields.error("file", f"{name!r} is not the name of a file in the same folder")
    blank = fields.raw("blank") if fields.has("blank") else None
    if blank is not None and not isinstance(blank, (str, int)):
        raise fields.error("blank", "expected a symbol or its number")
    return Tokens(
        file=folder / name,
        blank=blank,
        unspoken=fields.items("unspoken", str) if fields.has("unspoken") else (),
        style=_one_of(fields, "style", STYLES) if fields.has("style") else None,
        delimiter=fields.text("delimiter") if fields.has("delimiter") else None,
        word_separator=fields.text("word_separator") if fields.has("word_separator") else None,
        boundary=fields.text("boundary") if fields.has("boundary") else None,
    )


def _speaker(fields: Fields, rate: int) -> SpeakerSpec:
    fields.reject_unknown("same_speaker_similarity", "window_s", "hop_s")
    similarity = fields.number("same_speaker_similarity")
    if not -1.0 < similarity < 1.0:
        raise fields.error("same_speaker_similarity", f"{similarity} is not between -1 and 1")
    window_s, hop_s = (_number(fields, key, usual) for key, usual in _WINDOWS.items())
    if not _SHORTEST_HOP_S <= hop_s <= window_s <= _LONGEST_WINDOW_S:
        raise fields.error("window_s", f"a window of {window_s:g} s every {hop_s:g} s is not possible")
    return SpeakerSpec(sample_rate_hz=rate, same_speaker_similarity=similarity, window_s=window_s, hop_s=hop_s)


_WINDOWS = MappingProxyType({"window_s": DEFAULT_WINDOW_S, "hop_s": DEFAULT_HOP_S})


def _one_of(fields: Fields, key: str, known: tuple[str, ...]) -> str:
    found = fields.text(key)
    if found not in known:
        raise fields.error(key, f"{found!r} is not one of {', '.join(each or repr(each) for each in known)}")
    return found


def _number(fields: Fields, key: str, usual: float) -> float:
    return fields.number(key) if fields.has(key) else usual


def _flag(fields: Fields, key: str, *, default: bool) -> bool:
    return fields.boolean(key) if fields.has(key) else default


_NEMO_TYPES = ("EncDecCTCModelBPE", "EncDecCTCModel", "EncDecHybridRNNTCTCBPEModel")
_WESPEAKER, _THREE_D_SPEAKER, _NEMO = _SPEAKER_FRAMEWORKS = ("wespeaker", "3d-speaker", "nemo")


def _sherpa(graph: Path, metadata: Mapping[str, str], tokens: Path) -> Description:
    kind = metadata["model_type"]
    read = Fields(
        {key: _integer(value) for key, value in metadata.items()},
        source=graph,
        error=CheckpointError,
        remedy=_DESCRIBE,
    )
    source = f"sherpa-onnx, {kind}"
    found = Tokens(file=tokens)
    if kind in _NEMO_TYPES and not read.has("is_giga_am"):
        normalise = _normalisation(read, "normalize_type", ("per_feature", "", "NA"), "") == "per_feature"
        steps = _halvings(read, "subsampling_factor")
        part = nemo_features(80, SAMPLE_RATE_HZ, normalise=normalise)
    elif kind == "wenet_ctc":
        # Two convolutions without padding, as in wenet's Conv2dSubsampling4, its usual layer.
        _expect(read, "subsampling_factor", 4)
        steps = FrameRule.of((3, 2), (3, 2))
        part = kaldi_features(FilterBankConfig(), snip_edges=True, subtract_mean=False)
    elif kind == "zipformer2_ctc":
        # Seven frames fewer, halved and rounded down; then pairs of frames are averaged, the last one alone if need be.
        steps = FrameRule.of((9, 2), (2, 2, 1))
        config = FilterBankConfig(scale=1.0, high_hz=_ICEFALL_HIGH_HZ)
        part = kaldi_features(config, snip_edges=False, subtract_mean=False)
    else:
        cause = f"model_type: {kind!r} of sherpa-onnx is not supported without a description"
        raise CheckpointError(graph, cause, _DESCRIBE)
    return Description(
        role=CTC,
        source=source,
        files=(tokens,),
        sample_rate_hz=SAMPLE_RATE_HZ,
        part=part,
        bands=80,
        steps=steps,
        tokens=found,
    )


def _onnx_asr(config: Path, vocabulary: Path) -> Description:
    try:
        table: Any = parse_json(plain_files.read(config, _CONFIG_BYTES).decode())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(config, f"it is not JSON ({error})", _DESCRIBE) from error
    read = Fields(table, source=config, error=CheckpointError, remedy=_DESCRIBE)
    kind = read.text("model_type")
    bands: int | None = read.integer("features_size") if read.holds("features_size") else 80
    if kind == "nemo-conformer-ctc":
        if bands not in (80, 128):
            raise read.error("features_size", f"{bands} is not one of 80, 128, the sizes of NeMo's features")
        part = nemo_features(bands, SAMPLE_RATE_HZ, normalise=True)
        steps = _halvings(read, "subsampling_factor")
    elif kind == "wav2vec2-ctc":
        part, bands = waveform(1.0, normalise=False), None
        steps = FrameRule.of((10, 5), *[(3, 2)] * 4, *[(2, 2)] * 2)
    else:
        raise read.error("model_type", f"{kind!r} of onnx-asr is not supported without a description")
    return Description(
        role=CTC,
        source=f"onnx-asr, {kind}",
        files=(config, vocabulary),
        sample_rate_hz=SAMPLE_RATE_HZ,
        part=part,
        bands=bands,
        steps=steps,
        tokens=Tokens(file=vocabulary),
    )


def _speaker_metadata(graph: Path, metadata: Mapping[str, str]) -> Description:
    """Return the description of a speaker network by the metadata that sherpa-onnx writes into it."""
    read = Fields(
        {key: _integer(value) for key, value in metadata.items()}, source=graph, error=CheckpointError, remedy=_DESCRIBE
    )
    rate = read.integer("sample_rate")
    if rate not in SAMPLE_RATES_HZ:
        raise read.error("sample_rate", f"{rate} is not one of {', '.join(map(str, SAMPLE_RATES_HZ))}")
    framework = metadata["framework"]
    part, bands = _nemo_speaker(read) if framework == _NEMO else _kaldi_speaker(read, rate, framework)
    return Description(
        role=SPEAKER,
        source=f"sherpa-onnx, {framework}",
        files=(),
        sample_rate_hz=rate,
        part=part,
        bands=bands,
        # NeMo's networks also return the logits of the speakers that they were trained with.
        outputs=Ends(values="embs" if framework == _NEMO else None),
        speaker=SpeakerSpec(
            sample_rate_hz=rate,
            same_speaker_similarity=DEFAULT_SIMILARITY,
            window_s=DEFAULT_WINDOW_S,
            hop_s=DEFAULT_HOP_S,
        ),
    )


def _kaldi_speaker(read: Fields, rate: int, framework: str) -> tuple[Part, int]:
    # WeSpeaker is trained on samples of 16 bits and a Hamming window, 3D-Speaker on [-1, 1) and Kaldi's own window.
    config = FilterBankConfig(
        sample_rate_hz=rate,
        window="hamming" if framework == _WESPEAKER else "povey",
        scale=1.0 if read.integer("normalize_samples") else FULL_SCALE,
    )
    # Both are trained on features without their mean. Empty text states that a network is not.
    found = _normalisation(read, "feature_normalize_type", ("global-mean", ""), "global-mean")
    return kaldi_features(config, snip_edges=True, subtract_mean=bool(found)), config.bands


def _nemo_speaker(read: Fields) -> tuple[Part, int]:
    for key, value in (("sample_rate", SAMPLE_RATE_HZ), ("window_size_ms", 25), ("window_stride_ms", 10)):
        _expect(read, key, value)
    bands = read.integer("feat_dim")
    if not 1 <= bands <= _LARGEST_BANDS:
        raise read.error("feat_dim", f"{bands} is not between 1 and {_LARGEST_BANDS}")
    found = _normalisation(read, "feature_normalize_type", ("per_feature", ""), "")
    return nemo_features(bands, SAMPLE_RATE_HZ, normalise=bool(found)), bands


def _normalisation(read: Fields, key: str, known: tuple[str, ...], default: str) -> str:
    """Return how features are normalised; raise CheckpointError for a way that is not known."""
    return _one_of(read, key, known) if read.holds(key) else default


def _halvings(read: Fields, key: str) -> FrameRule:
    factor = read.integer(key) if read.holds(key) else 8
    if factor not in (2, 4, 8, 16):
        raise read.error(key, f"{factor} is not one of 2, 4, 8, 16")
    return FrameRule.of(*[_HALVING] * (factor.bit_length() - 1))


def _expect(read: Fields, key: str, value: int) -> None:
    found = read.integer(key)
    if found != value:
        raise read.error(key, f"it is {found}, and only {value} is supported without a description")


def _integer(text: str) -> str | int:
    try:
        return int(text)
    except ValueError:
        return text
