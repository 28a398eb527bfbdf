"""Samples of noise and a toy network, for the tests of training."""

from pathlib import Path

import torch
from torch import nn

from tests.s2v.toy import CONFIG, toy_model
from training.config import TrainingConfig
from training.data.samples import write_list, write_sample
from training.model.adapter import add_adapter
from wanavatar_lab.s2v import WanS2VTransformer3DModel

Z, SIZE = 16, 8


def write_samples(folder: Path, count: int = 6, held_out: int = 1, inpaint: bool = False) -> None:
    """First segments of two latents, and continuations, in two buckets; with what is given, for inpainting."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for i in range(count):
        generator = torch.Generator().manual_seed(i)
        latents, width = 2, SIZE if i % 2 else SIZE + 4

        def random(*shape: int, source: torch.Generator = generator) -> torch.Tensor:
            return torch.randn(*shape, generator=source)

        lip = torch.zeros(latents, SIZE, width)
        lip[:, 4:6, 3:6] = 1
        face = torch.zeros(latents, SIZE, width)
        face[:, 1:7, 1:7] = 1
        tensors = {
            "target": random(Z, latents, SIZE, width),
            "reference": random(Z, 1, SIZE, width),
            "audio": random(CONFIG["num_audio_layers"], CONFIG["audio_dim"], 4 * latents),
            "text": random(5 + i % 3, CONFIG["text_dim"]),
            "face": face,
            "lip": lip,
            "valid": torch.ones(latents, dtype=torch.bool),
        }
        if i % 4 == 3:
            tensors["motion"] = random(Z, 19, SIZE, width)
        if inpaint:
            tensors["inpaint"] = random(4 + Z, latents, SIZE, width)
        entries.append(write_sample(folder, f"sample-{i}", tensors, f"video_{i:03d}", i >= count - held_out))
    write_list(folder, entries, torch.zeros(2, CONFIG["text_dim"]))


def config_of(folder: Path, **changes: object) -> TrainingConfig:
    """A run of six steps on a CPU, that is the same bits every time."""
    told = {
        "samples": folder / "samples",
        "run": folder / "run",
        "rank": 4,
        "alpha": 2.0,
        "learning_rate": 1e-2,
        "max_grad_norm": 1.0,
        "max_train_steps": 6,
        "gradient_accumulation_steps": 2,
        "checkpointing_steps": 2,
        "mixed_precision": "no",
        "gradient_checkpointing": False,
        "deterministic": True,
    }
    return TrainingConfig(**(told | changes))


def toy_with_adapter() -> tuple[WanS2VTransformer3DModel, list[nn.Parameter]]:
    """The toy network in training, and the matrices of its LoRA, the second of each pair no longer zero."""
    network = toy_model()
    trained = add_adapter(network, 4, 2.0, seed=0)
    for matrix in trained[1::2]:
        nn.init.normal_(matrix, 0, 0.2, generator=torch.Generator().manual_seed(1))
    network.train()
    return network, trained
