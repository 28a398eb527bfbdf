"""What is trained, counted without weights, is what a training really has."""

from pathlib import Path

from tests.s2v.toy import toy_model
from tests.training.toy import config_of
from training.config import TrainingConfig
from training.config.recipes import RECIPES
from training.model.parameter_table import bare_network, in_words, table
from training.model.trainable import make_trainable


def test_it_counts_what_a_training_trains(tmp_path: Path) -> None:
    config = config_of(tmp_path, audio_encoder_rate=1e-4)
    trained = sum(weight.numel() for weight in make_trainable(toy_model(), config).parameters)
    *rows, last = table(toy_model(), config)
    assert f"**{in_words(trained)}, " in last and "rank 4, alpha 2" in last
    (encoder,) = [row for row in rows if "`audio_encoder`" in row]
    assert "in full, at 0.0001" in encoder


def test_the_published_network_has_a_lora_on_460_layers(tmp_path: Path) -> None:
    config = TrainingConfig(samples=tmp_path, run=tmp_path, **RECIPES["s2v_14b_1gpu"]())
    rows = table(bare_network("full"), config)
    (attention,) = [row for row in rows if row.startswith("| self-attention")]
    # 40 blocks, and two matrices of rank 128 on each of four layers
    assert "| 160 | 5120 → 5120 | LoRA |" in attention and attention.endswith(f"{160 * 128 * 2 * 5120 / 1e6:.1f} M |")
    assert "| **460** |" in rows[-1] and "**699.9 M, 4.3% of the network's 16.3 B**" in rows[-1]
