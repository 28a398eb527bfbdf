"""Loading what both video stages share: VAE, text encoder and tokenizer, and Wan-AI's folder of Wan2.2-I2V-A14B.

Wan-AI publishes the VAE and the text encoder as files of torch beside the networks, diffusers as a folder each. Nothing
is downloaded, and nothing in a file is executed.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from accelerate import init_empty_weights  # type: ignore[import-untyped]
from diffusers import AutoencoderKLWan, WanImageToVideoPipeline, WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers, convert_wan_vae_to_diffusers
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from transformers import AutoTokenizer, PreTrainedTokenizerFast, UMT5EncoderModel
from transformers.utils import logging as transformers_logging

from wanavatar_lab.errors import WeightsError, check_cancelled
from wanavatar_lab.wan import checkpoint_files as files
from wanavatar_lab.wan.scheduler import WanUniPCScheduler
from wanavatar_lab.wan.text_checkpoint import text_encoder_config, text_encoder_name
from wanavatar_lab.wan.vae import make_fast

# where Wan-AI's folders have the parts that all their networks use
PUBLISHED_PLACES = {
    "vae": "Wan2.1_VAE.pth",
    "text_encoder": "models_t5_umt5-xxl-enc-bf16.pth",
    "tokenizer": "google/umt5-xxl",
}
EXPERTS = {"transformer": "high_noise_model", "transformer_2": "low_noise_model"}
# `boundary` and `sample_shift` of wan/configs/wan_i2v_A14B.py (Wan2.2, commit 42bf4cf); no file of the folder has them
BOUNDARY = 0.9
FLOW_SHIFT = 5.0


def load_vae(
    place: Path,
    torch_dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    variant: str | None = None,
) -> AutoencoderKLWan:
    """Load a Wan2.1 VAE in evaluation mode, its weights frozen, to be computed as `wan.vae` says.

    Args:
        place: `Wan2.1_VAE.pth` as published, or one of another width; or a folder in diffusers layout.
        torch_dtype: dtype of the weights; float32 is what Wan's pipelines advise.
        device: where they go.
        variant: of the files in a folder, as `save_pretrained` names them: fp16 and so on.

    Raises:
        WeightsError: it is missing, damaged or holds more than tensors; or a tensor is missing, left over or of another
            shape.
    """
    if place.is_dir():
        vae = load_model(AutoencoderKLWan, place, torch_dtype, variant=variant).to(device).requires_grad_(False)
    else:
        tensors = convert_wan_vae_to_diffusers(files.read_state_dict(place))
        width = tensors.get("encoder.conv_in.weight")
        if width is None:
            raise WeightsError(f"{place} lacks encoder.conv1.weight; it is no Wan2.1 VAE in the reference's layout.")
        with torch.device("meta"):
            # AutoencoderKLWan's defaults are Wan2.1's, the statistics of the latents included, which no file has
            vae = AutoencoderKLWan(base_dim=len(width))
        files.compare_names(files.tensor_shapes(tensors.items()), files.model_shapes(vae), str(place))
        files.fill(vae, tensors.items(), torch_dtype, device)
    return make_fast(vae.eval())


def load_text_encoder(
    place: Path,
    torch_dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
    variant: str | None = None,
) -> UMT5EncoderModel:
    """Load UMT5 in evaluation mode, its weights frozen, from the published file or a folder in transformers' layout.

    Args:
        place: `models_t5_umt5-xxl-enc-bf16.pth` as published, or one of another size; or a folder.
        torch_dtype: dtype of the weights.
        device: where they go.
        variant: as for `load_vae`.

    Raises:
        WeightsError: it is missing, damaged or holds more than tensors; or a tensor is missing, left over or of another
            shape.
    """
    if place.is_dir():
        encoder = load_model(UMT5EncoderModel, place, torch_dtype, variant=variant)
        return encoder.to(device).eval().requires_grad_(False)
    tensors, where = files.read_state_dict(place), str(place)
    config = text_encoder_config(files.tensor_shapes(tensors.items()), where)
    config.dtype = torch_dtype
    with torch.device("meta"):
        encoder = UMT5EncoderModel(config)
    stored = files.stored_names(tensors, text_encoder_name, where)
    renamed = {ours: tensors[theirs] for ours, theirs in stored.items()}
    # transformers keeps these in float32 when the rest is float16, whose range they exceed
    in_float32 = UMT5EncoderModel._keep_in_fp32_modules or () if torch_dtype == torch.float16 else ()
    files.compare_names(files.tensor_shapes(renamed.items()), files.model_shapes(encoder), where)
    files.fill(encoder, renamed.items(), torch_dtype, device, in_float32)
    encoder.tie_weights()
    return encoder.eval()


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """UMT5's tokenizer, with the ids that the reference's has.

    `tokenizer.json` is read as it is. transformers 5 would build anew what calls itself a T5Tokenizer, as UMT5's does,
    with id 2 for unknown characters; UMT5's <unk> is 3, and 2 is <s>.

    Raises:
        WeightsError: it is missing or cannot be read.
    """
    if (folder / "tokenizer.json").is_file():
        return load_part(PreTrainedTokenizerFast.from_pretrained, folder)
    return load_part(AutoTokenizer.from_pretrained, folder, trust_remote_code=False)


def load_model(
    model_class: Any,
    folder: Path,
    dtype: torch.dtype,
    may_lack: tuple[str, ...] = (),
    may_hold: tuple[str, ...] = (),
    variant: str | None = None,
    **options: Any,
) -> Any:
    """A model in diffusers' or transformers' layout, whose own loaders draw at random what is missing and only warn.

    Args:
        model_class: has `from_pretrained`.
        folder: has the config and the weights.
        dtype: dtype of the weights.
        may_lack, may_hold: tensors that the files may lack, or hold beyond what the model needs.
        variant: as for `load_vae`.
        options: others of `from_pretrained`.

    Raises:
        WeightsError: it cannot be read, or a tensor is missing or left over.
    """
    model, info = load_part(
        model_class.from_pretrained, folder, dtype=dtype, output_loading_info=True, variant=variant, **options
    )
    missing = sorted(set(info["missing_keys"]) - set(may_lack))
    left_over = sorted(set(info["unexpected_keys"]) - set(may_hold))
    problems = files.name_problems({"missing": missing, "left over": left_over})
    if problems:
        raise WeightsError(f"{folder} is not the {model_class.__name__} this pipeline needs. {problems}.")
    return model


def load_part(from_pretrained: Callable[..., Any], folder: Path, **kwargs: Any) -> Any:
    """What a library's `from_pretrained` reads from a folder; nothing is downloaded.

    diffusers and transformers read safetensors, and of files that torch.save wrote only tensors (`weights_only`).

    Raises:
        WeightsError: it cannot be read, or would execute code.
    """
    check_cancelled()
    try:
        with _bars_in_a_terminal_only():
            return from_pretrained(str(folder), local_files_only=True, **kwargs)
    except UnpicklingError as error:
        raise WeightsError(
            f"{folder} was refused: a file of it is damaged, or holds more than tensors, which could run code when "
            "loaded. Download it again from a source that you trust."
        ) from error
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise WeightsError(f"{folder} cannot be read: {error}") from error


@contextmanager
def _bars_in_a_terminal_only() -> Iterator[None]:
    """No progress bars of diffusers and transformers elsewhere: a notebook and a log would keep every one of them."""
    if sys.stderr.isatty():
        yield
        return
    shown = [library for library in (diffusers_logging, transformers_logging) if library.is_progress_bar_enabled()]
    for library in shown:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in shown:
            library.enable_progress_bar()


def is_wan_folder(folder: Path) -> bool:
    """Whether a folder is arranged as Wan-AI's I2V-A14B, and not in diffusers layout."""
    return any((folder / name).is_dir() for name in EXPERTS.values())


def load_wan_folder(folder: Path, dtype: torch.dtype) -> WanImageToVideoPipeline:
    """Load the image-to-video pipeline of a folder that is arranged as Wan-AI's, into main memory.

    Args:
        folder: Wan-AI's, of that size or smaller.
        dtype: of the experts and the text encoder; the VAE is in float32.

    Raises:
        WeightsError: a part is missing or cannot be read, or a tensor is missing, left over or of another shape.
    """
    places = {name: folder / place for name, place in (PUBLISHED_PLACES | EXPERTS).items()}
    gone = [path.relative_to(folder).as_posix() for path in places.values() if not path.exists()]
    if gone:
        raise WeightsError(f"{folder} lacks {', '.join(gone)}. Download what is missing.")
    return WanImageToVideoPipeline(
        tokenizer=load_tokenizer(places["tokenizer"]),
        vae=load_vae(places["vae"]),
        text_encoder=load_text_encoder(places["text_encoder"], dtype),
        scheduler=WanUniPCScheduler.shifted(FLOW_SHIFT),
        boundary_ratio=BOUNDARY,
        **{name: load_expert(places[name], dtype) for name in EXPERTS},
    )


def load_expert(folder: Path, dtype: torch.dtype) -> WanTransformer3DModel:
    """One of the two networks of Wan2.2-I2V-A14B in the published layout, in evaluation mode, its weights frozen.

    Names and shapes are compared before the first tensor is read; what diffusers keeps in float32 is in float32.

    Raises:
        WeightsError: a file is missing or damaged, or a tensor is missing, left over or of another shape.
    """
    # diffusers' converter moves any value from a published name to its own
    places, shapes = files.read_headers(
        folder, lambda name: next(iter(convert_wan_transformer_to_diffusers({name: 0})))
    )
    published, text = files.read_config(folder), "condition_embedder.text_embedder.linear_1.weight"
    needed = ("num_heads", "dim", "in_dim", "out_dim", "freq_dim", "ffn_dim", "num_layers", "eps")
    lacking = [name for name in needed if name not in published]
    if lacking or text not in shapes:
        what = f"{folder}/config.json has no {', '.join(lacking)}" if lacking else f"{folder} has no text embedding"
        raise WeightsError(f"{what}, so it is no expert of Wan2.2. Download it again.")
    try:
        # not torch's meta device: the rotary tables are computed and not read, so they need real memory
        with init_empty_weights():
            model = WanTransformer3DModel(
                num_attention_heads=published["num_heads"],
                attention_head_dim=published["dim"] // published["num_heads"],
                in_channels=published["in_dim"],
                out_channels=published["out_dim"],
                text_dim=shapes[text][1],  # config.json does not have the width of the text encoder
                **{name: published[name] for name in ("freq_dim", "ffn_dim", "num_layers", "eps")},
            )
    except (ValueError, TypeError, RuntimeError, ArithmeticError) as error:  # such as a text instead of a number
        raise WeightsError(f"{folder}/config.json cannot be used: {error}. Download it again.") from error
    files.compare_names(shapes, files.model_shapes(model), str(folder))
    files.fill(model, files.read_shards(places), dtype, in_float32=WanTransformer3DModel._keep_in_fp32_modules)
    model.register_to_config(_name_or_path=str(folder))
    return model.eval()
