"""The tables of a measurement of throughput, in Markdown."""

import statistics
from collections.abc import Iterable, Iterator, Sequence

from benchmarks.throughput import density
from benchmarks.throughput.results import Results

PUBLISHED = "Speechmatics, published for a T4 (another machine)"
# Hours of audio an hour, first and later figures, real-time factor of one recording, sessions: standard and enhanced.
_PUBLISHED_HOURS = {"standard": "170, later 260", "enhanced": "34, later 40"}
_PUBLISHED_FACTORS = {"standard": "0.035", "enhanced": "0.080"}
_PUBLISHED_SESSIONS = {"standard": "140", "enhanced": "30"}


def sections(results: Results, pictures: Sequence[str] = ()) -> list[str]:
    """Return the lines of all sections; `pictures` are the paths of the plots, from the page."""
    images = {name: f"![{name}]({path})" for path in pictures for name in ("throughput", "sessions") if name in path}
    lines = ["## Machine", "", *table(("", ""), results.machine.items())]
    if results.throughput:
        lines += ["", "## Throughput", "", *_throughput(results)]
        lines += ["", images["throughput"]] if "throughput" in images else []
    if any(each.limit for each in results.throughput):
        lines += ["", "## Against the networks alone", "", *_limits(results)]
    if results.peers:
        lines += ["", "## Against sherpa-onnx", "", *_peers(results)]
    if results.streams:
        lines += ["", "## Sessions in real time", "", *_streams(results)]
        lines += ["", images["sessions"]] if "sessions" in images else []
    return lines


def _throughput(results: Results) -> Iterator[str]:
    rounds = len(results.throughput[0].parallel)
    yield (
        f"{_place(results, 'Transcribers')} Each transcriber is a process that transcribes the demonstration's "
        f"dialogue, repeated to {results.audio_s:.0f} s. Figures are medians of {rounds} rounds. *Saturation* is the "
        "smallest number of transcribers with 95 % of the largest throughput. *RTF* is the time of one recording with "
        "`--in-flight 4` (Speechmatics' `parallel=4`) as a share of its length. The cost is for "
        f"{results.price:g} an hour of the machine. Processor seconds are for an hour of audio. WER and DER are those "
        "of these very transcripts, of one dialogue; [Accuracy](accuracy.md) has those of large sets."
    )
    yield ""
    head = (
        "point",
        "transcript",
        "hours an hour",
        "saturation",
        "RTF",
        "cost of an hour",
        "client processor s",
    )
    yield from table(
        (*head, "server processor s", "WER", "DER"),
        [
            *(
                (
                    each.point,
                    each.kind,
                    f"{each.hours_an_hour:.0f}",
                    each.saturation,
                    f"{each.real_time_factor:.4f}",
                    f"{results.price / each.hours_an_hour:.5f}",
                    f"{each.client_s():.1f}",
                    "" if results.endpoint else f"{each.server_s():.1f}",
                    _errors(each.accuracy.words if each.accuracy else None),
                    _errors(each.accuracy.diarization if each.accuracy else None),
                )
                for each in results.throughput
            ),
            *(
                (point, PUBLISHED, _PUBLISHED_HOURS[point], "", _PUBLISHED_FACTORS[point], "", "", "", "", "")
                for point in dict.fromkeys(each.point for each in results.throughput)
                if point in _PUBLISHED_HOURS
            ),
        ],
    )


def _limits(results: Results) -> Iterator[str]:
    yield (
        "The limit is bare ONNX Runtime in one process, on the same cores: all runs of all networks that the same "
        "transcript needs, with the same segments, hypotheses and windows, without padding. It is the faster of two "
        "ways: each run on all cores, or a run on each core. Product and limit are measured in turn; the share is the "
        "median of the rounds."
    )
    yield ""
    yield from table(
        ("point", "transcript", "product, hours an hour", "limit", "share", "WER", "DER"),
        [
            (
                each.point,
                each.kind,
                f"{each.hours_an_hour:.0f}",
                f"{statistics.median(each.limit):.0f}",
                f"{each.share_of_limit or 0.0:.2f}",
                _errors(each.accuracy.words if each.accuracy else None),
                _errors(each.accuracy.diarization if each.accuracy else None),
            )
            for each in results.throughput
        ],
    )


def _peers(results: Results) -> Iterator[str]:
    yield (
        "sherpa-onnx runs the same weights, body and acoustic head as its model `wenet_ctc`, on the same cores and "
        "with its own ONNX Runtime. Both search greedily. It gets the segments from memory, in the way in which it was "
        "fastest; the product also reads the file, detects voices, and sends the audio to the server."
    )
    yield ""
    yield from table(
        (
            "point",
            "sherpa-onnx, times real time",
            "its way",
            "product",
            "ratio",
            "WER of sherpa-onnx",
            "WER of the product",
        ),
        [
            (
                each.point,
                f"{statistics.median(each.comparison.first):.0f}",
                each.way,
                f"{statistics.median(each.comparison.second):.0f}",
                f"{each.comparison.ratio:.2f}",
                _errors(each.peer_words),
                _errors(each.words),
            )
            for each in results.peers
        ],
    )


def _streams(results: Results) -> Iterator[str]:
    best = {point: density.largest(found) for point, found in results.streams.items()}
    held = ", ".join(f"{found.streams if found else 0} of {point}" for point, found in best.items())
    published = ", ".join(f"{count} of {point}" for point, count in _PUBLISHED_SESSIONS.items())
    yield (
        f"{_place(results, 'Clients')} Streams at real speed, each a client in a process of its own, with the best "
        f"search and speakers. The largest number with a 95th percentile of the delays of finals below "
        f"{density.LIMIT_S:g} s: **{held}**. {PUBLISHED}: {published}. Partials count from their last sample, finals "
        f"from the end of their segment. Delays are in seconds. WER and DER are those of the dialogue as one stream."
    )
    yield ""
    yield from table(
        (
            "point",
            "streams",
            "partials: p50",
            "p95",
            "p99",
            "finals: p50",
            "p95",
            "p99",
            "cores: clients",
            "server",
            "WER",
            "DER",
        ),
        [
            (
                point,
                found["streams"],
                *_delays(found),
                f"{found['client_cores']:.2f}",
                "" if results.endpoint else f"{found['server_cores']:.2f}",
                *_stream_errors(results, point),
            )
            for point, each in results.streams.items()
            for found in (delays.to_dict() for delays in each)
        ],
    )


def _place(results: Results, clients: str) -> str:
    if results.endpoint is None:
        return f"{clients} and server share the machine."
    return f"{clients} run on this machine, the server is {results.endpoint}."


def _delays(found: dict[str, dict[str, float]]) -> list[str]:
    return [f"{found[kind][name]:.2f}" for kind in ("partials", "finals") for name in ("median", "p95", "p99")]


def _stream_errors(results: Results, point: str) -> tuple[str, str]:
    found = results.stream_accuracy.get(point)
    return ("", "") if found is None else (_errors(found.words), _errors(found.diarization))


def _errors(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> list[str]:
    """Return the lines of a table."""
    lines = [f"| {' | '.join(map(str, head))} |", "|" + "---|" * len(head)]
    return [*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)]
