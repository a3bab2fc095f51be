"""Figures of the measurements of sessions."""

import numpy as np
import pytest

from benchmarks.sessions import Churn, Delays, _note_event, _note_message, pcm
from transcriber.session import EndOfUtterance, Final, Partial
from transcriber.transcript import Turn, Word

TURN = Turn(words=(Word(content="a", start_s=0.5, end_s=0.9, confidence=1.0),), speaker=None)


def test_delays_of_events_and_messages_agree() -> None:
    """Empty finals and other events do not count."""
    ours, theirs = Delays(), Delays()
    for event in (
        Partial(start_s=0.0, end_s=1.0, text="a", words=TURN.words),
        Final(start_s=0.0, end_s=1.5, turns=(TURN,)),
        Final(start_s=1.5, end_s=1.9),
        EndOfUtterance(time_s=1.9),
    ):
        _note_event(ours, event, 2.0)
    for name, end_s, results in (
        ("AddPartialTranscript", 1.0, [1]),
        ("AddTranscript", 1.5, [1]),
        ("AddTranscript", 1.9, []),
    ):
        _note_message(theirs, {"message": name, "metadata": {"end_time": end_s}, "results": results}, 2.0)
    _note_message(theirs, {"message": "AudioAdded", "seq_no": 1}, 2.0)
    assert (ours.partials, ours.finals) == (theirs.partials, theirs.finals) == ([1.0], [0.5])


def test_quantiles() -> None:
    found = Delays(partials=list(np.arange(101) / 100), finals=[0.5]).to_dict()
    assert found == {"partial_median": 0.5, "partial_p95": pytest.approx(0.95), "final_median": 0.5, "final_p95": 0.5}


def test_growth_of_memory_leaves_the_start_out() -> None:
    assert Churn(memory_mb=[50.0, 90.0, 100.0, 100.0, 110.0, 110.0, 120.0, 120.0]).growth_mb == 20.0


def test_samples_of_16_bits_stay_exact() -> None:
    values = np.array([-32_768, -1, 0, 1, 32_767], dtype="<i2")
    assert pcm(values.astype(np.float32) / np.float32(32_768)) == values.tobytes()
