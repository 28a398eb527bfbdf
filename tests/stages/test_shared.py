"""A stage that processes share: the frames before they are encoded, which makes more of a difference of one level."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed import FileStore  # type: ignore[attr-defined]

from tests import toys
from tests.lora.files import whole_file
from tests.training.forked import SERVER
from wanavatar_lab import media
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests import SpeechToVideo
from wanavatar_lab.runs.ranks import Ranks
from wanavatar_lab.stages import speech_to_video
from wanavatar_lab.stages.context import StageContext
from wanavatar_lab.wan.context_parallel import join, leave


def frames_of(request: SpeechToVideo, folder: Path, ranks: Ranks) -> np.ndarray:
    """What the stage gives to the writer of the clip."""
    written: list[np.ndarray] = []

    class Kept(media.TalkingClipWriter):
        def write(self, frame: Any) -> None:
            written.append(frame.copy())
            super().write(frame)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(media, "TalkingClipWriter", Kept)
        models = speech_to_video.load(PROFILES["pocket"], "cpu")
        made = speech_to_video.run(request, models, StageContext(folder, seed=1, ranks=ranks))
    assert [artifact.path for artifact in made] == ["talking.mp4"]
    return np.stack(written) if written else np.empty(0)


def take_part(rank: int, world: int, request: SpeechToVideo, folder: Path, weights: str) -> None:
    """Be one of the processes."""
    torch.set_num_threads(1)
    os.environ["WANAVATAR_WEIGHTS"] = weights
    ranks = Ranks(rank, world)
    join(ranks, FileStore(str(folder / "meeting"), world), "cpu", 60.0)
    np.save(folder / f"frames-{rank}.npy", frames_of(request, folder, ranks))
    leave()


@pytest.mark.slow
def test_three_processes_with_a_lora_that_changes_make_the_frames_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = toys.pocket_weights(tmp_path / "weights")
    whole_file(weights / "loras/mov/character/ann.safetensors", toys.s2v_transformer(), 0)
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(weights))
    values = {"profile": "pocket", "image": str(toys.picture(tmp_path / "a.png")), "resolution": "64x64", "seed": 1}
    values |= {"audio": str(toys.voice(tmp_path / "v.wav")), "frames_per_segment": 8, "num_inference_steps": 3}
    request = SpeechToVideo(**values, loras="ann:1:0.2", lora_schedule="progress")
    folders = [tmp_path / "alone", tmp_path / "together"]
    for folder in folders:
        folder.mkdir()
    arguments = (3, request, folders[1], str(weights))
    processes = [SERVER.Process(target=take_part, args=(rank, *arguments), daemon=True) for rank in range(3)]
    for process in processes:
        process.start()
    alone = frames_of(request, folders[0], Ranks())
    for process in processes:
        process.join(200)
        assert process.exitcode == 0
    together = np.load(folders[1] / "frames-0.npy")
    different = np.abs(together.astype(int) - alone)
    assert different.max() <= 1 and different.mean() < 1e-3
    assert not any(np.load(folders[1] / f"frames-{rank}.npy").size for rank in (1, 2)), "the first one writes alone"
