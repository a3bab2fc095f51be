"""A recogniser in this process: the same graphs as on a server, without padding."""

import sys
from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.graphs import LANGUAGE, Arrays, ExportedPoint, Network
from contract.catalogue import CTC, ENCODER, HYPOTHESIS_ROLES, SPEAKER, read_catalogue
from contract.client import AudioSpec, ClientSpec, SearchSpec, SpeakerSpec, TokenSpec, merge
from contract.errors import GraphError
from transcriber import ngram
from transcriber.audio import Samples
from transcriber.ctc import Emissions, Floats, Integers
from transcriber.recogniser import Bounds, EncoderOutput


class GraphRecogniser:
    """The networks of an operating point by role, in this process; see transcriber.recogniser.Recogniser."""

    # ONNX Runtime takes inputs of any size.
    longest_samples = most_hypotheses = longest_hypothesis = sys.maxsize
    in_flight = 8

    def __init__(self, exported: ExportedPoint, networks: Mapping[str, Network]) -> None:
        self.language, self.operating_point = LANGUAGE, exported.operating_point
        self.audio, self.tokens, self.search = _sections(exported)
        self.ngram: ngram.Ngram | None = None
        if self.search.ngram is not None and self.tokens.boundary is not None:
            self.ngram = ngram.from_text(self.search.ngram, self.tokens.boundary)
        self.rescorers = tuple(role for role in HYPOTHESIS_ROLES if role in networks)
        self.speaker: SpeakerSpec | None = exported.records[SPEAKER].client.speaker if SPEAKER in networks else None
        self._networks = networks

    def recognise(self, samples: Samples) -> EncoderOutput:
        """Return the encoder output of a segment: mono samples in [-1, 1)."""
        encoded = self._networks[ENCODER].run(_batch_of_one(samples))
        found = self._networks[CTC].run(encoded)
        length = int(encoded["encoder_lengths"][0])
        emissions = Emissions(log_probs=found["top_log_probs"][0, :length], tokens=found["top_tokens"][0, :length])
        return EncoderOutput(emissions=emissions, encoder_out=encoded["encoder_out"][0, :length], encoder_length=length)

    def score(self, role: str, encoded: EncoderOutput, hypotheses: Integers, lengths: Integers) -> Floats:
        """Return the summed log-probabilities FP32 [N] of hypotheses INT32 [N, L] with lengths [N]."""
        family = read_catalogue().find(role, self.language, self.operating_point)
        assert family is not None  # noqa: S101 - its network is open
        assert encoded.encoder_out is not None  # noqa: S101 - `recognise` returns it
        known: Arrays = {
            "encoder_out": encoded.encoder_out[None],
            "encoder_lengths": np.array([encoded.encoder_length], dtype=np.int32),
            "hypotheses": hypotheses[None],
            "hypothesis_lengths": lengths[None],
        }
        scores: Floats = self._networks[role].run({tensor.name: known[tensor.name] for tensor in family.inputs})[
            "scores"
        ][0]
        return scores

    def embed(self, samples: Samples, bounds: Sequence[Bounds]) -> Floats:
        """Return the embeddings of the windows of a segment: unit vectors FP32 [len(bounds), E]."""
        found: Floats = self._networks[SPEAKER].run(_batch_of_one(samples))["embedding"][0, : len(bounds)]
        return found


def _sections(exported: ExportedPoint) -> tuple[AudioSpec, TokenSpec, SearchSpec]:
    records = [exported.records[role] for role in (ENCODER, CTC)]
    spec: ClientSpec = merge(record.client for record in records)
    if spec.audio is None or spec.tokens is None:
        names = " and ".join(record.model for record in records)
        cause = "their export records lack the section audio or tokens of `client`"
        raise GraphError(names, cause, "Run `python -m export --force` again")
    return spec.audio, spec.tokens, spec.search or SearchSpec()


def _batch_of_one(samples: Samples) -> Arrays:
    return {"audio": samples[None], "audio_lengths": np.array([len(samples)], dtype=np.int32)}
