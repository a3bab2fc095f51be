"""Import a user's own networks: read each checkpoint of networks.toml, and describe them all as a catalogue."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from onnx import TensorProto

from contract import digest
from contract.catalogue import CTC, ENCODER, ENSEMBLE, RESCORER, SPEAKER, Model, model_name
from contract.client import ClientSpec, SearchSpec
from contract.errors import CheckpointError
from export.checkpoints import arpa, nemo, network_measuring, onnx, resemblyzer, speaker_onnx, transformers, wenet
from export.checkpoints.checkpoint import Checkpoint
from export.checkpoints.graph_network import GraphNetwork
from export.checkpoints.imported import Imported, ImportedGraph, ImportedSpeaker, ImportedSpeakerGraph
from export.generated_catalogue import OwnFamily, write
from export.networks_file import OwnNetworks, OwnPoint

# The first format that recognises a path reads it.
RECOGNISERS: tuple[ModuleType, ...] = (nemo, transformers, wenet, onnx)
SPEAKERS: tuple[ModuleType, ...] = (speaker_onnx, resemblyzer)
# How much an imported n-gram model counts, and what each token or word adds: usual values of shallow fusion.
NGRAM_WEIGHT, TOKEN_BONUS, WORD_BONUS = 0.5, 1.0, 1.5

Network: TypeAlias = Imported | ImportedGraph
Speaker: TypeAlias = ImportedSpeaker | ImportedSpeakerGraph


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Read:
    """What was read for a point of networks.toml."""

    point: OwnPoint
    recogniser: Network
    speaker: Speaker | None
    search: SearchSpec

    @property
    def step_frames(self) -> int:
        """Return the encoder frames of a step of a stream; 0 where there are no streams."""
        encoder = self.recogniser.encoder if isinstance(self.recogniser, Imported) else None
        return int(getattr(encoder, "step_frames", 0)) if hasattr(encoder, "streaming") else 0

    @property
    def kind(self) -> tuple[object, ...]:
        """Return what points must have in common to share the families of a language."""
        found, speaker = self.recogniser, self.speaker
        rescored = isinstance(found, Imported) and found.rescorer is not None
        voice = (speaker.speaker.sample_rate_hz, speaker.speaker.padding) if speaker else None
        form = (type(found), rescored, found.frames, found.audio.sample_rate_hz, found.audio.padding)
        return (*form, self.step_frames, voice, _computes_in_half(found), _computes_in_half(speaker))


def _computes_in_half(found: Network | Speaker | None) -> bool:
    """Return whether a foreign graph holds weights in FP16, and so computes with them by itself."""
    if not isinstance(found, ImportedGraph | ImportedSpeakerGraph):
        return False
    constants = (node.attribute[0].t for node in found.graph.graph.node if node.op_type == "Constant")
    kinds = {tensor.data_type for tensor in (*found.graph.graph.initializer, *constants)}
    return TensorProto.FLOAT16 in kinds


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class OwnCheckpoints:
    """The checkpoints of a generated catalogue by model, the catalogue itself, and sentences for the user."""

    checkpoints: dict[str, Checkpoint]
    operating_points: tuple[str, ...]
    families: tuple[OwnFamily, ...]
    remarks: tuple[str, ...]

    def open(self, model: Model) -> Checkpoint:
        """Return the checkpoint of a model."""
        return self.checkpoints[model.name]

    def write_catalogue(self, folder: Path) -> None:
        """Write the catalogue; it takes the place of one that is there in one step."""
        write(folder, self.operating_points, self.families)


def import_all(networks: OwnNetworks) -> OwnCheckpoints:
    """Read every checkpoint; raise CheckpointError for one that cannot be read."""
    read = [_read(point) for point in networks.points]
    families: list[OwnFamily] = []
    checkpoints: dict[str, Checkpoint] = {}
    for suffix, group in _groups(read):
        made = list(_families(group, suffix))
        families += made
        checkpoints |= dict(_checkpoints(group, made))
    return OwnCheckpoints(
        checkpoints=checkpoints,
        operating_points=networks.operating_points,
        families=tuple(_with_digests(family, checkpoints) for family in families),
        remarks=tuple(_remarks(read)),
    )


def _with_digests(family: OwnFamily, checkpoints: Mapping[str, Checkpoint]) -> OwnFamily:
    names = {point: model_name(family.name, point) for point in family.operating_points}
    return replace(
        family, checkpoints={p: checkpoints[name].digest for p, name in names.items() if name in checkpoints}
    )


def _remarks(read: list[_Read]) -> Iterator[str]:
    for each in read:
        place = f"{each.point.language}.{each.point.operating_point}"
        sources = [each.recogniser, *([each.speaker] if each.speaker else [])]
        yield from (f"{place}: {remark}" for source in sources for remark in source.remarks)


def _read(point: OwnPoint) -> _Read:
    recogniser: Network = _importer(RECOGNISERS, point.recogniser, "a recogniser").read(point.recogniser)
    if isinstance(recogniser, Imported):
        recogniser = network_measuring.measured(recogniser, point.recogniser)
    speaker: Speaker | None = None
    if point.speaker is not None:
        speaker = _importer(SPEAKERS, point.speaker, "a speaker network").read(point.speaker)
    weight = recogniser.rescorer_weight if isinstance(recogniser, Imported) else None
    weights = {RESCORER: weight} if weight is not None else {}
    search = SearchSpec(rescorers=weights, rescorers_with_ngram=weights)
    # The calibration is that of the default search.
    if point.ngram is not None:
        recogniser, search = _with_ngram(recogniser, search, point.ngram)
        search = replace(search, confidence_with_ngram=point.confidence)
    else:
        search = replace(search, confidence=point.confidence)
    return _Read(point=point, recogniser=recogniser, speaker=speaker, search=search)


def _with_ngram(recogniser: Network, search: SearchSpec, path: Path) -> tuple[Network, SearchSpec]:
    if not arpa.recognises(path):
        cause = "it is not an ARPA file"
        raise CheckpointError(path, cause, "Name an n-gram model as ARPA text, plain or with gzip")
    model = arpa.read(path, recogniser.tokens)
    remarks = (*recogniser.remarks, *model.remarks)
    # The search adds a bonus a token: the tokens of a usual word share that of the word.
    bonus = TOKEN_BONUS if model.words is None else WORD_BONUS / model.tokens_per_word
    weighted = replace(
        search, ngram=model.text, words=model.words, ngram_weight=NGRAM_WEIGHT, token_bonus=round(bonus, 3)
    )
    return replace(recogniser, tokens=model.tokens, remarks=remarks), weighted


def _importer(known: tuple[ModuleType, ...], path: Path, what: str) -> Any:
    for importer in known:
        if importer.recognises(path):
            return importer
    names = ", ".join(each.__name__.rpartition(".")[2] for each in known)
    cause = f"it is not {what} in a known format ({names})"
    raise CheckpointError(path, cause, "See docs/own-networks.md for the formats and the files that each one needs")


def _groups(read: list[_Read]) -> Iterator[tuple[str, list[_Read]]]:
    """Yield the points that share families, with the suffix of the families' names."""
    for language in dict.fromkeys(each.point.language for each in read):
        mine = [each for each in read if each.point.language == language]
        for number, kind in enumerate(dict.fromkeys(each.kind for each in mine)):
            group = [each for each in mine if each.kind == kind]
            yield (f"_{group[0].point.operating_point}" if number else ""), group


def _families(group: list[_Read], suffix: str) -> Iterator[OwnFamily]:
    first = group[0]
    language, found = first.point.language, first.recogniser
    end = f"{language}{suffix}"
    shared: dict[str, Any] = {
        "language": language,
        "operating_points": tuple(each.point.operating_point for each in group),
    }
    audio: dict[str, Any] = {
        "sample_rate_hz": found.audio.sample_rate_hz,
        "padding": found.audio.padding,
        "frames": found.frames,
        "computes_in_half": _computes_in_half(found),
    }
    if isinstance(found, ImportedGraph):
        yield OwnFamily(name=f"am_{end}", role=CTC, **shared, **audio)
    else:
        steps = (f"body_{end}", f"am_{end}")
        yield OwnFamily(name=steps[0], role=ENCODER, step_frames=first.step_frames, **shared, **audio)
        yield OwnFamily(name=steps[1], role=CTC, step_frames=first.step_frames, **shared)
        outputs = ("top_log_probs", "top_tokens", "encoder_out", "encoder_lengths")
        yield OwnFamily(name=f"ensemble_{end}", role=ENSEMBLE, steps=steps, outputs=outputs, **shared)
        if found.rescorer is not None:
            yield OwnFamily(name=f"decoder_{end}", role=RESCORER, step_frames=first.step_frames, **shared)
    if first.speaker is not None:
        spec = first.speaker.speaker
        yield OwnFamily(
            name=f"diar_{end}",
            role=SPEAKER,
            sample_rate_hz=spec.sample_rate_hz,
            padding=spec.padding,
            step_frames=first.step_frames,
            computes_in_half=_computes_in_half(first.speaker),
            **shared,
        )


def _checkpoints(group: list[_Read], families: list[OwnFamily]) -> Iterator[tuple[str, Checkpoint]]:
    for each in group:
        for family in families:
            if family.role != ENSEMBLE:
                yield model_name(family.name, each.point.operating_point), _checkpoint(each, family)


def _checkpoint(each: _Read, family: OwnFamily) -> Checkpoint:
    found, speaker = each.recogniser, each.speaker
    if family.role == SPEAKER:
        assert speaker is not None  # noqa: S101 - there is no such family without it
        client = ClientSpec(speaker=speaker.speaker)
        network = (
            GraphNetwork(speaker.graph, speaker.dims, speaker.folder)
            if isinstance(speaker, ImportedSpeakerGraph)
            else speaker.network
        )
        return _made(network, client, speaker)
    recogniser = ClientSpec(tokens=found.tokens, search=each.search)
    if isinstance(found, ImportedGraph):
        return _made(GraphNetwork(found.graph, found.dims, found.folder), replace(recogniser, audio=found.audio), found)
    if family.role == ENCODER:
        return _made(found.encoder, ClientSpec(audio=found.audio), found)
    if family.role == CTC:
        return _made(found.head, recogniser, found)
    return _made(found.rescorer, ClientSpec(), found)


def _made(network: Any, client: ClientSpec, source: Network | Speaker) -> Checkpoint:
    precisions = source.precisions if isinstance(source, ImportedGraph | ImportedSpeakerGraph) else None
    return Checkpoint(
        network=network,
        dims=network.dims,
        client=client,
        origin=source.origin,
        digest=digest.of_value([source.digest, client.to_table(), _code_digest()]),
        **({} if precisions is None else {"precisions": precisions}),
    )


@cache
def _code_digest() -> str:
    """Return the digest of the importers: another release may read another network out of the same files."""
    folder = Path(__file__).parent / "checkpoints"
    return digest.of_value({path.name: digest.of_file(path) for path in sorted(folder.glob("*.py"))})
