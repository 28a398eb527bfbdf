"""From videos of a real face to a LoRA whose lips are nearer to the true ones, by the commands that a user runs.

Without the face landmarker, which set-up fetches, this is skipped; see `tests/real_face.py`.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.real_face import VOICE, talking_video, voice
from training.loop.run_folder import read_metrics
from training.pocket.train_demo import change_of, exchange_sound

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SPEECH, SECONDS, SIDE = sorted((VOICE.parent / "said").glob("*.ogg"))[:6], 3.4, 160
STEPS = 16
PROGRAM = Path(sys.executable).with_name("wanavatar-lab")


def run(*words: str | Path, module: str = "") -> str:
    """Run a command to its end; returns what it printed."""
    program = [sys.executable, "-m", module] if module else [PROGRAM]
    done = subprocess.run([*program, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def trained(tmp_path: Path, face_weights: Path) -> Path:
    """A run on clips of a real face whose lips follow a voice; the last clip is held out."""
    (tmp_path / "videos").mkdir()
    for speech in SPEECH:
        talking_video(tmp_path / f"videos/{speech.stem}.mp4", voice(SECONDS, path=speech), side=SIDE)
    data, samples, folder = (tmp_path / name for name in ("data", "samples", "run"))
    said = run("--videos", tmp_path / "videos", "--out", data, module="training.prepare")
    assert f"{len(SPEECH) - 1} to train on, 1 held out, 0 left out" in said
    words = ["--profile", "pocket", "--aspects", "square", "--device", "cpu"]
    run("--data", data / "processed/video_path.txt", "--out", samples, *words, module="training.encode")
    train(samples, folder, "--sample_every_n_steps", str(STEPS))
    return folder


def train(samples: Path, folder: Path, *words: str) -> dict[str, float]:
    """Train on samples; returns by how much the held-out errors of the lips and of the background changed."""
    steps = ["--max_train_steps", str(STEPS), "--learning_rate", "1e-3", *words]
    said = run("--recipe", "pocket", "--samples", samples, "--run", folder, *steps, module="training.train")
    return dict(json.loads(said.splitlines()[-1]))


def test_lips_of_a_real_face_are_learnt_and_follow_its_voice(trained: Path) -> None:
    changes = change_of(trained)
    # clips that have each other's sound teach how the face looks, but not which mouth a sound has
    wrong = exchange_sound(trained.with_name("samples"), trained.with_name("wrong"))
    by_wrong = train(wrong, trained.with_name("run_wrong"))
    print(changes, by_wrong)
    assert changes["lip"] <= -0.3 and changes["background"] <= 0 and changes["lip"] < by_wrong["lip"] - 0.03
    # sample clips are judged by MediaPipe: the reader of `pocket` sees no real lips move
    first, _ = read_metrics(trained, "samples")
    assert first["true_lip_r"] > 0.5 and first["true_lip_lag"] == 0
    # what is seen in clips, which are made as by a request, so with half of the update
    before, after, true = (
        next((trained / "clips").glob(f"{name}-*.mp4")) for name in ("000000", f"{STEPS:06d}", "true")
    )
    measured = {clip: evaluated(clip)["lips"] for clip in (before, after, true)}
    print(json.dumps([*measured.values()]))
    assert measured[after]["lag"] == measured[true]["lag"] == 0 and measured[after]["r"] > 0.5
    wide = [abs(measured[clip]["speech"] - measured[true]["speech"]) for clip in (before, after)]
    assert wide[1] < 0.8 * wide[0]


def evaluated(clip: Path) -> dict[str, Any]:
    """What `wanavatar-lab evaluate` says of a clip; the picture is of `pocket`, and the face in it a real one."""
    (found,) = json.loads(run("evaluate", clip, "--faces", "mediapipe", "--borders", "none", "--json"))
    assert found["clip"]["face_found"] == 1
    return dict(found["clip"])
