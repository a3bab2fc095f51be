"""A server that joins requests, as on a GPU: how full its batches are with the requests of the transcriber."""

from pathlib import Path

import pytest

from benchmarks import batches
from tests.integration import serving

pytestmark = pytest.mark.integration


def test_requests_of_similar_lengths_fill_batches(reference_engines: Path, tmp_path: Path) -> None:
    catalogue = batches.write_catalogue(tmp_path / "catalogue")
    recordings = batches.write_recordings(tmp_path, batches.RECORDINGS)
    options = ("--catalogue", str(catalogue), "--operating-point", batches.POINT)
    with serving.started(reference_engines, tmp_path, options) as running:
        serving.wait_ready(running)
        measured, transcripts = batches.measure(f"127.0.0.1:{running.grpc}", recordings)
    texts = [[turn.text for transcript in each for turn in transcript.turns] for each in transcripts]
    assert all(each == texts[0] for each in texts)
    assert sum(len(text.split()) for text in texts[0]) > 1000
    alone, joined = measured[1], measured[3]
    assert alone.in_flight == joined.in_flight == 64
    # Every request has one item: that of the recogniser, the decoder and the speaker network.
    assert alone.items == joined.items
    assert alone.mean("body_standard") < 1.5
    assert joined.mean("body_standard") > 3
    assert joined.mean("decoder_standard") > 1.3 * alone.mean("decoder_standard")
