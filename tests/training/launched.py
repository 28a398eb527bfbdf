"""`training.train` on the toy network, as a program that a launcher can start."""

import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from tests.s2v.toy import toy_model
from training import train
from training.loop.checkpoint import save_checkpoint

SLOW = "SECONDS_TO_SAVE_IN"  # in the environment: how long a checkpoint takes


def save_slowly(*told: Any, **more: Any) -> Path:
    time.sleep(float(os.environ[SLOW]))
    return save_checkpoint(*told, **more)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if SLOW in os.environ:
        train.save_checkpoint = save_slowly  # type: ignore[attr-defined]
    train.network_of = lambda profile: toy_model()
    train.main(sys.argv[1:])
