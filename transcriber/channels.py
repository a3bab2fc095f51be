"""Merge the transcripts of the channels of a call, in which each channel is a speaker."""

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import TypeVar

from contract.errors import VoxwrightError
from transcriber.pipeline import TranscriptionResult
from transcriber.transcript import Loss, Turn

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)


def label(channel: int) -> str:
    """Return the label of a channel, which is counted from 1; it takes the place of a speaker's."""
    return f"C{channel}"


def merge(found: Sequence[TranscriptionResult]) -> TranscriptionResult:
    """Return the result of a recording from those of its channels, the first channel first.

    Turns are sorted by time and labelled by channel. A note, loss or error of every channel is one of the recording.
    """
    transcripts = [each.transcript for each in found]
    turns = [
        replace(turn, speaker=label(channel))
        for channel, transcript in enumerate(transcripts, start=1)
        for turn in transcript.turns
    ]
    notes = [[(note, note) for note in each.notes] for each in found]
    losses = [[(loss, loss) for loss in transcript.losses] for transcript in transcripts]
    errors = [[(str(error), error) for error in each.errors] for each in found]
    return TranscriptionResult(
        transcript=replace(
            transcripts[0],
            by_channel=True,
            duration_s=max(transcript.duration_s for transcript in transcripts),
            turns=tuple(sorted(turns, key=_start_s)),
            losses=tuple(
                sorted(
                    (_named_loss(loss, channel) for loss, channel in _shared(losses)),
                    key=lambda loss: loss.start_s,
                )
            ),
        ),
        notes=tuple(note if channel is None else f"channel {channel}: {note}" for note, channel in _shared(notes)),
        errors=tuple(_named_error(error, channel) for error, channel in _shared(errors)),
    )


def _shared(items: Sequence[Sequence[tuple[Key, Item]]]) -> list[tuple[Item, int | None]]:
    """Return what all channels have once, with None, and the rest with the number of its channel."""
    common = set.intersection(*({key for key, _ in of_channel} for of_channel in items))
    return [
        (item, None if key in common else channel)
        for channel, of_channel in enumerate(items, start=1)
        for key, item in of_channel
        if channel == 1 or key not in common
    ]


def _start_s(turn: Turn) -> float:
    return turn.start_s


def _named_loss(loss: Loss, channel: int | None) -> Loss:
    return loss if channel is None else replace(loss, reason=f"channel {channel}: {loss.reason}")


def _named_error(error: VoxwrightError, channel: int | None) -> VoxwrightError:
    if channel is None:
        return error
    return type(error)(error.subject, f"channel {channel}: {error.cause}", error.remedy)
