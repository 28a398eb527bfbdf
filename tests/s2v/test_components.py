"""All parts of the pipeline from one folder, in the published layout and in those of diffusers."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    PreTrainedTokenizerFast,
    T5TokenizerFast,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
)

from tests.s2v.published import GOLDEN, STEM, draft_config, draft_names, write_checkpoint
from wanavatar_lab.errors import WeightsError
from wanavatar_lab.s2v import WanS2VTransformer3DModel
from wanavatar_lab.s2v.components import load_components
from wanavatar_lab.wan.load import load_text_encoder, load_tokenizer, load_vae
from wanavatar_lab.wan.vae import FastCausalConv3d

LAYOUTS = ("published", "draft", "fastvideo", "ours")
PARTS = GOLDEN / "reference_parts"
TEXT = "A face that speaks"


def letters() -> T5TokenizerFast:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    return T5TokenizerFast(vocab=pieces + [(letter, -3.0) for letter in "aefhkpst"], extra_ids=0)


def audio_encoder() -> Wav2Vec2ForCTC:
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        conv_dim=(8, 8),
        conv_kernel=(10, 3),
        conv_stride=(5, 2),
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        do_stable_layer_norm=True,
        feat_extract_norm="layer",
        vocab_size=12,
    )
    return Wav2Vec2ForCTC(config).eval()


def feature_extractor() -> Wav2Vec2FeatureExtractor:
    return Wav2Vec2FeatureExtractor(sampling_rate=16000, do_normalize=True, return_attention_mask=True)


def with_old_names(folder: Path) -> None:
    """Name the weight-normed convolution as torch did when wav2vec2 was published."""
    tensors = load_file(folder / "model.safetensors")
    new = "pos_conv_embed.conv.parametrizations.weight.original"
    old = {name: name.replace(f"{new}0", "pos_conv_embed.conv.weight_g") for name in tensors}
    old = {name: other.replace(f"{new}1", "pos_conv_embed.conv.weight_v") for name, other in old.items()}
    assert sum(name != other for name, other in old.items()) == 2
    save_file({old[name]: tensor for name, tensor in tensors.items()}, folder / "model.safetensors", {"format": "pt"})


def published(root: Path) -> None:
    shutil.copytree(GOLDEN / "s2v_model_a", root)
    (root / "io.safetensors").unlink()
    shutil.copy(PARTS / "vae.pth", root / "Wan2.1_VAE.pth")
    shutil.copy(PARTS / "t5.pth", root / "models_t5_umt5-xxl-enc-bf16.pth")
    letters().save_pretrained(root / "google" / "umt5-xxl")
    speech = root / "wav2vec2-large-xlsr-53-english"
    audio_encoder().save_pretrained(speech)
    with_old_names(speech)
    feature_extractor().save_pretrained(speech)


def in_diffusers_layout(root: Path, layout: str) -> None:
    load_vae(PARTS / "vae.pth").save_pretrained(root / "vae")
    load_text_encoder(PARTS / "t5.pth").save_pretrained(root / "text_encoder")
    letters().save_pretrained(root / "tokenizer")
    encoder = audio_encoder()
    (encoder if layout == "draft" else encoder.wav2vec2).save_pretrained(root / "audio_encoder")
    if layout == "draft":
        vocabulary = root / "vocab.json"
        vocabulary.write_text(
            json.dumps({"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "a": 5}), encoding="utf-8"
        )
        processor = Wav2Vec2Processor(feature_extractor(), Wav2Vec2CTCTokenizer(str(vocabulary)))
        processor.save_pretrained(root / "audio_processor")
    else:
        feature_extractor().save_pretrained(root / "audio_processor")

    folder = root / "transformer"
    if layout == "fastvideo":
        shutil.copytree(GOLDEN / "s2v_model_a", folder, ignore=shutil.ignore_patterns("io.safetensors"))
    else:
        model = WanS2VTransformer3DModel.from_official(GOLDEN / "s2v_model_a", torch_dtype=torch.float32)
        if layout == "ours":
            model.save_pretrained(folder, max_shard_size="400KB")
        else:
            names = draft_names(model)
            tensors = {names[name]: weight.detach() for name, weight in model.named_parameters()}
            write_checkpoint(folder, draft_config(model), tensors, shard_bytes=400_000)
    (root / "model_index.json").write_text(json.dumps({"_class_name": "WanSpeechToVideoPipeline"}), encoding="utf-8")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    roots = {layout: tmp_path_factory.mktemp("components") / layout for layout in LAYOUTS}
    published(roots["published"])
    for layout in LAYOUTS[1:]:
        in_diffusers_layout(roots[layout], layout)
    return roots


def see(parts: dict[str, Any]) -> dict[str, torch.Tensor]:
    """What each part makes of a fixed input."""
    io = load_file(GOLDEN / "s2v_model_a" / "io.safetensors")
    inputs = {name: tensor.float() for name, tensor in io.items() if not name.startswith("output")}
    tokens = parts["tokenizer"](TEXT, padding="max_length", max_length=24, return_tensors="pt")
    wave = torch.sin(torch.arange(1600) / 7).numpy()
    heard = parts["audio_processor"](wave, sampling_rate=16000, return_tensors="pt").input_values
    with torch.no_grad():
        return {
            "ids": tokens.input_ids,
            "text": parts["text_encoder"](tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state,
            "audio": torch.stack(parts["audio_encoder"](heard, output_hidden_states=True).hidden_states),
            "video": parts["vae"].decode(torch.linspace(-1, 1, 192).reshape(1, 16, 2, 2, 3)).sample,
            "sample": parts["transformer"](**inputs, return_dict=False)[0],
        }


def test_every_layout_gives_the_same_parts(folders: dict[str, Path]) -> None:
    seen = {layout: see(load_components(folder, torch_dtype=torch.float32)) for layout, folder in folders.items()}
    wave = feature_extractor()(torch.sin(torch.arange(1600) / 7).numpy(), sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        heard = audio_encoder()(wave.input_values, output_hidden_states=True).hidden_states
    assert torch.equal(seen["published"]["audio"], torch.stack(heard))
    golden = load_file(GOLDEN / "s2v_model_a" / "io.safetensors")["output"]
    assert torch.linalg.norm(seen["published"]["sample"] - golden) <= 1e-4 * torch.linalg.norm(golden)
    assert seen["published"]["ids"][0, :4].tolist() == letters()(TEXT).input_ids[:4]
    for layout in LAYOUTS[1:]:
        for part, values in seen[layout].items():
            assert torch.equal(values, seen["published"][part]), f"{part} of {layout}"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_dtypes_and_that_all_is_ready_to_run(layout: str, folders: dict[str, Path]) -> None:
    parts = load_components(folders[layout])
    dtypes = {"transformer": torch.bfloat16, "text_encoder": torch.bfloat16}
    for name, part in parts.items():
        if isinstance(part, torch.nn.Module):
            assert part.dtype == dtypes.get(name, torch.float32), name
            assert not part.training, name
            assert not any(weight.requires_grad for weight in part.parameters()), name
    assert isinstance(parts["vae"].decoder.conv_in, FastCausalConv3d), "made for a CPU, too"
    halved = load_components(folders[layout], vae_dtype=torch.bfloat16)
    assert halved["vae"].dtype == torch.bfloat16


def test_a_part_left_out_on_saving_is_none(folders: dict[str, Path], tmp_path: Path) -> None:
    root = tmp_path / "ours"
    shutil.copytree(folders["ours"], root)
    for part in ("text_encoder", "tokenizer"):
        shutil.rmtree(root / part)
    with pytest.raises(WeightsError, match="lacks text_encoder, tokenizer"):
        load_components(root)
    (root / "model_index.json").write_text(
        json.dumps({"text_encoder": [None, None], "tokenizer": [None, None]}), encoding="utf-8"
    )
    parts = load_components(root)
    assert parts["text_encoder"] is None
    assert parts["tokenizer"] is None
    assert parts["audio_encoder"] is not None


def test_parts_that_lie_elsewhere_are_read_from_there(folders: dict[str, Path], tmp_path: Path) -> None:
    root = shutil.copytree(folders["ours"], tmp_path / "own")
    shutil.move(root / "vae", tmp_path / "shared_vae")
    (root / "model_index.json").write_text(json.dumps({"vae": [None, None]}))
    with pytest.raises(WeightsError, match="lacks vae"):
        load_components(root)
    with pytest.raises(WeightsError, match="nowhere"):
        load_components(root, elsewhere={"vae": tmp_path / "nowhere"})
    parts = load_components(root, elsewhere={"vae": tmp_path / "shared_vae"})
    whole = load_components(folders["ours"])
    for name, tensor in whole["vae"].state_dict().items():
        assert torch.equal(tensor, parts["vae"].state_dict()[name])


def test_a_text_encoder_that_stores_its_embedding_twice_is_read(folders: dict[str, Path], tmp_path: Path) -> None:
    root = tmp_path / "ours"
    shutil.copytree(folders["ours"], root)
    file = root / "text_encoder" / "model.safetensors"
    tensors = load_file(file)
    save_file(tensors | {"encoder.embed_tokens.weight": tensors["shared.weight"].clone()}, file, {"format": "pt"})
    twice, once = (load_components(folder, torch_dtype=torch.float32) for folder in (root, folders["ours"]))
    assert torch.equal(see(twice)["text"], see(once)["text"])


@pytest.mark.parametrize("layout", ["published", "ours"])
def test_unknown_characters_have_the_id_that_the_reference_gives_them(
    layout: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    """UMT5's <unk> is 3, after <s>; its folder names T5's class, whose <unk> is 2."""
    root = shutil.copytree(folders[layout], tmp_path / layout)
    place = root / ("google/umt5-xxl" if layout == "published" else "tokenizer")
    pieces = [(name, 0.0) for name in ("<pad>", "</s>", "<s>", "<unk>")] + [("▁", -2.0), ("a", -3.0), ("b", -3.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    names = {"pad_token": "<pad>", "eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(place)
    config = json.loads((place / "tokenizer_config.json").read_text(encoding="utf-8"))
    (place / "tokenizer_config.json").write_text(json.dumps(config | {"tokenizer_class": "T5Tokenizer"}))
    loaded = load_components(root, leave_out=("transformer", "audio_encoder"))["tokenizer"]
    assert loaded("a한b").input_ids == [4, 5, 3, 6, 1]
    assert load_tokenizer(place)("한").input_ids == [4, 3, 1]


def rewrite(file: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, {"format": "pt"})


def rewrite_as(folder: Path, texts: dict[str, str]) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


MISFITS: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "no VAE": ("published", lambda r: (r / "Wan2.1_VAE.pth").unlink(), r"lacks Wan2\.1_VAE\.pth\. Download"),
    "no tokenizer": ("published", lambda r: shutil.rmtree(r / "google"), "lacks google/umt5-xxl"),
    "an empty tokenizer": (
        "ours",
        lambda r: rewrite_as(r / "tokenizer", {}),
        "tokenizer cannot be read",
    ),
    "a damaged tokenizer": (
        "published",
        lambda r: rewrite_as(r / "google" / "umt5-xxl", {"tokenizer.json": "{"}),
        "umt5-xxl cannot be read",
    ),
    "a damaged audio processor": (
        "ours",
        lambda r: rewrite_as(r / "audio_processor", {"preprocessor_config.json": "?"}),
        "audio_processor cannot be read",
    ),
    "nothing": ("ours", lambda r: shutil.rmtree(r / "transformer"), "neither a transformer folder nor a config"),
    "a VAE that lacks a tensor": (
        "ours",
        lambda r: rewrite(r / "vae" / f"{STEM}.safetensors", lambda t: t.pop("quant_conv.bias")),
        r"not the AutoencoderKLWan this pipeline needs\. 1 tensor missing: quant_conv\.bias",
    ),
    "a text encoder that lacks a tensor": (
        "ours",
        lambda r: rewrite(r / "text_encoder" / "model.safetensors", lambda t: t.pop("encoder.final_layer_norm.weight")),
        r"1 tensor missing: encoder\.final_layer_norm\.weight",
    ),
    "a text encoder with one too many": (
        "ours",
        lambda r: rewrite(r / "text_encoder" / "model.safetensors", lambda t: t.update(odd=torch.ones(1))),
        "1 tensor left over: odd",
    ),
    "an audio encoder that lacks a tensor": (
        "draft",
        lambda r: rewrite(
            r / "audio_encoder" / "model.safetensors", lambda t: t.pop("wav2vec2.encoder.layers.1.layer_norm.bias")
        ),
        r"missing: encoder\.layers\.1\.layer_norm\.bias",
    ),
    "an audio encoder of another shape": (
        "fastvideo",
        lambda r: rewrite(
            r / "audio_encoder" / "model.safetensors", lambda t: t.update({"encoder.layer_norm.bias": torch.ones(9)})
        ),
        "audio_encoder cannot be read",
    ),
    "a damaged VAE": ("ours", lambda r: (r / "vae" / f"{STEM}.safetensors").write_bytes(b"?"), "vae cannot be read"),
    "a transformer without a shard": (
        "draft",
        lambda r: next((r / "transformer").glob("*.safetensors")).unlink(),
        rf"transformer lacks {STEM}",
    ),
    "a damaged list of parts": (
        "ours",
        lambda r: (r / "model_index.json").write_text("{"),
        r"model_index\.json is damaged",
    ),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_what_does_not_fit_is_named(misfit: str, folders: dict[str, Path], tmp_path: Path) -> None:
    layout, change, said = MISFITS[misfit]
    root = tmp_path / layout
    shutil.copytree(folders[layout], root)
    change(root)
    with pytest.raises(WeightsError, match=said):
        load_components(root)
