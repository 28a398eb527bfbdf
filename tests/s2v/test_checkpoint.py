"""The transformer's checkpoints: all published names, three vocabularies, and what is refused."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.s2v.published import (
    GOLDEN,
    INDEX,
    MANIFESTS,
    STEM,
    draft_config,
    draft_names,
    published_shapes,
    reference_names,
    write_checkpoint,
)
from wanavatar_lab.errors import WeightsError
from wanavatar_lab.s2v import WanS2VTransformer3DModel
from wanavatar_lab.s2v.key_names import our_config, our_name
from wanavatar_lab.wan.checkpoint_files import compare_names, model_shapes

TOY = GOLDEN / "s2v_model_a"
LAYOUTS = ("ours", "reference", "draft", "fastvideo")


def predict(model: WanS2VTransformer3DModel) -> torch.Tensor:
    io = load_file(TOY / "io.safetensors")
    inputs = {name: tensor.float() for name, tensor in io.items() if not name.startswith("output")}
    with torch.no_grad():
        sample: torch.Tensor = model(**inputs, motion_frames=73, return_dict=False)[0]
    return sample


@pytest.fixture(scope="module")
def toy() -> WanS2VTransformer3DModel:
    return WanS2VTransformer3DModel.from_official(TOY, torch_dtype=torch.float32)


@pytest.fixture(scope="module")
def expected(toy: WanS2VTransformer3DModel) -> Iterator[torch.Tensor]:
    golden = load_file(TOY / "io.safetensors")["output"]
    ours = predict(toy)
    assert torch.linalg.norm(ours - golden) <= 1e-4 * torch.linalg.norm(golden)
    yield ours


def stored_as(layout: str, toy: WanS2VTransformer3DModel, parent: Path, shard_bytes: int | None = None) -> Path:
    """Write the toy below `parent/transformer` in one of the layouts."""
    folder = parent / "transformer"
    weights = {name: weight.detach().bfloat16() for name, weight in toy.named_parameters()}
    reference_config = json.loads((TOY / "config.json").read_text(encoding="utf-8"))
    if layout == "ours":
        toy.save_pretrained(folder, max_shard_size=shard_bytes or "5GB")
    elif layout == "draft":
        names = draft_names(toy)
        tensors = {names[name]: weight for name, weight in weights.items()}
        write_checkpoint(folder, draft_config(toy), tensors, shard_bytes)
    else:
        names = reference_names(toy)
        config = {key: value for key, value in reference_config.items() if key != "_class_name"}
        if layout == "fastvideo":
            config |= {"_class_name": "WanModel_S2V", "_diffusers_version": "0.33.0.dev0"}
        tensors = {names[name]: weight for name, weight in weights.items()}
        write_checkpoint(folder, config, tensors, shard_bytes)
    return folder


FIELDS = WanS2VTransformer3DModel._get_init_keys(WanS2VTransformer3DModel)


@pytest.fixture(scope="module")
def published_size() -> WanS2VTransformer3DModel:
    with torch.device("meta"):
        return WanS2VTransformer3DModel(**our_config(MANIFESTS["s2v_14b"]["config"], FIELDS))


def test_every_published_tensor_has_its_place(published_size: WanS2VTransformer3DModel) -> None:
    shapes = published_shapes("s2v_14b")
    assert len(shapes) == 1260
    layers = published_size.config.audio_inject_layers
    renamed = {our_name(name, layers): shape for name, shape in shapes.items()}
    assert len(renamed) == 1260
    compare_names(renamed, model_shapes(published_size), "Wan2.2-S2V-14B")
    assert sum(weight.numel() for weight in published_size.parameters()) == pytest.approx(16.3e9, rel=0.01)


def test_every_name_of_the_draft_has_its_place(published_size: WanS2VTransformer3DModel) -> None:
    theirs = draft_names(published_size)
    layers = published_size.config.audio_inject_layers
    assert len(set(theirs.values())) == 1260
    assert {name: our_name(draft, layers) for name, draft in theirs.items()} == {name: name for name in theirs}
    # the same model, whichever config describes it
    assert our_config(draft_config(published_size), FIELDS).items() <= dict(published_size.config).items()


def test_our_names_stay_as_they_are(published_size: WanS2VTransformer3DModel) -> None:
    layers = published_size.config.audio_inject_layers
    for name, _ in published_size.named_parameters():
        assert our_name(name, layers) == name
    assert our_name("unheard.of", layers) == "unheard.of"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shard_bytes", [None, 400_000], ids=["whole", "sharded"])
def test_each_layout_gives_the_same_output(
    layout: str, shard_bytes: int | None, toy: WanS2VTransformer3DModel, expected: torch.Tensor, tmp_path: Path
) -> None:
    folder = stored_as(layout, toy, tmp_path, shard_bytes)
    assert (len(list(folder.glob("*.safetensors"))) > 2) == (shard_bytes is not None)
    loaders: list[Callable[[], Any]] = [
        lambda: WanS2VTransformer3DModel.from_official(folder, torch_dtype=torch.float32),
        lambda: WanS2VTransformer3DModel.from_pretrained(folder),
        lambda: WanS2VTransformer3DModel.from_pretrained(
            str(tmp_path), subfolder="transformer", torch_dtype=torch.float32
        ),
    ]
    for load in loaders:
        model = load()
        assert not model.training
        assert torch.equal(predict(model), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_dtypes_and_training_are_as_diffusers_leaves_them(
    layout: str, toy: WanS2VTransformer3DModel, tmp_path: Path
) -> None:
    folder = stored_as(layout, toy, tmp_path)
    model = WanS2VTransformer3DModel.from_pretrained(folder, torch_dtype=torch.bfloat16)
    for name, weight in model.named_parameters():
        kept = set(name.split(".")) & set(WanS2VTransformer3DModel._keep_in_fp32_modules)
        assert weight.dtype == (torch.float32 if kept else torch.bfloat16), name
        assert weight.requires_grad
    frozen = WanS2VTransformer3DModel.from_official(folder)
    assert not any(weight.requires_grad for weight in frozen.parameters())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), frozen.parameters(), strict=True))


def test_a_conversion_saved_again_is_one_of_ours(
    toy: WanS2VTransformer3DModel, expected: torch.Tensor, tmp_path: Path
) -> None:
    stored_as("draft", toy, tmp_path / "draft")
    WanS2VTransformer3DModel.from_pretrained(tmp_path / "draft", subfolder="transformer").save_pretrained(
        tmp_path / "ours"
    )
    assert "pose_channels" in json.loads((tmp_path / "ours" / "config.json").read_text(encoding="utf-8"))
    assert set(load_file(tmp_path / "ours" / f"{STEM}.safetensors")) == set(model_shapes(toy))
    assert torch.equal(predict(WanS2VTransformer3DModel.from_pretrained(tmp_path / "ours")), expected)


def in_hub_cache(cache: Path, repository: str) -> Path:
    """The folder of a repository's only snapshot in a cache of the Hub, as if it had been fetched."""
    entry = cache / f"models--{repository.replace('/', '--')}"
    commit = "0" * 39 + "1"
    (entry / "refs").mkdir(parents=True)
    (entry / "refs" / "main").write_text(commit, encoding="utf-8")
    snapshot = entry / "snapshots" / commit
    snapshot.mkdir(parents=True)
    return snapshot


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_repository_id_is_as_good_as_a_folder(
    layout: str, toy: WanS2VTransformer3DModel, expected: torch.Tensor, tmp_path: Path
) -> None:
    stored_as(layout, toy, in_hub_cache(tmp_path, "someone/Wan2.2-S2V-toy"), shard_bytes=400_000)
    model = WanS2VTransformer3DModel.from_pretrained(
        "someone/Wan2.2-S2V-toy", subfolder="transformer", cache_dir=tmp_path, local_files_only=True, revision="main"
    )
    assert torch.equal(predict(model), expected)


def test_what_is_neither_folder_nor_repository_is_said(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="neither a local folder nor the id of a repository"):
        WanS2VTransformer3DModel.from_pretrained(tmp_path / "gone")
    with pytest.raises(WeightsError, match="is not a local folder and cannot be downloaded from the Hub"):
        WanS2VTransformer3DModel.from_pretrained("someone/unheard-of", cache_dir=tmp_path, local_files_only=True)
    with pytest.raises(WeightsError, match=r"has no config\.json"):
        WanS2VTransformer3DModel.from_pretrained(tmp_path, subfolder="transformer")


@pytest.mark.parametrize("layout", ["draft", "fastvideo"])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"variant": "fp8"}, "cannot be read with variant='fp8'.*save_pretrained"),
        ({"quantization_config": {"bits": 4}}, "cannot be read with quantization_config="),
        ({"use_safetensors": False}, "cannot be read with use_safetensors=False"),
        ({"device_map": "auto"}, "goes to one device; device_map is 'auto'"),
        ({"device_map": {"blocks": "cpu", "": "cpu"}}, "goes to one device"),
        ({"torch_dtype": "auto"}, "torch_dtype is 'auto'; need a torch.dtype"),
    ],
)
def test_an_option_that_would_not_be_honoured_is_refused(
    layout: str, options: dict[str, Any], said: str, toy: WanS2VTransformer3DModel, tmp_path: Path
) -> None:
    folder = stored_as(layout, toy, tmp_path)
    with pytest.raises(ValueError, match=said):
        WanS2VTransformer3DModel.from_pretrained(folder, **options)


def test_options_that_hold_anyway_are_taken(toy: WanS2VTransformer3DModel, tmp_path: Path) -> None:
    folder = stored_as("draft", toy, tmp_path)
    model = WanS2VTransformer3DModel.from_pretrained(
        folder, dtype=torch.float16, device_map={"": "cpu"}, low_cpu_mem_usage=True, use_safetensors=True, variant=None
    )
    assert model.dtype == torch.float16


def shard_of(folder: Path, name: str) -> Path:
    weight_map = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
    return folder / str(weight_map[name])


def rewrite(file: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def cut(file: Path, keep: float) -> None:
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * keep)])


def configure(folder: Path, **fields: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | fields), encoding="utf-8")


def empty(folder: Path) -> None:
    for file in folder.glob(f"{STEM}*"):
        file.unlink()


Q = "blocks.1.self_attn.q.weight"
HEAD = "head.head.bias"
DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a missing tensor": (
        lambda f: rewrite(shard_of(f, Q), lambda t: t.pop(Q)),
        r"1 tensor missing: blocks\.1\.attn1\.to_q\.weight",
    ),
    "a tensor left over": (
        lambda f: rewrite(shard_of(f, Q), lambda t: t.update({"scale_weight": torch.ones(1)})),
        "1 tensor left over: scale_weight",
    ),
    "another shape": (
        lambda f: rewrite(shard_of(f, HEAD), lambda t: t.update({HEAD: torch.ones(5)})),
        r"1 tensor of another shape: proj_out\.bias is \[5\], need \[64\]",
    ),
    "the same tensor twice": (
        lambda f: rewrite(shard_of(f, HEAD), lambda t: t.update({"proj_out.bias": t[HEAD].clone()})),
        "which is the same tensor as",
    ),
    "a missing shard": (lambda f: shard_of(f, Q).unlink(), rf"lacks {STEM}-\d+-of-\d+\.safetensors"),
    "a shard cut in its data": (lambda f: cut(shard_of(f, Q), 0.9), rf"{STEM}-\d+-of-\d+\.safetensors cannot be read"),
    "a shard cut in its header": (lambda f: cut(shard_of(f, Q), 0.001), "cannot be read"),
    "an empty shard": (lambda f: shard_of(f, Q).write_bytes(b""), "cannot be read"),
    "a page instead of a shard": (lambda f: shard_of(f, Q).write_text("<html>" * 99), "cannot be read"),
    "a damaged index": (lambda f: cut(f / INDEX, 0.5), r"index\.json is damaged"),
    "an index without a map": (lambda f: (f / INDEX).write_text("{}"), "has no weight_map"),
    "an index of numbers": (lambda f: (f / INDEX).write_text('{"weight_map": {"a": 5}}'), "has no weight_map of file"),
    "a damaged config": (lambda f: cut(f / "config.json", 0.5), r"config\.json is damaged"),
    "no config": (lambda f: (f / "config.json").unlink(), r"has no config\.json"),
    "a config that is no dict": (
        lambda f: (f / "config.json").write_text("[]"),
        "holds a list instead of named fields",
    ),
    "a config with a text for a number": (lambda f: configure(f, dim="96"), r"config\.json cannot be used"),
    "a config with nothing for a number": (lambda f: configure(f, num_layers=None), r"config\.json cannot be used"),
    "a config with a negative number": (lambda f: configure(f, ffn_dim=-1), r"config\.json cannot be used"),
    "no weights": (empty, rf"lacks {STEM}\*\.safetensors"),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("loader", ["from_official", "from_pretrained"])
def test_what_does_not_fit_is_named(damage: str, loader: str, toy: WanS2VTransformer3DModel, tmp_path: Path) -> None:
    folder = stored_as("fastvideo", toy, tmp_path, shard_bytes=400_000)
    inflict, said = DAMAGE[damage]
    inflict(folder)
    with pytest.raises(WeightsError, match=said):
        getattr(WanS2VTransformer3DModel, loader)(folder)


@pytest.mark.parametrize("shard_bytes", [None, 400_000], ids=["whole", "sharded"])
def test_our_own_folder_is_compared_too(shard_bytes: int | None, toy: WanS2VTransformer3DModel, tmp_path: Path) -> None:
    folder = stored_as("ours", toy, tmp_path, shard_bytes)
    file = next(folder.glob("*.safetensors"))
    gone = sorted(load_file(file))[0]
    rewrite(file, lambda tensors: tensors.pop(gone))
    with pytest.raises(WeightsError, match=f"1 tensor missing: {gone}"):
        WanS2VTransformer3DModel.from_pretrained(folder)


@pytest.mark.parametrize(("field", "named"), [("enable_adain", "audio_adain"), ("zero_timestep", "zero_timestep")])
@pytest.mark.parametrize("loader", ["from_official", "from_pretrained"])
def test_a_config_of_an_unpublished_variant_is_named(loader: str, field: str, named: str, tmp_path: Path) -> None:
    config = json.loads((TOY / "config.json").read_text(encoding="utf-8"))
    write_checkpoint(tmp_path, config | {field: False}, {})
    with pytest.raises(WeightsError, match=rf"config\.json cannot be used: {named} is false; only the published"):
        getattr(WanS2VTransformer3DModel, loader)(tmp_path)


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ({"enable_motioner": True}, "motioner variant"),
        ({"enable_framepack": False}, "motioner variant"),
        ({"adain_mode": "norm"}, "adain_mode='norm'"),
        ({"num_heads": 7}, "dim=96 and num_heads=7"),
    ],
)
def test_a_variant_that_was_never_published_is_refused(field: dict[str, Any], said: str) -> None:
    config = json.loads((TOY / "config.json").read_text(encoding="utf-8"))
    with pytest.raises(WeightsError, match=said):
        our_config(config | field, FIELDS)
