"""Speed of reading a stage's files from a disk: its pipeline is written with random weights, then loaded as usual."""

import os
import time
from pathlib import Path
from typing import Any

import torch

from wanavatar_lab.bench.random_models import random_pipeline
from wanavatar_lab.bench.watch import say, synchronize
from wanavatar_lab.errors import LabError
from wanavatar_lab.files import files_below
from wanavatar_lab.memory import usual_workload
from wanavatar_lab.memory.apply_offload import OffloadableModels, networks
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.stages import stage_module

_SPARE = 2 << 30  # bytes of the disk that stay free


def measure_files(stage: str, size: str, device: str, folder: Path) -> dict[str, Any]:
    """Write, evict the files from the page cache, load, and move to the device.

    Args:
        stage: text_to_image, image_to_video or speech_to_video.
        size: published or tiny.
        device: cpu, cuda or cuda:<n>.
        folder: becomes a weights folder; the files stay there.

    Raises:
        LabError: the disk has no room for them.
    """
    profile = PROFILES["full"]
    place = profile.weights(stage, folder)
    say(f"Random weights of {stage}, {size} …")
    pipeline = random_pipeline(stage, size, getattr(torch, profile.dtype(device)))
    needed = sum(parameter.nbytes for part in networks(pipeline).values() for parameter in part.parameters())
    folder.mkdir(parents=True, exist_ok=True)
    room = os.statvfs(folder)
    if needed + _SPARE > room.f_bavail * room.f_frsize:
        raise LabError(f"{folder} has no room for {needed / 1e9:.1f} GB. Name another folder.")
    say(f"Writing {needed / 1e9:.1f} GB to {place} …")
    start = time.perf_counter()
    pipeline.save_pretrained(place)
    files = files_below(place)
    for file in files:
        with open(file, "rb+") as stream:
            os.fsync(stream.fileno())
            if hasattr(os, "posix_fadvise"):
                # so that it is read from the disk and not from the page cache
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    written = time.perf_counter() - start
    del pipeline
    say("Loading …")
    os.environ["WANAVATAR_WEIGHTS"] = str(folder)
    start = time.perf_counter()
    models: OffloadableModels = stage_module(stage).load(profile, device)
    loaded = time.perf_counter() - start
    start = time.perf_counter()
    choice = models.apply_offload("auto", usual_workload(stage, "full"))
    synchronize()
    return {
        "bench": "files",
        "size": size,
        "device": torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else "cpu",
        "stage": stage,
        "bytes": sum(file.stat().st_size for file in files),
        "write_seconds": written,
        "load_seconds": loaded,
        "mode": choice.key,
        "place_seconds": time.perf_counter() - start,
    }
