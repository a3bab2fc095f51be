"""The recogniser of this process: what a server would answer, from the same graphs and without padding."""

import json
from collections.abc import Mapping

import numpy as np

from benchmarks.graphs import HEAD, LANGUAGE, Arrays, Exported, Network
from contract.catalogue import catalogue
from transcriber import ngram
from transcriber.ctc import Emissions, Floats, Integers
from transcriber.recogniser import Features, Heard
from transcriber.rescoring import WEIGHTS


class GraphRecogniser:
    """The networks of an operating point by family, in this process; see transcriber.recogniser.Recogniser."""

    def __init__(self, exported: Exported, networks: Mapping[str, Network]) -> None:
        self.language, self.operating_point = LANGUAGE, exported.operating_point
        known = exported.records[HEAD].parameters
        self.pieces: tuple[str, ...] = tuple(json.loads(known["tokens"]))
        self.ngram = ngram.from_text(known["ngram"]) if "ngram" in known else None
        self.rescorers = tuple(family for family in WEIGHTS[self.operating_point].rescorers if family in networks)
        self.same_speaker_similarity: float | None = None
        if "diar" in networks:
            self.same_speaker_similarity = float(exported.records["diar"].parameters["same_speaker_similarity"])
        self._networks = networks

    def recognise(self, features: Features) -> Heard:
        """Recognise a segment: log-mel FP16 [frames, 80]."""
        encoded = self._networks["body"].run(_alone(features))
        found = self._networks[HEAD].run(encoded)
        length = int(encoded["encoder_lengths"][0])
        emissions = Emissions(log_probs=found["top_log_probs"][0, :length], tokens=found["top_tokens"][0, :length])
        return Heard(emissions=emissions, encoder_out=encoded["encoder_out"][0], encoder_length=length)

    def score(self, family: str, heard: Heard, hypotheses: Integers, lengths: Integers) -> Floats:
        """Score hypotheses INT32 [N, L] of lengths [N]: the summed log-probabilities FP32 [N]."""
        known: Arrays = {
            "encoder_out": heard.encoder_out[None],
            "encoder_lengths": np.array([heard.encoder_length], dtype=np.int32),
            "hypotheses": hypotheses[None],
            "hypothesis_lengths": lengths[None],
        }
        wanted = {tensor.name: known[tensor.name] for tensor in catalogue()[family].inputs}
        scores: Floats = self._networks[family].run(wanted)["scores"][0]
        return scores

    def embed(self, windows: list[Features]) -> Floats:
        """Embed stretches of speech, each FP16 [frames, 80]: unit vectors FP32 [len(windows), E]."""
        return np.concatenate([self._networks["diar"].run(_alone(window))["embedding"] for window in windows])


def _alone(features: Features) -> Arrays:
    return {"features": features[None], "feature_lengths": np.array([len(features)], dtype=np.int32)}
