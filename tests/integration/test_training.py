"""The whole training within minutes, from nothing to a model card: killed once in the middle, and resumed."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from shutil import which

import pytest
import soundfile
from safetensors import safe_open

from training import curves, reporting
from training.checkpoints import Progress, checkpoint_path, read_checkpoint
from training.recipe import Recipe, smoke
from training.recordings import SETS

PROGRAMS = ("espeak-ng", "flite", "festival", "text2wave")
MISSING = [program for program in PROGRAMS if which(program) is None]
pytestmark = [
    pytest.mark.integration,
    # Five minutes; tests/unit/training runs every stage on tiny networks in seconds.
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)}: not installed; see ci/packages"),
]
ROOT = Path(__file__).parents[2]
# Folders that a full run would change, and a smoke run must not.
KEPT = ("demo", "export/checkpoints/reference", "dist/accuracy/recordings")
LONGEST_SECONDS = 1500
STAGES_OF_A_POINT = ("recogniser", "ngram", "speakers", "weighting", "dialogue")
FIRST_STEPS = "standard: 0."


def _digests() -> dict[str, str]:
    paths = [path for folder in KEPT for path in (ROOT / folder).rglob("*") if path.is_file()]
    return {
        str(path.relative_to(ROOT)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
        if "__pycache__" not in path.parts
    }


def _start(out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "training", "all", "--smoke", "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (out / "terminal.txt").open("ab") as terminal:
        # A session of its own, so that the kill ends every process of the run.
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=terminal, stderr=terminal, start_new_session=True
        )


def _kill(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _kill_while_training(out: Path, recipe: Recipe) -> Progress:
    """Start a run, kill it once its log has steps and a checkpoint exists, and return the checkpoint's progress."""
    process = _start(out)
    try:
        ends = time.monotonic() + LONGEST_SECONDS
        while not _trains(recipe):
            assert process.poll() is None, (out / "terminal.txt").read_text()
            assert time.monotonic() < ends, (out / "terminal.txt").read_text()
            time.sleep(0.2)
    finally:
        _kill(process)
    progress: Progress = read_checkpoint(recipe, "standard")["progress"]
    return progress


def _trains(recipe: Recipe) -> bool:
    is_logged = recipe.log.is_file() and FIRST_STEPS in recipe.log.read_text(encoding="utf-8")
    return is_logged and checkpoint_path(recipe, "standard").is_file()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Progress]:
    out = tmp_path_factory.mktemp("training")
    before = _digests()
    recipe = smoke(out)
    killed = _kill_while_training(out, recipe)
    assert not (recipe.weights / "standard").exists()
    process = _start(out)
    try:
        code = process.wait(LONGEST_SECONDS)
    except BaseException:
        _kill(process)
        raise
    assert code == 0, (out / "terminal.txt").read_text()
    assert _digests() == before
    return recipe, killed


def test_writes_every_file(run: tuple[Recipe, Progress]) -> None:
    recipe, _ = run
    families = {
        "standard": ("am_en", "body", "decoder", "diar"),
        "enhanced": ("am_en", "body", "decoder", "diar", "lm"),
    }
    weights = [f"{point}/{family}.safetensors" for point, each in families.items() for family in each]
    found = sorted(str(path.relative_to(recipe.weights)) for path in recipe.weights.rglob("*") if path.is_file())
    ngrams = [f"{point}/am_en.ngram" for point in families]
    assert found == sorted([*weights, *ngrams, "MODEL_CARD.md", "figures.json", "tokenizer.model"])
    for name in weights:
        with safe_open(recipe.weights / name, framework="np") as file:
            assert {"config", "network", "parameters"} <= file.metadata().keys()
    assert {path.name for path in recipe.demo.iterdir()} == {"dialogue.flac", "dialogue.json"}
    assert recipe.log.stat().st_size > 0
    assert (recipe.out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "standard" in (recipe.weights / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_every_stage_records_figures_and_curves(run: tuple[Recipe, Progress]) -> None:
    recipe, _ = run
    stages = {f"{stage}_{point.name}" for stage in STAGES_OF_A_POINT for point in recipe.points}
    figures = reporting.read_figures(recipe)
    assert {*stages, "language", "machine"} <= figures.keys()
    assert all(figures[f"recogniser_{point.name}"]["steps"] > 10 for point in recipe.points)
    assert "NaN" not in recipe.figures.read_text(encoding="utf-8")
    assert {"standard", "enhanced"} <= curves.read(recipe).keys()


def test_killed_run_resumes(run: tuple[Recipe, Progress]) -> None:
    """The time before the kill counts: both runs together take the time of the recipe."""
    recipe, killed = run
    assert killed.step > 0
    ended: Progress = read_checkpoint(recipe, "standard")["progress"]
    budget = recipe.point("standard").recogniser_minutes * 60
    assert killed.seconds < budget <= ended.seconds
    assert ended.step > killed.step
    assert max(minutes for minutes, _ in curves.read(recipe)["standard"]["ctc"]) * 60 > killed.seconds
    assert not list(recipe.out.rglob("*.partial"))


def test_writes_recordings_with_transcripts(run: tuple[Recipe, Progress]) -> None:
    recipe, _ = run
    folders = sorted(recipe.evaluation.iterdir())
    assert [folder.name for folder in folders] == [
        "accent", "dialogues", "flite", "grammar", "noise", "prose", "synthesiser", "telephone", "voices",
    ]  # fmt: skip
    for folder in folders:
        truth = json.loads((folder / "truth.json").read_text(encoding="utf-8"))["recordings"]
        factor = SETS[folder.name].size_factor if folder.name in SETS else 1
        assert len(truth) == recipe.recordings * factor
        for one in truth:
            info = soundfile.info(folder / one["file"])
            assert (info.samplerate, info.channels) == (16_000, 1)
            assert one["text"] if "text" in one else all(turn["text"] for turn in one["turns"])
