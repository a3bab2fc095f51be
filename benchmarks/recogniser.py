"""A recogniser in this process: the same graphs as on a server, without padding."""

import json
from collections.abc import Mapping

import numpy as np

from benchmarks.graphs import HEAD, LANGUAGE, Arrays, ExportedPoint, Network
from contract.catalogue import catalogue
from contract.errors import GraphError
from contract.graph import GraphRecord
from transcriber import ngram, search_weights
from transcriber.ctc import Emissions, Floats, Integers
from transcriber.recogniser import EncoderOutput, Features
from transcriber.search_weights import SearchWeights


class GraphRecogniser:
    """The networks of an operating point by family, in this process; see transcriber.recogniser.Recogniser."""

    def __init__(self, exported: ExportedPoint, networks: Mapping[str, Network]) -> None:
        self.language, self.operating_point = LANGUAGE, exported.operating_point
        known = exported.records[HEAD].parameters
        self.pieces: tuple[str, ...] = tuple(json.loads(known["tokens"]))
        self.ngram = ngram.from_text(known["ngram"]) if "ngram" in known else None
        self.search_weights = _search_weights(exported.records[HEAD])
        self.rescorers = tuple(family for family in self.search_weights.rescorers if family in networks)
        self.same_speaker_similarity: float | None = None
        if "diar" in networks:
            self.same_speaker_similarity = float(exported.records["diar"].parameters["same_speaker_similarity"])
        self._networks = networks

    def recognise(self, features: Features) -> EncoderOutput:
        """Return the encoder output of a segment: log-mel FP16 [frames, 80]."""
        encoded = self._networks["body"].run(_batch_of_one(features))
        found = self._networks[HEAD].run(encoded)
        length = int(encoded["encoder_lengths"][0])
        emissions = Emissions(log_probs=found["top_log_probs"][0, :length], tokens=found["top_tokens"][0, :length])
        return EncoderOutput(emissions=emissions, encoder_out=encoded["encoder_out"][0], encoder_length=length)

    def score(self, family: str, encoded: EncoderOutput, hypotheses: Integers, lengths: Integers) -> Floats:
        """Return the summed log-probabilities FP32 [N] of hypotheses INT32 [N, L] with lengths [N]."""
        known: Arrays = {
            "encoder_out": encoded.encoder_out[None],
            "encoder_lengths": np.array([encoded.encoder_length], dtype=np.int32),
            "hypotheses": hypotheses[None],
            "hypothesis_lengths": lengths[None],
        }
        inputs = {tensor.name: known[tensor.name] for tensor in catalogue()[family].inputs}
        scores: Floats = self._networks[family].run(inputs)["scores"][0]
        return scores

    def embed(self, windows: list[Features]) -> Floats:
        """Return the embeddings of windows, each FP16 [frames, 80]: unit vectors FP32 [len(windows), E]."""
        return np.concatenate([self._networks["diar"].run(_batch_of_one(window))["embedding"] for window in windows])


def _search_weights(record: GraphRecord) -> SearchWeights:
    try:
        return search_weights.from_json(record.parameters["search_weights"])
    except (KeyError, ValueError) as error:
        cause = "its export record has no valid parameter `search_weights`"
        raise GraphError(record.model, cause, f"Run `python -m export --model {record.model}` again") from error


def _batch_of_one(features: Features) -> Arrays:
    return {"features": features[None], "feature_lengths": np.array([len(features)], dtype=np.int32)}
