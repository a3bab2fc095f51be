"""Count what the service does, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_RATIOS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

# Counted from 0 on, because Prometheus sees no increase where a counter begins with 1; an alert uses them.
_DEFECTS = ATTEMPTS, DEFECT = ("attempts", "defect")


class Metrics:
    """The metrics of a service. Each has its own registry, so that tests can start several."""

    def __init__(self) -> None:
        """Register every metric with its help text."""
        self.registry = CollectorRegistry()
        self.sessions = Gauge("voxwright_sessions", "Real-time sessions that are open.", registry=self.registry)
        self.jobs = Gauge(
            "voxwright_jobs", "Jobs that are not done, in the whole database.", ["state"], registry=self.registry
        )
        self.audio_s = Counter(
            "voxwright_audio_seconds", "Seconds of audio that were transcribed.", ["kind"], registry=self.registry
        )
        self.work_s = Counter(
            "voxwright_work_seconds", "Seconds that the transcription took.", ["kind"], registry=self.registry
        )
        self.real_time_factor = Histogram(
            "voxwright_real_time_factor",
            "Time of a transcription divided by the duration of its audio.",
            ["kind"],
            buckets=_RATIOS,
            registry=self.registry,
        )
        self.errors = Counter("voxwright_errors", "Errors by kind.", ["kind"], registry=self.registry)
        for kind in _DEFECTS:
            self.errors.labels(kind)
        self.requests = Counter(
            "voxwright_requests", "HTTP requests that were answered.", ["route", "status"], registry=self.registry
        )
        self.request_s = Histogram(
            "voxwright_request_seconds", "Time to answer.", ["route"], buckets=_SECONDS, registry=self.registry
        )
        self.ready = Gauge("voxwright_ready", "1 while the service is ready, else 0.", registry=self.registry)

    def transcribed(self, kind: str, audio_s: float, work_s: float) -> None:
        """Count a transcription; `kind` is job, request or session."""
        self.audio_s.labels(kind).inc(audio_s)
        self.work_s.labels(kind).inc(work_s)
        if audio_s > 0:
            self.real_time_factor.labels(kind).observe(work_s / audio_s)

    def text(self) -> bytes:
        """Return all values in Prometheus' text format."""
        return generate_latest(self.registry)
