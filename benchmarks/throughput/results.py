"""The figures of a measurement of throughput."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.measuring import Comparison
from benchmarks.realtime import Delays
from benchmarks.throughput import density
from benchmarks.throughput.transcribers import Run

SATURATED = 0.95
"""A number of transcribers saturates the machine when it reaches this share of the largest throughput."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Accuracy:
    """Errors in the transcripts of the measurement, as shares; `diarization` is None without speakers."""

    words: float
    diarization: float | None


@dataclass(kw_only=True)
class Throughput:
    """The runs of one kind of transcript at an operating point, by the number of transcribers."""

    point: str
    kind: str
    runs: dict[int, list[Run]] = field(default_factory=dict)
    parallel: list[Run] = field(default_factory=list)
    """Runs of one recording with four requests in flight."""
    limit: list[float] = field(default_factory=list)
    """Hours of audio an hour of the raw networks in every round."""
    accuracy: Accuracy | None = None

    def hours(self, count: int) -> float:
        """Return the median of the hours of audio an hour with so many transcribers."""
        return statistics.median(run.hours_an_hour for run in self.runs[count])

    @property
    def best(self) -> int:
        """Return the number of transcribers with the largest throughput."""
        return max(self.runs, key=self.hours)

    @property
    def saturation(self) -> int:
        """Return the smallest number of transcribers that saturates the machine."""
        return next(count for count in sorted(self.runs) if self.hours(count) >= SATURATED * self.hours(self.best))

    @property
    def hours_an_hour(self) -> float:
        """Return the largest throughput."""
        return self.hours(self.best)

    @property
    def real_time_factor(self) -> float:
        """Return the time of one recording as a share of its length."""
        return statistics.median(1 / run.hours_an_hour for run in self.parallel)

    @property
    def share_of_limit(self) -> float | None:
        """Return the throughput as a share of that of the raw networks, round by round; None without a limit."""
        if not self.limit:
            return None
        pairs = zip(self.runs[self.best], self.limit, strict=True)
        return statistics.median(run.hours_an_hour / limit for run, limit in pairs)

    def client_s(self) -> float:
        """Return the processor seconds of a transcriber for an hour of audio."""
        return statistics.median(run.per_hour(run.client_s) for run in self.runs[self.best])

    def server_s(self) -> float:
        """Return the processor seconds of the server for an hour of audio."""
        return statistics.median(run.per_hour(run.server_s) for run in self.runs[self.best])

    def to_dict(self, price: float) -> dict[str, Any]:
        """Return all figures for a JSON file; `price` is that of an hour of the machine."""
        return {
            "operating_point": self.point,
            "transcript": self.kind,
            "hours_an_hour": {count: [run.hours_an_hour for run in runs] for count, runs in self.runs.items()},
            "best_hours_an_hour": self.hours_an_hour,
            "cost_an_hour": price / self.hours_an_hour,
            "transcribers_at_saturation": self.saturation,
            "real_time_factor_parallel_4": self.real_time_factor,
            "client_processor_s_an_hour": self.client_s(),
            "server_processor_s_an_hour": self.server_s(),
            "limit_hours_an_hour": self.limit,
            "share_of_limit": self.share_of_limit,
            "word_error_rate": self.accuracy.words if self.accuracy else None,
            "diarization_error_rate": self.accuracy.diarization if self.accuracy else None,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """sherpa-onnx against the transcriber with the same search, in times real time."""

    point: str
    comparison: Comparison
    way: str
    """How sherpa-onnx was fastest."""
    peer_words: float
    words: float

    def to_dict(self) -> dict[str, Any]:
        """Return all figures for a JSON file."""
        rates = {"peer_word_error_rate": self.peer_words, "word_error_rate": self.words}
        return {"operating_point": self.point, "peer_way": self.way, **rates, **self.comparison.to_dict()}


@dataclass(kw_only=True)
class Results:
    """All figures of a measurement."""

    price: float
    machine: Mapping[str, str]
    audio_s: float
    endpoint: str | None = None
    """The server that was measured; None for the embedded one, on the same machine."""
    throughput: list[Throughput] = field(default_factory=list)
    peers: list[Peer] = field(default_factory=list)
    streams: dict[str, Sequence[Delays]] = field(default_factory=dict)
    """By operating point, every number of streams that was measured."""
    stream_accuracy: dict[str, Accuracy] = field(default_factory=dict)
    """The errors of the dialogue as a stream, by operating point."""

    def to_dict(self) -> dict[str, Any]:
        """Return all figures for a JSON file."""
        largest = {point: density.largest(found) for point, found in self.streams.items()}
        return {
            "machine": dict(self.machine),
            "endpoint": self.endpoint,
            "price": self.price,
            "audio_s": self.audio_s,
            "throughput": [each.to_dict(self.price) for each in self.throughput],
            "peers": [each.to_dict() for each in self.peers],
            "sessions": {point: best.streams if best else 0 for point, best in largest.items()},
            "stream_errors": {point: asdict(found) for point, found in self.stream_accuracy.items()},
            "streams": [each.to_dict() for found in self.streams.values() for each in found],
        }
