"""What a config trains of the network, and how many parameters that is, as a table in Markdown.

    python -m training.model.parameter_table --config runs/training/me/config.json

The network is built without its weights, so it takes seconds and needs no GPU; of `full` they need not be installed.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from peft.tuners.lora import LoraLayer

from training.config import TrainingConfig
from training.model.adapter import NAME, add_adapter
from training.model.full_finetune import layers_of, parameters_of
from wanavatar_lab.errors import LabError
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests import SpeechToVideo
from wanavatar_lab.s2v import WanS2VTransformer3DModel
from wanavatar_lab.s2v.inpaint import widen_patch_embedding
from wanavatar_lab.s2v.key_names import our_config
from wanavatar_lab.settings import read_settings
from wanavatar_lab.wan.checkpoint_files import read_config

HEAD = ["| part of a block | layers | inputs → outputs | how | parameters |", "| :--- | ---: | :--- | :--- | ---: |"]
WORDS = {
    "attn1": "self-attention",
    "attn2": "cross-attention to the text",
    "ffn": "feed-forward",
    "audio_injection": "cross-attention to the audio",
}


def bare_network(profile: str) -> WanS2VTransformer3DModel:
    """The speech_to_video network of a profile on the meta device: shapes without weights.

    Raises:
        WeightsError: its config is damaged.
    """
    folder = PROFILES[profile].weights(SpeechToVideo.stage, read_settings().weights_dir)
    place = folder / "transformer" if (folder / "transformer").is_dir() else folder
    fields = WanS2VTransformer3DModel._get_init_keys(WanS2VTransformer3DModel)
    # the class's own defaults are the published network
    config = our_config(read_config(place), fields) if (place / "config.json").is_file() else {}
    with torch.device("meta"):
        return WanS2VTransformer3DModel(**config)


def table(network: WanS2VTransformer3DModel, config: TrainingConfig) -> list[str]:
    """The table, with a line for each kind of layer, each part that is trained in full, and their sum.

    Args:
        network: without adapters; the LoRA is added to it.
    """
    rates = config.part_rates
    if "patch_embedding" in rates:
        widen_patch_embedding(network)
    whole = sum(weight.numel() for weight in network.parameters())
    add_adapter(network, config.rank, config.alpha, config.seed, layers_of(network, rates), device=network.device)
    kinds: dict[tuple[str, int, int], list[str]] = {}
    for name, layer in network.named_modules():
        if isinstance(layer, LoraLayer) and NAME in layer.lora_A:
            part, _, rest = name.split(".", 2)[2].partition(".")  # without "blocks.7."
            kinds.setdefault((part, layer.in_features, layer.out_features), []).append(rest)
    lines, trained, modules = [], 0, 0
    for (part, inputs, outputs), names in kinds.items():
        count = len(names) * config.rank * (inputs + outputs)
        trained, modules = trained + count, modules + len(names)
        leaves = f"{WORDS.get(part, part)}: `{part}` " + ", ".join(f"`{each}`" for each in dict.fromkeys(names))
        lines.append(f"| {leaves} | {len(names)} | {inputs} → {outputs} | LoRA | {in_words(count)} |")
    for part, rate in rates.items():
        count = sum(weight.numel() for weight in parameters_of(network, part).values())
        trained += count
        lines.append(f"| `{part}` | | | in full, at {rate:g} | {in_words(count)} |")
    how = f"rank {config.rank}, alpha {config.alpha:g}"
    share = f"{in_words(trained)}, {trained / whole:.1%} of the network's {in_words(whole)}"
    return [*HEAD, *lines, f"| **together** | **{modules}** | | {how} | **{share}** |"]


def in_words(count: int) -> str:
    """A number of parameters: 512, 3.1 k, 52.4 M or 1.3 B."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return str(count)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.model.parameter_table", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--config", type=Path, required=True, help="a run's config.json")
    file: Path = parser.parse_args(argv).config
    try:
        config = TrainingConfig.model_validate_json(file.read_text(encoding="utf-8"))
        print("\n".join(table(bare_network(config.profile), config)))
    except (LabError, OSError) as error:
        raise SystemExit(str(error)) from error
    except ValueError as error:
        raise SystemExit(f"{file} cannot be read: {error}") from error


if __name__ == "__main__":
    main()
