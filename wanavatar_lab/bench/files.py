"""How fast a stage is read from a disk: its pipeline is written there with random weights, then loaded as ever."""

import os
import time
from pathlib import Path
from typing import Any

import torch

from wanavatar_lab.bench.random_models import SIZES, random_pipeline
from wanavatar_lab.errors import LabError
from wanavatar_lab.files import files_below
from wanavatar_lab.memory import usual_workload
from wanavatar_lab.memory.place import Resident
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.stages import stage_module

_SPARE = 2 << 30  # bytes that a disk must have left


def measure_files(stage: str, size: str, device: str, folder: Path) -> dict[str, Any]:
    """Write, forget what the system keeps of it in main memory, load, and put on the device.

    Args:
        stage: text_to_image, image_to_video or speech_to_video.
        size: published or tiny.
        device: cpu, cuda or cuda:<n>.
        folder: becomes a weights folder; what is written stays there.

    Raises:
        LabError: the disk has no room for it.
    """
    profile = PROFILES["full"]
    place = profile.weights(stage, folder)
    pipeline = random_pipeline(stage, SIZES[size], getattr(torch, profile.dtype(device)))
    parts = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    needed = sum(parameter.nbytes for part in parts for parameter in part.parameters())
    folder.mkdir(parents=True, exist_ok=True)
    room = os.statvfs(folder)
    if needed + _SPARE > room.f_bavail * room.f_frsize:
        raise LabError(f"{folder} has no room for {needed / 1e9:.1f} GB. Name another folder.")
    start = time.perf_counter()
    pipeline.save_pretrained(place)
    files = [entry.path for entry in files_below(place)]
    for file in files:
        _leave_to_the_disk(file)
    written = time.perf_counter() - start
    del pipeline, parts
    os.environ["WANAVATAR_WEIGHTS"] = str(folder)
    start = time.perf_counter()
    models: Resident = stage_module(stage).load(profile, device)
    loaded = time.perf_counter() - start
    start = time.perf_counter()
    choice = models.place("auto", usual_workload(stage, "full"))
    if torch.cuda.is_available():
        torch.cuda.synchronize()
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


def _leave_to_the_disk(file: Path) -> None:
    """Let the system write a file out and keep none of it in main memory, so that reading it means the disk."""
    with open(file, "rb+") as stream:
        os.fsync(stream.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
