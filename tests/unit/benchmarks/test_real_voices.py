"""Dialogues of the game's program, and the errors of speaker labels on them."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import soundfile

from benchmarks import game_dialogues, real_voices
from benchmarks.game_dialogues import RATE_HZ, Sentence
from benchmarks.real_voices import Results, Score
from contract.errors import AudioError
from demo.scores import pair_error_rate
from export.checkpoints import speaker_onnx
from tests.unit.engines.exported import export

NAMES = ("a-m-one", "a-v-two", "a-x-other", "a-m-three", "a-v-four", "a-m-five", "a-v-six", "a-m-seven", "a-v-eight")
FONTS = {"m": "font_small", "v": "font_big", "x": "font_statue"}


def write_game(folder: Path) -> tuple[Path, Path]:
    """Write a level with nine sentences, one of them of a third figure, and return its sounds and scripts."""
    sounds, scripts = folder / "sound", folder / "script"
    (sounds / "level" / "nl").mkdir(parents=True)
    (scripts / "level").mkdir(parents=True)
    texts, code = [], []
    for name in NAMES:
        figure = name.split("-")[1]
        # A second of sound with a tenth of a second of silence on both sides.
        tone = np.pad(0.5 * np.sin(np.arange(RATE_HZ) * 0.3), RATE_HZ // 10).astype(np.float32)
        soundfile.write(sounds / "level" / "nl" / f"{name}.ogg", tone, RATE_HZ)
        texts.append(f'dialogId("{name}", "{FONTS[figure]}", "text")\ndialogStr("tekst")\n')
        # The third figure has no function of its own; one sentence is planned twice.
        code.append(f'add{"v" if figure == "v" else "m"}(random(10) + 5, "{name}")\n')
    (scripts / "level" / "dialogs_nl.lua").write_text("".join(texts))
    (scripts / "level" / "code.lua").write_text("".join((*code, code[0])))
    return sounds, scripts


def test_reads_sentences_in_the_order_of_the_program(tmp_path: Path) -> None:
    (sentences,) = game_dialogues.read_dialogues(*write_game(tmp_path)).values()
    assert [each.path.stem for each in sentences] == [name for name in NAMES if "-x-" not in name]
    assert [each.speaker for each in sentences] == ["small", "big"] * 4
    assert {each.pause_s for each in sentences} == {1.5}


def test_reference_network_is_written_for_windows(tmp_path: Path) -> None:
    """Networks of users take windows, and the reference networks whole segments."""
    export(tmp_path, "diar_standard")
    graph = tmp_path / "standard.onnx"
    real_voices._write_reference(graph, tmp_path / "diar_standard")
    audio = np.random.default_rng(3).normal(size=(2, 32_000)).astype(np.float32)
    feeds = {"audio": audio, "audio_lengths": np.full(2, 32_000, dtype=np.int32)}
    (windows,), (found,) = (
        onnxruntime.InferenceSession(path).run(["embedding"], feeds)
        for path in (tmp_path / "diar_standard" / "fp32.onnx", graph)
    )
    assert windows.shape == (2, 3, 6)
    assert np.array_equal(found, windows[:, 0])
    assert speaker_onnx.read(graph).speaker.window_s == 2.0


def test_rejects_folder_without_dialogues(tmp_path: Path) -> None:
    with pytest.raises(AudioError) as error:
        game_dialogues.read_dialogues(tmp_path, tmp_path)
    assert str(error.value) == (
        f"{tmp_path}: there are no dialogues with recordings. Install Debian's fillets-ng-data-nl and fillets-ng-data,"
        " or name the folders with --sounds and --scripts."
    )


def test_turns_are_where_the_sound_is(tmp_path: Path) -> None:
    (sentences,) = game_dialogues.read_dialogues(*write_game(tmp_path)).values()
    dialogue = game_dialogues.write_dialogue(sentences, tmp_path / "level.wav")
    samples, rate = soundfile.read(dialogue.path)
    assert rate == RATE_HZ
    assert len(dialogue.turns) == 8
    assert game_dialogues.changes(dialogue) == 7
    for turn in dialogue.turns:
        inside = samples[round(turn.start * rate) : round(turn.end * rate)]
        assert turn.end - turn.start == pytest.approx(1.0, abs=0.05)
        before = samples[round((turn.start - 1.0) * rate) : round((turn.start - 0.1) * rate)]
        assert np.sqrt((inside**2).mean()) > 0.2
        assert np.abs(before).max(initial=0.0) < 0.05


def test_recording_without_sound_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "empty.wav"
    soundfile.write(path, np.zeros(0), RATE_HZ)
    assert game_dialogues.samples_of(path).size == 0
    sentence = Sentence(path=path, speaker="small", pause_s=1.0)
    assert game_dialogues.write_dialogue([sentence], tmp_path / "level.wav").turns == ()


def test_pair_error_is_that_of_the_voices() -> None:
    embeddings = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], dtype=np.float32)
    assert pair_error_rate(embeddings, ["a", "a", "b", "b"]) == 0.0
    assert pair_error_rate(embeddings, ["a", "b", "a", "b"]) > 0.4


def test_page_has_all_figures() -> None:
    score = Score(
        similarity=0.5,
        window_s=1.6,
        equal_error_windows=0.1,
        equal_error_clips=0.02,
        diarization=0.3,
        diarization_with_collar=0.2,
        speech=0.15,
        one_speaker=0.5,
        counts_right=0.4,
        speakers=2.5,
    )
    scores = dict.fromkeys(real_voices.POINTS, score)
    results = Results(scores=scores, clips=224, dialogues=30, minutes=31.4, changes=329)
    text = real_voices.page(results)
    assert "| diarization error rate | 20.0 % | 20.0 % | 20.0 % |" in text
    assert "30 dialogues, 31 minutes, 329 changes of the speaker" in text
    kept = Path("docs/accuracy-real-voices.md").read_text()
    assert kept.partition("|")[0].split("(Debian")[0] == text.partition("|")[0].split("(Debian")[0]
