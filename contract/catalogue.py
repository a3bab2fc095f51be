"""Read a catalogue, the single description of every model, into frozen records.

A catalogue is a folder with catalogue.toml and a folder for each model family, `<family>/model.toml`. The folder
model_repository of the checkout is the catalogue of the reference networks.
"""

import re
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from contract.errors import CatalogueError, SettingError
from contract.fields import Fields, toml_table
from contract.frames import FrameRule

CATALOGUE_FOLDER = Path(__file__).parent.parent / "model_repository"
CATALOGUE_VARIABLE = "VOXWRIGHT_CATALOGUE"
# Where the catalogue of a user's own networks lies, next to their graphs and next to the bundles of their engines.
CATALOGUE_SUBFOLDER = "catalogue"
CATALOGUE_FILE, MODEL_FILE = "catalogue.toml", "model.toml"
ROLES = ENCODER, CTC, RESCORER, LM, SPEAKER, ENSEMBLE = ("encoder", "ctc", "rescorer", "lm", "speaker", "ensemble")
HYPOTHESIS_ROLES = (RESCORER, LM)
"""Roles of the models that score hypotheses, in the order in which clients use them."""
OPTIONAL_ROLES = (RESCORER, LM, SPEAKER)
"""Roles that a server and a client can do without."""
# The axes of audio, of encoder output, and of the windows that a speaker network embeds. Family.frames leads from the
# first to one of the others.
SAMPLES, ENCODER_FRAMES, SPEAKER_WINDOWS = "samples", "encoder_frames", "windows"
MODES = BATCH_MODE, REALTIME_MODE = ("batch", "realtime")
BATCH = "batch"
_USUAL_LANGUAGE = "en"
TYPES = ("FP16", "FP32", "INT32")
PRECISIONS = ("fp32", "fp16")
INT8 = "int8"
# Prefixes of the state inputs and state outputs of a step. Triton pairs the two lists by sorted name.
STATE_PREFIX, NEXT_STATE_PREFIX = "state_", "next_state_"
FIRST_DIFFERING = "first_differing"
MEASURES = ("absolute", "relative", "cosine", "differing", FIRST_DIFFERING, "best_differing")
SCHEMA_VERSION = 2
_FAMILY_FIELDS = (
    *("schema_version", "role", "language", "network", "operating_points"),
    *("frames", "inputs", "outputs", "modes", "triton", "max_wer_increase", "checkpoints"),
)
_FIELD_NAME = re.compile("[A-Za-z_][A-Za-z0-9_]*")
_REMEDY = "Correct the file; docs/architecture/10-catalogue.md describes every field"


@dataclass(frozen=True, kw_only=True, slots=True)
class InputGenerator:
    """How to generate values for an input: exactly one of the four is set (docs/architecture/10-catalogue.md)."""

    normal: tuple[float, float] | None = None
    length_of: str | None = None
    token_below: str | None = None
    constant: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Tolerance:
    """The largest acceptable difference of an output, by a measure of contract.differences and by precision."""

    measure: str
    fp32: float
    fp16: float
    int8: float | None = None
    """None where the network is not quantised."""
    ties: str = ""
    """For first_differing: the output with the scores of the sorted elements. A row whose other first element is behind
    the best one by no more than the tolerance of the scores does not count. Empty: every row counts."""

    def limit(self, precision: str) -> float:
        """Return the limit at a precision; raise ValueError for a precision without one."""
        limit = {"fp32": self.fp32, "fp16": self.fp16, INT8: self.int8}.get(precision)
        if limit is None:
            raise ValueError(f"no tolerance is stated for {precision}")
        return limit


@dataclass(frozen=True, kw_only=True, slots=True)
class Tensor:
    """An input or output of a model; `shape` is without the batch, each axis a size or a name."""

    name: str
    type: str
    shape: tuple[int | str, ...]
    synthetic: InputGenerator | None = None
    tolerance: Tolerance | None = None
    figures: tuple[str, ...] = ()
    """Further measures of contract.differences that the gate records for an output; they have no limit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AxisRange:
    """The sizes of an axis: those that engines are optimised for, and the buckets that clients pad to."""

    min: int
    opt: int
    max: int
    buckets: tuple[int, ...] = ()

    def smallest_bucket(self, size: int) -> int | None:
        """Return the smallest bucket of at least a size, or None. Without buckets the maximum is the only one."""
        return next((known for known in self.buckets or (self.max,) if size <= known), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Mode:
    """What a mode requires of an engine: the range of the batch axis and of every axis whose size a mode states."""

    name: str
    batch: AxisRange
    axes: dict[str, AxisRange]
    states: tuple[Tensor, ...] = ()
    """What a step of a stream passes to the next one: `attention` is state_attention and next_state_attention."""
    triton: dict[str, Any] | None = None
    """Triton's own fields in this mode; None where those of the family apply."""
    overlap: int = 0
    """How many samples at the end of a window of a stream are also the first samples of the next window."""

    @property
    def is_streaming(self) -> bool:
        """Return whether a request is a step of a stream. Such a mode has its own graph."""
        return bool(self.states)

    @property
    def variant(self) -> str:
        """Return the key in Family.variants of the graph that serves the mode: "" is the graph of whole recordings."""
        return self.name if self.is_streaming else ""

    def window_starts(self, samples: int) -> range:
        """Return the first sample of each window of a stream with this number of samples.

        The last window may not be full, but yields at least one encoder frame. A single window may hold less.
        """
        step = self.axes[SAMPLES].max - self.overlap
        shortest = self.overlap + step // self.axes[ENCODER_FRAMES].max
        return range(0, max(samples - shortest + 1, 1), step)

    def axis_ranges(self) -> dict[str, AxisRange]:
        """Return the range of every axis by name, the batch included."""
        return {BATCH: self.batch, **self.axes}

    def fixed_axes(self) -> dict[str, int]:
        """Return the size of every axis that has only one, by name, without the batch."""
        return {axis: extent.max for axis, extent in self.axes.items() if extent.min == extent.max}


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """A model family: everything about its models that does not depend on their weights."""

    name: str
    role: str
    operating_points: tuple[str, ...]
    language: str | None = None
    """The language that it serves; None for a family that serves every language."""
    network: str | None = None
    frames: FrameRule | None = None
    """Of a family that takes audio: the rule from the axis samples to encoder_frames, or to the windows of speakers."""
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    modes: dict[str, Mode] = field(default_factory=dict)
    triton: dict[str, Any] = field(default_factory=dict)
    steps: tuple[str, ...] = ()
    max_wer_increase: dict[str, float] = field(default_factory=dict)
    """Of a recogniser: by how many percentage points its word error rate may rise, by precision.

    A recogniser is an ensemble, or a CTC network that takes audio.
    """
    # Not in repr, on which keys depend: these name the weights, of which a key has the digest already.
    checkpoints: dict[str, str] = field(default_factory=dict, repr=False)
    """By operating point: the digest of the checkpoint that the family describes. Generated catalogues state it."""

    @property
    def is_ensemble(self) -> bool:
        """Return whether the server composes it from other models. An ensemble has no engine."""
        return bool(self.steps)

    @property
    def supports_int8(self) -> bool:
        """Return whether every output states a tolerance for INT8."""
        return all(tensor.tolerance and tensor.tolerance.int8 is not None for tensor in self.outputs)

    @property
    def takes_audio(self) -> bool:
        """Return whether it is the first network of a pipeline."""
        return any(SAMPLES in tensor.shape for tensor in self.inputs)

    def serves(self, language: str | None, operating_point: str) -> bool:
        """Return whether it has a model for a language at an operating point; None stands for every language."""
        return self.language in (None, language) and operating_point in self.operating_points

    def model_names(self) -> tuple[str, ...]:
        """Return the names of its models, one for each operating point: `body_standard`."""
        return tuple(model_name(self.name, point) for point in self.operating_points)

    def dynamic_axes(self) -> tuple[str, ...]:
        """Return the names of the axes whose size changes between requests, in the order of the tensors."""
        dynamic = {name for mode in self.modes.values() for name in mode.axes if name not in mode.fixed_axes()}
        named = [axis for tensor in (*self.inputs, *self.outputs) for axis in tensor.shape if isinstance(axis, str)]
        return tuple(dict.fromkeys(axis for axis in named if axis in dynamic))

    def in_mode(self, mode: str) -> "Family":
        """Return the family in one mode: with only that mode, its states among the tensors and its Triton fields."""
        chosen = self.modes[mode]
        if self.is_ensemble:
            return replace(self, modes={mode: chosen})
        before = (replace(state, name=STATE_PREFIX + state.name, tolerance=None) for state in chosen.states)
        after = (replace(state, name=NEXT_STATE_PREFIX + state.name, synthetic=None) for state in chosen.states)
        return replace(
            self,
            inputs=(*self.inputs, *before),
            outputs=(*self.outputs, *after),
            modes={mode: chosen},
            triton=self.triton if chosen.triton is None else chosen.triton,
        )

    def variants(self) -> dict[str, "Family"]:
        """Return the family as each of its graphs has it, by mode of streams; "" is the graph of whole recordings."""
        streams = {name: self.in_mode(name) for name, mode in self.modes.items() if mode.is_streaming}
        whole = {name: mode for name, mode in self.modes.items() if not mode.is_streaming}
        return ({"": replace(self, modes=whole)} if whole else {}) | streams


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A family at an operating point."""

    name: str
    family: Family
    operating_point: str


def is_state(tensor: str) -> bool:
    """Return whether a tensor's name is that of a state, before or after a step."""
    return tensor.startswith((STATE_PREFIX, NEXT_STATE_PREFIX))


def model_name(family: str, operating_point: str) -> str:
    """Return the name of a model on the server."""
    return f"{family}_{operating_point}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Catalogue:
    """All model families of a folder, and the operating points that they have."""

    folder: Path
    operating_points: tuple[str, ...]
    """From the fastest to the most accurate."""
    families: dict[str, Family]

    @property
    def preferred_points(self) -> tuple[str, ...]:
        """Return the operating points, the most accurate first."""
        return self.operating_points[::-1]

    def languages(self) -> tuple[str, ...]:
        """Return the languages that a CTC head recognises, sorted."""
        return tuple(sorted({family.language for family in self.of_role(CTC) if family.language}))

    def usual_language(self) -> str | None:
        """Return the language of a request that names none: the only one, or English; None where it must be named."""
        known = self.languages()
        if len(known) == 1:
            return known[0]
        return _USUAL_LANGUAGE if _USUAL_LANGUAGE in known else None

    def of_role(self, role: str) -> tuple[Family, ...]:
        """Return the families with a role."""
        return tuple(family for family in self.families.values() if family.role == role)

    def find(self, role: str, language: str | None, operating_point: str) -> Family | None:
        """Return the family with a role for a language at an operating point; None where there is none."""
        return next((family for family in self.of_role(role) if family.serves(language, operating_point)), None)

    def recogniser(self, language: str, operating_point: str) -> Family | None:
        """Return the family that clients call for a language: its ensemble, or a CTC network that takes audio."""
        alone = (family for family in self.of_role(CTC) if family.takes_audio)
        candidates = (*self.of_role(ENSEMBLE), *alone)
        return next((family for family in candidates if family.serves(language, operating_point)), None)

    def upstream(self, family: Family, operating_point: str) -> tuple[Family, ...]:
        """Return the families whose outputs a family reads, in order: found by their tensors, language and point.

        Raises CatalogueError where they read each other's outputs, which read_catalogue rejects.
        """
        return self._upstream(family, operating_point, ())

    def _upstream(self, family: Family, operating_point: str, readers: tuple[str, ...]) -> tuple[Family, ...]:
        readers = (*readers, family.name)
        found: dict[str, Family] = {}
        for tensor in family.inputs:
            source = self._source(tensor.name, family, operating_point)
            if source is None:
                continue
            if source.name in readers:
                cause = f"inputs: {tensor.name!r} is an output of {source.name}, which reads an output of this family"
                raise CatalogueError(self.folder / family.name / MODEL_FILE, cause, _REMEDY)
            found |= {each.name: each for each in (*self._upstream(source, operating_point, readers), source)}
        return tuple(found.values())

    def models(self, operating_point: str | None = None) -> dict[str, Model]:
        """Return the models of one operating point or of all, by name and sorted."""
        return models(self.families, operating_point)

    def check_operating_point(self, text: str, setting: str) -> str:
        """Return the name of an operating point unchanged; raise SettingError for any other text."""
        if text not in self.operating_points:
            cause = f"{text!r} is not an operating point of {self.folder}"
            raise SettingError(setting, cause, f"Use {' or '.join(self.operating_points)}")
        return text

    def _source(self, tensor: str, family: Family, operating_point: str) -> Family | None:
        return next(
            (
                each
                for each in self.families.values()
                if not each.is_ensemble
                and each.serves(family.language, operating_point)
                and any(output.name == tensor for output in each.outputs)
            ),
            None,
        )


@cache
def read_catalogue(folder: Path = CATALOGUE_FOLDER) -> Catalogue:
    """Return the catalogue of a folder; raise CatalogueError with the file and the field that is wrong."""
    points = _operating_points(folder)
    families = {path.parent.name: read_family(path, points) for path in sorted(folder.glob(f"*/{MODEL_FILE}"))}
    if not families:
        cause = f"it holds no <family>/{MODEL_FILE}"
        raise CatalogueError(folder, cause, "Name the folder of a catalogue, or reinstall the package")
    for family in families.values():
        for step in family.steps:
            _check_step(folder, family, families.get(step), step)
    engines = Catalogue(folder=folder, operating_points=points, families=families)
    for model in engines.models().values():
        engines.upstream(model.family, model.operating_point)
    families = {name: _with_derived_axis(engines, family) for name, family in families.items()}
    return Catalogue(
        folder=folder,
        operating_points=points,
        families={
            name: _compose(folder, family, families) if family.is_ensemble else family
            for name, family in families.items()
        },
    )


def catalogue_files(folder: Path) -> tuple[Path, ...]:
    """Return the files of a catalogue's folder: catalogue.toml, and the model.toml of every family."""
    return folder / CATALOGUE_FILE, *sorted(folder.glob(f"*/{MODEL_FILE}"))


def check_replaceable(folder: Path, setting: str) -> None:
    """Raise SettingError unless a folder is absent or empty, or holds a catalogue and nothing else.

    A build and an export replace the whole folder, and files of something else in it would be lost.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    remedy = "Name another folder, or move this one to another place"
    if not (folder / CATALOGUE_FILE).is_file():
        raise SettingError(setting, f"{folder} is not a catalogue, and it would be replaced", remedy)
    known = catalogue_files(folder)
    foreign = next((path for path in sorted(folder.rglob("*")) if _is_file(path) and path not in known), None)
    if foreign is not None:
        raise SettingError(setting, f"{foreign} is not a part of a catalogue, and its folder would be replaced", remedy)


def _is_file(path: Path) -> bool:
    # A link to a folder counts too: removing its folder would lose it.
    return path.is_symlink() or not path.is_dir()


def _operating_points(folder: Path) -> tuple[str, ...]:
    path = folder / CATALOGUE_FILE
    if not path.is_file():
        cause = f"it holds no {CATALOGUE_FILE}, so it is not a catalogue"
        raise CatalogueError(folder, cause, "Name the folder of a catalogue, or reinstall the package")
    fields = _read_toml(path)
    fields.reject_unknown("schema_version", "operating_points")
    points = fields.items("operating_points", str)
    if not points or len(set(points)) < len(points):
        raise fields.error("operating_points", "it must name at least one point, and each point once")
    return points


def _read_toml(path: Path) -> Fields:
    try:
        table = toml_table(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CatalogueError(path, f"it is not TOML: {error}", _REMEDY) from error
    fields = Fields(table, source=path, error=CatalogueError, remedy=_REMEDY)
    if fields.integer("schema_version") != SCHEMA_VERSION:
        raise fields.error("schema_version", f"this release reads version {SCHEMA_VERSION}")
    return fields


def _with_derived_axis(catalogue: Catalogue, family: Family) -> Family:
    """Return a family with the axis encoder_frames in its modes, derived from the samples that its encoder takes.

    A mode that states the axis itself keeps it. A rescorer reads whole segments in every mode, all others read what
    the encoder makes in the same mode. A speaker network has the axis windows in the same way.
    """
    axis = SPEAKER_WINDOWS if family.role == SPEAKER else ENCODER_FRAMES
    if not any(axis in tensor.shape for tensor in (*family.inputs, *family.outputs)):
        return family
    modes = {}
    for name, mode in family.modes.items():
        sources = {_derived(catalogue, family, point, mode) for point in family.operating_points}
        if len(sources) > 1:
            cause = "the encoders of its operating points make different numbers of frames"
            raise CatalogueError(catalogue.folder / family.name / MODEL_FILE, cause, "Describe each point as a family")
        (extent,) = sources
        if axis in mode.axes or extent is None:
            modes[name] = mode
        else:
            modes[name] = replace(
                mode, axes=({} if family.takes_audio else {axis: extent}) | mode.axes | {axis: extent}
            )
    return replace(family, modes=modes)


def _derived(catalogue: Catalogue, family: Family, operating_point: str, mode: Mode) -> AxisRange | None:
    encoders = [each for each in (family, *catalogue.upstream(family, operating_point)) if each.frames is not None]
    if not encoders:
        return None
    rule, modes = encoders[0].frames, encoders[0].modes
    source = modes.get(BATCH_MODE if family.role == RESCORER else mode.name)
    if rule is None or source is None or SAMPLES not in source.axes:
        return None
    samples = source.axes[SAMPLES]
    return AxisRange(
        min=rule.count(samples.min),
        opt=rule.count(samples.opt),
        max=rule.count(samples.max),
        buckets=tuple(map(rule.count, samples.buckets)),
    )


def _check_step(folder: Path, family: Family, step: Family | None, name: str) -> None:
    path = folder / family.name / MODEL_FILE
    if step is None:
        raise CatalogueError(path, f"steps: there is no family {name!r} in this catalogue", _REMEDY)
    if step.is_ensemble:
        raise CatalogueError(path, f"steps: {name!r} is itself an ensemble", _REMEDY)
    if step.language not in (None, family.language):
        cause = f"steps: {name!r} is of the language {step.language}, and the ensemble of {family.language}"
        raise CatalogueError(path, cause, _REMEDY)
    missing = [point for point in family.operating_points if point not in step.operating_points]
    if missing:
        raise CatalogueError(path, f"operating_points: {name} has no {missing[0]}", _REMEDY)


def models(families: dict[str, Family], operating_point: str | None = None) -> dict[str, Model]:
    """Return the models of one operating point or of all, by name and sorted."""
    found = {
        model_name(family.name, point): Model(name=model_name(family.name, point), family=family, operating_point=point)
        for family in families.values()
        for point in family.operating_points
        if operating_point in (None, point)
    }
    return dict(sorted(found.items()))


def read_family(path: Path, operating_points: tuple[str, ...]) -> Family:
    """Return the family of one model.toml; its name is that of the folder. Raise CatalogueError for a wrong file."""
    fields = _read_toml(path)
    points = fields.items("operating_points", str)
    for point in points:
        if point not in operating_points:
            raise fields.error("operating_points", f"{point!r} is not one of {', '.join(operating_points)}")
    return _ensemble(path.parent.name, points, fields) if fields.has("steps") else _single(path, points, fields)


def _ensemble(name: str, points: tuple[str, ...], fields: Fields) -> Family:
    fields.reject_unknown(
        "schema_version", "role", "language", "operating_points", "steps", "outputs", "max_wer_increase"
    )
    # The steps state types and shapes; _compose fills them in.
    outputs = tuple(Tensor(name=output, type="", shape=()) for output in fields.items("outputs", str))
    if _role(fields) != ENSEMBLE:
        raise fields.error("role", f"a family with steps has the role {ENSEMBLE}")
    return Family(
        name=name,
        role=ENSEMBLE,
        language=_language(fields),
        operating_points=points,
        steps=fields.items("steps", str),
        outputs=outputs,
        max_wer_increase=_max_wer_increase(fields),
    )


def _role(fields: Fields) -> str:
    role = fields.text("role")
    if role not in ROLES:
        raise fields.error("role", f"{role!r} is not one of {', '.join(ROLES)}")
    if role in (CTC, ENSEMBLE) and not fields.has("language"):
        raise fields.error("language", f"this field is missing, and the role {role} needs it")
    return role


def _language(fields: Fields) -> str | None:
    return fields.text("language") if fields.has("language") else None


def _max_wer_increase(fields: Fields) -> dict[str, float]:
    if not fields.has("max_wer_increase"):
        return {}
    limits = fields.table("max_wer_increase")
    limits.reject_unknown(*PRECISIONS, INT8)
    stated = (*PRECISIONS, *((INT8,) if limits.has(INT8) else ()))
    return {precision: limits.number(precision) for precision in stated}


def _single(path: Path, points: tuple[str, ...], fields: Fields) -> Family:
    fields.reject_unknown(*_FAMILY_FIELDS)
    _check_tensors(fields)
    modes = fields.table("modes")
    for mode in modes.names():
        if mode not in MODES:
            raise fields.error(f"modes.{mode}", f"a mode must be one of {', '.join(MODES)}")
    role = _role(fields)
    if role == ENSEMBLE:
        raise fields.error("steps", f"this field is missing, and the role {ENSEMBLE} needs it")
    outputs = tuple(_tensor(table, synthetic=False, compared=True) for table in fields.tables("outputs"))
    _check_ties(fields, outputs)
    return Family(
        name=path.parent.name,
        role=role,
        language=_language(fields),
        operating_points=points,
        network=fields.text("network"),
        frames=_frame_rule(fields) if fields.has("frames") else None,
        inputs=tuple(_tensor(table, synthetic=True, compared=False) for table in fields.tables("inputs")),
        outputs=outputs,
        modes={name: _mode(name, modes.table(name)) for name in modes.names()},
        triton=_triton(fields) if fields.has("triton") else {},
        max_wer_increase=_own_max_wer_increase(role, fields),
        checkpoints=_checkpoints(points, fields),
    )


def _checkpoints(points: tuple[str, ...], fields: Fields) -> dict[str, str]:
    table = fields.optional_table("checkpoints")
    table.reject_unknown(*points)
    return {point: table.text(point) for point in table.names()}


def _own_max_wer_increase(role: str, fields: Fields) -> dict[str, float]:
    found = _max_wer_increase(fields)
    takes_audio = any(SAMPLES in table.items("shape", object) for table in fields.tables("inputs"))
    if found and not (role == CTC and takes_audio):
        cause = f"only an ensemble and a network of the role {CTC} that takes audio recognise words"
        raise fields.error("max_wer_increase", cause)
    return found


def _frame_rule(fields: Fields) -> FrameRule:
    steps = fields.items("frames", list)
    for index, step in enumerate(steps):
        whole = len(step) in (2, 3) and all(type(size) is int and size >= 0 for size in step)
        if not whole or not step[0] or not step[1]:
            raise fields.error(f"frames[{index}]", "two or three whole numbers are required: kernel, stride, padding")
    return FrameRule.of(*(tuple(step) for step in steps))


def _check_tensors(fields: Fields) -> None:
    tables = [*fields.tables("inputs"), *fields.tables("outputs")]
    axes = {axis for table in tables for axis in table.items("shape", object)}
    seen: set[str] = set()
    for table in tables:
        if table.text("name") in seen:
            raise table.error("name", f"{table.text('name')!r} is the name of two tensors")
        if is_state(table.text("name")):
            raise table.error("name", f"{table.text('name')!r} has a prefix that is reserved for states")
        seen.add(table.text("name"))
        if table.has("synthetic") and table.table("synthetic").has("length_of"):
            named = table.table("synthetic").text("length_of")
            if named not in axes:
                raise table.error("synthetic.length_of", f"{named!r} is not an axis of this model")


def _tensor(fields: Fields, *, synthetic: bool, compared: bool) -> Tensor:
    optional = (*(("synthetic",) * synthetic), *(("tolerance", "figures") * compared))
    fields.reject_unknown("name", "type", "shape", *optional)
    kind = fields.text("type")
    if kind not in TYPES:
        raise fields.error("type", f"{kind!r} is not one of {', '.join(TYPES)}")
    return Tensor(
        name=fields.text("name"),
        type=kind,
        shape=tuple(_axis(fields, axis) for axis in fields.items("shape", object)),
        synthetic=_generator(fields.table("synthetic")) if synthetic else None,
        tolerance=_tolerance(fields.table("tolerance")) if compared else None,
        figures=_figures(fields) if fields.has("figures") else (),
    )


def _figures(fields: Fields) -> tuple[str, ...]:
    names = fields.items("figures", str)
    for name in names:
        _check_measure(fields, "figures", name)
    return names


def _check_measure(fields: Fields, key: str, name: str) -> None:
    if name not in MEASURES:
        raise fields.error(key, f"{name!r} is not one of {', '.join(MEASURES)}")


def _axis(fields: Fields, axis: object) -> int | str:
    # In Python true equals 1; in this file it is a mistake.
    if isinstance(axis, str) or (isinstance(axis, int) and not isinstance(axis, bool) and axis > 0):
        return axis
    raise fields.error("shape", f"{axis!r} is neither the name of an axis nor a positive size")


def _generator(fields: Fields) -> InputGenerator:
    fields.reject_unknown("normal", "length_of", "token_below", "constant")
    if len(fields.names()) != 1:
        raise fields.error("", "exactly one of normal, length_of, token_below, constant is required")
    if fields.has("normal"):
        numbers = fields.items("normal", (int, float))
        if len(numbers) != 2:  # noqa: PLR2004 - a mean and a deviation
            raise fields.error("normal", "two numbers are required: the mean and the standard deviation")
        return InputGenerator(normal=(float(numbers[0]), float(numbers[1])))
    if fields.has("length_of"):
        return InputGenerator(length_of=fields.text("length_of"))
    if fields.has("constant"):
        return InputGenerator(constant=fields.integer("constant"))
    return InputGenerator(token_below=fields.text("token_below"))


def _tolerance(fields: Fields) -> Tolerance:
    fields.reject_unknown("measure", *PRECISIONS, INT8, "ties")
    measure = fields.text("measure")
    _check_measure(fields, "measure", measure)
    int8 = fields.number(INT8) if fields.has(INT8) else None
    ties = fields.text("ties") if fields.has("ties") else ""
    if ties and measure != FIRST_DIFFERING:
        raise fields.error("ties", f"only the measure {FIRST_DIFFERING} has ties")
    return Tolerance(measure=measure, fp32=fields.number("fp32"), fp16=fields.number("fp16"), int8=int8, ties=ties)


def _check_ties(fields: Fields, outputs: tuple[Tensor, ...]) -> None:
    known = {tensor.name: tensor for tensor in outputs}
    for index, tensor in enumerate(outputs):
        named = tensor.tolerance.ties if tensor.tolerance else ""
        scores = known.get(named)
        measure = scores.tolerance.measure if scores and scores.tolerance else ""
        if named and (scores is None or scores.shape != tensor.shape or measure != "absolute"):
            cause = f"{named!r} is not an output of the same shape with the measure absolute"
            raise fields.error(f"outputs[{index}].tolerance.ties", cause)


def _mode(name: str, fields: Fields) -> Mode:
    fields.reject_unknown(BATCH, "axes", "states", "overlap", "triton")
    axes, batch = fields.table("axes") if fields.has("axes") else None, _extent(fields.table(BATCH))
    if batch.min != 1:
        # Triton forms batches of one request up to the maximum, and a plan fails on any that its profile excludes.
        raise fields.error(
            f"{BATCH}.min", f"it is {batch.min}, and must be 1, because Triton also sends single requests"
        )
    return Mode(
        name=name,
        batch=batch,
        axes={axis: _extent(axes.table(axis)) for axis in axes.names()} if axes else {},
        states=_states(fields) if fields.has("states") else (),
        overlap=fields.integer("overlap") if fields.has("overlap") else 0,
        triton=_triton(fields) if fields.has("triton") else None,
    )


def _triton(fields: Fields) -> dict[str, Any]:
    """Return the table `triton`: fields of Triton's model configuration, which has no dates and no lists of lists."""
    found = fields.table("triton")
    _check_message(found)
    for group in found.tables("instance_group") if found.has("instance_group") else ():
        if group.has("count") and group.integer("count") < 1:
            raise group.error("count", f"{group.integer('count')} is below 1")
    batching = found.optional_table("sequence_batching")
    if batching.has("oldest") and batching.table("oldest").has("max_candidate_sequences"):
        batching.table("oldest").integer("max_candidate_sequences")
    return dict(fields.raw("triton"))


def _check_message(fields: Fields) -> None:
    for key in fields.names():
        if not _FIELD_NAME.fullmatch(key):
            raise fields.error(key, "this is not the name of a field of Triton's configuration")
        value = fields.raw(key)
        if isinstance(value, dict):
            _check_message(fields.table(key))
        elif isinstance(value, list) and any(isinstance(each, dict) for each in value):
            for table in fields.tables(key):
                _check_message(table)
        else:
            for each in fields.items(key, object) if isinstance(value, list) else (value,):
                _check_scalar(fields, key, each)


def _check_scalar(fields: Fields, key: str, value: object) -> None:
    if not isinstance(value, bool | int | float | str):
        raise fields.error(key, f"a {type(value).__name__} cannot be written to a configuration of Triton")


def _states(fields: Fields) -> tuple[Tensor, ...]:
    found: dict[str, Tensor] = {}
    for table in fields.tables("states"):
        name = table.text("name")
        if name in found:
            raise table.error("name", f"{name!r} is the name of two states")
        found[name] = _tensor(table, synthetic=True, compared=True)
    if not found:
        raise fields.error("states", "the list is empty; leave the field out for a mode without states")
    return tuple(found[name] for name in sorted(found))


def _extent(fields: Fields) -> AxisRange:
    fields.reject_unknown("min", "opt", "max", "buckets")
    buckets = fields.items("buckets", int) if fields.has("buckets") else ()
    extent = AxisRange(min=fields.integer("min"), opt=fields.integer("opt"), max=fields.integer("max"), buckets=buckets)
    if not 0 < extent.min <= extent.opt <= extent.max:
        raise fields.error("", f"min {extent.min}, opt {extent.opt}, max {extent.max} must be positive and ascend")
    if list(buckets) != sorted(set(buckets)) or any(not extent.min <= size <= extent.max for size in buckets):
        raise fields.error("buckets", f"the sizes must ascend and lie between {extent.min} and {extent.max}")
    return extent


def _compose(folder: Path, family: Family, families: dict[str, Family]) -> Family:
    steps = [families[step] for step in family.steps]
    made = {tensor.name: tensor for step in steps for tensor in step.outputs}
    for tensor in family.outputs:
        if tensor.name not in made:
            path = folder / family.name / MODEL_FILE
            raise CatalogueError(path, f"outputs: no step has an output {tensor.name!r}", _REMEDY)
    needed = {tensor.name: tensor for step in steps for tensor in step.inputs if tensor.name not in made}
    return replace(
        family,
        inputs=tuple(needed.values()),
        outputs=tuple(made[tensor.name] for tensor in family.outputs),
        modes=steps[0].modes,
    )
